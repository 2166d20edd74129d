"""Wakeups: each end of a background process starts one turn in its session, and no second one.

What is to be told is kept by the process registry, durably, until it is marked as consumed; here
is only the order. Each session has a *line* of events, in the order of their happening. Two paths
serve it: the drain threads while the session is idle, and the end of each of its turns. Both take
the head of the line, and only a line that nobody else is serving; an event leaves it once its turn
is started and the registry has it marked. A session proves by itself which wakeups it has had, so
even a kill between the start and the mark doubles nothing.

A session that is busy is not tried again before its run has left: whoever leaves comes by here.
A start that fails is tried again, later and later, until the session is gone. And a user who was
refused because of a wakeup finds the session free for a while when that is over.
"""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Protocol

from reference_impl.agents.processes import Event, Kind
from reference_impl.sessions.session_files import InvalidSessionIdError, UnknownSessionError
from reference_impl.turns.turns import (
    AlreadyDeliveredError,
    Run,
    Source,
    TurnConflictError,
    TurnListener,
)

DRAIN_THREADS = 2
RETRY_FIRST_S = 0.1
RETRY_LAST_S = 30.0
HOLD_S = 1.0
PACE_MAX_S = 60.0  # who takes longer to come back does not wait for this
INDEX_MAX = 4096
HOMELESS_MAX = 256
COMMAND_CHARS_MAX = 1000
OUTPUT_CHARS_MAX = 4000

log = logging.getLogger(__name__)


class RegistryContractError(Exception):
    """The process registry does not do what wakeups rely on, so nothing is delivered."""


class Registry(Protocol):
    """What wakeups need of a process registry. It is checked each time, not only by a type."""

    def listen(self, listener: Callable[[], object]) -> None:
        """Call this whenever there may be something to take."""
        ...

    def take(self) -> Event | None:
        """The next event that was not taken; any number of times the same, and in order."""
        ...

    def is_consumed(self, event_id: str) -> bool:
        """Whether the event must not be delivered."""
        ...

    def mark_consumed(self, event_id: str) -> None:
        """Note, durably, that it was."""
        ...


class Start(Protocol):
    """Begins a turn, as `Turns.start` does."""

    def __call__(self, session_id: str, message: str, source: Source, *, wakeup_id: str) -> object:
        """Return when the message is on disk; raise if no turn was started."""
        ...


def prompt(event: Event) -> str:
    """What the session is told: which process, how it ended, its command and its output."""
    command = _clipped(event.command, COMMAND_CHARS_MAX)
    output = event.output[-OUTPUT_CHARS_MAX:]
    if event.kind is Kind.WATCH_MATCH:
        more = f", and {event.suppressed} more before" if event.suppressed else ""
        told = f"printed a line with {event.pattern!r}{more}"
    elif event.exit_code is None:
        told = "was lost when its host was killed (exit_code=unknown)"
    else:
        told = f"completed (exit_code={event.exit_code})"
    head = f"[IMPORTANT: Background process {event.process_id} {told}."
    return f"{head}\nCommand: {command}\nOutput:\n{output}]"


def _clipped(text: str, chars: int) -> str:
    return text if len(text) <= chars else f"{text[:chars]}..."


class _Outcome(Enum):
    """What became of an attempt."""

    DELIVERED = auto()
    BUSY = auto()
    FAILED = auto()


@dataclass(slots=True)
class _Line:
    """One session's events, and what is known of its starts. Times are monotonic."""

    events: deque[Event] = field(default_factory=deque)
    is_served: bool = False
    is_freed: bool = False  # a run left while somebody served
    failures: int = 0
    not_before_s: float = 0.0
    is_refusing: bool = False  # a user was refused because of the present wakeup
    refused_at_s: float | None = None
    pace_s: float = 0.0  # how long the user takes to come back


class Wakeups(TurnListener):
    """The wakeups of all sessions. Listens to the turns."""

    def __init__(
        self,
        registry: Registry,
        start: Start,
        *,
        announce: Callable[[str, Event], object] = lambda _sid, _event: None,
    ) -> None:
        """`announce` is called with each new event and its session; it must be quick.

        Raises RegistryContractError.
        """
        self._registry = registry
        self._start = start
        self._announce = announce
        self._changed = threading.Condition(threading.Lock())
        self._lines: dict[str, _Line] = {}
        self._ready: dict[str, None] = {}  # sessions to try now, in order
        self._timers: list[tuple[float, str]] = []  # sessions to try then
        self._known: set[str] = set()  # ids of all events in lines, and of the homeless
        self._homeless: deque[Event] = deque()
        self._index: OrderedDict[str, str] = OrderedDict()
        self._wakeup_runs: dict[str, str] = {}
        self._taken: Event | None = None
        self._is_noticed = True
        self._is_stopped = False
        self._threads: list[threading.Thread] = []
        self._check_contract()
        registry.listen(self.notify)

    def gauges(self) -> dict[str, int]:
        """Sizes of the long-lived containers."""
        return {
            "wakeup_lines": len(self._lines),
            "wakeup_events": len(self._known),
            "wakeup_ready": len(self._ready),
            "wakeup_timers": len(self._timers),
            "wakeup_homeless": len(self._homeless),
            "wakeup_index": len(self._index),
            "wakeup_runs": len(self._wakeup_runs),
        }

    # The index, for processes whose owner was not recorded

    def index(self, session_key: str, session_id: str) -> None:
        """Deliver to this session what bears the key and has no recorded owner."""
        with self._changed:
            self._index[session_key] = session_id
            self._index.move_to_end(session_key)
            while len(self._index) > INDEX_MAX:
                self._index.popitem(last=False)
            for event in [each for each in self._homeless if each.session_key == session_key]:
                self._homeless.remove(event)
                self._enqueue(event)
            self._changed.notify()

    def forget_session(self, session_id: str) -> None:
        """Drop what is kept for a session that was deleted."""
        with self._changed:
            for key in [key for key, sid in self._index.items() if sid == session_id]:
                del self._index[key]
            if session_id in self._lines:
                self._ready[session_id] = None
                self._changed.notify()

    # The drain threads

    def begin(self) -> None:
        """Start draining: whatever is pending, and then whatever comes."""
        for number in range(DRAIN_THREADS):
            name = f"wakeup drain {number}"
            thread = threading.Thread(target=self._serve, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Start no wakeup any more; what is pending stays so, for the next host."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def notify(self) -> None:
        """There may be something to take. Any number of times is as good as once."""
        with self._changed:
            self._is_noticed = True
            self._changed.notify()

    def _serve(self) -> None:
        while self._wait():
            try:
                self.drain()
            except RegistryContractError as error:
                log.critical("no wakeup is delivered: %s", error)
                with self._changed:
                    self._changed.wait_for(lambda: self._is_stopped, RETRY_LAST_S)

    def _wait(self) -> bool:
        """Wait until there is something to do; False when it is time to stop."""
        with self._changed:
            while not self._is_stopped:
                due_in_s = self._timers[0][0] - time.monotonic() if self._timers else None
                if self._is_noticed or self._ready or (due_in_s is not None and due_in_s <= 0.0):
                    return True
                self._changed.wait(due_in_s)
            return False

    def drain(self) -> None:
        """Start all that can be started now. Raises RegistryContractError."""
        while (session_id := self._next()) is not None:
            self._attempt(session_id)

    def _next(self) -> str | None:
        """Take note of what is new, and choose a session to try."""
        with self._changed:
            self._is_noticed = False
            self._collect()
            now_s = time.monotonic()
            while self._timers and self._timers[0][0] <= now_s:
                self._ready[heapq.heappop(self._timers)[1]] = None
            for session_id in self._ready:
                del self._ready[session_id]
                if self._ready:
                    self._changed.notify()  # there is work for another thread
                return session_id
            return None

    # The other path: turns come by

    def user_refused(self, run: Run) -> None:
        """Remember that a user waits for this wakeup to end, also if it has yet to start."""
        with self._changed:
            if not self._is_under_way(run):
                return
            line = self._lines.setdefault(run.session_id, _Line())
            now_s = time.monotonic()
            if line.refused_at_s is not None and now_s - line.refused_at_s < PACE_MAX_S:
                line.pace_s = max(line.pace_s, now_s - line.refused_at_s)
            line.is_refusing, line.refused_at_s = True, now_s

    def _is_under_way(self, run: Run) -> bool:
        if run.source is not Source.WAKEUP:
            return False
        line = self._lines.get(run.session_id)
        is_starting = line is not None and line.is_served
        return is_starting or self._wakeup_runs.get(run.session_id) == run.stream_id

    def started(self, run: Run) -> None:
        """A user who is admitted waits no more."""
        with self._changed:
            if run.source is Source.WAKEUP:
                self._wakeup_runs[run.session_id] = run.stream_id
            elif run.source is Source.USER and (line := self._lines.get(run.session_id)):
                line.refused_at_s, line.pace_s, line.not_before_s = None, 0.0, 0.0

    def ended(self, run: Run) -> None:
        """The session is free: start its next wakeup, also one that was told just now."""
        with self._changed:
            line = self._lines.get(run.session_id)
            if line is not None:
                line.is_freed = True
            if self._wakeup_runs.get(run.session_id) == run.stream_id:
                del self._wakeup_runs[run.session_id]
                if line is not None:
                    self._hold(run.session_id, line)
            if not self._is_stopped:
                self._collect()
        self._attempt(run.session_id)

    def _hold(self, session_id: str, line: _Line) -> None:
        """Leave the session to a user who was refused, for longer than that one takes to return."""
        if line.is_refusing and line.refused_at_s is not None:
            now_s = time.monotonic()
            back_s = line.refused_at_s + 1.5 * line.pace_s
            self._delay(session_id, line, max(back_s - now_s, HOLD_S))
        line.is_refusing = False

    # What both do

    def _collect(self) -> None:
        """Put what the registry has to tell into the lines. Under the lock, so it stays in order.

        An event that was taken is not let go before it is judged, whatever is raised.
        """
        self._check_contract()
        while True:
            event = self._taken = self._taken or self._registry.take()
            if event is None:
                return
            if not isinstance(event, Event):
                raise RegistryContractError(f"take() of the process registry gave {event!r}")
            if event.event_id not in self._known and not self._is_consumed(event.event_id):
                self._enqueue(event)
            self._taken = None

    def _enqueue(self, event: Event) -> None:
        self._known.add(event.event_id)
        session_id = self._session_of(event)
        if session_id is None:
            self._make_homeless(event)
            return
        self._lines.setdefault(session_id, _Line()).events.append(event)
        self._ready[session_id] = None
        try:
            self._announce(session_id, event)
        except Exception:
            log.exception("%s could not be announced", event.event_id)

    def _session_of(self, event: Event) -> str | None:
        """Who owned the process when it was spawned; else whom the index names; else nobody."""
        indexed = self._index.get(event.session_key)
        if event.owner is None:
            return indexed
        if indexed is not None and indexed != event.owner:
            log.error(
                "%s belongs to session %s, and the index says %s: re-routed to its owner",
                event.process_id,
                event.owner,
                indexed,
            )
        return event.owner

    def _make_homeless(self, event: Event) -> None:
        log.error("%s has no owner, and %r is not indexed", event.process_id, event.session_key)
        self._homeless.append(event)
        if len(self._homeless) > HOMELESS_MAX:
            oldest = self._homeless.popleft()
            log.error("%s never found an owner, and is dropped", oldest.event_id)
            self._known.discard(oldest.event_id)
            self._registry.mark_consumed(oldest.event_id)

    def _attempt(self, session_id: str) -> None:
        """Try the head of the session's line once, unless somebody else does."""
        event = self._claim(session_id)
        if event is None:
            return
        outcome = _Outcome.FAILED
        try:
            outcome = self._deliver(session_id, event)
        finally:
            self._release(session_id, outcome)

    def _claim(self, session_id: str) -> Event | None:
        with self._changed:
            line = self._lines.get(session_id)
            if line is None or line.is_served or self._is_stopped:
                return None
            if not line.events or time.monotonic() < line.not_before_s:
                self._forget_if_done(session_id, line)
                return None
            line.is_served, line.is_freed = True, False
            return line.events[0]

    def _deliver(self, session_id: str, event: Event) -> _Outcome:
        """Start the turn, then mark the event. Raises RegistryContractError."""
        try:
            self._start(session_id, prompt(event), Source.WAKEUP, wakeup_id=event.event_id)
        except TurnConflictError:
            return _Outcome.BUSY
        except AlreadyDeliveredError:
            log.info("session %s has had %s before", session_id, event.event_id)
        except (UnknownSessionError, InvalidSessionIdError):
            log.warning("session %s is gone, and so is %s", session_id, event.event_id)
        except Exception as error:  # noqa: BLE001 - whatever it is, it may pass
            log.warning("session %s cannot be woken yet: %r", session_id, error)
            return _Outcome.FAILED
        try:
            self._registry.mark_consumed(event.event_id)
        except OSError as error:
            log.warning("%s is delivered, but not marked yet: %s", event.event_id, error)
            return _Outcome.FAILED
        except (AttributeError, TypeError) as error:
            raise RegistryContractError(f"mark_consumed() of the registry: {error}") from error
        if not self._is_consumed(event.event_id):
            raise RegistryContractError(
                f"mark_consumed({event.event_id!r}) of the process registry marked nothing"
            )
        return _Outcome.DELIVERED

    def _release(self, session_id: str, outcome: _Outcome) -> None:
        with self._changed:
            line = self._lines[session_id]
            line.is_served = False
            is_running = session_id in self._wakeup_runs  # or else it ended already, or never was
            line.is_refusing = line.is_refusing and is_running
            match outcome:
                case _Outcome.DELIVERED:
                    self._known.discard(line.events.popleft().event_id)
                    line.failures = 0
                    if not is_running:
                        self._retry_soon(session_id, line)
                case _Outcome.BUSY if line.is_freed:
                    self._retry_soon(session_id, line)
                case _Outcome.FAILED:
                    delay_s = min(RETRY_FIRST_S * 2 ** min(line.failures, 16), RETRY_LAST_S)
                    self._delay(session_id, line, delay_s)
                    line.failures += 1
            self._forget_if_done(session_id, line)

    def _retry_soon(self, session_id: str, line: _Line) -> None:
        if line.events:
            self._ready[session_id] = None
            self._changed.notify()

    def _delay(self, session_id: str, line: _Line, delay_s: float) -> None:
        line.not_before_s = time.monotonic() + delay_s
        heapq.heappush(self._timers, (line.not_before_s, session_id))
        self._changed.notify()

    def _forget_if_done(self, session_id: str, line: _Line) -> None:
        is_held = line.is_refusing or time.monotonic() < line.not_before_s
        if not line.events and not line.is_served and not is_held:
            del self._lines[session_id]

    # The contract

    def _check_contract(self) -> None:
        for name in ("take", "is_consumed", "mark_consumed"):
            if not callable(getattr(self._registry, name, None)):
                raise RegistryContractError(f"the process registry has no {name}() to call")

    def _is_consumed(self, event_id: str) -> bool:
        try:
            answer = self._registry.is_consumed(event_id)
        except (AttributeError, TypeError) as error:
            raise RegistryContractError(f"is_consumed() of the registry: {error}") from error
        if not isinstance(answer, bool):
            raise RegistryContractError(f"is_consumed() of the registry answered {answer!r}")
        return answer
