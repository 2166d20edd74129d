"""Tests of the checkers of memory commits and agent closes: allowed histories, and wrong ones."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from random import Random

import pytest

from harness.contract import promises
from harness.contract.checkers.threads.memory_commits import (
    check_agent_closes,
    check_memory_commits,
)
from harness.core.checker import Checker
from harness.core.contract import Promise
from harness.core.history import History, Operation, Outcome
from harness.core.verdict import VALID

OK, FAIL, INFO = Outcome.OK, Outcome.FAIL, Outcome.INFO
Span = tuple[int, int]


def op(
    function: str, span: Span, result: object = None, outcome: Outcome = OK, **argument: object
) -> Operation:
    """An operation of session `s`, or of a named one, between two moments."""
    begun, ended = span
    given = {"session": "s", **argument}
    completed = None if outcome is INFO else ended
    error = "" if outcome is OK else "RuntimeError: unforeseen"
    return Operation(0, function, given, outcome, begun, completed, result, error)


def turn(span: Span, agent: str = "a", outcome: Outcome = OK, session: str = "s") -> Operation:
    return op("complete_turn", span, None, outcome, agent=agent, session=session)


def provide(
    span: Span, agent: str = "a", ended: str = "ok", session: str = "s", took_s: int = 0
) -> Operation:
    return op("provide", span, agent=agent, ended=ended, session=session, took_s=took_s)


def close(span: Span, agent: str = "a", session: str = "s") -> Operation:
    return op("close", span, agent=agent, session=session)


def commit(span: Span, *, committed: bool = True) -> Operation:
    return op("commit", span, committed)


def drain(span: Span) -> Operation:
    return Operation(0, "drain", None, OK, *span)


def history_of(*operations: Operation) -> History:
    return History(tuple(sorted(operations, key=lambda op: op.invoked_ns)))


def blamed(check: Checker, *operations: Operation) -> Promise | None:
    """The promise that the checker reports as broken; None for a valid history."""
    verdict = check(history_of(*operations))
    assert len(verdict.anomalies) <= 1
    return verdict.anomalies[0].promise if verdict.anomalies else None


# Waiting ------------------------------------------------------------------------------------------


def took(span: Span, took_s: int, *, committed: bool = False, wait: bool = True) -> Operation:
    return op("commit", span, {"committed": committed, "took_s": took_s}, wait=wait)


def timed(span: Span, took_s: int, timeout: int | None) -> Operation:
    result = {"committed": False, "took_s": took_s}
    return op("commit", span, result, wait=True, timeout=timeout)


def shutdown(span: Span, took_s: int = 0) -> Operation:
    return Operation(0, "drain", None, OK, *span, {"took_s": took_s})


QUIET = (shutdown((20, 30)), provide((22, 25)))


@pytest.mark.parametrize(
    "calls",
    [
        (turn((1, 2)), shutdown((3, 8)), provide((4, 6))),
        (turn((1, 2)), provide((4, 9)), shutdown((3, 8), 60), shutdown((20, 30))),
        (turn((1, 2)), shutdown((3, 8)), provide((4, 6), ended="failed"), *QUIET),
        (turn((4, 5)), shutdown((3, 8)), *QUIET),
        (turn((1, 2)), provide((3, 10), took_s=90), took((4, 8), 60), shutdown((20, 30))),
        (turn((1, 2)), provide((3, 6), took_s=30), took((4, 8), 30)),
        (turn((1, 2)), provide((4, 6), took_s=90), took((3, 8), 90, committed=True)),
        (turn((1, 2)), provide((3, 10)), took((4, 8), 0, wait=False), shutdown((20, 30))),
        (turn((1, 2)), provide((3, 10), took_s=30), timed((4, 8), 0, 0), shutdown((20, 30))),
        (turn((1, 2)), provide((3, 10), took_s=30), timed((4, 8), 1, 1), shutdown((20, 30))),
        (turn((1, 2)), provide((3, 6), took_s=90), timed((4, 8), 90, None)),
    ],
)
def test_waiting_within_bounds_is_accepted(calls: tuple[Operation, ...]) -> None:
    """A shutdown and a waiting commit end when all is committed, or at their time."""
    assert blamed(check_memory_commits, *calls) is None


@pytest.mark.parametrize(
    ("promise", "calls"),
    [
        (promises.L11, (turn((1, 2)), shutdown((3, 8)), *QUIET)),
        (promises.L11, (turn((1, 2)), provide((4, 9)), shutdown((3, 8), 59), shutdown((20, 30)))),
        (promises.L11, (turn((1, 2)), provide((4, 9)), shutdown((3, 8), 90), shutdown((20, 30)))),
        (promises.L5, (turn((1, 2)), provide((3, 10)), took((4, 8), 10), shutdown((20, 30)))),
        (promises.L5, (turn((1, 2)), provide((3, 10)), took((4, 8), 90), shutdown((20, 30)))),
        (
            promises.L5,
            (turn((1, 2)), provide((3, 10)), took((4, 8), 30, wait=False), shutdown((20, 30))),
        ),
        (promises.L5, (turn((1, 2)), provide((3, 6), took_s=30), took((4, 8), 60))),
        (promises.L5, (turn((1, 2)), provide((4, 6)), took((3, 8), 30, committed=True))),
        (promises.L6, (turn((1, 2)), took((3, 4), 0, committed=True), *QUIET)),
        (promises.L5, (turn((1, 2)), provide((3, 6), took_s=30), timed((4, 8), 30, 0))),
        (promises.L5, (turn((1, 2)), provide((3, 6), took_s=30), timed((4, 8), 30, 1))),
        (
            promises.L5,
            (turn((1, 2)), provide((3, 10)), timed((4, 8), 60, None), shutdown((20, 30))),
        ),
    ],
)
def test_waiting_beyond_bounds_is_rejected(promise: Promise, calls: tuple[Operation, ...]) -> None:
    """Both sides of a bound: it neither leaves turns early, nor waits longer than it may."""
    assert blamed(check_memory_commits, *calls) == promise


def test_shutdown_passes_once_more_after_progress() -> None:
    """A turn that was completed before the end of a shutdown's commit is committed by it too.

    drain:      |------------- drain -------------|
                  |-- provide s --|
    C1:              |- turn t -|
    """
    late = (turn((1, 2)), turn((6, 7), session="t"), provide((5, 9)), shutdown((3, 15)))
    last = (shutdown((20, 30)), provide((22, 25), session="t"))

    assert blamed(check_memory_commits, *late, *last) == promises.L11
    assert blamed(check_memory_commits, *late, provide((10, 12), session="t")) is None


@pytest.mark.parametrize("took_s", [-1, 20, 31])
def test_wait_follows_the_clock(took_s: int) -> None:
    """A commit takes as long as its own provider, whatever it answers."""
    calls = (turn((1, 2)), provide((4, 6), took_s=30))

    assert blamed(check_memory_commits, *calls, took((3, 8), 30, committed=True)) is None
    assert blamed(check_memory_commits, *calls, took((3, 8), took_s, committed=True)) == promises.L5


def test_turn_without_owner_may_be_committed_by_any() -> None:
    """A turn without an owner counts for the agent that adopts it."""
    unowned = op("complete_turn", (1, 2), 1, agent=None)
    calls = (unowned, provide((4, 6), "b"), took((3, 8), 0, committed=True))

    assert blamed(check_memory_commits, *calls) is None
    assert blamed(check_memory_commits, *calls, provide((9, 10), "b")) == promises.L6


def test_another_session_is_not_waited_for() -> None:
    """A slow provider of one session delays no commit of another."""
    waited = op("commit", (4, 8), {"committed": False, "took_s": 30}, session="t", wait=True)
    slow = (turn((1, 2)), provide((3, 7)), waited)

    assert blamed(check_memory_commits, *slow) == promises.L5


# Commits ------------------------------------------------------------------------------------------


def test_turn_during_commit_needs_the_next_commit() -> None:
    """The next commit covers a turn that was completed during one.

    C0: |- turn -|  |------ commit ------|                  |--- drain ---|
                       |-- provide --|                        |-provide-|
    C1:                    |- turn -|
    """
    assert check_memory_commits(
        history_of(
            *(turn((1, 2)), commit((3, 10)), provide((4, 9)), turn((5, 6))),
            *(drain((11, 16)), provide((12, 15))),
        )
    ).is_valid


def test_turn_cleared_by_late_commit_is_lost() -> None:
    """A commit that began before the turn does not cover it.

    C0: |- turn -|  |------ commit ------|  |- drain -|
                       |-- provide --|
    C1:                    |- turn -|
    """
    history = (turn((1, 2)), commit((3, 10)), provide((4, 9)), turn((5, 6)), drain((11, 12)))

    assert blamed(check_memory_commits, *history) == promises.L2


@pytest.mark.parametrize("ended", ["failed", "exited"])
def test_late_commit_breaks_l2_after_an_earlier_failure(ended: str) -> None:
    """The failed commit was retried, so it did not lose the second turn.

    C0: |- turn -|  |- commit -|   |------ commit ------|  |- drain -|
                     |- fails -|      |-- provide --|
    C1:                                   |- turn -|
    """
    history = (
        *(turn((1, 2)), commit((3, 6), committed=False), provide((4, 5), ended=ended)),
        *(commit((7, 14)), provide((8, 13)), turn((9, 10)), drain((15, 16))),
    )

    assert blamed(check_memory_commits, *history) == promises.L2


def test_late_commit_breaks_l2_before_next_owner() -> None:
    """The next owner commits its own turn only.

    C0: |- turn a -|  |------ commit ------|               |--- drain ---|
                         |- provide a -|                    |- provide b -|
    C1:                    |- turn a -|       |- turn b -|
    """
    history = (
        *(turn((1, 2)), commit((3, 10)), provide((4, 9)), turn((5, 6)), turn((11, 12), "b")),
        *(drain((13, 16)), provide((14, 15), "b")),
    )

    assert blamed(check_memory_commits, *history) == promises.L2


def test_failed_commit_is_retried() -> None:
    """A retry before the shutdown, or by it, is required.

    C0: |- turn -|  |- commit -|  |--- drain ---|
                     |- fails -|    |- provide -|
    """
    failed = (turn((1, 2)), commit((3, 6), committed=False), provide((4, 5), ended="failed"))

    assert check_memory_commits(history_of(*failed, drain((7, 10)), provide((8, 9)))).is_valid
    assert blamed(check_memory_commits, *failed, drain((7, 10))) == promises.L3


def test_failed_commit_is_retried_with_its_owner() -> None:
    """Another agent does not cover the turn.

    C0: |- turn a -|  |- commit -|  |---- drain ----|
                       |- fails -|    |- provide b -|
    """
    failed = (turn((1, 2)), commit((3, 6), committed=False), provide((4, 5), ended="failed"))

    assert (
        blamed(check_memory_commits, *failed, drain((7, 10)), provide((8, 9), "b")) == promises.L3
    )


def test_provider_exit_needs_a_retry() -> None:
    """A provider that exits must not prevent later commits.

    C0: |- turn -|  |- commit -|  |--- drain ---|
                     |- exits -|
    """
    exited = (turn((1, 2)), commit((3, 6), committed=False), provide((4, 5), ended="exited"))

    assert check_memory_commits(history_of(*exited, drain((7, 10)), provide((8, 9)))).is_valid
    assert blamed(check_memory_commits, *exited, drain((7, 10))) == promises.L13


def test_turn_lost_after_failure_breaks_shutdown_too() -> None:
    """The history does not show whether it was forgotten, or left out by the shutdown.

    C0: |- turn -|  |- exits -|  |- drain -|
    """
    given_up = history_of(
        turn((1, 2)), commit((3, 6)), provide((4, 5), ended="exited"), drain((7, 8))
    )
    (anomaly,) = check_memory_commits(given_up).anomalies

    assert anomaly.promises == frozenset({promises.L13, promises.L3, promises.L11})


def test_replacement_does_not_commit_its_predecessor() -> None:
    """A turn belongs to the agent that completed it.

    C0: |- turn a -|  |---- commit ----|  |- drain -|
                        |- provide b -|
    """
    history = (turn((1, 2)), commit((3, 6)), provide((4, 5), "b"), drain((7, 8)))

    assert blamed(check_memory_commits, *history) == promises.L4


def test_overlapping_commits_of_session_are_rejected() -> None:
    """A session has one commit at a time.

    C0: |- turn -|  |- turn -|  |--- provide ---|
    C1:                              |--- provide ---|
    """
    turns = (turn((1, 2)), turn((3, 4)), drain((5, 10)))

    assert blamed(check_memory_commits, *turns, provide((6, 8)), provide((7, 9))) == promises.L5
    assert check_memory_commits(history_of(*turns, provide((6, 7)), provide((8, 9)))).is_valid


def test_overlapping_commits_of_two_sessions_are_valid() -> None:
    history = (
        *(turn((1, 2)), turn((3, 4), session="t"), drain((5, 10))),
        *(provide((6, 8)), provide((7, 9), session="t")),
    )

    assert check_memory_commits(history_of(*history)).is_valid


def test_commit_without_new_turn_is_rejected() -> None:
    """A provider is called for new turns only.

    C0: |- turn -|  |- provide -|  |- provide -|
    """
    history = (turn((1, 2)), provide((3, 4)), provide((5, 6)))

    assert blamed(check_memory_commits, *history) == promises.L6


def test_turn_of_unknown_outcome_may_be_committed() -> None:
    """A call without a reply may have completed its turn.

    C0: |- turn ...          (its reply was lost)
    C1:          |-- commit --|
                  |- provide -|
    """
    history = (turn((1, 2), outcome=INFO), commit((3, 6)), provide((4, 5)))

    assert check_memory_commits(history_of(*history)).is_valid


def test_discard_breaks_l9_for_its_own_session() -> None:
    """A discard must refuse while a turn is not committed.

    C0: |- turn -|  |- discard -|  |- drain -|
    """
    history = (turn((1, 2)), op("discard", (3, 4), result=True), drain((5, 6)))
    elsewhere = (turn((1, 2)), op("discard", (3, 4), result=True, session="t"), drain((5, 6)))

    assert blamed(check_memory_commits, *history) == promises.L9
    assert blamed(check_memory_commits, *elsewhere) == promises.L11


def test_turn_missing_at_shutdown_breaks_l11() -> None:
    """A shutdown commits every remaining turn.

    C0: |- turn -|  |- commit -|   |- turn -|  |- drain -|
                     |- provide -|
    """
    before = (turn((1, 2)), commit((3, 6)), provide((4, 5)))

    assert blamed(check_memory_commits, turn((1, 2)), drain((3, 4))) == promises.L11
    assert blamed(check_memory_commits, *before, turn((7, 8)), drain((9, 10))) == promises.L11


def test_commit_by_completed_turn_is_rejected() -> None:
    """A provider is called at boundaries only.

    C0: |--------- turn ---------|  |- drain -|
                  |- provide -|
    """
    history = (turn((1, 4)), provide((2, 3)), drain((5, 6)))

    assert blamed(check_memory_commits, *history) == promises.L12


@pytest.mark.parametrize(
    ("function", "promise"),
    [
        ("commit", promises.L13),
        ("drain", promises.L11),
        ("discard", promises.L9),
        ("register", promises.L1),
    ],
)
def test_lifecycle_call_that_raises_is_rejected(function: str, promise: Promise) -> None:
    """Such as for a dictionary that changed during iteration."""
    assert blamed(check_memory_commits, op(function, (1, 2), outcome=FAIL)) is promise


# Agents -------------------------------------------------------------------------------------------


def use(span: Span, agent: str = "a", session: str = "s") -> Operation:
    return op("use", span, agent=agent, session=session)


def test_close_after_use_and_commit_is_valid() -> None:
    """An agent closes once, idle and committed.

    C0: |-- use --|
          |turn|
    C1:             |- provide -|  |- close -|
    """
    kept = op("shrink", (20, 21), {"agents": 0, "entries": 0})

    assert check_agent_closes(
        history_of(use((1, 4)), turn((2, 3)), provide((5, 6)), close((7, 8)), kept)
    ).is_valid


def test_close_during_use_is_rejected() -> None:
    """The close overlaps a turn of the agent.

    C0: |------ use ------|
    C1:     |- close -|
    """
    assert blamed(check_agent_closes, use((1, 4)), close((2, 3))) == promises.A2


def test_close_before_commit_is_rejected() -> None:
    """A turn of the agent is not committed.

    C0: |- turn -|  |- provide: fails -|  |- close -|
    """
    failed = provide((3, 4), ended="failed")

    assert blamed(check_agent_closes, turn((1, 2)), close((3, 4))) == promises.A5
    assert blamed(check_agent_closes, turn((1, 2)), failed, close((5, 6))) == promises.A5


def test_close_during_commit_is_rejected() -> None:
    """The close overlaps a commit of the agent.

    C0: |- turn -|  |---- provide ----|
    C1:                 |- close -|
    """
    history = (turn((1, 2)), provide((3, 6)), close((4, 5)))

    assert blamed(check_agent_closes, *history) == promises.A5


def test_second_close_is_rejected() -> None:
    assert blamed(check_agent_closes, close((1, 2)), close((3, 4))) == promises.A5


def test_agents_of_two_sessions_may_share_a_name() -> None:
    """An agent is identified by its session too.

    C0: |- close a of s -|
    C1:    |--- use a of t ---|  |- provide -|  |- close a of t -|
    """
    history = (
        *(close((1, 4)), use((2, 6), session="t"), turn((3, 5), session="t")),
        *(provide((7, 8), session="t"), close((9, 10), session="t")),
    )

    assert check_agent_closes(history_of(*history)).is_valid


def test_overlapping_commits_of_eviction_are_rejected() -> None:
    history = (turn((1, 2)), turn((3, 4)), provide((5, 7)), provide((6, 8)))

    assert blamed(check_agent_closes, *history) == promises.L5


def test_more_agents_than_the_cap_are_rejected() -> None:
    assert blamed(check_agent_closes, op("shrink", (1, 2), {"agents": 2})) == promises.A1


@pytest.mark.parametrize("function", ["turn", "evict", "shrink", "commit"])
def test_failed_turn_or_eviction_is_rejected(function: str) -> None:
    """A shrink that raises reports no agents, and is rejected too."""
    assert blamed(check_agent_closes, op(function, (1, 2), outcome=FAIL)) == promises.A5


@pytest.mark.parametrize(
    ("promise", "sizes"),
    [
        (None, {"agents": 1, "entries": 1}),
        (promises.A1, {"agents": 0, "entries": 0}),
        (promises.A1, {"agents": 2, "entries": 2}),
        (promises.A5, {"agents": 1, "entries": 2}),
    ],
)
def test_quiet_cache_holds_what_is_open(promise: Promise | None, sizes: dict[str, int]) -> None:
    """Two sessions had turns, one agent was closed: the other one is cached, and no entry more."""
    turns = [op("turn", (1, 5)), op("turn", (10, 18), session="t")]
    uses = [use((2, 4)), op("use", (11, 13), agent="b", session="t")]
    evicted = (close((15, 16)), op("shrink", (20, 21), sizes))

    assert blamed(check_agent_closes, *turns, *uses, *evicted) == promise


def test_agent_that_left_the_cache_open_is_rejected() -> None:
    """A5: two sessions have used an agent each, none was closed, and one is cached."""
    turns = [op("turn", (1, 5)), op("turn", (10, 18), session="t")]
    uses = [use((2, 4)), op("use", (11, 13), agent="b", session="t")]
    last = op("shrink", (20, 21), {"agents": 1, "entries": 1})

    assert blamed(check_agent_closes, *turns, *uses, last) == promises.A5


def test_eviction_that_does_not_wait_is_rejected() -> None:
    """A5: an eviction returns while a commit of its session is in flight.

    C0:     |- turn -|  |------ commit ------|
                            |-- provide --|
    evict:                     |- evict -|      |- close -|
    """
    begun = (op("turn", (1, 5)), use((2, 4)), took((6, 20), 0, committed=True, wait=False))
    calls = (*begun, provide((7, 15)), op("evict", (8, 12)))

    assert blamed(check_agent_closes, *calls, close((21, 22))) == promises.A5
    assert (
        blamed(check_agent_closes, *begun, provide((7, 15)), op("evict", (8, 30)), close((21, 22)))
        is None
    )


def test_agent_that_is_never_closed_is_rejected() -> None:
    """A5: an evicted agent that is neither cached nor closed."""
    calls = (op("turn", (1, 5)), use((2, 4)), op("evict", (6, 9)))
    last = op("shrink", (20, 21), {"agents": 0, "entries": 0})

    assert blamed(check_agent_closes, *calls, last) == promises.A5
    assert blamed(check_agent_closes, *calls, close((7, 8)), last) is None


# Serial histories ---------------------------------------------------------------------------------


def serially(rng: Random) -> Iterator[Operation]:
    """Turns, commits, failures and evictions of two agents, each over before the next begins."""
    now = count(1)
    waiting: list[str] = []  # owners of segments, oldest first
    names = (f"a{number}" for number in count())
    agent = next(names)

    def span() -> Span:
        return next(now), next(now)

    def commits(*, fails: bool) -> Iterator[Operation]:
        while waiting:
            ended = rng.choice(["failed", "exited"]) if fails else "ok"
            begun = next(now)
            yield provide(span(), waiting[0], ended)
            yield commit((begun, next(now)), committed=not fails)
            if fails:
                break
            del waiting[0]

    for _ in range(12):
        done = rng.choice(["turn", "turn", "commit", "fail", "evict", "replace"])
        if done == "turn":
            begun = next(now)
            yield turn(span(), agent)
            yield use((begun, next(now)), agent)
            waiting += [agent] if waiting[-1:] != [agent] else []
        if done in ("commit", "fail", "evict"):
            yield from commits(fails=done == "fail")
        if done == "evict":
            yield close(span(), agent)
        if done in ("evict", "replace"):
            agent = next(names)
    yield from commits(fails=False)
    yield drain(span())


def test_turn_of_disowned_agent_is_rejected() -> None:
    """Its completion names no agent, and the cached one never commits it."""
    own = (op("own_turn", (5, 8)), turn((6, 7)))
    assert blamed(check_agent_closes, turn((1, 2)), provide((3, 4)), *own) == promises.A5
    other = provide((9, 10), "b")
    assert blamed(check_agent_closes, turn((1, 2)), *own, other) == promises.A5
    assert blamed(check_agent_closes, turn((1, 2)), *own, provide((9, 10))) is None
    assert blamed(check_agent_closes, turn((1, 2)), *own, provide((9, 10), ended="failed")) is None


@pytest.mark.parametrize("check", [check_memory_commits, check_agent_closes])
def test_serial_histories_are_valid(check: Checker) -> None:
    """A lifecycle without concurrency keeps every promise."""
    for seed in range(500):
        assert check(history_of(*serially(Random(seed)))) == VALID, seed


def test_serial_history_without_last_commit_is_rejected() -> None:
    """The last successful commit is removed from the history, so a turn is lost."""
    for seed in range(500):
        history = list(serially(Random(seed)))
        calls = [call for call in history if call.function == "provide"]
        done = [call for call in calls if call.argument["ended"] == "ok"]
        if done:
            history.remove(done[-1])
            assert not check_memory_commits(history_of(*history)).is_valid, seed
