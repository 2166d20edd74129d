"""Tests of turns, wakeups and turn journal under controlled schedules (T1, T3, T4, W1, W3).

The components are real; files are replaced by memory, so that a schedule costs a millisecond.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import pytest

from harness.schedule import Budget, Result, Run, explore
from reference_impl.agents.agent import TurnOutput
from reference_impl.agents.processes import Event
from reference_impl.memory.lifecycle import Lifecycle
from reference_impl.sessions.sidecar import Message, Session
from reference_impl.storage.json_log import Row
from reference_impl.turns.journal import RunOverError, RunWriter, TurnJournal
from reference_impl.turns.run import Source, TurnConflictError
from reference_impl.turns.turns import Turns
from reference_impl.turns.wakeups import Wakeups
from tests.reference_impl.test_wakeups import event


@pytest.fixture(autouse=True)
def _silence() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


class FakeFile:
    """A fake file of a run."""

    size_bytes = 0
    path = Path("run.jsonl")

    def __init__(self) -> None:
        self.rows = 0

    def append(self, _: Row) -> None:
        """Count the row."""
        self.rows += 1

    append_durably = append

    def close(self) -> None:
        """Do nothing."""


class FakeRunJournal:
    """A fake run journal: rows in the order in which they were published."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.open: set[str] = set()

    def begin(self, session_id: str, stream_id: str, show: Callable[[Row], object]) -> RunWriter:
        """Make a real writer."""
        self.open.add(stream_id)

        def note(row: Row) -> None:
            self.rows.append(row)
            show(row)

        heading = {"run_id": stream_id, "session_id": session_id}
        file = cast("Any", FakeFile())
        return RunWriter(file, heading, note, lambda: 0.0, lambda: self.open.discard(stream_id))

    def states(self) -> dict[str, list[str]]:
        """The terminal states of each run; a row after them is an error."""
        states: dict[str, list[str]] = {}
        for row in self.rows:
            if row["terminal"]:
                states.setdefault(row["run_id"], []).append(row["terminal_state"])
            else:
                assert row["run_id"] not in states, "a row was published after the end"
        return states


class FakeStore:
    """A fake session store of one session."""

    def __init__(self) -> None:
        self.session = Session(session_id="s1")
        self._lock = threading.Lock()

    def load(self, _: str) -> Session:
        """The session as last saved."""
        return self.session

    load_metadata_only = load

    def change(self, _: str, act: Callable[[Session], Session]) -> Session:
        """Change it under the lock, as the real store does."""
        with self._lock:
            self.session = act(self.session)
            return self.session


class FakeTurnJournal:
    """A fake turn journal, which is never opened again."""

    def __getattr__(self, _: str) -> Callable[..., None]:
        return lambda *_, **_options: None


class OneWordAgent:
    """An agent that writes one word, cancelled or not."""

    @property
    def system_prompt(self) -> str:
        """None is needed."""
        return ""

    def run_turn(self, message: str, history: Sequence[Message], output: TurnOutput) -> str:
        """Write the word."""
        assert message
        assert isinstance(history, tuple)
        with suppress(RunOverError):
            output.token("word")
        return "word"

    def summarize(self, messages: Sequence[Message]) -> str:
        """Count them."""
        return f"{len(messages)} messages"

    def sync_turn(self, turn_id: str, request: str, reply: str) -> None:
        """Do nothing: the agent has no memory."""

    def commit_memory_session(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class TurnsOfOneSession:
    """The turns of one session, made anew for each schedule."""

    def __init__(self) -> None:
        self.store = FakeStore()
        self.runs = FakeRunJournal()
        self.lifecycle = Lifecycle()
        self.turns = Turns(
            cast("Any", self.store),
            cast("Any", self.runs),
            cast("Any", FakeTurnJournal()),
            self.lifecycle,
            lambda _: OneWordAgent(),
        )

    def until(self, fact: Callable[[], bool]) -> None:
        """Wait for a fact, in virtual time."""
        for _ in range(100):
            if fact():
                return
            time.sleep(0.1)
        raise AssertionError("the fact never became true")

    def messages_of(self, role: str) -> list[Mapping[str, Any]]:
        """The messages of that role."""
        return [message for message in self.store.session.messages if message["role"] == role]

    def check(self) -> None:
        """Check the invariants of a quiet state."""
        assert not any(self.turns.gauges().values()), self.turns.gauges()
        assert not self.runs.open
        assert not self.store.session.is_busy
        assert all(len(set(states)) == 1 for states in self.runs.states().values())


def explored(body: Callable[[Run], object], schedules: int) -> Result:
    budget = Budget(schedules=schedules, seconds=30.0, steps=5000, timers=0)  # bodies poll
    result = explore(body, budget=budget, seed=1)
    assert result.finding is None, result.story
    assert not result.escapes, result.escapes
    return result


def test_concurrent_starts_and_cancels_give_one_state() -> None:
    """
    T1, T3, T4: a: start      b: cancel every run      c: start
    Every started turn has its message once; only completed ones are marked.
    """  # noqa: D212, D205

    def body(run: Run) -> tuple[int, int]:
        core = TurnsOfOneSession()
        started: list[str] = []

        def start() -> None:
            with suppress(TurnConflictError):
                started.append(core.turns.start("s1", "hello").turn_id)

        def cancel() -> None:
            for each in core.turns.runs():
                if core.turns.cancel(each.stream_id):
                    run.reached("a cancel came in time")

        run.thread(start)
        run.thread(cancel)
        run.thread(start)
        run.join()
        core.until(lambda: not core.turns.runs())
        core.check()
        states = core.runs.states().values()
        done = sum("done" in each for each in states)
        assert sorted(message["turn_id"] for message in core.messages_of("user")) == sorted(started)
        assert len(states) == len(started)
        assert core.lifecycle.mark_turn_completed("s1") == done + 1
        return len(started), done

    result = explored(body, 1200)

    assert {(1, 1), (1, 0), (2, 2), (2, 1)} <= {*result.outcomes}
    assert result.situations["a cancel came in time"]


class FakeRegistry:
    """A thread-safe process registry in memory."""

    def __init__(self) -> None:
        self.pending: dict[str, Event] = {}
        self.consumed: list[str] = []
        self._queue: deque[Event] = deque()
        self._lock = threading.Lock()
        self._listener: Callable[[], object] = lambda: None

    def listen(self, listener: Callable[[], object]) -> None:
        """Set the listener."""
        self._listener = listener

    def publish(self, each: Event) -> None:
        """Make an event available, again if it was before."""
        with self._lock:
            if each.event_id not in self.consumed:
                self.pending[each.event_id] = each
            self._queue.append(each)
        self._listener()

    def take(self) -> Event | None:
        """The next event."""
        with self._lock:
            return self._queue.popleft() if self._queue else None

    def is_consumed(self, event_id: str) -> bool:
        """Whether the event is not pending."""
        with self._lock:
            return event_id not in self.pending

    def mark_consumed(self, event_id: str) -> None:
        """Consume the event, and record it."""
        with self._lock:
            if self.pending.pop(event_id, None) is not None:
                self.consumed.append(event_id)


def run_with_wakeups(run: Run, *, has_drain_threads: bool) -> None:
    """A user's turn, and a process with two events, one of them published twice."""
    core, registry = TurnsOfOneSession(), FakeRegistry()
    wakeups = Wakeups(registry, core.turns.start)
    core.turns.listen(wakeups)

    def start() -> None:
        with suppress(TurnConflictError):
            core.turns.start("s1", "hello", Source.USER)
            run.reached("the user was admitted")

    def publish() -> None:
        for number in (1, 1, 2):
            registry.publish(event(number))

    if has_drain_threads:
        wakeups.begin()
    else:
        run.thread(wakeups.drain)
    run.thread(start)
    run.thread(publish)
    run.join()

    def is_quiet() -> bool:
        if not has_drain_threads:
            wakeups.drain()  # events that came after the other thread had left
        is_idle = not registry.pending and not core.turns.runs()
        return is_idle and not any(wakeups.gauges()[name] for name in EMPTY_GAUGES)

    core.until(is_quiet)
    wakeups.stop()
    core.check()
    ids = [message["wakeup_id"] for message in core.messages_of("user") if "wakeup_id" in message]
    assert ids == ["p1", "p2"]
    assert sorted(registry.consumed) == ["p1", "p2"]


EMPTY_GAUGES = ("wakeup_lines", "wakeup_events", "wakeup_ready", "wakeup_runs", "wakeup_homeless")


@pytest.mark.parametrize("has_drain_threads", [True, False])
def test_completions_during_a_turn_wake_once_in_order(*, has_drain_threads: bool) -> None:
    """
    W1, W3, W9: user:     |-- run --|-teardown-|
                process:     p1  p1        p2
                drain:    one or two threads, or a single call
    """  # noqa: D212, D205, D415 - a drawing
    result = explored(lambda run: run_with_wakeups(run, has_drain_threads=has_drain_threads), 500)

    assert result.situations["the user was admitted"]


def test_ending_in_the_turn_journal_is_final(tmp_path: Path) -> None:
    """S13: the worker records the start while a cancel records the end."""

    def body(run: Run) -> None:
        path = tmp_path / "turns"
        path.unlink(missing_ok=True)
        journal = TurnJournal(path, clock=lambda: 0.0)
        journal.submit("t1", "s1", "r1", "user")
        run.thread(journal.start, "t1")
        run.thread(journal.interrupt, "t1")
        run.join()
        assert journal.in_flight() == []
        journal.close()

    explored(body, 300)
