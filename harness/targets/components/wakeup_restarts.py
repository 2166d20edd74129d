"""The *wakeups_restarts* ability: wakeups over a real process registry whose host crashes.

The processes belong to a host that crashed: it owed their wakeups, and they ended while no host
ran. The adapter records the wakeups that each session received, as sessions do on disk. Time passes
in `settle` only.
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
    """A folder of processes, its host, and sessions that are busy or idle."""

    def __init__(self, folder: Path, modules: Callable[[str], Any]) -> None:
        """`modules(name)` imports a module of the reference implementation."""
        self._folder = folder
        self._modules = modules
        self._now_s = 1_000.0
        # The module reads its clock from its own global, which can be replaced.
        modules("turns.wakeups").time = SimpleNamespace(monotonic=lambda: self._now_s)
        self._runs: dict[str, Any] = {}
        self._had: list[list[str]] = []
        self._registry: Any = None
        self._wakeups: Any = None

    def leave(self, session: str, process: str, exit_code: int | None = None) -> None:
        """Record a process of a crashed host; it ended with `exit_code`, None for unknown."""
        owner = {"owner": session, "session_key": session, "command": "true"}
        with self._sound_disk():
            ledger = self._modules("storage.durable_map").DurableMap(self._folder / "ledger.jsonl")
            ledger.put(process, {"kind": "running", "process_id": process, **owner})
            ledger.close()
        if exit_code is not None:
            (self._folder / f"{process}.exit").write_text(f"{exit_code}\n", encoding="ascii")

    def restart(self) -> None:
        """Stop the host, and start another one; no session has a run then."""
        self._stop()
        module = self._modules("agents.processes")
        # If it crashes while it starts, the files that it opened must still be closed.
        self._registry = module.ProcessRegistry.__new__(module.ProcessRegistry)
        self._registry.__init__(self._folder, clock=lambda: 0.0)
        self._wakeups = self._modules("turns.wakeups").Wakeups(self._registry, self._start)

    def begin_run(self, session: str) -> None:
        """Begin a turn of the user."""
        self._run(session, self._modules("turns.turns").Source.USER)

    def end_run(self, session: str) -> None:
        """End the session's run, if it has one."""
        run = self._runs.pop(session, None)
        if run is not None:
            self._wakeups.ended(run)

    def drain(self) -> None:
        """Start every wakeup that can start now."""
        self._wakeups.drain()

    def struck(
        self, function: str, argument: Mapping[str, Any], strike: str, at: int, image: int = 0
    ) -> dict[str, bool]:
        """Call while a fault hits the disk's change number `at`; whether the fault happened.

        Raises TargetLostError where the fault killed the host; of a power loss, keep image `image`.
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
        return {"struck": disk.faulted_call is not None}

    def settle(self) -> dict[str, Any]:
        """Let time pass and runs end until no wakeup is pending; all wakeups of all sessions."""
        with self._sound_disk():
            for _ in range(SETTLINGS_MAX):
                self._wakeups.drain()
                for session in list(self._runs):
                    self.end_run(session)
                self._now_s += SETTLING_S
        return {"woken": self._had}

    def close(self) -> None:
        """Stop the host, and restore the module's clock."""
        self._stop()
        self._modules("turns.wakeups").time = time

    def _sound_disk(self) -> SimulatedDisk:
        """A disk without faults, whose syncs return at once."""
        return SimulatedDisk(self._folder, no_fault)

    def _stop(self) -> None:
        registry, self._registry, self._wakeups = self._registry, None, None
        self._runs.clear()
        if registry is not None:
            with suppress(AttributeError):  # it crashed before it opened a file
                registry.close()

    def _start(self, session_id: str, message: str, source: Any, *, wakeup_id: str) -> None:
        turns = self._modules("turns.turns")
        assert wakeup_id in message, "the prompt names the process"
        if session_id in self._runs:
            raise turns.TurnConflictError(self._runs[session_id])
        if [session_id, wakeup_id] in self._had:
            raise turns.AlreadyDeliveredError(wakeup_id)
        self._had.append([session_id, wakeup_id])
        self._run(session_id, source)

    def _run(self, session: str, source: Any) -> None:
        stream = f"stream-{len(self._had)}-{source}"
        run = self._runs[session] = SimpleNamespace(
            session_id=session, stream_id=stream, source=source, is_attachable=True
        )
        self._wakeups.started(run)
