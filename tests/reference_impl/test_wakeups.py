"""Tests of wakeups (W1 to W10, W13)."""

from __future__ import annotations

import itertools
import json
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reference_impl.agents.agent import TurnOutput
from reference_impl.agents.processes import Event, Kind, ProcessRegistry
from reference_impl.memory.lifecycle import Lifecycle
from reference_impl.sessions.session_files import UnknownSessionError
from reference_impl.sessions.store import SessionStore
from reference_impl.turns import wakeups
from reference_impl.turns.journal import RunJournal, TurnJournal
from reference_impl.turns.listeners import TurnListener
from reference_impl.turns.run import AlreadyDeliveredError, Run, Source, TurnConflictError
from reference_impl.turns.turns import Turns
from reference_impl.turns.wakeups import RegistryContractError, Wakeups, prompt
from tests.support.assembled_app import LONG_S, Act, AssembledApp, Gate, assembled_app, echo


def event(number: int, owner: str | None = "s1", **more: Any) -> Event:
    fields: dict[str, Any] = {
        "number": number,
        "event_id": f"p{number}",
        "kind": Kind.COMPLETION,
        "process_id": f"p{number}",
        "owner": owner,
        "session_key": "",
        "command": f"make {number}",
        "at": 0.0,
        "exit_code": number,
        "output": f"out {number}",
    }
    return Event(**{**fields, **more})


class FakeRegistry:
    """A process registry without processes."""

    def __init__(self) -> None:
        self.pending: dict[str, Event] = {}
        self.queue: deque[Event] = deque()
        self.marks: Counter[str] = Counter()
        self.broken_marks = 0
        self._listener: Callable[[], object] = lambda: None

    def listen(self, listener: Callable[[], object]) -> None:
        """Set the listener."""
        self._listener = listener

    def publish(self, *events: Event) -> None:
        """Make events available, new or not."""
        for each in events:
            if not self.marks[each.event_id]:
                self.pending[each.event_id] = each
            self.queue.append(each)
        self._listener()

    def take(self) -> Event | None:
        """The next event."""
        return self.queue.popleft() if self.queue else None

    def is_consumed(self, event_id: str) -> bool:
        """Whether the event is not pending."""
        return event_id not in self.pending

    def mark_consumed(self, event_id: str) -> None:
        """Consume the event, and count the call."""
        if self.broken_marks:
            self.broken_marks -= 1
            raise OSError(28, "No space left on device")
        self.marks[event_id] += 1
        self.pending.pop(event_id, None)

    def restart(self) -> None:
        """Make pending events available again, as a new host does."""
        self.queue = deque(self.pending.values())


class Clock:
    """A clock that the test advances."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        """The current time in seconds."""
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(wakeups, "time", clock)
    return clock


class AppWithWakeups:
    """An app with wakeups. Drain threads run only after `begin`; otherwise tests call `drain`."""

    def __init__(self, app: AssembledApp, registry: Any = None) -> None:
        self.app = app
        self.registry = FakeRegistry() if registry is None else registry
        self.announced: list[tuple[str, str]] = []
        self.wakeups = Wakeups(
            self.registry,
            app.turns.start,
            announce=lambda sid, each: self.announced.append((sid, each.event_id)),
        )
        self.delivered = threading.Semaphore(0)  # once for each wakeup that left its queue
        self._release = self.wakeups._release
        self.wakeups._release = self._release_noted  # type: ignore[method-assign]
        app.turns.listen(self.wakeups)

    def _release_noted(self, session_id: str, outcome: Any) -> None:
        self._release(session_id, outcome)
        if outcome is wakeups._Outcome.DELIVERED:
            self.delivered.release()
        with self.app.recorder._changed:
            self.app.recorder._changed.notify_all()

    def wakeup_ids(self, session_id: str) -> list[str]:
        """Ids of the session's wakeups, in order."""
        messages = SessionStore(self.app.folder / "sessions").load(session_id).messages
        return [message["wakeup_id"] for message in messages if "wakeup_id" in message]

    def until_quiet(self, count: int) -> None:
        """Wait until that many wakeups have ended, nothing runs, and nothing is being delivered."""
        with self.app.recorder._changed:
            assert self.app.recorder._changed.wait_for(
                lambda: self._ended() >= count and self._is_quiet(), LONG_S
            ), (self._ended(), self.wakeups.gauges(), self.app.turns.gauges())

    def _is_quiet(self) -> bool:
        queues = list(self.wakeups._queues.values())
        is_claimed = any(queue.is_claimed for queue in queues)
        return not is_claimed and not self.app.turns.gauges()["runs"]

    def _ended(self) -> int:
        return sum(self.registry.marks.values())


@contextmanager
def app_with_wakeups(act: Act = echo) -> Iterator[AppWithWakeups]:
    with tempfile.TemporaryDirectory() as folder, assembled_app(Path(folder), act) as app:
        for sid in ("s1", "s2"):
            app.store.new(sid)
        assembled = AppWithWakeups(app)
        try:
            yield assembled
        finally:
            assembled.wakeups.stop()


@pytest.fixture(autouse=True)
def _expected_warnings(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)


# The prompt


@settings(max_examples=60)
@given(
    code=st.integers(-15, 255),
    command=st.text(max_size=2000),
    output=st.text(max_size=20) | st.just("x" * 9000 + "end"),
)
def test_prompt_has_exit_code_command_and_output(code: int, command: str, output: str) -> None:
    """W1: all of it bounded, and of the output the end."""
    published = prompt(event(1, exit_code=code, command=command, output=output))

    assert published.startswith(
        f"[IMPORTANT: Background process p1 completed (exit_code={code}).\n"
    )
    assert f"\nCommand: {command[:1000]}" in published
    assert published.endswith(f"{output[-4000:]}]")
    assert len(published) < 5200


def test_prompts_of_loss_and_watch_are_no_completions() -> None:
    """W12, W13: neither is reported as a completion."""
    lost = prompt(event(1, exit_code=None))
    seen = prompt(event(2, kind=Kind.WATCH_MATCH, exit_code=None, pattern="READY", suppressed=3))

    assert "was lost" in lost
    assert "'READY'" in seen
    assert "3 more" in seen
    assert "completed" not in lost + seen


# Exactly once, in order


def test_idle_session_is_woken_by_drain_threads() -> None:
    """W2: by the drain threads."""
    with app_with_wakeups() as assembled:
        assembled.wakeups.begin()
        assembled.registry.publish(event(1))
        assembled.until_quiet(1)

        request, reply = assembled.app.store.load("s1").messages
        assert request["content"] == prompt(event(1))
        assert request["source"] == "process_wakeup"
        assert reply["role"] == "assistant"
        assert assembled.announced == [("s1", "p1")]


@settings(max_examples=12, deadline=None)
@given(
    owners=st.lists(st.sampled_from(["s1", "s2"]), max_size=8),
    echoes=st.lists(st.integers(0, 7), max_size=8),
    seed=st.integers(0, 999),
)
def test_completions_wake_their_session_once_in_order(
    owners: list[str], echoes: list[int], seed: int
) -> None:
    """
    W1, W3, W6: published repeatedly, by two drain threads, by the end of each turn, among turns
    of the user: one wakeup each, in its own session, in the order of completion.
    """  # noqa: D212, D205
    rng = random.Random(seed)
    events = [event(number, owner) for number, owner in enumerate(owners)]
    with app_with_wakeups() as assembled:
        assembled.wakeups.begin()
        for each in events:
            assembled.registry.publish(each)
            again = [events[number] for number in echoes if number <= each.number]
            assembled.registry.publish(*rng.sample(again, min(2, len(again))))
            if rng.random() < 0.3:
                with suppress(TurnConflictError):
                    assembled.app.turns.start("s1", "user")
        assembled.until_quiet(len(events))

        for sid in ("s1", "s2"):
            assert assembled.wakeup_ids(sid) == [
                each.event_id for each in events if each.owner == sid
            ]
        assert set(assembled.registry.marks.values()) <= {1}
        gauges = assembled.wakeups.gauges()
        assert [gauges[name] for name in ("wakeup_events", "wakeup_homeless", "wakeup_runs")] == [
            *(0, 0, 0)
        ]


def test_completions_of_a_busy_session_follow_its_run() -> None:
    """
    W3: user:     |-- run --|
        process:     p1 p2   p3 (inside the teardown)
        wakeups:             |- p1 -||- p2 -||- p3 -|    only by the ends of turns

    Each wakeup ends after its delivery did: else a drain thread would start the next one.
    """  # noqa: D212, D205, D415 - a drawing
    gate = Gate()

    def act(message: str, _: TurnOutput) -> str:
        if message == "user":
            gate.wait()
        else:
            assert assembled.delivered.acquire(timeout=LONG_S)
        return "ok"

    with app_with_wakeups(act) as assembled:
        run = assembled.app.turns.start("s1", "user")
        gate.reached()
        assembled.registry.publish(event(1), event(2))
        assembled.wakeups.drain()
        assert assembled.wakeup_ids("s1") == []
        real = assembled.app.turns._ending._sync

        def in_teardown(session: Any) -> None:
            if not assembled.registry.marks and not assembled.registry.queue:
                assembled.registry.publish(event(3))  # and no drain thread runs
            real(session)

        assembled.app.turns._ending._sync = in_teardown
        gate.open()
        assembled.until_quiet(3)

        assert assembled.wakeup_ids("s1") == ["p1", "p2", "p3"]
        assert assembled.app.recorder.of(run)[-1] == "ended"
        assert assembled.app.is_quiet()


def test_run_ending_during_an_attempt_loses_nothing() -> None:
    """
    W3: drain:   start -> conflict ........ puts it back -> tries again
        run:                  ended (the queue is claimed already)
    """  # noqa: D212, D205, D415 - a drawing
    gate = Gate()

    def act(message: str, _: TurnOutput) -> str:
        if message == "user":
            gate.wait()
        return "ok"

    with app_with_wakeups(act) as assembled:
        run = assembled.app.turns.start("s1", "user")
        real = assembled.wakeups._start
        conflicts: list[TurnConflictError] = []

        def slow(*args: Any, **kwargs: Any) -> object:
            try:
                return real(*args, **kwargs)
            except TurnConflictError as conflict:
                conflicts.append(conflict)
                gate.open()
                assembled.app.recorder.until("ended", run)
                while assembled.app.turns.gauges()["runs"]:
                    assert run.unwound.wait(LONG_S)
                raise

        assembled.wakeups._start = slow
        assembled.registry.publish(event(1))
        assembled.wakeups.drain()
        assembled.until_quiet(1)

        assert len(conflicts) == 1
        assert assembled.wakeup_ids("s1") == ["p1"]


def test_end_of_a_wakeup_starts_no_turn() -> None:
    """W1: no loop: the end of a wakeup turn starts no further turn."""
    with app_with_wakeups() as assembled:
        assembled.wakeups.begin()
        assembled.registry.publish(event(1))
        assembled.until_quiet(1)
        assembled.app.run("s1", "user")

        assert assembled.wakeup_ids("s1") == ["p1"]


def test_watch_and_completion_are_both_delivered() -> None:
    """W13: both events of one process are delivered."""
    with app_with_wakeups() as assembled:
        assembled.wakeups.begin()
        match = event(1, event_id="p1#1", kind=Kind.WATCH_MATCH, exit_code=None, pattern="READY")
        assembled.registry.publish(match, event(1))
        assembled.until_quiet(2)

        assert assembled.wakeup_ids("s1") == ["p1#1", "p1"]


# A session without real turns: the test decides the result of every start


class FakeTurns:
    """Fake turns: know which session is busy, and how starts fail."""

    def __init__(self) -> None:
        self.wakeups = Wakeups(registry := FakeRegistry(), self.start)
        self.registry = registry
        self.busy: dict[str, Run] = {}
        self.delivered: dict[str, list[str]] = {"s1": [], "s2": []}
        self.failures: list[Exception] = []
        self.while_it_starts: Callable[[], None] = lambda: None

    def start(self, session_id: str, message: str, source: Source, **more: Any) -> Run:
        """Begin a turn, or fail as configured."""
        run = Run(session_id, message, source, more.get("wakeup_id"), 0.0)
        if session_id in self.busy:
            if source is Source.USER:
                self.wakeups.user_refused(self.busy[session_id])
            raise TurnConflictError(self.busy[session_id])
        if session_id not in self.delivered:
            raise UnknownSessionError(session_id)
        if run.wakeup_id in self.delivered[session_id]:
            raise AlreadyDeliveredError(run.wakeup_id)
        if source is Source.WAKEUP and self.failures:
            raise self.failures.pop()
        self.busy[session_id] = run
        if run.wakeup_id is not None:
            try:
                self.while_it_starts()
            except BaseException:
                del self.busy[session_id]
                raise
            self.delivered[session_id].append(run.wakeup_id)
        self.wakeups.started(run)
        return run

    def step(self, verb: str, value: Any, clock: Clock) -> None:
        """Execute one step of an example."""
        match verb:
            case "end":
                self.end(value)
            case "user":
                with suppress(TurnConflictError):
                    self.start(value, "user", Source.USER)
            case "pass":
                clock.now_s += value
            case "fail":
                self.failures += [RuntimeError("503")] * value
            case "full":
                self.registry.broken_marks = value
            case "restart":
                self.busy.clear()
                self.registry.restart()
                self.wakeups = Wakeups(self.registry, self.start)

    def end(self, session_id: str) -> None:
        """End the session's run."""
        run = self.busy.pop(session_id, None)
        if run is not None:
            self.wakeups.ended(run)


def test_queue_is_claimed_by_one_thread() -> None:
    """
    W1: drain:   |-- start ......... --| marks
        another:      finds the queue claimed
    """  # noqa: D212, D205, D415 - a drawing
    fake = FakeTurns()
    starts: list[str] = []

    def start(session_id: str, message: str, source: Source, **more: Any) -> Run:
        starts.append(more["wakeup_id"])
        if len(starts) == 1:
            fake.registry.publish(event(1))
            fake.wakeups.drain()
            fake.wakeups.ended(Run(session_id, "", Source.USER, None, 0.0))
        return fake.start(session_id, message, source, **more)

    fake.wakeups._start = start
    fake.registry.publish(event(1))
    fake.wakeups.drain()

    assert starts == ["p1"]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.integers(0, 9)),
        st.tuples(st.just("end"), st.sampled_from(["s1", "s2"])),
        st.tuples(st.just("user"), st.sampled_from(["s1", "s2"])),
        st.tuples(st.just("pass"), st.floats(0.0, 5.0)),
        st.tuples(st.just("fail"), st.integers(1, 3)),
        st.tuples(st.just("full"), st.integers(1, 3)),
        st.tuples(st.just("restart"), st.none()),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(steps=STEPS)
def test_events_are_delivered_once_and_leave_nothing(
    steps: list[tuple[str, Any]],
) -> None:
    """W1, W3, W4, W5, W9: failures, full disks, restarts and turns, in any order."""
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock()
        patch.setattr(wakeups, "time", clock)
        fake = FakeTurns()
        published: list[Event] = []
        for verb, value in steps:
            if verb == "publish":
                each = event(value, "s1" if value % 2 else "s2")
                published += [each] if each not in published else []
                fake.registry.publish(each)
            else:
                fake.step(verb, value, clock)
            fake.wakeups.drain()
        for _ in range(200):
            clock.now_s += 2 * wakeups.PACE_MAX_S
            for sid in ("s1", "s2"):
                fake.end(sid)
            fake.wakeups.drain()

        for sid in ("s1", "s2"):
            expected = [each.event_id for each in published if each.owner == sid]
            assert fake.delivered[sid] == expected
        assert fake.registry.pending == {}
        assert set(fake.registry.marks.values()) <= {1}
        assert not any(fake.wakeups.gauges().values())


def test_event_is_marked_only_after_delivery(clock: Clock) -> None:
    """W5: while the start fails the event is pending, and retries have growing delays."""
    fake = FakeTurns()
    fake.failures = [RuntimeError("503")] * 10
    fake.registry.publish(event(1))
    tries: list[float] = []
    for tick in range(4000):
        clock.now_s = tick / 20
        left = len(fake.failures)
        fake.wakeups.drain()
        if len(fake.failures) < left:
            tries.append(clock.now_s)
        assert fake.registry.marks == ({"p1": 1} if fake.delivered["s1"] else {})

    pauses = [after - before for before, after in itertools.pairwise(tries)]
    assert len(tries) == 10
    assert all(before <= after + 0.06 for before, after in itertools.pairwise(pauses))
    assert max(pauses) <= wakeups.RETRY_LAST_S + 0.06
    assert fake.delivered["s1"] == ["p1"]


def test_deleted_session_drops_its_wakeups(clock: Clock) -> None:
    """W5, W9: retries end, and nothing of the session stays."""
    fake = FakeTurns()
    fake.start("s1", "user", Source.USER)
    fake.registry.publish(event(1), event(2))
    fake.wakeups.index("key", "s1")
    fake.wakeups.drain()
    assert clock.now_s == 0.0
    del fake.delivered["s1"]
    fake.busy.clear()
    fake.wakeups.forget_session("s1")
    fake.wakeups.drain()

    assert fake.registry.pending == {}
    assert not any(fake.wakeups.gauges().values())


# Routing


@pytest.mark.parametrize(
    ("owner", "key", "expected", "errors"),
    [
        ("s1", "", "s1", 0),
        ("s1", "one", "s1", 0),
        ("s1", "two", "s1", 1),  # the index contradicts the owner
        (None, "two", "s2", 0),  # without an owner the index counts
    ],
)
def test_owner_at_spawn_wins_over_the_index(
    owner: str | None, key: str, expected: str, errors: int, caplog: pytest.LogCaptureFixture
) -> None:
    """W6: a contradiction is re-routed and logged; without an owner there is none."""
    fake = FakeTurns()
    fake.wakeups.index("one", "s1")
    fake.wakeups.index("two", "s2")
    fake.registry.publish(event(1, owner, session_key=key))
    fake.wakeups.drain()

    assert fake.delivered == {"s1": [], "s2": [], expected: ["p1"]}
    assert len(caplog.records) == errors
    assert all("re-routed" in record.message for record in caplog.records)


def test_event_without_owner_waits_for_its_key(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """W7: never to all sessions; and it is not lost."""
    announced: list[str] = []
    fake = FakeTurns()
    fake.wakeups = Wakeups(fake.registry, fake.start, announce=lambda sid, _: announced.append(sid))
    fake.registry.publish(event(1, None, session_key="late"), event(2, None, session_key="other"))
    fake.wakeups.drain()
    assert (fake.delivered, announced) == ({"s1": [], "s2": []}, [])
    assert len(caplog.records) == 2

    fake.wakeups.index("late", "s2")
    fake.wakeups.drain()

    assert (fake.delivered, announced) == ({"s1": [], "s2": ["p1"]}, ["s2"])
    assert fake.wakeups.gauges()["wakeup_homeless"] == 1


def test_bookkeeping_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """W9: after a thousand sessions, the index and the unrouted events are at their bounds."""
    monkeypatch.setattr(wakeups, "INDEX_MAX", 10)
    monkeypatch.setattr(wakeups, "UNROUTED_MAX", 10)
    monkeypatch.setattr(wakeups.log, "disabled", True)
    fake = FakeTurns()
    for number in range(1000):
        sid = f"n{number}"
        fake.delivered[sid] = []
        fake.wakeups.index(f"key {number}", sid)
        fake.registry.publish(event(number, sid), event(-1 - number, None, session_key="?"))
        fake.wakeups.drain()
        fake.end(sid)

    gauges = {name: size for name, size in fake.wakeups.gauges().items() if size}
    assert gauges == {"wakeup_index": 10, "wakeup_homeless": 10, "wakeup_events": 10}
    assert len(fake.registry.pending) == 10


# Fairness to the user


@pytest.mark.parametrize("poll_s", [0.05, 0.5, 1.5, 5.0, 20.0])
def test_many_wakeups_do_not_starve_the_user(poll_s: float, clock: Clock) -> None:
    """W10: after a second refusal a user finds the session free, at any pace."""
    fake = FakeTurns()
    fake.registry.publish(*(event(number) for number in range(500)))
    turn_s, since_s, refusals_at = 0.7, 0.0, 0
    next_poll_s = 1.0
    while True:
        clock.now_s += 0.05
        fake.wakeups.drain()
        if fake.busy and clock.now_s - since_s >= turn_s:
            fake.end("s1")
            since_s = clock.now_s
        if clock.now_s >= next_poll_s:
            next_poll_s += poll_s
            try:
                fake.start("s1", "user", Source.USER)
            except TurnConflictError:
                refusals_at = refusals_at or len(fake.delivered["s1"])
            else:
                break
        assert clock.now_s < 1000, "the user starved"

    assert len(fake.delivered["s1"]) - refusals_at <= 2 + (poll_s - wakeups.HOLD_S) / turn_s
    fake.end("s1")
    for _ in range(600):
        clock.now_s += 1
        fake.end("s1")
        fake.wakeups.drain()
    assert len(fake.delivered["s1"]) == 500
    assert not any(fake.wakeups.gauges().values())


def test_absent_user_delays_wakeups_for_a_bounded_time(clock: Clock) -> None:
    """W10, W2: the user does not return, so the next wakeup starts after a second."""
    fake = FakeTurns()
    fake.registry.publish(event(1), event(2))
    fake.wakeups.drain()
    with pytest.raises(TurnConflictError):
        fake.start("s1", "user", Source.USER)
    fake.end("s1")
    fake.wakeups.drain()
    assert fake.delivered["s1"] == ["p1"]

    clock.now_s += wakeups.HOLD_S
    fake.wakeups.drain()

    assert fake.delivered["s1"] == ["p1", "p2"]


def test_user_refused_during_a_start_is_admitted_next(
    clock: Clock,
) -> None:
    """W10: on a busy host a start takes long, and all refusals may fall into starts.

    wakeups  |- starts -|-- runs --|   |- starts -| ...
    user            409                200
    """
    fake = FakeTurns()

    def refuse() -> None:
        with pytest.raises(TurnConflictError):
            fake.start("s1", "user", Source.USER)

    fake.while_it_starts = refuse
    fake.registry.publish(event(1), event(2))
    fake.wakeups.drain()
    fake.end("s1")
    fake.wakeups.drain()

    assert fake.delivered["s1"] == ["p1"]
    fake.start("s1", "user", Source.USER)
    fake.end("s1")
    assert fake.delivered["s1"] == ["p1", "p2"]
    assert clock.now_s == 0.0


def test_refusal_by_a_failed_start_is_forgotten(clock: Clock) -> None:
    """W9: no wakeup runs that could end, so nothing is held for one."""
    fake = FakeTurns()

    def refuse_and_go() -> None:
        with pytest.raises(TurnConflictError):
            fake.start("s1", "user", Source.USER)
        raise UnknownSessionError("s1")

    fake.while_it_starts = refuse_and_go
    fake.registry.publish(event(1))
    fake.wakeups.drain()

    assert clock.now_s == 0.0
    assert not any(fake.wakeups.gauges().values())


def test_late_refusal_is_forgotten(clock: Clock) -> None:
    """W9: the wakeup had ended by then, so there is nothing to hold."""
    fake = FakeTurns()
    fake.registry.publish(event(1))
    fake.wakeups.drain()
    run = fake.busy["s1"]
    fake.end("s1")
    fake.wakeups.user_refused(run)

    assert clock.now_s == 0.0
    assert not any(fake.wakeups.gauges().values())


# The registry's contract


@pytest.mark.parametrize("name", ["take", "is_consumed", "mark_consumed"])
def test_missing_registry_method_raises_at_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """W8: the error names the missing method."""
    monkeypatch.delattr(FakeRegistry, name)
    with pytest.raises(RegistryContractError, match=name):
        FakeTurns()


@pytest.mark.parametrize("name", ["take", "is_consumed", "mark_consumed"])
@pytest.mark.parametrize("what", [None, lambda *_: "yes"])
def test_later_registry_defect_raises_and_doubles_nothing(
    name: str, what: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W8: missing, or of another type; once repaired, taken events are not lost."""
    fake = FakeTurns()
    with monkeypatch.context() as patch:
        patch.setattr(FakeRegistry, name, what)
        fake.registry.publish(event(1), event(1))
        for _ in range(3):
            with suppress(StopIteration), pytest.raises(RegistryContractError, match=name):
                fake.wakeups.drain()
            if name == "mark_consumed" and what is not None:
                break  # the retry comes later
    assert len(fake.delivered["s1"]) <= 1
    if name != "take":
        fake.end("s1")
        with pytest.MonkeyPatch.context() as patch:
            clock = Clock()
            clock.now_s = 1e9
            patch.setattr(wakeups, "time", clock)
            fake.wakeups.drain()
        assert fake.delivered["s1"] == ["p1"]


def test_drain_threads_log_a_registry_defect(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """W8: at the highest level, and they neither die nor spin."""
    logged = threading.Event()
    monkeypatch.setattr(wakeups.log, "critical", lambda *_: logged.set())
    with app_with_wakeups() as assembled:
        monkeypatch.setattr(FakeRegistry, "is_consumed", lambda *_: None)
        assembled.wakeups.begin()
        assembled.registry.publish(event(1))
        assert logged.wait(LONG_S)
    assert caplog.records == []


# Kills


HOST = """
import json, os, signal, sys, threading
from pathlib import Path
from tests.reference_impl.test_wakeups import run_host
run_host(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
"""


SPAWNS = 6


class HostTurns(Turns):
    """Turns with all their components in one folder, as in a server."""

    def __init__(self, folder: Path) -> None:
        from reference_impl.agents.agent import ScriptedAgent  # noqa: PLC0415 - only hosts need it

        self.processes = ProcessRegistry(folder / "processes")
        self.store = SessionStore(folder / "sessions")
        self.turn_journal = TurnJournal(folder / "sessions" / "_turn_journal.jsonl")
        super().__init__(
            self.store,
            RunJournal(folder / "sessions" / "_run_journal"),
            self.turn_journal,
            Lifecycle(),
            lambda sid: ScriptedAgent(sid, self.processes),
        )
        self.wakeups = Wakeups(self.processes, self.start)
        self.listen(self.wakeups)
        self.recover()
        self.wakeups.begin()

    def close(self) -> None:
        """Close it as a server does."""
        self.wakeups.stop()
        assert self.shut_down(LONG_S)
        self.processes.close()
        self.turn_journal.close()


def run_host(folder: Path, seed: int, killed_after_s: float) -> None:
    """Run a host: start turns that start processes, log acknowledgements, and get killed.

    The kill follows a number of spawns, so that turns, spawns and marks are in progress.
    """
    rng = random.Random(seed)
    host = HostTurns(folder)
    killer = threading.Timer(killed_after_s, os.kill, (os.getpid(), signal.SIGKILL))
    acknowledged = count(1)
    journal = os.open(folder / "acknowledged.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    real = host.processes.spawn

    def spawn(command: str, **more: Any) -> str:
        process_id = real(command, **more)
        row = {"process": process_id}
        os.write(journal, json.dumps(row).encode() + b"\n")
        if next(acknowledged) == SPAWNS:
            killer.start()
        return process_id

    host.processes.spawn = spawn  # type: ignore[method-assign]
    while True:
        sid = rng.choice(["s1", "s2", "s3"])
        with suppress(TurnConflictError):
            directive = f"[process={rng.choice([0, 0, 0.05])}:hello]"
            host.start(sid, f"{directive}[tokens=3]")


def test_random_kills_lose_or_double_no_wakeup(tmp_path: Path) -> None:
    """
    W1, W4, W6, W12: hosts are killed during turns, spawns, starts and marks; after the last one,
    each process that a spawn ever returned has wakeup_ids its session exactly once.
    """  # noqa: D212, D205
    store = SessionStore(tmp_path / "sessions")
    for sid in ("s1", "s2", "s3"):
        store.new(sid)
    for seed in range(4):
        killed = subprocess.run(  # noqa: S603 - our own program
            [sys.executable, "-c", HOST, str(tmp_path), str(seed), str(0.02 * seed)],
            check=False,
            timeout=LONG_S,
            cwd=Path(__file__).parents[2],
            stderr=subprocess.DEVNULL,
        )
        assert killed.returncode == -signal.SIGKILL
    host = HostTurns(tmp_path)
    changed = threading.Condition()

    class EndListener(TurnListener):
        def ended(self, _: Run) -> None:
            with changed:
                changed.notify_all()

    host.listen(EndListener())

    mark = host.processes.mark_consumed

    def mark_and_notify(event_id: str) -> None:
        mark(event_id)
        with changed:
            changed.notify_all()

    host.processes.mark_consumed = mark_and_notify  # type: ignore[method-assign]

    def is_quiet() -> bool:
        gauges = {**host.processes.gauges(), **host.gauges()}
        gauges.pop("processes_finished")
        return not any(gauges.values())

    with changed:
        assert changed.wait_for(is_quiet, LONG_S)
    host.close()

    lines = (tmp_path / "acknowledged.jsonl").read_bytes().split(b"\n")[:-1]
    spawned = [json.loads(line)["process"] for line in lines]
    wakeup_ids: Counter[str] = Counter()
    for sid in ("s1", "s2", "s3"):
        for message in SessionStore(tmp_path / "sessions").load(sid).messages:
            if "wakeup_id" in message:
                wakeup_ids[message["wakeup_id"]] += 1
    assert len(spawned) >= 4 * SPAWNS
    assert {*spawned} <= {*wakeup_ids}
    assert set(wakeup_ids.values()) == {1}
