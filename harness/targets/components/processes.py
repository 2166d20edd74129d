"""The *processes* ability: a real process registry, whose processes prove their start and end.

Each process appends a line to one file when it starts and when it ends. It reads a named pipe of
the adapter and prints what it reads, so the adapter decides what it prints and when it ends. The
registry's monotonic clock passes in `advance` only.
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

PATIENCE_S = 10.0
POLL_S = 0.002


class ProcessesAdapter:
    """A registry, the processes that it started, and the file in which they prove themselves."""

    def __init__(self, folder: Path, modules: Callable[[str], Any]) -> None:
        """`modules(name)` imports a module of the reference implementation."""
        self._folder = folder
        self._modules = modules
        self._module = modules("agents.processes")
        self._now_s = 1_000.0
        # The module reads its clock from its own global, which can be replaced.
        self._module.time = SimpleNamespace(
            monotonic=lambda: self._now_s, time=time.time, sleep=self._sleep
        )
        self._ids: dict[str, str] = {}
        self._pipes: dict[str, int] = {}
        self._commands: dict[str, str] = {}
        self._registry = self._module.ProcessRegistry(folder / "processes")

    def spawn(
        self,
        process: str,
        session: str | None,
        exit_code: int = 0,
        watches: list[str] | None = None,
        notify: bool = True,  # noqa: FBT001, FBT002  journalled by name
    ) -> None:
        """Start a process in a turn of the session, or outside of turns."""
        pipe, proof = self._folder / f"{process}.pipe", self._folder / "proof"
        os.mkfifo(pipe)
        word = shlex.quote(process)
        command = (
            f"echo {word} start >> {shlex.quote(str(proof))}; cat {shlex.quote(str(pipe))}; "
            f"echo {word} end >> {shlex.quote(str(proof))}; exit {exit_code}"
        )
        identity = self._modules("agents.identity")
        options = {"notify_on_complete": notify, "watches": tuple(watches or ())}
        if session is None:
            id_ = self._registry.spawn(command, **options)
        else:
            with identity.bound(identity.Identity(session, "stream")):
                id_ = self._registry.spawn(command, **options)
        self._ids[id_] = process
        self._commands[process] = command
        self._pipes[process] = os.open(pipe, os.O_WRONLY)  # waits for its reader

    def say(self, process: str, text: str, size: int = 0) -> None:
        """Let the process print a text of `size` more characters, and wait until it was read."""
        data = b"x" * size + text.encode()
        while data:
            data = data[os.write(self._pipes[process], data) :]
        self._wait_until_read(process)

    def finish(self, process: str) -> None:
        """Let the process end."""
        os.close(self._pipes.pop(process))

    def kill(self, process: str) -> bool:
        """Kill the process; returns whether it was running."""
        return bool(self._registry.kill(self._id(process)))

    def advance(self, seconds: float) -> None:
        """Let time pass for the registry."""
        self._now_s += seconds

    def _sleep(self, seconds: float) -> None:
        time.sleep(seconds)
        self._now_s += seconds

    def take(self, count: int = 1) -> list[dict[str, Any]]:
        """Wait for that many events, and one more that must not come; mark them as consumed."""
        events: list[Any] = []
        ends_at_s = time.monotonic() + PATIENCE_S
        while len(events) < count and time.monotonic() < ends_at_s:
            event = self._registry.take()
            if event is None:
                time.sleep(POLL_S)
            else:
                events.append(event)
        extra = self._registry.take()
        if extra is not None:
            events.append(extra)
        for event in events:
            self._registry.mark_consumed(event.event_id)
        return [self._shown(event) for event in events]

    def restart(self) -> None:
        """Close the registry, and open another one; processes go on."""
        self._registry.close()
        self._registry = self._module.ProcessRegistry(self._folder / "processes")

    def proof(self) -> list[str]:
        """What the processes wrote when they started and ended, in order."""
        proof = self._folder / "proof"
        return proof.read_text().splitlines() if proof.exists() else []

    def left(self, running: int) -> dict[str, int]:
        """What the registry holds once no more than `running` processes run, and its files."""
        ends_at_s = time.monotonic() + PATIENCE_S
        while self._held()[:2] > (running, 0) and time.monotonic() < ends_at_s:
            time.sleep(POLL_S)
        processes, files, gauges = self._held()
        return {
            "running": processes,
            "pending": gauges["process_events_pending"],
            "queued": gauges["process_completion_queue"],
            "ledger": gauges["process_ledger"],
            "files": files,
        }

    def _held(self) -> tuple[int, int, dict[str, int]]:
        gauges = self._registry.gauges()
        files = [p for p in (self._folder / "processes").iterdir() if "ledger" not in p.name]
        return gauges["processes_running"], len(files), gauges

    def close(self) -> None:
        """End every process, and restore the module's clock."""
        for pipe in self._pipes.values():
            os.close(pipe)
        self._registry.close()
        self._module.time = time

    def _id(self, process: str) -> str:
        return next(id_ for id_, name in self._ids.items() if name == process)

    def _wait_until_read(self, process: str) -> None:
        """Print an empty line once all before it was searched, and wait until it was read."""
        running = self._registry._running[self._id(process)]  # noqa: SLF001  no event says so
        marks = (b"\n[one]\n", b"\n[two]\n")  # the second is read after the first was searched
        for mark in marks:
            os.write(self._pipes[process], mark)
            ends_at_s = time.monotonic() + PATIENCE_S
            while not running.tail.endswith(mark) and time.monotonic() < ends_at_s:
                time.sleep(POLL_S)

    def _shown(self, event: Any) -> dict[str, Any]:
        process = self._ids.get(event.process_id, event.process_id)
        is_known = event.command == self._commands.get(process)
        return {
            "kind": str(event.kind),
            "process": process,
            "owner": event.owner,
            "exit_code": event.exit_code,
            "output": event.output,
            "pattern": event.pattern,
            "suppressed": event.suppressed,
            "command": "its own" if is_known else event.command,
        }
