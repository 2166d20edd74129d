"""Tests of the search for an order of the lifecycle's calls: allowed histories, and wrong ones."""

from __future__ import annotations

from itertools import count

import pytest

from harness.contract import promises
from harness.contract.checkers.threads.memory_orders import memory_orders
from harness.core.contract import Promise
from harness.core.history import History, Operation, Outcome

Span = tuple[int, int]
PATIENCE_S = 60
YES, NO = True, False
check = memory_orders(PATIENCE_S)


def op(function: str, span: Span, result: object = None, **argument: object) -> Operation:
    """An operation of session `s`, or of a named one, between two moments."""
    return Operation(1, function, {"session": "s", **argument}, Outcome.OK, *span, result)


def turn(span: Span, number: int, agent: str | None = "a") -> Operation:
    return op("complete_turn", span, number, agent=agent)


def provide(span: Span, agent: str = "a", ended: str = "ok") -> Operation:
    return op("provide", span, agent=agent, ended=ended, took_s=0)


def commit(span: Span, committed: object, took_s: float = 0, **argument: object) -> Operation:
    return op("commit", span, {"committed": committed, "took_s": took_s}, **argument)


def dirty(span: Span, waits: object) -> Operation:
    return op("dirty", span, waits)


def drain(span: Span, took_s: float = 0) -> Operation:
    return Operation(0, "drain", None, Outcome.OK, *span, {"took_s": took_s})


def blamed(*operations: Operation) -> list[Promise]:
    """The promise that is broken, and those that the same evidence breaks."""
    history = History(tuple(sorted(operations, key=lambda op: op.invoked_ns)))
    anomalies = check(history).anomalies
    return [promise for found in anomalies for promise in (found.promise, *found.also)]


@pytest.mark.parametrize(
    "calls",
    [
        (turn((1, 2), 1), commit((3, 8), YES), provide((4, 6)), dirty((9, 10), NO)),
        (turn((1, 2), 1), commit((3, 8), NO), provide((4, 6), ended="failed")),
        (turn((1, 2), 1), commit((3, 9), YES), provide((4, 7)), commit((5, 6), NO)),
        (turn((1, 2), 1), commit((3, 9), YES), provide((4, 7)), turn((5, 6), 2)),
        # The first waiting commit times out, the second one waits for the end.
        (
            *(turn((1, 2), 1), commit((3, 20), YES), provide((4, 15))),
            commit((5, 10), NO, took_s=60, wait=True),
            commit((6, 22), NO, took_s=90, wait=True, timeout=None),
        ),
        (turn((1, 2), 1, None), commit((3, 8), YES, agent="b"), provide((4, 6), "b")),
        (turn((1, 2), 1, None), commit((3, 4), NO), dirty((5, 6), YES)),
        (turn((1, 2), 1), drain((3, 8)), provide((4, 6)), op("discard", (9, 10), YES)),
        (turn((1, 4), 1), op("discard", (2, 3), YES), turn((5, 6), 2)),
        # Which of two commits called the provider is unknown.
        (
            *(turn((1, 2), 1), commit((3, 20), NO), commit((4, 21), NO)),
            *(provide((5, 8), ended="failed"), provide((9, 12), ended="exited")),
        ),
    ],
)
def test_calls_with_an_order_are_accepted(calls: tuple[Operation, ...]) -> None:
    """Concurrent answers that some order of captures and settlements explains."""
    assert blamed(*calls) == []


@pytest.mark.parametrize(
    ("promise", "calls"),
    [
        (promises.L1, (turn((1, 2), 2),)),
        (promises.L1, (turn((1, 2), 1), turn((3, 4), 1))),
        (promises.L9, (turn((1, 2), 1), op("discard", (3, 4), YES))),
        (promises.L9, (op("discard", (1, 2), NO),)),
        (promises.L2, (turn((1, 2), 1), dirty((3, 4), NO))),
        (
            promises.L7,
            (turn((1, 2), 1), commit((3, 8), YES), provide((4, 6)), dirty((9, 10), YES)),
        ),
        (promises.L5, (turn((1, 2), 1), commit((3, 4), NO))),
        (
            promises.L5,
            (
                *(turn((1, 2), 1), commit((3, 20), YES), provide((4, 15))),
                commit((5, 10), NO, took_s=30, wait=True),
            ),
        ),
        # A guard that an exit, or a failure, has left behind.
        (
            promises.L13,
            (
                *(turn((1, 2), 1), commit((3, 8), NO), provide((4, 6), ended="exited")),
                commit((9, 10), NO),
            ),
        ),
        (
            promises.L3,
            (
                *(turn((1, 2), 1), commit((3, 8), NO), provide((4, 6), ended="failed")),
                commit((9, 10), NO),
            ),
        ),
        # The newest segment goes first.
        (
            promises.L4,
            (
                *(turn((1, 2), 1), turn((3, 4), 2, "b"), commit((5, 10), YES)),
                provide((6, 8), "b"),
            ),
        ),
        # One owner's turns are committed one by one.
        (
            promises.L7,
            (
                *(turn((1, 2), 1), turn((3, 4), 2), commit((5, 10), YES), provide((6, 8))),
                *(commit((11, 16), YES), provide((12, 14))),
            ),
        ),
        # A turn that another agent has adopted.
        (
            promises.L8,
            (
                turn((1, 2), 1, None),
                *(commit((3, 8), NO, agent="b"), provide((4, 6), "b", ended="failed")),
                *(commit((9, 14), YES, agent="c"), provide((10, 12), "c")),
            ),
        ),
        # The provider's result is not passed on.
        (promises.L7, (turn((1, 2), 1), commit((3, 8), NO), provide((4, 6)))),
        (promises.L3, (turn((1, 2), 1), commit((3, 8), YES), provide((4, 6), ended="failed"))),
        (promises.L4, (op("register", (1, 2), YES, agent="a"),)),
    ],
)
def test_calls_without_an_order_are_rejected(
    promise: Promise, calls: tuple[Operation, ...]
) -> None:
    """Each answer that no order explains breaks the promise that it is about."""
    assert promise in blamed(*calls)


def test_sessions_are_judged_apart() -> None:
    """A turn of one session explains no commit of another."""
    now = count(10)
    other = op("commit", (next(now), next(now)), {"committed": False, "took_s": 0}, session="t")

    assert blamed(turn((1, 2), 1), other) == []


def test_cache_calls_may_commit_any_session() -> None:
    """Where calls evict, each of them may call providers, and turns have no number."""
    searched = memory_orders(PATIENCE_S, evicting=("evict",))
    done = op("complete_turn", (1, 2), agent="a")
    evicted = op("evict", (3, 9))
    lost = op("commit", (10, 11), {"committed": False, "took_s": 0})

    assert searched(History((done, evicted, provide((4, 6))))).is_valid
    assert not searched(History((done, evicted, lost))).is_valid
