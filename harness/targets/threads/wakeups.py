"""The *wakeups_threads* ability: wakeups between a registry and turns, called by threads that meet.

The turns begin and end as the threads say. They refuse nothing but a session that is busy, so that
a wakeup which is started twice is seen twice.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

from harness.targets.components.wakeups import ScriptedRegistry

SETTLINGS_MAX = 20
SETTLING_S = 5.0  # of virtual time
See = Callable[[str, Mapping[str, Any], int], None]


class WakeupsThreadsAdapter:
    """One host: its wakeups, a registry, and sessions that are busy or idle."""

    def __init__(self, rooms: Callable[[str], Any]) -> None:
        """`rooms(name)` gives a module of the reference."""
        self._rooms = rooms
        self._registry = ScriptedRegistry()
        self._lock = threading.Lock()
        self._runs: dict[str, Any] = {}
        self._numbers = itertools.count(1)
        self._wakeups = rooms("turns.wakeups").Wakeups(self._registry, self._start)

    def watch(self, tick: Callable[[], int], see: See) -> None:
        """From now on tell `see`, on the clock `tick`."""
        self._tick, self._see = tick, see

    def complete(self, session: str, process: str, times: int = 1) -> None:
        """A background process of the session ended; it is told so many times."""
        self._registry.tell(completion(self._rooms, next(self._numbers), session, process), times)

    def begin_run(self, session: str) -> None:
        """The user begins a turn; raises if the session is busy."""
        try:
            self._run(session, self._rooms("turns.turns").Source.USER)
        except self._conflict:
            self._wakeups.user_refused(self._runs[session])
            raise

    def end_run(self, session: str) -> None:
        """Whatever runs in the session leaves, and then that is told."""
        with self._lock:
            run = self._runs.get(session)
            if run is None or not run.is_told:  # no run leaves before it was told of
                return
            del self._runs[session]
        self._wakeups.ended(run)

    def drain(self) -> None:
        """Start all that can be started now."""
        self._wakeups.drain()

    def settle(self) -> dict[str, int]:
        """Drain, and end whatever runs, until nothing waits; how much still does after a while."""
        for _ in range(SETTLINGS_MAX):
            self._wakeups.drain()
            if not self._runs and not self._kept:
                break
            for session in list(self._runs):
                self.end_run(session)
            time.sleep(SETTLING_S)
        return {"kept": self._kept}

    def close(self) -> None:
        """Nothing is held."""

    @property
    def _kept(self) -> int:
        kept: int = self._wakeups.gauges()["wakeup_events"]
        return kept

    @property
    def _conflict(self) -> type[Exception]:
        conflict: type[Exception] = self._rooms("turns.turns").TurnConflictError
        return conflict

    def _start(self, session_id: str, message: str, source: Any, *, wakeup_id: str) -> None:
        assert wakeup_id in message, "the prompt names the process"
        begun = self._tick()
        self._run(session_id, source)
        self._see("wake", {"session": session_id, "process": wakeup_id}, begun)

    def _run(self, session: str, source: Any) -> None:
        stream = f"stream-{next(self._numbers)}"
        told = {"session_id": session, "stream_id": stream, "source": source}
        with self._lock:
            if session in self._runs:
                raise self._conflict(self._runs[session])
            run = self._runs[session] = SimpleNamespace(**told, is_attachable=True, is_told=False)
        self._wakeups.started(run)
        run.is_told = True


def completion(rooms: Callable[[str], Any], number: int, owner: str | None, process: str) -> Any:
    """The event that tells of a process's end."""
    room = rooms("agents.processes")
    key = owner or ""
    return room.Event(number, process, room.Kind.COMPLETION, process, owner, key, "true", 0.0, 0)
