"""The reference's wakeups keep W1 to W10, and W13."""

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

from reference_impl.agents.agent import Stage
from reference_impl.agents.processes import Event, Kind, ProcessRegistry
from reference_impl.memory.lifecycle import Lifecycle
from reference_impl.sessions.session_files import UnknownSessionError
from reference_impl.sessions.store import SessionStore
from reference_impl.turns import wakeups
from reference_impl.turns.journal import RunJournal, TurnJournal
from reference_impl.turns.turns import (
    AlreadyDeliveredError,
    Run,
    Source,
    TurnConflictError,
    TurnListener,
    Turns,
)
from reference_impl.turns.wakeups import RegistryContractError, Wakeups, prompt
from tests.support.assembled_app import LONG_S, Act, Gate, House, echo, house


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


class Memory:
    """A process registry without processes."""

    def __init__(self) -> None:
        self.pending: dict[str, Event] = {}
        self.queue: deque[Event] = deque()
        self.marks: Counter[str] = Counter()
        self.broken_marks = 0
        self._listener: Callable[[], object] = lambda: None

    def listen(self, listener: Callable[[], object]) -> None:
        """Remember who listens."""
        self._listener = listener

    def tell(self, *events: Event) -> None:
        """Have these to take, whether they are new or not."""
        for each in events:
            if not self.marks[each.event_id]:
                self.pending[each.event_id] = each
            self.queue.append(each)
        self._listener()

    def take(self) -> Event | None:
        """The next one."""
        return self.queue.popleft() if self.queue else None

    def is_consumed(self, event_id: str) -> bool:
        """Known and not consumed is what counts."""
        return event_id not in self.pending

    def mark_consumed(self, event_id: str) -> None:
        """Count it."""
        if self.broken_marks:
            self.broken_marks -= 1
            raise OSError(28, "No space left on device")
        self.marks[event_id] += 1
        self.pending.pop(event_id, None)

    def restart(self) -> None:
        """What a new host finds."""
        self.queue = deque(self.pending.values())


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        """Seconds."""
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(wakeups, "time", clock)
    return clock


class Inn:
    """A house with wakeups. Without drain threads, unless they are begun: `drain` is called."""

    def __init__(self, home: House, registry: Any = None) -> None:
        self.home = home
        self.registry = Memory() if registry is None else registry
        self.announced: list[tuple[str, str]] = []
        self.wakeups = Wakeups(
            self.registry,
            home.turns.start,
            announce=lambda sid, each: self.announced.append((sid, each.event_id)),
        )
        home.turns.listen(self.wakeups)

    def woken(self, session_id: str) -> list[str]:
        """Ids of the wakeups that the session has had, in order."""
        messages = SessionStore(self.home.folder / "sessions").load(session_id).messages
        return [message["wakeup_id"] for message in messages if "wakeup_id" in message]

    def until_quiet(self, count: int) -> None:
        """Wait until so many wakeups have ended, and nothing runs."""
        with self.home.watcher._changed:
            assert self.home.watcher._changed.wait_for(
                lambda: self._ended() >= count and not self.home.turns.gauges()["runs"], LONG_S
            ), (self._ended(), self.wakeups.gauges(), self.home.turns.gauges())

    def _ended(self) -> int:
        return sum(self.registry.marks.values())


@contextmanager
def inn(act: Act = echo) -> Iterator[Inn]:
    with tempfile.TemporaryDirectory() as folder, house(Path(folder), act) as home:
        for sid in ("s1", "s2"):
            home.store.new(sid)
        opened = Inn(home)
        try:
            yield opened
        finally:
            opened.wakeups.stop()


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
def test_the_prompt_names_process_exit_code_command_and_output(
    code: int, command: str, output: str
) -> None:
    """W1: all of it bounded, and of the output the end."""
    told = prompt(event(1, exit_code=code, command=command, output=output))

    assert told.startswith(f"[IMPORTANT: Background process p1 completed (exit_code={code}).\n")
    assert f"\nCommand: {command[:1000]}" in told
    assert told.endswith(f"{output[-4000:]}]")
    assert len(told) < 5200


def test_a_loss_and_a_watch_say_what_they_are() -> None:
    """W12, W13: neither is told as a completion."""
    lost = prompt(event(1, exit_code=None))
    seen = prompt(event(2, kind=Kind.WATCH_MATCH, exit_code=None, pattern="READY", suppressed=3))

    assert "was lost" in lost
    assert "'READY'" in seen
    assert "3 more" in seen
    assert "completed" not in lost + seen


# Exactly once, in order


def test_an_idle_session_is_woken_with_nobody_looking() -> None:
    """W2: by the drain threads."""
    with inn() as opened:
        opened.wakeups.begin()
        opened.registry.tell(event(1))
        opened.until_quiet(1)

        asked, answered = opened.home.store.load("s1").messages
        assert asked["content"] == prompt(event(1))
        assert asked["source"] == "process_wakeup"
        assert answered["role"] == "assistant"
        assert opened.announced == [("s1", "p1")]


@settings(max_examples=12, deadline=None)
@given(
    owners=st.lists(st.sampled_from(["s1", "s2"]), max_size=8),
    echoes=st.lists(st.integers(0, 7), max_size=8),
    seed=st.integers(0, 999),
)
def test_each_completion_wakes_its_session_once_and_in_order(
    owners: list[str], echoes: list[int], seed: int
) -> None:
    """
    W1, W3, W6: told twice and more, by two drain threads, by the end of each turn, among turns
    of the user: one wakeup each, in its own session, in the order of completion.
    """  # noqa: D212, D205
    rng = random.Random(seed)
    events = [event(number, owner) for number, owner in enumerate(owners)]
    with inn() as opened:
        opened.wakeups.begin()
        for each in events:
            opened.registry.tell(each)
            again = [events[number] for number in echoes if number <= each.number]
            opened.registry.tell(*rng.sample(again, min(2, len(again))))
            if rng.random() < 0.3:
                with suppress(TurnConflictError):
                    opened.home.turns.start("s1", "user")
        opened.until_quiet(len(events))

        for sid in ("s1", "s2"):
            assert opened.woken(sid) == [each.event_id for each in events if each.owner == sid]
        assert set(opened.registry.marks.values()) <= {1}
        gauges = opened.wakeups.gauges()
        assert [gauges[name] for name in ("wakeup_events", "wakeup_homeless", "wakeup_runs")] == [
            *(0, 0, 0)
        ]


def test_a_busy_sessions_completions_start_one_by_one_when_its_run_leaves() -> None:
    """
    W3: user:     |-- run --|
        process:     p1 p2   p3 (inside the teardown)
        wakeups:             |- p1 -||- p2 -||- p3 -|    by the turns that leave alone
    """  # noqa: D212, D205, D415 - a drawing
    gate = Gate()

    def act(message: str, _: Stage) -> str:
        if message == "user":
            gate.wait()
        return "ok"

    with inn(act) as opened:
        run = opened.home.turns.start("s1", "user")
        gate.reached()
        opened.registry.tell(event(1), event(2))
        opened.wakeups.drain()
        assert opened.woken("s1") == []
        real = opened.home.turns._sync_quietly

        def in_teardown(session: Any) -> None:
            if not opened.registry.marks and not opened.registry.queue:
                opened.registry.tell(event(3))  # and no drain thread is there to take it
            real(session)

        opened.home.turns._sync_quietly = in_teardown  # type: ignore[method-assign]
        gate.open()
        opened.until_quiet(3)

        assert opened.woken("s1") == ["p1", "p2", "p3"]
        assert opened.home.watcher.of(run)[-1] == "ended"
        assert opened.home.is_quiet()


def test_a_run_that_leaves_while_its_wakeup_is_tried_loses_nothing() -> None:
    """
    W3: drain:   start -> conflict ........ puts it back -> tries again
        run:                  ended (somebody serves the line already)
    """  # noqa: D212, D205, D415 - a drawing
    gate = Gate()

    def act(message: str, _: Stage) -> str:
        if message == "user":
            gate.wait()
        return "ok"

    with inn(act) as opened:
        run = opened.home.turns.start("s1", "user")
        real = opened.wakeups._start
        conflicts: list[TurnConflictError] = []

        def slow(*args: Any, **kwargs: Any) -> object:
            try:
                return real(*args, **kwargs)
            except TurnConflictError as conflict:
                conflicts.append(conflict)
                gate.open()
                opened.home.watcher.until("ended", run)
                while opened.home.turns.gauges()["runs"]:
                    assert run.unwound.wait(LONG_S)
                raise

        opened.wakeups._start = slow
        opened.registry.tell(event(1))
        opened.wakeups.drain()
        opened.until_quiet(1)

        assert len(conflicts) == 1
        assert opened.woken("s1") == ["p1"]


def test_a_wakeup_is_no_completion() -> None:
    """W1: no loop: a wakeup turn ends, and wakes nobody."""
    with inn() as opened:
        opened.wakeups.begin()
        opened.registry.tell(event(1))
        opened.until_quiet(1)
        opened.home.run("s1", "user")

        assert opened.woken("s1") == ["p1"]


def test_a_watch_wakes_like_a_completion_and_does_not_stand_for_one() -> None:
    """W13: both events of one process are delivered."""
    with inn() as opened:
        opened.wakeups.begin()
        match = event(1, event_id="p1#1", kind=Kind.WATCH_MATCH, exit_code=None, pattern="READY")
        opened.registry.tell(match, event(1))
        opened.until_quiet(2)

        assert opened.woken("s1") == ["p1#1", "p1"]


# A session that is played: every start is decided by the test


class Played:
    """Stands in for the turns: knows which session is busy, and how starts fail."""

    def __init__(self) -> None:
        self.wakeups = Wakeups(registry := Memory(), self.start)
        self.registry = registry
        self.busy: dict[str, Run] = {}
        self.had: dict[str, list[str]] = {"s1": [], "s2": []}
        self.failures: list[Exception] = []
        self.while_it_starts: Callable[[], None] = lambda: None

    def start(self, session_id: str, message: str, source: Source, **more: Any) -> Run:
        """Begin a turn, or fail as told."""
        run = Run(session_id, message, source, more.get("wakeup_id"), 0.0)
        if session_id in self.busy:
            if source is Source.USER:
                self.wakeups.user_refused(self.busy[session_id])
            raise TurnConflictError(self.busy[session_id])
        if session_id not in self.had:
            raise UnknownSessionError(session_id)
        if run.wakeup_id in self.had[session_id]:
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
            self.had[session_id].append(run.wakeup_id)
        self.wakeups.started(run)
        return run

    def do(self, verb: str, value: Any, clock: Clock) -> None:
        """One step of a story."""
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
        """Let the run leave."""
        run = self.busy.pop(session_id, None)
        if run is not None:
            self.wakeups.ended(run)


def test_a_line_has_one_who_serves_it() -> None:
    """
    W1: drain:   |-- start ......... --| marks
        another:      comes by, leaves it alone
    """  # noqa: D212, D205, D415 - a drawing
    played = Played()
    starts: list[str] = []

    def start(session_id: str, message: str, source: Source, **more: Any) -> Run:
        starts.append(more["wakeup_id"])
        if len(starts) == 1:
            played.registry.tell(event(1))
            played.wakeups.drain()
            played.wakeups.ended(Run(session_id, "", Source.USER, None, 0.0))
        return played.start(session_id, message, source, **more)

    played.wakeups._start = start
    played.registry.tell(event(1))
    played.wakeups.drain()

    assert starts == ["p1"]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("tell"), st.integers(0, 9)),
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
def test_whatever_happens_each_is_delivered_once_and_nothing_is_kept(
    steps: list[tuple[str, Any]],
) -> None:
    """W1, W3, W4, W5, W9: failures, full disks, restarts and turns, in any order."""
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock()
        patch.setattr(wakeups, "time", clock)
        played = Played()
        told: list[Event] = []
        for verb, value in steps:
            if verb == "tell":
                each = event(value, "s1" if value % 2 else "s2")
                told += [each] if each not in told else []
                played.registry.tell(each)
            else:
                played.do(verb, value, clock)
            played.wakeups.drain()
        for _ in range(200):
            clock.now_s += 2 * wakeups.PACE_MAX_S
            for sid in ("s1", "s2"):
                played.end(sid)
            played.wakeups.drain()

        for sid in ("s1", "s2"):
            expected = [each.event_id for each in told if each.owner == sid]
            assert played.had[sid] == expected
        assert played.registry.pending == {}
        assert set(played.registry.marks.values()) <= {1}
        assert not any(played.wakeups.gauges().values())


def test_nothing_is_marked_before_it_is_delivered(clock: Clock) -> None:
    """W5: as long as the start fails the event is pending, and it is tried less and less often."""
    played = Played()
    played.failures = [RuntimeError("503")] * 10
    played.registry.tell(event(1))
    tries: list[float] = []
    for tick in range(4000):
        clock.now_s = tick / 20
        left = len(played.failures)
        played.wakeups.drain()
        if len(played.failures) < left:
            tries.append(clock.now_s)
        assert played.registry.marks == ({"p1": 1} if played.had["s1"] else {})

    pauses = [after - before for before, after in itertools.pairwise(tries)]
    assert len(tries) == 10
    assert all(before <= after + 0.06 for before, after in itertools.pairwise(pauses))
    assert max(pauses) <= wakeups.RETRY_LAST_S + 0.06
    assert played.had["s1"] == ["p1"]


def test_a_session_that_is_gone_takes_its_wakeups_with_it(clock: Clock) -> None:
    """W5, W9: nothing is tried for ever, and nothing is kept."""
    played = Played()
    played.start("s1", "user", Source.USER)
    played.registry.tell(event(1), event(2))
    played.wakeups.index("key", "s1")
    played.wakeups.drain()
    assert clock.now_s == 0.0
    del played.had["s1"]
    played.busy.clear()
    played.wakeups.forget_session("s1")
    played.wakeups.drain()

    assert played.registry.pending == {}
    assert not any(played.wakeups.gauges().values())


# Routing


@pytest.mark.parametrize(
    ("owner", "key", "expected", "errors"),
    [
        ("s1", "", "s1", 0),
        ("s1", "one", "s1", 0),
        ("s1", "two", "s1", 1),  # the index is proven wrong
        (None, "two", "s2", 0),  # without a proof it is believed
    ],
)
def test_the_owner_at_spawn_wins_over_the_index(
    owner: str | None, key: str, expected: str, errors: int, caplog: pytest.LogCaptureFixture
) -> None:
    """W6: a proven mismatch is re-routed and logged; no proof, no mismatch."""
    played = Played()
    played.wakeups.index("one", "s1")
    played.wakeups.index("two", "s2")
    played.registry.tell(event(1, owner, session_key=key))
    played.wakeups.drain()

    assert played.had == {"s1": [], "s2": [], expected: ["p1"]}
    assert len(caplog.records) == errors
    assert all("re-routed" in record.message for record in caplog.records)


def test_nobodys_event_goes_to_nobody_until_its_key_is_known(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """W7: never to all; and it is not lost."""
    announced: list[str] = []
    played = Played()
    played.wakeups = Wakeups(
        played.registry, played.start, announce=lambda sid, _: announced.append(sid)
    )
    played.registry.tell(event(1, None, session_key="late"), event(2, None, session_key="other"))
    played.wakeups.drain()
    assert (played.had, announced) == ({"s1": [], "s2": []}, [])
    assert len(caplog.records) == 2

    played.wakeups.index("late", "s2")
    played.wakeups.drain()

    assert (played.had, announced) == ({"s1": [], "s2": ["p1"]}, ["s2"])
    assert played.wakeups.gauges()["wakeup_homeless"] == 1


def test_bookkeeping_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """W9: a thousand sessions later, the index and the homeless are as large as they may be."""
    monkeypatch.setattr(wakeups, "INDEX_MAX", 10)
    monkeypatch.setattr(wakeups, "HOMELESS_MAX", 10)
    monkeypatch.setattr(wakeups.log, "disabled", True)
    played = Played()
    for number in range(1000):
        sid = f"n{number}"
        played.had[sid] = []
        played.wakeups.index(f"key {number}", sid)
        played.registry.tell(event(number, sid), event(-1 - number, None, session_key="?"))
        played.wakeups.drain()
        played.end(sid)

    gauges = {name: size for name, size in played.wakeups.gauges().items() if size}
    assert gauges == {"wakeup_index": 10, "wakeup_homeless": 10, "wakeup_events": 10}
    assert len(played.registry.pending) == 10


# Fairness to the user


@pytest.mark.parametrize("poll_s", [0.05, 0.5, 1.5, 5.0, 20.0])
def test_a_storm_does_not_starve_the_user(poll_s: float, clock: Clock) -> None:
    """W10: refused a second time, however slow to come back, a user finds the session free."""
    played = Played()
    played.registry.tell(*(event(number) for number in range(500)))
    turn_s, since_s, refusals_at = 0.7, 0.0, 0
    next_poll_s = 1.0
    while True:
        clock.now_s += 0.05
        played.wakeups.drain()
        if played.busy and clock.now_s - since_s >= turn_s:
            played.end("s1")
            since_s = clock.now_s
        if clock.now_s >= next_poll_s:
            next_poll_s += poll_s
            try:
                played.start("s1", "user", Source.USER)
            except TurnConflictError:
                refusals_at = refusals_at or len(played.had["s1"])
            else:
                break
        assert clock.now_s < 1000, "the user starved"

    assert len(played.had["s1"]) - refusals_at <= 2 + (poll_s - wakeups.HOLD_S) / turn_s
    played.end("s1")
    for _ in range(600):
        clock.now_s += 1
        played.end("s1")
        played.wakeups.drain()
    assert len(played.had["s1"]) == 500
    assert not any(played.wakeups.gauges().values())


def test_a_user_who_gave_up_holds_up_the_wakeups_only_for_a_while(clock: Clock) -> None:
    """W10, W2: nobody came back, so the next wakeup starts after a second."""
    played = Played()
    played.registry.tell(event(1), event(2))
    played.wakeups.drain()
    with pytest.raises(TurnConflictError):
        played.start("s1", "user", Source.USER)
    played.end("s1")
    played.wakeups.drain()
    assert played.had["s1"] == ["p1"]

    clock.now_s += wakeups.HOLD_S
    played.wakeups.drain()

    assert played.had["s1"] == ["p1", "p2"]


def test_a_user_who_is_refused_while_a_wakeup_starts_finds_the_session_free_after_it(
    clock: Clock,
) -> None:
    """W10: on a busy host a start takes long, and a user may meet nothing but starts.

    wakeups  |- starts -|-- runs --|   |- starts -| ...
    user            409                200
    """
    played = Played()

    def refuse() -> None:
        with pytest.raises(TurnConflictError):
            played.start("s1", "user", Source.USER)

    played.while_it_starts = refuse
    played.registry.tell(event(1), event(2))
    played.wakeups.drain()
    played.end("s1")
    played.wakeups.drain()

    assert played.had["s1"] == ["p1"]
    played.start("s1", "user", Source.USER)
    played.end("s1")
    assert played.had["s1"] == ["p1", "p2"]
    assert clock.now_s == 0.0


def test_a_user_who_was_refused_by_a_start_that_failed_is_not_kept(clock: Clock) -> None:
    """W9: no wakeup is there that could end, so nothing is held for one."""
    played = Played()

    def refuse_and_go() -> None:
        with pytest.raises(TurnConflictError):
            played.start("s1", "user", Source.USER)
        raise UnknownSessionError("s1")

    played.while_it_starts = refuse_and_go
    played.registry.tell(event(1))
    played.wakeups.drain()

    assert clock.now_s == 0.0
    assert not any(played.wakeups.gauges().values())


def test_a_refusal_that_is_told_late_is_not_kept(clock: Clock) -> None:
    """W9: the wakeup had left by then, so there is nothing to hold."""
    played = Played()
    played.registry.tell(event(1))
    played.wakeups.drain()
    run = played.busy["s1"]
    played.end("s1")
    played.wakeups.user_refused(run)

    assert clock.now_s == 0.0
    assert not any(played.wakeups.gauges().values())


# The registry's contract


@pytest.mark.parametrize("name", ["take", "is_consumed", "mark_consumed"])
def test_a_renamed_marker_is_loud_from_the_start(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W8: the error names what is missing."""
    monkeypatch.delattr(Memory, name)
    with pytest.raises(RegistryContractError, match=name):
        Played()


@pytest.mark.parametrize("name", ["take", "is_consumed", "mark_consumed"])
@pytest.mark.parametrize("what", [None, lambda *_: "yes"])
def test_a_marker_that_changes_later_is_loud_and_doubles_nothing(
    name: str, what: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W8: gone, or of another type; and repaired, what was taken is not lost."""
    played = Played()
    with monkeypatch.context() as patch:
        patch.setattr(Memory, name, what)
        played.registry.tell(event(1), event(1))
        for _ in range(3):
            with suppress(StopIteration), pytest.raises(RegistryContractError, match=name):
                played.wakeups.drain()
            if name == "mark_consumed" and what is not None:
                break  # it is tried again only later
    assert len(played.had["s1"]) <= 1
    if name != "take":
        played.end("s1")
        with pytest.MonkeyPatch.context() as patch:
            clock = Clock()
            clock.now_s = 1e9
            patch.setattr(wakeups, "time", clock)
            played.wakeups.drain()
        assert played.had["s1"] == ["p1"]


def test_the_drain_threads_say_it_too(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """W8: at the highest level, and they neither die nor spin."""
    said = threading.Event()
    monkeypatch.setattr(wakeups.log, "critical", lambda *_: said.set())
    with inn() as opened:
        monkeypatch.setattr(Memory, "is_consumed", lambda *_: None)
        opened.wakeups.begin()
        opened.registry.tell(event(1))
        assert said.wait(LONG_S)
    assert caplog.records == []


# Kills


HOST = """
import json, os, signal, sys, threading
from pathlib import Path
from tests.reference_impl.test_wakeups import live
live(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
"""


SPAWNS = 6


class Life(Turns):
    """Turns with everything that belongs to them, in one folder, as a server has them."""

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

    def leave(self) -> None:
        """Close it as a server does."""
        self.wakeups.stop()
        assert self.shut_down(LONG_S)
        self.processes.close()
        self.turn_journal.close()


def live(folder: Path, seed: int, killed_after_s: float) -> None:
    """Be a host: start turns that start processes, note what was acknowledged, and be killed.

    That is so long after as many spawns as it takes to be in the midst of everything.
    """
    rng = random.Random(seed)
    life = Life(folder)
    killer = threading.Timer(killed_after_s, os.kill, (os.getpid(), signal.SIGKILL))
    acknowledged = count(1)
    journal = os.open(folder / "acknowledged.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    real = life.processes.spawn

    def spawn(command: str, **more: Any) -> str:
        process_id = real(command, **more)
        row = {"process": process_id}
        os.write(journal, json.dumps(row).encode() + b"\n")
        if next(acknowledged) == SPAWNS:
            killer.start()
        return process_id

    life.processes.spawn = spawn  # type: ignore[method-assign]
    while True:
        sid = rng.choice(["s1", "s2", "s3"])
        with suppress(TurnConflictError):
            directive = f"[process={rng.choice([0, 0, 0.05])}:hello]"
            life.start(sid, f"{directive}[tokens=3]")


def test_kills_at_random_lose_and_double_no_wakeup(tmp_path: Path) -> None:
    """
    W1, W4, W6, W12: hosts are killed in the midst of turns, spawns, starts and marks; after the
    last one, each process that a spawn ever returned has woken its session exactly once.
    """  # noqa: D212, D205
    store = SessionStore(tmp_path / "sessions")
    for sid in ("s1", "s2", "s3"):
        store.new(sid)
    for seed in range(4):
        host = subprocess.run(  # noqa: S603 - our own program
            [sys.executable, "-c", HOST, str(tmp_path), str(seed), str(0.02 * seed)],
            check=False,
            timeout=LONG_S,
            cwd=Path(__file__).parents[2],
            stderr=subprocess.DEVNULL,
        )
        assert host.returncode == -signal.SIGKILL
    life = Life(tmp_path)
    rung = threading.Condition()

    class Bell(TurnListener):
        def ended(self, _: Run) -> None:
            with rung:
                rung.notify_all()

    life.listen(Bell())

    mark = life.processes.mark_consumed

    def mark_and_tell(event_id: str) -> None:
        mark(event_id)
        with rung:
            rung.notify_all()

    life.processes.mark_consumed = mark_and_tell  # type: ignore[method-assign]

    def is_quiet() -> bool:
        gauges = {**life.processes.gauges(), **life.gauges()}
        gauges.pop("processes_finished")
        return not any(gauges.values())

    with rung:
        assert rung.wait_for(is_quiet, LONG_S)
    life.leave()

    lines = (tmp_path / "acknowledged.jsonl").read_bytes().split(b"\n")[:-1]
    spawned = [json.loads(line)["process"] for line in lines]
    woken: Counter[str] = Counter()
    for sid in ("s1", "s2", "s3"):
        for message in SessionStore(tmp_path / "sessions").load(sid).messages:
            if "wakeup_id" in message:
                woken[message["wakeup_id"]] += 1
    assert len(spawned) >= 4 * SPAWNS
    assert {*spawned} <= {*woken}
    assert set(woken.values()) == {1}
