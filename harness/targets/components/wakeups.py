"""The *wakeups* ability: wakeups between a registry and turns that do as they are told.

Nothing runs by itself: `drain` is what a drain thread does once, and time passes by `advance`
only. Every answer tells which wakeup turns were started meanwhile, and the error, if one was loud.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any


class StartFailedError(Exception):
    """A turn cannot be started now, as told."""


class ScriptedRegistry:
    """A process registry whose marker can be renamed."""

    def __init__(self) -> None:
        self.events: dict[str, Any] = {}
        self.consumed: set[str] = set()
        self._queue: deque[Any] = deque()
        self._listener: Callable[[], object] = lambda: None

    def tell(self, event: Any, times: int) -> None:
        """Have an event to tell, so many times over."""
        self.events[event.event_id] = event
        self._queue.extend([event] * times)
        self._listener()

    def reopened(self) -> ScriptedRegistry:
        """What a new process finds: all that was not consumed is told again."""
        fresh = ScriptedRegistry()
        fresh.events, fresh.consumed = self.events, self.consumed
        fresh._queue.extend(e for e in self.events.values() if e.event_id not in self.consumed)
        return fresh

    def rename_marker(self) -> None:
        """Break the contract: the marker has another name from now on."""
        self.mark_consumed = None  # type: ignore[assignment, method-assign]

    def listen(self, listener: Callable[[], object]) -> None:
        """Call this when there is something to take."""
        self._listener = listener

    def take(self) -> Any:
        """The next event."""
        return self._queue.popleft() if self._queue else None

    def is_consumed(self, event_id: str) -> bool:
        """Whether it was delivered."""
        return event_id in self.consumed

    def mark_consumed(self, event_id: str) -> None:
        """It was delivered."""
        self.consumed.add(event_id)


class WakeupsAdapter:
    """One host: its wakeups, a registry, and sessions that are busy or idle."""

    def __init__(self, rooms: Callable[[str], Any]) -> None:
        """`rooms(name)` gives a module of the reference."""
        self._rooms = rooms
        self._clock = SimpleNamespace(now_s=1_000.0)
        # The room looks its clock up on the module, so time can be ours.
        room = rooms("turns.wakeups")
        room.time = SimpleNamespace(monotonic=lambda: self._clock.now_s)
        self._registry = ScriptedRegistry()
        self._runs: dict[str, Any] = {}
        self._had: set[str] = set()
        self._started: list[list[str]] = []
        self._fails = False
        self._number = 0
        self._wakeups = room.Wakeups(self._registry, self._start)

    def complete(self, session: str, process: str, times: int) -> dict[str, Any]:
        """A background process of the session ended; it is told so many times."""
        self._number += 1
        room = self._rooms("agents.processes")
        event = room.Event(
            self._number, process, room.Kind.COMPLETION, process, session, session, "true", 0.0, 0
        )
        self._registry.tell(event, times)
        return self._told()

    def index_elsewhere(self, session: str, other: str) -> dict[str, Any]:
        """Index the session's key for another session, as a stale index does."""
        self._wakeups.index(session, other)
        return self._told()

    def begin_run(self, session: str) -> dict[str, Any]:
        """The user begins a turn."""
        if session not in self._runs:
            self._run(session, self._rooms("turns.turns").Source.USER)
        return self._told()

    def end_run(self, session: str) -> dict[str, Any]:
        """Whatever runs in the session comes to its end."""
        run = self._runs.pop(session, None)
        return self._told(lambda: self._wakeups.ended(run) if run else None)

    def fail_starts(self, *, fails: bool) -> dict[str, Any]:
        """From now on no turn can be started, or turns can again."""
        self._fails = fails
        return self._told()

    def rename_marker(self) -> dict[str, Any]:
        """The registry's marker has another name from now on."""
        self._registry.rename_marker()
        return self._told()

    def drain(self) -> dict[str, Any]:
        """Start all that can be started now."""
        return self._told(self._wakeups.drain)

    def advance(self, seconds: float) -> dict[str, Any]:
        """Let time pass, and drain."""
        self._clock.now_s += seconds
        return self.drain()

    def restart(self) -> dict[str, Any]:
        """A new process: nobody runs, and what was not consumed is told again."""
        self._runs.clear()
        self._registry = self._registry.reopened()
        self._wakeups = self._rooms("turns.wakeups").Wakeups(self._registry, self._start)
        return self._told()

    def pending(self) -> dict[str, Any]:
        """How much is kept of wakeups and sessions."""
        return {"kept": self._wakeups.gauges()["wakeup_events"]}

    def close(self) -> None:
        """Give the room its clock back."""
        self._rooms("turns.wakeups").time = time

    def _start(self, session_id: str, message: str, source: Any, *, wakeup_id: str) -> None:
        turns = self._rooms("turns.turns")
        if self._fails:
            raise StartFailedError("as told")
        if session_id in self._runs:
            raise turns.TurnConflictError(self._runs[session_id])
        if wakeup_id in self._had:
            raise turns.AlreadyDeliveredError(wakeup_id)
        assert wakeup_id in message, "the prompt names the process"
        self._had.add(wakeup_id)
        self._started.append([session_id, wakeup_id])
        self._run(session_id, source)

    def _run(self, session: str, source: Any) -> None:
        self._number += 1
        stream = f"stream-{self._number}"
        told = {"session_id": session, "stream_id": stream, "source": source}
        run = SimpleNamespace(**told, is_attachable=True)
        self._runs[session] = run
        self._wakeups.started(run)

    def _told(self, act: Callable[[], object] = lambda: None) -> dict[str, Any]:
        error = None
        try:
            act()
        except self._rooms("turns.wakeups").RegistryContractError as loud:
            error = type(loud).__name__
        started, self._started = self._started, []
        return {"started": started, "error": error}
