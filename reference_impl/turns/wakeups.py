"""Wakeups: each end of a background process starts exactly one turn in its session.

The process registry stores the events durably until they are marked as consumed; this module
orders them. Each session has a queue of events, in order of occurrence. Three paths deliver from
it: the drain threads while the session is idle, the end of each of its turns, and the start of the
user's next turn, which takes along all that wait. Each acts only while no other one has claimed the
queue; an event leaves it once its turn is started and the registry has it marked, which is the one
mark of all paths. The session itself records its wakeups, so even a kill between the start and the
mark delivers nothing twice.

A busy session is not tried again before its run has ended: the run's end comes by here. A failed
start is tried again with growing delays, until the session is deleted. A user who was refused
because of a wakeup finds the session free for a while when that wakeup is over.
"""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Protocol

from reference_impl.agents.processes import Event, Kind
from reference_impl.sessions.session_files import InvalidSessionIdError, UnknownSessionError
from reference_impl.turns.listeners import TurnListener
from reference_impl.turns.run import AlreadyDeliveredError, Run, Source, TurnConflictError

DRAIN_THREADS = 2
RETRY_FIRST_S = 0.1
RETRY_LAST_S = 30.0
HOLD_S = 1.0
PACE_MAX_S = 60.0  # a user who takes longer to return does not wait for this wakeup
INDEX_MAX = 4096
UNROUTED_MAX = 256
NOTICES_MAX = 16  # that a user's turn takes along
COMMAND_CHARS_MAX = 1000
OUTPUT_CHARS_MAX = 4000

log = logging.getLogger(__name__)


class RegistryContractError(Exception):
    """The process registry breaks its contract with wakeups, so nothing is delivered."""


class Registry(Protocol):
    """What wakeups need from a process registry. Checked at each call, not only by type."""

    def listen(self, listener: Callable[[], object]) -> None:
        """Call this whenever an event may be available."""
        ...

    def take(self) -> Event | None:
        """The next event that was not taken; events may repeat, and are in order."""
        ...

    def is_consumed(self, event_id: str) -> bool:
        """Whether the event must not be delivered."""
        ...

    def mark_consumed(self, event_id: str) -> None:
        """Record durably that the event was delivered."""
        ...


class Start(Protocol):
    """Starts a turn, as `Turns.start` does."""

    def __call__(self, session_id: str, message: str, source: Source, *, wakeup_id: str) -> object:
        """Return when the message is on disk; raise if no turn was started."""
        ...


def prompt(event: Event) -> str:
    """The message for the session: the process, how it ended, its command and its output."""
    command = _clipped(event.command, COMMAND_CHARS_MAX)
    output = event.output[-OUTPUT_CHARS_MAX:]
    if event.kind is Kind.WATCH_MATCH:
        more = f", and {event.suppressed} more before" if event.suppressed else ""
        ending = f"printed a line with {event.pattern!r}{more}"
    elif event.exit_code is None:
        ending = "was lost when its host was killed (exit_code=unknown)"
    else:
        ending = f"completed (exit_code={event.exit_code})"
    head = f"[IMPORTANT: Background process {event.process_id} {ending}."
    return f"{head}\nCommand: {command}\nOutput:\n{output}]"


def _clipped(text: str, chars: int) -> str:
    return text if len(text) <= chars else f"{text[:chars]}..."


class _Outcome(Enum):
    """Result of an attempt to deliver."""

    DELIVERED = auto()
    BUSY = auto()
    FAILED = auto()


@dataclass(slots=True)
class _SessionQueue:
    """One session's events, and the state of its starts. Times are monotonic."""

    events: deque[Event] = field(default_factory=deque)
    is_claimed: bool = False
    is_freed: bool = False  # a run ended while the queue was claimed
    failures: int = 0
    not_before_s: float = 0.0
    is_refusing: bool = False  # a user was refused because of the present wakeup
    refused_at_s: float | None = None
    pace_s: float = 0.0  # how long the user takes to return
    joined: tuple[Event, ...] = ()  # claimed for the user's turn


class Wakeups(TurnListener):
    """The wakeups of all sessions. Listens to the turns."""

    def __init__(  # noqa: PLR0913 - it connects the components
        self,
        registry: Registry,
        start: Start,
        *,
        announce: Callable[[str, Event], object] = lambda _sid, _event: None,
        is_gone: Callable[[str], bool] = lambda _sid: False,
        wakes_idle: bool = True,
        joins_turns: bool = True,
    ) -> None:
        """`announce` is called with each new event and its session; it must be quick.

        With `wakes_idle` they start turns of their own, with `joins_turns` the user's next turn
        takes them along; with neither they stay pending until their session `is_gone`. Raises
        RegistryContractError.
        """
        self._wakes_idle = wakes_idle
        self._joins_turns = joins_turns
        self._registry = registry
        self._start = start
        self._announce = announce
        self._is_gone = is_gone
        self._changed = threading.Condition(threading.Lock())
        self._queues: dict[str, _SessionQueue] = {}
        self._ready: dict[str, None] = {}  # sessions to try now, in order
        self._timers: list[tuple[float, str]] = []  # sessions to try later
        self._known: set[str] = set()  # ids of all events in queues, and of those without owner
        self._unrouted: deque[Event] = deque()
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
            "wakeup_lines": len(self._queues),
            "wakeup_events": len(self._known),
            "wakeup_ready": len(self._ready),
            "wakeup_timers": len(self._timers),
            "wakeup_homeless": len(self._unrouted),
            "wakeup_index": len(self._index),
            "wakeup_runs": len(self._wakeup_runs),
        }

    # The index of session keys, for processes whose owner was not recorded

    def index(self, session_key: str, session_id: str) -> None:
        """Deliver events with this key and without recorded owner to this session."""
        with self._changed:
            self._index[session_key] = session_id
            self._index.move_to_end(session_key)
            while len(self._index) > INDEX_MAX:
                self._index.popitem(last=False)
            for event in [
                candidate for candidate in self._unrouted if candidate.session_key == session_key
            ]:
                self._unrouted.remove(event)
                self._enqueue(event)
            self._changed.notify()

    def forget_session(self, session_id: str) -> None:
        """Drop the keys of a deleted session."""
        with self._changed:
            for key in [key for key, sid in self._index.items() if sid == session_id]:
                del self._index[key]
            if session_id in self._queues:
                self._ready[session_id] = None
                self._changed.notify()

    # The drain threads

    def begin(self) -> None:
        """Start the drain threads."""
        for number in range(DRAIN_THREADS):
            name = f"wakeup drain {number}"
            thread = threading.Thread(target=self._drain_until_stopped, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Start no more wakeups; pending events stay in the registry for the next host."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def notify(self) -> None:
        """An event may be available. Repeated calls are as good as one."""
        with self._changed:
            self._is_noticed = True
            self._changed.notify()

    def _drain_until_stopped(self) -> None:
        while self._wait():
            try:
                self.drain()
            except RegistryContractError as error:
                log.critical("no wakeup is delivered: %s", error)
                with self._changed:
                    self._changed.wait_for(lambda: self._is_stopped, RETRY_LAST_S)

    def _wait(self) -> bool:
        """Wait until there is work; False after `stop`."""
        with self._changed:
            while not self._is_stopped:
                due_in_s = self._timers[0][0] - time.monotonic() if self._timers else None
                if self._is_noticed or self._ready or (due_in_s is not None and due_in_s <= 0.0):
                    return True
                self._changed.wait(due_in_s)
            return False

    def drain(self) -> None:
        """Start all wakeups that can be started now. Raises RegistryContractError."""
        while (session_id := self._next()) is not None:
            self._attempt(session_id)

    def _next(self) -> str | None:
        """Collect new events, and choose a session to try."""
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

    # The other path: events of turns

    def user_refused(self, run: Run) -> None:
        """Record that a user waits for this wakeup to end, even if it has yet to start."""
        with self._changed:
            if not self._is_under_way(run):
                return
            queue = self._queues.setdefault(run.session_id, _SessionQueue())
            now_s = time.monotonic()
            if queue.refused_at_s is not None and now_s - queue.refused_at_s < PACE_MAX_S:
                queue.pace_s = max(queue.pace_s, now_s - queue.refused_at_s)
            queue.is_refusing, queue.refused_at_s = True, now_s

    def _is_under_way(self, run: Run) -> bool:
        if run.source is not Source.WAKEUP:
            return False
        queue = self._queues.get(run.session_id)
        is_starting = queue is not None and queue.is_claimed
        return is_starting or self._wakeup_runs.get(run.session_id) == run.stream_id

    def started(self, run: Run) -> None:
        """A user's turn was admitted, so the user no longer waits."""
        with self._changed:
            if run.source is Source.WAKEUP:
                self._wakeup_runs[run.session_id] = run.stream_id
            elif run.source is Source.USER and (queue := self._queues.get(run.session_id)):
                queue.refused_at_s, queue.pace_s, queue.not_before_s = None, 0.0, 0.0

    def ended(self, run: Run) -> None:
        """The session is free: start its next wakeup, including one collected just now."""
        with self._changed:
            queue = self._queues.get(run.session_id)
            if queue is not None:
                queue.is_freed = True
            if self._wakeup_runs.get(run.session_id) == run.stream_id:
                del self._wakeup_runs[run.session_id]
                if queue is not None:
                    self._hold(run.session_id, queue)
            if not self._is_stopped:
                self._collect()
        self._attempt(run.session_id)

    def _hold(self, session_id: str, queue: _SessionQueue) -> None:
        """Leave the session free for longer than the refused user takes to return."""
        if queue.is_refusing and queue.refused_at_s is not None:
            now_s = time.monotonic()
            back_s = queue.refused_at_s + 1.5 * queue.pace_s
            self._delay(session_id, queue, max(back_s - now_s, HOLD_S))
        queue.is_refusing = False

    # The third path: turns of users, which take along what waits

    def claim(self, session_id: str) -> Sequence[tuple[str, str]]:
        """Claim the session's queue, and return the ids and prompts of its first events."""
        if not self._joins_turns:
            return ()
        with self._changed:
            if not self._is_stopped:
                try:
                    self._collect()
                except RegistryContractError as error:
                    log.critical("no wakeup is delivered: %s", error)
                    return ()
            queue = self._queues.get(session_id)
            if queue is None or queue.is_claimed or not queue.events or self._is_stopped:
                return ()
            queue.is_claimed, queue.is_freed = True, False
            queue.joined = tuple(queue.events)[:NOTICES_MAX]
            return [(event.event_id, prompt(event)) for event in queue.joined]

    def release(self, session_id: str, *, are_delivered: bool) -> None:
        """Mark the claimed events as consumed, if they are delivered, and end the claim."""
        outcome = _Outcome.BUSY  # they wait for the end of the present run, or of another try
        with self._changed:
            queue = self._queues[session_id]
            joined, queue.joined = queue.joined, ()
        try:
            for event in joined if are_delivered else ():
                outcome = self._mark(event)
                if outcome is not _Outcome.DELIVERED:
                    break
                with self._changed:
                    self._known.discard(queue.events.popleft().event_id)
        except RegistryContractError as error:
            log.critical("%s was delivered with a turn: %s", session_id, error)
            outcome = _Outcome.FAILED
        with self._changed:
            if not are_delivered:
                queue.is_freed = True
            if outcome is _Outcome.DELIVERED:
                queue.failures, outcome = 0, _Outcome.BUSY
            self._end_claim(session_id, queue, outcome)

    # Shared by all paths

    def _collect(self) -> None:
        """Move the registry's new events into the queues. Under the lock, to keep their order.

        A taken event stays in `_taken` until it is queued, whatever is raised.
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
            self._add_unrouted(event)
            return
        self._queues.setdefault(session_id, _SessionQueue()).events.append(event)
        self._ready[session_id] = None
        try:
            self._announce(session_id, event)
        except Exception:
            log.exception("%s could not be announced", event.event_id)

    def _session_of(self, event: Event) -> str | None:
        """The owner recorded at spawn; else the indexed session; else None."""
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

    def _add_unrouted(self, event: Event) -> None:
        log.error("%s has no owner, and %r is not indexed", event.process_id, event.session_key)
        self._unrouted.append(event)
        if len(self._unrouted) > UNROUTED_MAX:
            oldest = self._unrouted.popleft()
            log.error("%s never found an owner, and is dropped", oldest.event_id)
            self._known.discard(oldest.event_id)
            self._registry.mark_consumed(oldest.event_id)

    def _attempt(self, session_id: str) -> None:
        """Try the head of the session's queue once, unless another thread does."""
        if self._wakes_idle:
            self._try(session_id, self._deliver)
        elif self._is_gone(session_id):  # no later turn of the user takes it along
            self._try(session_id, self._drop)

    def _try(self, session_id: str, act: Callable[[str, Event], _Outcome]) -> None:
        event = self._claim(session_id)
        if event is None:
            return
        outcome = _Outcome.FAILED
        try:
            outcome = act(session_id, event)
        finally:
            self._release(session_id, outcome)

    def _claim(self, session_id: str) -> Event | None:
        with self._changed:
            queue = self._queues.get(session_id)
            if queue is None or queue.is_claimed or self._is_stopped:
                return None
            if session_id in self._wakeup_runs:  # its end comes by here, and may hold the queue
                return None
            if not queue.events or time.monotonic() < queue.not_before_s:
                self._forget_if_done(session_id, queue)
                return None
            queue.is_claimed, queue.is_freed = True, False
            return queue.events[0]

    def _deliver(self, session_id: str, event: Event) -> _Outcome:
        """Start the turn, then mark the event. Raises RegistryContractError."""
        try:
            self._start(session_id, prompt(event), Source.WAKEUP, wakeup_id=event.event_id)
        except TurnConflictError:
            return _Outcome.BUSY
        except AlreadyDeliveredError:
            log.info("session %s already has %s", session_id, event.event_id)
        except (UnknownSessionError, InvalidSessionIdError):
            return self._drop(session_id, event)
        except Exception as error:  # noqa: BLE001 - the failure may be temporary
            log.warning("session %s cannot be woken yet: %r", session_id, error)
            return _Outcome.FAILED
        return self._mark(event)

    def _drop(self, session_id: str, event: Event) -> _Outcome:
        """Mark an event of a deleted session. Raises RegistryContractError."""
        log.warning("session %s is gone, so %s is dropped", session_id, event.event_id)
        return self._mark(event)

    def _mark(self, event: Event) -> _Outcome:
        """Mark a delivered event. Raises RegistryContractError."""
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
            queue = self._queues[session_id]
            is_running = session_id in self._wakeup_runs  # otherwise it ended, or never started
            queue.is_refusing = queue.is_refusing and is_running
            if outcome is _Outcome.DELIVERED:
                self._known.discard(queue.events.popleft().event_id)
                queue.failures = 0
                if not is_running:
                    self._retry_soon(session_id, queue)
            self._end_claim(session_id, queue, outcome)

    def _end_claim(self, session_id: str, queue: _SessionQueue, outcome: _Outcome) -> None:
        queue.is_claimed = False
        match outcome:
            case _Outcome.BUSY if queue.is_freed:
                self._retry_soon(session_id, queue)
            case _Outcome.FAILED:
                delay_s = min(RETRY_FIRST_S * 2 ** min(queue.failures, 16), RETRY_LAST_S)
                self._delay(session_id, queue, delay_s)
                queue.failures += 1
        self._forget_if_done(session_id, queue)

    def _retry_soon(self, session_id: str, queue: _SessionQueue) -> None:
        if queue.events:
            self._ready[session_id] = None
            self._changed.notify()

    def _delay(self, session_id: str, queue: _SessionQueue, delay_s: float) -> None:
        queue.not_before_s = time.monotonic() + delay_s
        heapq.heappush(self._timers, (queue.not_before_s, session_id))
        self._changed.notify()

    def _forget_if_done(self, session_id: str, queue: _SessionQueue) -> None:
        is_held = queue.is_refusing or time.monotonic() < queue.not_before_s
        if not queue.events and not queue.is_claimed and not is_held:
            del self._queues[session_id]

    # The registry's contract

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
