"""The *wakeups_threads* ability: wakeups between a scripted registry and scripted turns.

Concurrent threads call it, and begin and end the turns. A turn is refused for a busy session only,
so that a wakeup that starts twice is visible twice.
"""

from __future__ import annotations

import errno
import itertools
import threading
import time
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

from harness.targets.components.wakeups import ScriptedRegistry

SETTLINGS_MAX = 20
SETTLING_S = 5.0  # of virtual time
HELD_S_MAX = 100.0
See = Callable[[str, Mapping[str, Any], int], None]


class WakeupsThreadsAdapter:
    """One host: its wakeups, a registry, and sessions that are busy or idle."""

    def __init__(self, modules: Callable[[str], Any]) -> None:
        """`modules(name)` imports a module of the reference implementation."""
        self._modules = modules
        self._registry = ScriptedRegistry()
        self._lock = threading.Lock()
        self._runs: dict[str, Any] = {}
        self._deleted: set[str] = set()
        self._failing = 0
        self._is_served = False
        self._numbers = itertools.count(1)
        self._wakeups = modules("turns.wakeups").Wakeups(self._registry, self._start)

    def watch(self, tick: Callable[[], int], see: See) -> None:
        """Report events to `see`, with times of the clock `tick`."""
        self._tick, self._see = tick, see

    def serve(self) -> None:
        """Start the drain threads; from now on they alone drain."""
        self._is_served = True
        self._wakeups.begin()

    def complete(self, session: str, process: str, times: int = 1, key: str = "") -> None:
        """End a background process of the session; the registry publishes that `times` times.

        With a `key` its owner is not recorded: the session is found by that key.
        """
        owner = None if key else session
        event = completion(self._modules, next(self._numbers), owner, process, key)
        self._registry.publish(event, times)

    def begin_run(self, session: str) -> None:
        """Begin a turn of the user; raises if the session is busy."""
        begun = self._tick()
        try:
            self._run(session, self._modules("turns.run").Source.USER)
            self._take_along(session)
        except _BusyError as busy:
            self._wakeups.user_refused(busy.run)
            self._see("refused", {"session": session, "run": busy.run.stream_id}, begun)
            raise self._conflict(busy.run) from None

    def end_run(self, session: str) -> None:
        """End the session's run, and report that to the wakeups."""
        with self._lock:
            run = self._runs.get(session)
            if run is None or not run.is_reported:  # no run ends before its start is reported
                return
            del self._runs[session]
        over = {"session": session, "run": run.stream_id, "at_s": time.monotonic()}
        self._see("over", over, self._tick())
        self._wakeups.ended(run)

    def delete(self, session: str) -> None:
        """Delete the session: end its run, and drop its bookkeeping."""
        with self._lock:
            self._deleted.add(session)
        self.end_run(session)
        self._wakeups.forget_session(session)

    def fail_start(self) -> None:
        """Let the next start of a turn fail."""
        with self._lock:
            self._failing += 1

    def index(self, key: str, session: str) -> None:
        """Index a session's key for another session, as a stale index does."""
        self._wakeups.index(key, session)

    def drain(self) -> None:
        """Start every wakeup that can start now."""
        self._wakeups.drain()

    def settle(self) -> dict[str, int]:
        """Drain, and end all runs, until no wakeup is pending; what the bookkeeping still holds.

        Where drain threads run, they alone drain, and are stopped in the end.
        """
        for _ in range(SETTLINGS_MAX):
            self._drain_once()
            if not self._runs and not self._pending:
                break
            for session in list(self._runs):
                self.end_run(session)
            time.sleep(SETTLING_S)
        time.sleep(HELD_S_MAX)  # a session may be left free for a user
        self._drain_once()
        self._wakeups.stop()
        sizes = self._wakeups.gauges()
        left = {name: sizes[f"wakeup_{name}"] for name in ("lines", "ready", "runs", "timers")}
        return {"kept": self._pending, **left}

    def _drain_once(self) -> None:
        if self._is_served:
            time.sleep(SETTLING_S)  # virtual time passes when no drain thread can act
        else:
            self._wakeups.drain()

    def close(self) -> None:
        """Stop the drain threads, if there are any."""
        self._wakeups.stop()

    @property
    def _pending(self) -> int:
        pending: int = self._wakeups.gauges()["wakeup_events"]
        return pending

    @property
    def _conflict(self) -> type[Exception]:
        conflict: type[Exception] = self._modules("turns.run").TurnConflictError
        return conflict

    def _start(self, session_id: str, message: str, source: Any, *, wakeup_id: str) -> None:
        assert wakeup_id in message, "the prompt names the process"
        begun = self._tick()
        with self._lock:
            if session_id in self._deleted:
                raise self._modules("sessions.session_files").UnknownSessionError(session_id)
            if self._failing:
                self._failing -= 1
                raise OSError(errno.ENOSPC, "no space left")
        at_s = time.monotonic()
        try:
            run = self._run(session_id, source)
        except _BusyError as busy:
            raise self._conflict(busy.run) from None
        wake = {"session": session_id, "process": wakeup_id, "run": run.stream_id, "at_s": at_s}
        self._see("wake", wake, begun)

    def _take_along(self, session: str) -> None:
        """Deliver pending wakeups with the user's turn, as its start does."""
        joined = self._wakeups.claim(session)
        for process, _ in joined:
            about = {"session": session, "process": process, "by": "a user's turn"}
            self._see("wake", {**about, "run": "", "at_s": time.monotonic()}, self._tick())
        if joined:
            self._wakeups.release(session, are_delivered=True)

    def _run(self, session: str, source: Any) -> Any:
        run = SimpleNamespace(
            session_id=session,
            stream_id=f"stream-{next(self._numbers)}",
            source=source,
            is_attachable=True,
            is_reported=False,
        )
        with self._lock:
            if session in self._runs:
                raise _BusyError(self._runs[session])
            self._runs[session] = run
        self._wakeups.started(run)
        run.is_reported = True
        return run


class _BusyError(Exception):
    """The session has this run."""

    def __init__(self, run: Any) -> None:
        super().__init__(run.stream_id)
        self.run = run


def completion(
    modules: Callable[[str], Any], number: int, owner: str | None, process: str, key: str = ""
) -> Any:
    """Make the event of a process's end, whose key is its owner by default."""
    module = modules("agents.processes")
    key = key or owner or ""
    return module.Event(
        number, process, module.Kind.COMPLETION, process, owner, key, "true", 0.0, 0
    )
