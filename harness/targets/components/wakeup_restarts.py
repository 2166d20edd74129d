"""The *wakeups_restarts* ability: wakeups over a real process registry whose host crashes.

The processes belong to a host that crashed: it owed their wakeups, and they ended while no host
ran. The adapter records the wakeups that each session received, as sessions do on disk. Time passes
in `settle` only.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

from harness.core.errors import TargetLostError
from harness.faults.simulated_disk import STRIKES, SimulatedCrash, SimulatedDisk, no_fault

READ = "read once"  # the strike that fails a read, listing, status or opening of a file
READS = ("open", "stat", "listdir", "scandir", "read")
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
        self._had: list[list[str]] = []  # session, process and prompt
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

    def grow_ledger(self, rows: int) -> None:
        """Add rows of delivered wakeups, which a host replaces at its next change."""
        lines = (
            json.dumps({"key": f"old_{row // 2}", "value": None if row % 2 else {"kind": "old"}})
            for row in range(rows)
        )
        with (self._folder / "ledger.jsonl").open("a", encoding="ascii") as ledger:
            ledger.writelines(f"{line}\n" for line in lines)

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
        self._run(session, self._modules("turns.run").Source.USER)

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
    ) -> dict[str, int]:
        """Call while a fault hits the disk's change number `at`, or its read of that number.

        Returns `at` if the fault happened, else -1. Raises TargetLostError where the fault killed
        the host; of a power loss, keep image `image`.
        """
        if strike == READ:
            with self._failing_read(at) as reads:
                getattr(self, function)(**argument)
            return {"struck": at if reads[0] >= at else -1}
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
        return {"struck": -1 if disk.faulted_call is None else at}

    @contextmanager
    def _failing_read(self, at: int) -> Iterator[list[int]]:
        """Fail read number `at` of the folder or of a file in it; yields the number of reads."""
        reads = [0]
        originals = {name: getattr(os, name) for name in READS}
        own: set[int] = set()

        def failing(name: str) -> Callable[..., Any]:
            original = originals[name]

            def call(path: Any = ".", *args: Any, **keywords: Any) -> Any:
                is_path = not isinstance(path, int)
                is_ours = path in own
                if is_path:
                    is_ours = os.fsdecode(path).startswith(str(self._folder))
                if is_ours:
                    reads[0] += 1
                    if reads[0] == at:
                        raise OSError(errno.EIO, os.strerror(errno.EIO), path)
                result = original(path, *args, **keywords)
                if name == "open":
                    own.add(result) if is_ours else own.discard(result)
                return result

            return call

        for name in READS:
            setattr(os, name, failing(name))
        try:
            yield reads
        finally:
            for name, original in originals.items():
                setattr(os, name, original)

    def settle(self) -> dict[str, Any]:
        """Let time pass and runs end until no wakeup is pending; all wakeups of all sessions."""
        with self._sound_disk():
            for _ in range(SETTLINGS_MAX):
                self._wakeups.drain()
                for session in list(self._runs):
                    self.end_run(session)
                self._now_s += SETTLING_S
        sessions = sorted({session for session, *_ in self._had})
        return {
            "woken": {
                name: [[process, text] for session, process, text in self._had if session == name]
                for name in sessions
            },
            "owed": self._registry.gauges()["process_ledger"],
        }

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
        turns = self._modules("turns.run")
        assert wakeup_id in message, "the prompt names the process"
        if session_id in self._runs:
            raise turns.TurnConflictError(self._runs[session_id])
        if any(had[:2] == [session_id, wakeup_id] for had in self._had):
            raise turns.AlreadyDeliveredError(wakeup_id)
        self._had.append([session_id, wakeup_id, message])
        self._run(session_id, source)

    def _run(self, session: str, source: Any) -> None:
        stream = f"stream-{len(self._had)}-{source}"
        run = self._runs[session] = SimpleNamespace(
            session_id=session, stream_id=stream, source=source, is_attachable=True
        )
        self._wakeups.started(run)
