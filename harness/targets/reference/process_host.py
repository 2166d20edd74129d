"""A host of background processes, in a process of its own that can be killed.

Stand-alone, like every adapter that also runs in a process of its own: it imports the standard
library and the package `reference_impl`, found on the path. The registry's clock passes in
`set_clock` only.
"""

import contextlib
import ctypes
import errno
import importlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PATIENCE_S = 10.0
IDLE_S = 0.5  # from the end of the last process to its event
POLL_S = 0.002
TRIES = 3
BLOCK_BYTES = 512  # of `st_blocks`
PAGE_BYTES = 4096
PUNCH = 0x01 | 0x02  # FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE

NO_COMMANDS = {"empty": "", "nul": "a\0b", "long": ":" + " " * 40_000, "no text": "\ud800"}


class ProcessHost:
    """`ProcessRegistry` on one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._now_s = 0.0
        clock = folder.with_name("clock")
        if clock.exists():
            self._now_s = float(clock.read_text())
        self._module = importlib.import_module("reference_impl.agents.processes")
        self._registry = self._open()

    def _open(self) -> Any:
        return self._module.ProcessRegistry(self._folder, clock=lambda: self._now_s)

    def set_clock(self, now_s: float) -> None:
        """Let it be that time."""
        self._now_s = now_s

    def spawn(self, command: str, session: str | None, options: dict[str, Any]) -> str:
        """Start a process in a turn of the session, or outside of turns; returns its id."""
        beside = options.pop("beside", None)
        with contextlib.ExitStack() as turns:
            if session is not None:
                turns.enter_context(_turn(session))
            if beside is not None:
                turns.enter_context(_turn_in_a_thread(beside))
            return str(self._registry.spawn(command, **options))

    def spawn_brief(self, command: str, session: str) -> str:
        """Start a process that ends before the call that starts it goes on."""
        with _turn(session), _late_starts():
            return str(self._registry.spawn(command))

    def refused(self, command: str) -> dict[str, Any]:
        """Try to start a process while the disk refuses every sync, again and again.

        The errors' types, and how many more files are open than after the first try.
        """
        errors, files = [], []
        for _ in range(TRIES):
            with _refusing_disk():
                try:
                    self._registry.spawn(command)
                    errors.append("none")
                except OSError as error:
                    errors.append(type(error).__name__)
            files.append(sum(1 for _ in Path("/proc/self/fd").iterdir()))
        return {"errors": errors, "files": files[-1] - files[0]}

    def no_command(self, kind: str) -> str:
        """Try to start what is no command; returns the error's type."""
        return self._error_of(NO_COMMANDS[kind])

    def spawn_late(self) -> str:
        """Close the registry, and close it again; try to start a process; open another one."""
        for _ in range(2):
            self._registry.close()
        error = self._error_of(":")
        self._registry = self._open()
        return error

    def _error_of(self, command: str) -> str:
        try:
            self._registry.spawn(command)
        except self._module.SpawnRefusedError as error:
            return type(error).__name__
        return "none"

    def kill(self, process_id: str) -> bool:
        """Kill the process; returns whether it was running."""
        return bool(self._registry.kill(process_id))

    def wait_until_read(self, process_id: str, size: int) -> None:
        """Wait until the process has printed `size` bytes, and watched ones were read."""
        running = self._registry._running[process_id]  # noqa: SLF001  no event says so
        output = running.output

        def is_read() -> bool:
            is_searched = not running.watches.patterns or output.position >= size
            return bool(output.size() >= size and is_searched)

        self._wait(is_read)

    def bounded(self, process_id: str, most: int) -> bool | None:
        """Whether the output takes at most that many bytes of the disk, after a while.

        None where a file cannot have holes.
        """
        output = self._folder / f"{process_id}.out"
        if not _has_holes(self._folder / "proc_hole"):
            return None

        def is_small() -> bool:
            return output.stat().st_blocks * BLOCK_BYTES <= most

        self._wait(is_small)
        return is_small()

    def wait_until_ended(self, process_id: str) -> None:
        """Wait until the end of the process is an event."""
        self._wait(lambda: not self._registry.is_consumed(process_id))

    def take(self, count: int) -> list[dict[str, Any]]:
        """Wait for that many events, and one more that must not come; mark them as consumed."""
        events: list[Any] = []
        idle_at_s = time.monotonic()

        def have_come() -> bool:
            nonlocal idle_at_s
            while (event := self._registry.take()) is not None:
                events.append(event)
            if self._registry.running():
                idle_at_s = time.monotonic()
            return len(events) >= count or time.monotonic() - idle_at_s > IDLE_S

        self._wait(have_come)
        for event in events:
            self._registry.mark_consumed(event.event_id)
        return [_shown(event) for event in events]

    def take_some(self, count: int, *, marks: bool) -> dict[str, Any]:
        """Take the first `count` events and mark them, or fail to; how many are owed after that."""
        events = [self._registry.take() for _ in range(count)]
        errors: list[str] = []
        with contextlib.nullcontext() if marks else _refusing_disk():
            for event in events:
                try:
                    self._registry.mark_consumed(event.event_id)
                except OSError as error:
                    errors.append(type(error).__name__)
        owed = sum(not self._registry.is_consumed(event.event_id) for event in events)
        return {"events": [_shown(event) for event in events], "errors": errors, "owed": owed}

    def left(self, running: int) -> dict[str, int]:
        """What the registry holds once no more than `running` processes run, and its files."""
        self._wait(lambda: self._held()["running"] <= running and self._held()["files"] <= running)
        return self._held()

    def _held(self) -> dict[str, int]:
        gauges = self._registry.gauges()
        files = [path for path in self._folder.iterdir() if "ledger" not in path.name]
        return {
            "running": gauges["processes_running"],
            "pending": gauges["process_events_pending"],
            "queued": gauges["process_completion_queue"],
            "ledger": gauges["process_ledger"],
            "files": len(files),
        }

    def _wait(self, is_so: Any) -> None:
        ends_at_s = time.monotonic() + PATIENCE_S
        while not is_so() and time.monotonic() < ends_at_s:
            time.sleep(POLL_S)

    def restart(self) -> None:
        """Close the registry, and open another one; processes go on."""
        self._registry.close()
        self._registry = self._open()

    def close(self) -> None:
        """Close the registry."""
        self._registry.close()


def _shown(event: Any) -> dict[str, Any]:
    names = ("process_id", "owner", "command", "exit_code", "output", "pattern", "suppressed")
    shown = {name: getattr(event, name) for name in names}
    return {"kind": str(event.kind), "key": event.session_key, **shown}


def _turn(session: str) -> Any:
    """A turn of that session, in this thread."""
    identity = importlib.import_module("reference_impl.agents.identity")
    return identity.bound(identity.Identity(session, "stream"))


@contextlib.contextmanager
def _turn_in_a_thread(session: str) -> Iterator[None]:
    """A turn of that session in another thread, which has begun and goes on."""
    has_begun, may_end = threading.Event(), threading.Event()

    def turn() -> None:
        with _turn(session):
            has_begun.set()
            may_end.wait(PATIENCE_S)

    thread = threading.Thread(target=turn, daemon=True)
    thread.start()
    has_begun.wait(PATIENCE_S)
    try:
        yield
    finally:
        may_end.set()
        thread.join(PATIENCE_S)


@contextlib.contextmanager
def _late_starts() -> Iterator[None]:
    """A host so busy that a process has ended before the call that starts it goes on."""
    start = os.posix_spawn

    def started(*arguments: Any, **options: Any) -> int:
        pid = start(*arguments, **options)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        return pid

    setattr(os, "posix_spawn", started)  # noqa: B010  the reference calls it by this name
    try:
        yield
    finally:
        setattr(os, "posix_spawn", start)  # noqa: B010


def _has_holes(path: Path) -> bool:
    """Whether a file there may have a hole."""
    fallocate = getattr(ctypes.CDLL(None), "fallocate", None)
    with path.open("wb") as file:
        file.write(bytes(4 * PAGE_BYTES))
        file.flush()
        size = ctypes.c_int64(2 * PAGE_BYTES)
        code = fallocate and fallocate(file.fileno(), PUNCH, ctypes.c_int64(0), size)
    path.unlink()
    return code == 0


@contextlib.contextmanager
def _refusing_disk() -> Iterator[None]:
    """A disk that refuses every sync."""
    sync = os.fsync
    setattr(os, "fsync", _refuse)  # noqa: B010  the reference calls it by this name
    try:
        yield
    finally:
        setattr(os, "fsync", sync)  # noqa: B010


def _refuse(_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def open_adapter(folder: Path) -> ProcessHost:
    """Open a registry with its files in `folder`."""
    return ProcessHost(folder)
