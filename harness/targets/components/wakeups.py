"""The *wakeups* ability: wakeups between a scripted registry and scripted turns.

Nothing runs by itself: `drain` does what a drain thread does once, and time passes in `advance`
only. Every answer lists the wakeup turns that started during the call, and the contract error, if
one was raised.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any


class StartFailedError(Exception):
    """A turn cannot be started, as the script says."""


class ScriptedRegistry:
    """A process registry whose marker can be renamed."""

    def __init__(self) -> None:
        self.events: dict[str, Any] = {}
        self.consumed: set[str] = set()
        self._queue: deque[Any] = deque()
        self._listener: Callable[[], object] = lambda: None

    def publish(self, event: Any, times: int) -> None:
        """Queue an event, `times` times over."""
        self.events[event.event_id] = event
        self._queue.extend([event] * times)
        self._listener()

    def reopened(self) -> ScriptedRegistry:
        """The registry of a new process: it queues every unconsumed event again."""
        fresh = ScriptedRegistry()
        fresh.events, fresh.consumed = self.events, self.consumed
        fresh._queue.extend(e for e in self.events.values() if e.event_id not in self.consumed)
        return fresh

    def rename_marker(self) -> None:
        """Break the contract: give the marker another name."""
        self.mark_consumed = None  # type: ignore[assignment, method-assign]

    def listen(self, listener: Callable[[], object]) -> None:
        """Call `listener` when there is an event to take."""
        self._listener = listener

    def take(self) -> Any:
        """The next event."""
        return self._queue.popleft() if self._queue else None

    def is_consumed(self, event_id: str) -> bool:
        """Whether the event was delivered."""
        return event_id in self.consumed

    def mark_consumed(self, event_id: str) -> None:
        """Mark the event as delivered."""
        self.consumed.add(event_id)


class WakeupsAdapter:
    """One host: its wakeups, a registry, and sessions that are busy or idle."""

    def __init__(self, modules: Callable[[str], Any]) -> None:
        """`modules(name)` imports a module of the reference implementation."""
        self._modules = modules
        self._clock = SimpleNamespace(now_s=1_000.0)
        # The module reads its clock from its own global, which can be replaced.
        module = modules("turns.wakeups")
        module.time = SimpleNamespace(monotonic=lambda: self._clock.now_s)
        self._registry = ScriptedRegistry()
        self._runs: dict[str, Any] = {}
        self._had: set[str] = set()
        self._started: list[list[str]] = []
        self._fails = False
        self._number = 0
        self._wakeups = module.Wakeups(self._registry, self._start)

    def complete(self, session: str, process: str, times: int) -> dict[str, Any]:
        """End a background process of the session; the registry publishes that `times` times."""
        self._number += 1
        module = self._modules("agents.processes")
        event = module.Event(
            self._number, process, module.Kind.COMPLETION, process, session, session, "true", 0.0, 0
        )
        self._registry.publish(event, times)
        return self._take_started()

    def index_elsewhere(self, session: str, other: str) -> dict[str, Any]:
        """Index the session's key for another session, as a stale index does."""
        self._wakeups.index(session, other)
        return self._take_started()

    def begin_run(self, session: str) -> dict[str, Any]:
        """Begin a turn of the user."""
        if session not in self._runs:
            self._run(session, self._modules("turns.turns").Source.USER)
        return self._take_started()

    def end_run(self, session: str) -> dict[str, Any]:
        """End the session's run, if it has one."""
        run = self._runs.pop(session, None)
        return self._take_started(lambda: self._wakeups.ended(run) if run else None)

    def fail_starts(self, *, fails: bool) -> dict[str, Any]:
        """Let starts of turns fail, or work again."""
        self._fails = fails
        return self._take_started()

    def rename_marker(self) -> dict[str, Any]:
        """Give the registry's marker another name."""
        self._registry.rename_marker()
        return self._take_started()

    def drain(self) -> dict[str, Any]:
        """Start every wakeup that can start now."""
        return self._take_started(self._wakeups.drain)

    def advance(self, seconds: float) -> dict[str, Any]:
        """Let time pass, and drain."""
        self._clock.now_s += seconds
        return self.drain()

    def restart(self) -> dict[str, Any]:
        """Start a new process: no session has a run, and unconsumed events are queued again."""
        self._runs.clear()
        self._registry = self._registry.reopened()
        self._wakeups = self._modules("turns.wakeups").Wakeups(self._registry, self._start)
        return self._take_started()

    def pending(self) -> dict[str, Any]:
        """The number of wakeup events in memory."""
        return {"kept": self._wakeups.gauges()["wakeup_events"]}

    def close(self) -> None:
        """Restore the module's clock."""
        self._modules("turns.wakeups").time = time

    def _start(self, session_id: str, message: str, source: Any, *, wakeup_id: str) -> None:
        turns = self._modules("turns.turns")
        if self._fails:
            raise StartFailedError("starts of turns are scripted to fail")
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
        run = SimpleNamespace(
            session_id=session, stream_id=stream, source=source, is_attachable=True
        )
        self._runs[session] = run
        self._wakeups.started(run)

    def _take_started(self, act: Callable[[], object] = lambda: None) -> dict[str, Any]:
        error = None
        try:
            act()
        except self._modules("turns.wakeups").RegistryContractError as raised:
            error = type(raised).__name__
        started, self._started = self._started, []
        return {"started": started, "error": error}
