"""Who judges how memory is committed: what threads may do is let go, what they may not is named."""

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
    """One operation of session `s`, unless it says another, from and to these moments."""
    begun, ended = span
    told = {"session": "s", **argument}
    completed = None if outcome is INFO else ended
    error = "" if outcome is OK else "RuntimeError: unforeseen"
    return Operation(0, function, told, outcome, begun, completed, result, error)


def turn(span: Span, agent: str = "a", outcome: Outcome = OK, session: str = "s") -> Operation:
    return op("complete_turn", span, None, outcome, agent=agent, session=session)


def provide(span: Span, agent: str = "a", ended: str = "ok", session: str = "s") -> Operation:
    return op("provide", span, agent=agent, ended=ended, session=session)


def close(span: Span, agent: str = "a", session: str = "s") -> Operation:
    return op("close", span, agent=agent, session=session)


def commit(span: Span, *, committed: bool = True) -> Operation:
    return op("commit", span, committed)


def drain(span: Span) -> Operation:
    return Operation(0, "drain", None, OK, *span)


def told(*operations: Operation) -> History:
    return History(tuple(sorted(operations, key=lambda one: one.invoked_ns)))


def blamed(check: Checker, *operations: Operation) -> Promise | None:
    """The promise that the checker says was broken; None where it has nothing to say."""
    verdict = check(told(*operations))
    assert len(verdict.anomalies) <= 1
    return verdict.anomalies[0].promise if verdict.anomalies else None


# Commits ------------------------------------------------------------------------------------------


def test_a_turn_during_a_commit_is_committed_by_the_next() -> None:
    """A turn during a commit is committed by the next.

    C0: |- turn -|  |------ commit ------|                  |--- drain ---|
                       |-- provide --|                        |-provide-|
    C1:                    |- turn -|
    """
    assert check_memory_commits(
        told(
            *(turn((1, 2)), commit((3, 10)), provide((4, 9)), turn((5, 6))),
            *(drain((11, 16)), provide((12, 15))),
        )
    ).is_valid


def test_a_turn_that_a_late_commit_clears_is_lost() -> None:
    """A turn that a late commit clears is lost.

    C0: |- turn -|  |------ commit ------|  |- drain -|
                       |-- provide --|
    C1:                    |- turn -|
    """
    history = (turn((1, 2)), commit((3, 10)), provide((4, 9)), turn((5, 6)), drain((11, 12)))

    assert blamed(check_memory_commits, *history) == promises.L2


@pytest.mark.parametrize("ended", ["failed", "exited"])
def test_a_late_commit_is_blamed_itself_whatever_failed_before_it(ended: str) -> None:
    """The failed commit was tried again, so it is not what lost the second turn.

    C0: |- turn -|  |- commit -|   |------ commit ------|  |- drain -|
                     |- fails -|      |-- provide --|
    C1:                                   |- turn -|
    """
    history = (
        *(turn((1, 2)), commit((3, 6), committed=False), provide((4, 5), ended=ended)),
        *(commit((7, 14)), provide((8, 13)), turn((9, 10)), drain((15, 16))),
    )

    assert blamed(check_memory_commits, *history) == promises.L2


def test_a_late_commit_is_blamed_though_the_next_owner_commits_its_own() -> None:
    """A late commit is blamed though the next owner commits its own.

    C0: |- turn a -|  |------ commit ------|               |--- drain ---|
                         |- provide a -|                    |- provide b -|
    C1:                    |- turn a -|       |- turn b -|
    """
    history = (
        *(turn((1, 2)), commit((3, 10)), provide((4, 9)), turn((5, 6)), turn((11, 12), "b")),
        *(drain((13, 16)), provide((14, 15), "b")),
    )

    assert blamed(check_memory_commits, *history) == promises.L2


def test_a_failed_commit_is_tried_again() -> None:
    """A failed commit is tried again.

    C0: |- turn -|  |- commit -|  |--- drain ---|
                     |- fails -|    |- provide -|
    """
    failed = (turn((1, 2)), commit((3, 6), committed=False), provide((4, 5), ended="failed"))

    assert check_memory_commits(told(*failed, drain((7, 10)), provide((8, 9)))).is_valid
    assert blamed(check_memory_commits, *failed, drain((7, 10))) == promises.L3


def test_a_failed_commit_is_tried_again_with_its_owner() -> None:
    """A failed commit is tried again with its owner.

    C0: |- turn a -|  |- commit -|  |---- drain ----|
                       |- fails -|    |- provide b -|
    """
    failed = (turn((1, 2)), commit((3, 6), committed=False), provide((4, 5), ended="failed"))

    assert (
        blamed(check_memory_commits, *failed, drain((7, 10)), provide((8, 9), "b")) == promises.L3
    )


def test_an_exit_of_a_provider_wedges_nobody() -> None:
    """An exit of a provider wedges nobody.

    C0: |- turn -|  |- commit -|  |--- drain ---|
                     |- exits -|
    """
    exited = (turn((1, 2)), commit((3, 6), committed=False), provide((4, 5), ended="exited"))

    assert check_memory_commits(told(*exited, drain((7, 10)), provide((8, 9)))).is_valid
    assert blamed(check_memory_commits, *exited, drain((7, 10))) == promises.L13


def test_a_turn_that_is_given_up_after_a_failure_breaks_the_shutdown_too() -> None:
    """Whether it was forgotten, or wedged, or passed over by the shutdown does not show.

    C0: |- turn -|  |- exits -|  |- drain -|
    """
    given_up = told(turn((1, 2)), commit((3, 6)), provide((4, 5), ended="exited"), drain((7, 8)))
    (anomaly,) = check_memory_commits(given_up).anomalies

    assert anomaly.promises == frozenset({promises.L13, promises.L3, promises.L11})


def test_a_replacement_commits_nothing_of_its_predecessor() -> None:
    """A replacement commits nothing of its predecessor.

    C0: |- turn a -|  |---- commit ----|  |- drain -|
                        |- provide b -|
    """
    history = (turn((1, 2)), commit((3, 6)), provide((4, 5), "b"), drain((7, 8)))

    assert blamed(check_memory_commits, *history) == promises.L4


def test_two_providers_of_a_session_are_never_at_work_at_once() -> None:
    """Two providers of a session are never at work at once.

    C0: |- turn -|  |- turn -|  |--- provide ---|
    C1:                              |--- provide ---|
    """
    turns = (turn((1, 2)), turn((3, 4)), drain((5, 10)))

    assert blamed(check_memory_commits, *turns, provide((6, 8)), provide((7, 9))) == promises.L5
    assert check_memory_commits(told(*turns, provide((6, 7)), provide((8, 9)))).is_valid


def test_providers_of_two_sessions_may_be_at_work_at_once() -> None:
    history = (
        *(turn((1, 2)), turn((3, 4), session="t"), drain((5, 10))),
        *(provide((6, 8)), provide((7, 9), session="t")),
    )

    assert check_memory_commits(told(*history)).is_valid


def test_a_commit_of_nothing_new_calls_nobody() -> None:
    """A commit of nothing new calls nobody.

    C0: |- turn -|  |- provide -|  |- provide -|
    """
    history = (turn((1, 2)), provide((3, 4)), provide((5, 6)))

    assert blamed(check_memory_commits, *history) == promises.L6


def test_a_turn_that_nobody_knows_of_may_have_been_committed() -> None:
    """A turn that nobody knows of may have been committed.

    C0: |- turn ...          (its reply was lost)
    C1:          |-- commit --|
                  |- provide -|
    """
    history = (turn((1, 2), outcome=INFO), commit((3, 6)), provide((4, 5)))

    assert check_memory_commits(told(*history)).is_valid


def test_a_discard_spares_dirty_work_and_is_blamed_for_its_own_session_only() -> None:
    """A discard spares dirty work and is blamed for its own session only.

    C0: |- turn -|  |- discard -|  |- drain -|
    """
    history = (turn((1, 2)), op("discard", (3, 4), result=True), drain((5, 6)))
    elsewhere = (turn((1, 2)), op("discard", (3, 4), result=True, session="t"), drain((5, 6)))

    assert blamed(check_memory_commits, *history) == promises.L9
    assert blamed(check_memory_commits, *elsewhere) == promises.L11


def test_a_turn_that_no_shutdown_commits_breaks_the_shutdown() -> None:
    """A turn that no shutdown commits breaks the shutdown.

    C0: |- turn -|  |- commit -|   |- turn -|  |- drain -|
                     |- provide -|
    """
    before = (turn((1, 2)), commit((3, 6)), provide((4, 5)))

    assert blamed(check_memory_commits, turn((1, 2)), drain((3, 4))) == promises.L11
    assert blamed(check_memory_commits, *before, turn((7, 8)), drain((9, 10))) == promises.L11


def test_a_turn_that_is_completed_commits_nothing() -> None:
    """A turn that is completed commits nothing.

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
def test_no_call_of_the_lifecycle_raises(function: str, promise: Promise) -> None:
    """Threads that meet are no excuse: a dictionary that changed during iteration, say."""
    assert blamed(check_memory_commits, op(function, (1, 2), outcome=FAIL)) is promise


# Agents -------------------------------------------------------------------------------------------


def use(span: Span, agent: str = "a", session: str = "s") -> Operation:
    return op("use", span, agent=agent, session=session)


def test_an_agent_is_closed_idle_committed_and_once() -> None:
    """An agent is closed idle committed and once.

    C0: |-- use --|
          |turn|
    C1:             |- provide -|  |- close -|
    """
    kept = op("shrink", (20, 21), {"agents": 1, "cap": 1})

    assert check_agent_closes(
        told(use((1, 4)), turn((2, 3)), provide((5, 6)), close((7, 8)), kept)
    ).is_valid


def test_an_agent_in_use_is_not_closed() -> None:
    """An agent in use is not closed.

    C0: |------ use ------|
    C1:     |- close -|
    """
    assert blamed(check_agent_closes, use((1, 4)), close((2, 3))) == promises.A2


def test_an_agent_is_not_closed_with_an_uncommitted_turn() -> None:
    """An agent is not closed with an uncommitted turn.

    C0: |- turn -|  |- provide: fails -|  |- close -|
    """
    failed = provide((3, 4), ended="failed")

    assert blamed(check_agent_closes, turn((1, 2)), close((3, 4))) == promises.A5
    assert blamed(check_agent_closes, turn((1, 2)), failed, close((5, 6))) == promises.A5


def test_an_agent_is_not_closed_during_its_commit() -> None:
    """An agent is not closed during its commit.

    C0: |- turn -|  |---- provide ----|
    C1:                 |- close -|
    """
    history = (turn((1, 2)), provide((3, 6)), close((4, 5)))

    assert blamed(check_agent_closes, *history) == promises.A5


def test_an_agent_is_not_closed_twice() -> None:
    assert blamed(check_agent_closes, close((1, 2)), close((3, 4))) == promises.A5


def test_agents_of_two_sessions_may_have_one_name() -> None:
    """Agents of two sessions may have one name.

    C0: |- close a of s -|
    C1:    |--- use a of t ---|  |- provide -|  |- close a of t -|
    """
    history = (
        *(close((1, 4)), use((2, 6), session="t"), turn((3, 5), session="t")),
        *(provide((7, 8), session="t"), close((9, 10), session="t")),
    )

    assert check_agent_closes(told(*history)).is_valid


def test_commits_of_an_eviction_do_not_overlap() -> None:
    history = (turn((1, 2)), turn((3, 4)), provide((5, 7)), provide((6, 8)))

    assert blamed(check_agent_closes, *history) == promises.L5


def test_no_more_than_the_cap_is_kept() -> None:
    assert blamed(check_agent_closes, op("shrink", (1, 2), {"agents": 2, "cap": 1})) == promises.A1


@pytest.mark.parametrize("function", ["turn", "evict", "shrink", "commit"])
def test_no_turn_and_no_eviction_breaks_down(function: str) -> None:
    """A shrink that raises tells nothing of what is kept, and is no shrink."""
    assert blamed(check_agent_closes, op(function, (1, 2), outcome=FAIL)) == promises.A5


# Whatever is done one after another ---------------------------------------------------------------


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


@pytest.mark.parametrize("check", [check_memory_commits, check_agent_closes])
def test_what_is_done_one_after_another_is_never_refused(check: Checker) -> None:
    """A lifecycle that does one thing at a time, and all of it, keeps every promise."""
    for seed in range(500):
        assert check(told(*serially(Random(seed)))) == VALID, seed


def test_what_a_serial_lifecycle_leaves_out_is_always_missed() -> None:
    """Take away the last successful commit of any such history, and a turn is lost."""
    for seed in range(500):
        history = list(serially(Random(seed)))
        calls = [one for one in history if one.function == "provide"]
        done = [one for one in calls if one.argument["ended"] == "ok"]
        if done:
            history.remove(done[-1])
            assert not check_memory_commits(told(*history)).is_valid, seed
