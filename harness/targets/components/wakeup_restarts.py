"""The *wakeups_restarts* ability: wakeups over a real process registry, of hosts that die.

The processes are those of a host that died: it had promised to tell of them, and they ended while
nobody looked. What a session has had is remembered by itself, as sessions do on disk. Time passes
only in `settle`.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

from harness.core.errors import TargetLostError
from harness.faults.simulated_disk import (
    Fault,
    SimulatedCrash,
    SimulatedDisk,
    crash_before,
    fail_once,
    no_fault,
    tear,
)

STRIKES: Mapping[str, Callable[[int], Fault]] = {
    "kill": crash_before,
    "kill torn": tear,
    "power": crash_before,
    "power torn": tear,
    "full once": fail_once(errno.ENOSPC),
    "broken once": fail_once(errno.EIO),
}
LOSSES = 8
SETTLINGS_MAX = 20
SETTLING_S = 60.0


class WakeupsRestartsAdapter:
    """A folder of processes, the host that has it, and sessions that are busy or idle."""

    def __init__(self, folder: Path, rooms: Callable[[str], Any]) -> None:
        """`rooms(name)` gives a module of the reference."""
        self._folder = folder
        self._rooms = rooms
        self._now_s = 1_000.0
        # The room looks its clock up on the module, so time can be ours.
        rooms("turns.wakeups").time = SimpleNamespace(monotonic=lambda: self._now_s)
        self._runs: dict[str, Any] = {}
        self._had: list[list[str]] = []
        self._registry: Any = None
        self._wakeups: Any = None

    def leave(self, session: str, process: str, exit_code: int | None = None) -> None:
        """A host that died had promised to tell of a process; it ended so, or nobody knows how."""
        told = {"owner": session, "session_key": session, "command": "true"}
        with self._sound_disk():
            ledger = self._rooms("storage.durable_map").Ledger(self._folder / "ledger.jsonl")
            ledger.put(process, {"kind": "running", "process_id": process, **told})
            ledger.close()
        if exit_code is not None:
            (self._folder / f"{process}.exit").write_text(f"{exit_code}\n", encoding="ascii")

    def restart(self) -> None:
        """The host stops, and another one starts; nobody runs then."""
        self._stop()
        room = self._rooms("agents.processes")
        # Should it die while it starts, what it has opened by then is still to be closed.
        self._registry = room.ProcessRegistry.__new__(room.ProcessRegistry)
        self._registry.__init__(self._folder, clock=lambda: 0.0)
        self._wakeups = self._rooms("turns.wakeups").Wakeups(self._registry, self._start)

    def begin_run(self, session: str) -> None:
        """The user begins a turn."""
        self._run(session, self._rooms("turns.turns").Source.USER)

    def end_run(self, session: str) -> None:
        """Whatever runs in the session leaves."""
        run = self._runs.pop(session, None)
        if run is not None:
            self._wakeups.ended(run)

    def drain(self) -> None:
        """Start all that can be started now."""
        self._wakeups.drain()

    def struck(
        self, function: str, argument: Mapping[str, Any], strike: str, at: int, image: int = 0
    ) -> dict[str, bool]:
        """Ask while the disk strikes its change number `at`; whether it came to that.

        Raises TargetLostError where the host died of it; of a power loss, keep image `image`.
        """
        disk = SimulatedDisk(self._folder, STRIKES[strike](at))
        try:
            with disk:
                getattr(self, function)(**argument)
        except SimulatedCrash as crash:
            self._stop()
            left = disk.process_crash()
            if strike.startswith("power"):
                losses = list(disk.power_losses(Random(image), LOSSES))
                left = losses[image % len(losses)]
            left.put_into(self._folder)
            raise TargetLostError(f"{strike} at {crash}") from None
        return {"struck": disk.struck is not None}

    def settle(self) -> dict[str, Any]:
        """Let time pass and runs end until nothing waits; every wakeup that a session has had."""
        with self._sound_disk():
            for _ in range(SETTLINGS_MAX):
                self._wakeups.drain()
                for session in list(self._runs):
                    self.end_run(session)
                self._now_s += SETTLING_S
        return {"woken": self._had}

    def close(self) -> None:
        """Stop the host, and give the room its clock back."""
        self._stop()
        self._rooms("turns.wakeups").time = time

    def _sound_disk(self) -> SimulatedDisk:
        """A disk that is only quick: nobody waits for a sync."""
        return SimulatedDisk(self._folder, no_fault)

    def _stop(self) -> None:
        registry, self._registry, self._wakeups = self._registry, None, None
        self._runs.clear()
        if registry is not None:
            with suppress(AttributeError):  # it died before it had opened anything
                registry.close()

    def _start(self, session_id: str, message: str, source: Any, *, wakeup_id: str) -> None:
        turns = self._rooms("turns.turns")
        assert wakeup_id in message, "the prompt names the process"
        if session_id in self._runs:
            raise turns.TurnConflictError(self._runs[session_id])
        if [session_id, wakeup_id] in self._had:
            raise turns.AlreadyDeliveredError(wakeup_id)
        self._had.append([session_id, wakeup_id])
        self._run(session_id, source)

    def _run(self, session: str, source: Any) -> None:
        stream = f"stream-{len(self._had)}-{source}"
        told = {"session_id": session, "stream_id": stream, "source": source}
        run = self._runs[session] = SimpleNamespace(**told, is_attachable=True)
        self._wakeups.started(run)
