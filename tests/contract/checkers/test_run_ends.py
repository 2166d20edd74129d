"""Tests of the checker of runs whose calls meet: an allowed history, and one wrong in one place."""

from __future__ import annotations

from typing import Any

import pytest

from harness.contract import promises
from harness.contract.checkers.threads.run_ends import check_run_ends
from harness.core.contract import Promise
from harness.core.history import History, Operation, Outcome

Span = tuple[int, int]


def op(function: str, span: Span, result: Any = None, **argument: Any) -> Operation:
    """An operation between two moments."""
    return Operation(0, function, argument, Outcome.OK, *span, result, "")


def begin(span: Span, run: str, script: str = "talk", status: int = 200, **more: Any) -> Operation:
    """A start, or the next start after another run."""
    function = "follow" if "after" in more else "start"
    active = more.pop("active", None)
    result = {"status": status, "active": active, "stored": status == 200}
    return op(function, span, result, session="s", run=run, script=script, **more)


def seen(function: str, at: int, run: str = "r1", **more: Any) -> Operation:
    """An event of a run."""
    return op(function, (at, at + 1), session="s", run=run, **more)


def settle(
    *rows: list[str],
    left: dict[str, int] | None = None,
    busy: bool = False,
    turn: str = "completed",
) -> Operation:
    """The content in the end."""
    content = {"s": {"rows": list(rows), "busy": busy}}
    found = {"left": left or {}, "sessions": content, "turns": {"r1": turn}}
    return op("settle", (100, 101), found)


def status(span: Span, active: str | None, *, busy: bool = True) -> Operation:
    """A look at the session."""
    return op("status", span, {"busy": busy, "active": active}, session="s")


DONE = [
    begin((1, 2), "r1"),
    op("work", (3, 9), session="s", run="r1"),
    seen("token", 4, text="word"),
    seen("terminal", 10, event="done"),
    seen("terminal", 12, event="stream_end"),
    seen("ended", 14),
]
SAVED = (["user", "r1 talk", ""], ["assistant", "word", ""])
CANCELLED = [
    begin((1, 2), "r1", "wait"),
    op("work", (3, 9), session="s", run="r1"),
    seen("token", 4, text="word"),
    op("cancel", (6, 12), {"cancelled": True, "saved": True}, run="r1"),
    seen("terminal", 10, event="cancel"),
    seen("ended", 14),
]
KEPT_TURN = "interrupted"
KEPT = (["user", "r1 wait", "cancelled"], ["assistant", "word", "cancelled"])
CANCEL_LATE = op("cancel", (20, 21), {"cancelled": True, "saved": True}, run="r1")
UNSAVED = op("cancel", (6, 12), {"cancelled": True, "saved": False}, run="r1")
EARLY = op("cancel", (5, 6), {"cancelled": True, "saved": True}, run="r1")
DENIED = op("cancel", (7, 8), {"cancelled": False, "saved": True}, run="r1")
DISOWNED = op("cancel", (6, 12), {"cancelled": False, "saved": True}, run="r1")
TALKING = [begin((1, 2), "r1"), *CANCELLED[1:3], DISOWNED, *CANCELLED[4:]]
DENIED_AFTER = op("cancel", (13, 14), {"cancelled": False, "saved": True}, run="r1")
NEXT = begin((13, 16), "r2", status=409, after="r1")


def blamed(*operations: Operation) -> Promise | None:
    """The promise that the checker reports as broken; None for a valid history."""
    history = History(tuple(sorted(operations, key=lambda op: op.invoked_ns)))
    anomalies = check_run_ends(history).anomalies
    return anomalies[0].promise if anomalies else None


@pytest.mark.parametrize(
    "operations",
    [
        (*DONE, settle(*SAVED)),
        (*CANCELLED, settle(*KEPT, turn=KEPT_TURN)),
        (*CANCELLED, seen("cancelling", 7), status((7, 8), "r1"), settle(*KEPT, turn=KEPT_TURN)),
        (*CANCELLED, seen("cancelling", 7), status((9, 10), None), settle(*KEPT, turn=KEPT_TURN)),
        (*CANCELLED, DENIED_AFTER, settle(*KEPT, turn=KEPT_TURN)),
        (*DONE, status((5, 6), "r1"), settle(*SAVED)),
        (*DONE, status((20, 21), None, busy=False), settle(*SAVED)),
        (*DONE, op("repair", (5, 6), result=False, session="s"), settle(*SAVED)),
        (*DONE, op("clear", (20, 21), session="s"), settle()),
        (*DONE, begin((5, 7), "r2", status=409, active="r1"), settle(*SAVED)),
    ],
)
def test_right_history_is_valid(operations: tuple[Operation, ...]) -> None:
    """Runs that end once, whose turns are stored as they ended."""
    assert blamed(*operations) is None


@pytest.mark.parametrize(
    ("operations", "promise"),
    [
        ((*DONE, op("work", (5, 6), session="s", run="r0"), settle(*SAVED)), promises.T1),
        ((*DONE, begin((5, 7), "r2", status=409, active="r0"), settle(*SAVED)), promises.T1),
        ((*DONE, begin((20, 21), "r2", status=409), settle(*SAVED)), promises.T3),
        ((*DONE, NEXT, settle(*SAVED)), promises.T8),
        ((*DONE[:-1], settle(*SAVED)), promises.T3),
        ((*DONE, seen("terminal", 15, event="cancel"), settle(*SAVED)), promises.T3),
        ((*DONE, CANCEL_LATE, settle(*SAVED)), promises.T4),
        ((*DONE, settle(*SAVED, busy=True)), promises.T3),
        ((*DONE, settle(*SAVED, left={"runs": 1})), promises.T3),
        ((*DONE, settle()), promises.S2),
        ((*DONE, settle(*SAVED, SAVED[1])), promises.T3),
        ((*DONE, op("clear", (20, 21), session="s"), settle(*SAVED)), promises.S6),
        ((*CANCELLED, settle(KEPT[0], turn=KEPT_TURN)), promises.T4),
        ((*CANCELLED, status((13, 14), "r1"), settle(*KEPT, turn=KEPT_TURN)), promises.T4),
        ((*CANCELLED, seen("cancelling", 7), status((9, 10), "r1"), settle(*KEPT)), promises.T4),
        ((*CANCELLED, begin((13, 14), "r2", status=409, active="r1"), settle(*KEPT)), promises.T4),
        ((*CANCELLED[:3], UNSAVED, *CANCELLED[4:], settle(*KEPT, turn=KEPT_TURN)), promises.T4),
        ((*TALKING, settle(turn=KEPT_TURN)), promises.T4),
        ((*CANCELLED, settle(*KEPT)), promises.T3),
        ((*DONE, settle(*SAVED, turn="started")), promises.T3),
        ((*DONE, status((20, 21), "r1", busy=False), settle(*SAVED)), promises.T3),
        ((*DONE, status((20, 21), None), settle(*SAVED)), promises.T3),
        ((*DONE, status((5, 6), None, busy=False), settle(*SAVED)), promises.T1),
        ((*DONE, op("repair", (5, 6), result=True, session="s"), settle(*SAVED)), promises.S13),
        ((*DONE, op("shut_down", (4, 5), result=True), settle(*SAVED)), promises.H3),
        ((*DONE, op("shut_down", (20, 21), result=False), settle(*SAVED)), promises.T3),
        (
            (*CANCELLED[:3], EARLY, DENIED, *CANCELLED[4:], settle(*KEPT, turn=KEPT_TURN)),
            promises.T4,
        ),
        ((*DONE, op("clear", (4, 5), session="s", result=1), settle(*SAVED)), promises.T3),
        ((*DONE, begin((5, 7), "r2", status=404), settle(*SAVED)), promises.T3),
    ],
)
def test_wrong_history_names_the_promise(
    operations: tuple[Operation, ...], promise: Promise
) -> None:
    """One operation is wrong in each history."""
    assert blamed(*operations) == promise


# Summaries ----------------------------------------------------------------------------------------

FURNISHED = op("furnish", (1, 2), session="s", runs=["q1", "q2"])
CLEARED = op("clear", (4, 5), session="s")
SUMMARY, FIRST_TURN = ["system", "q1 talk", ""], ["user", "q1 talk", ""]
LAST_TURN = (["user", "q2 talk", ""], ["assistant", "word", ""])


def compress(result: int) -> Operation:
    """A compress that a clear may meet."""
    return op("compress", (3, 9), result, session="s")


@pytest.mark.parametrize(
    ("operations", "promise"),
    [
        ((compress(200), settle(SUMMARY, *LAST_TURN)), None),
        ((compress(200), settle(FIRST_TURN, *LAST_TURN)), promises.S6),
        ((compress(200), settle(*LAST_TURN)), promises.S6),
        ((compress(422), settle(FIRST_TURN, *LAST_TURN)), promises.S10),
        ((compress(422), settle(SUMMARY, *LAST_TURN)), promises.S10),
        ((compress(422), CLEARED, settle()), None),
        ((compress(200), CLEARED, settle()), None),
        ((compress(200), CLEARED, settle(SUMMARY)), promises.S6),
        ((compress(422), CLEARED, settle(FIRST_TURN)), promises.S6),
    ],
)
def test_summary_fits_an_order(operations: tuple[Operation, ...], promise: Promise | None) -> None:
    """A compress happens before or after a removal, or is refused because of it."""
    assert blamed(FURNISHED, *operations) == promise


def test_summary_of_a_later_turn_is_valid() -> None:
    """A session began anew, and its first new turn was summarized."""
    furnished = op("furnish", (-4, -3), session="s", runs=["q1", "q2"])
    named, late = ["system", "r1 talk", ""], op("compress", (20, 29), 200, session="s")
    anew = (furnished, op("clear", (-2, -1), session="s"), *DONE)

    assert blamed(*anew, late, settle(named)) is None
    assert blamed(*anew, settle(named)) == promises.S2
    assert blamed(*anew, late, settle(named, named)) == promises.S2


def test_retry_after_a_clear_may_be_refused() -> None:
    """There is nothing to retry any more; without a clear there is."""
    result = {"status": 422, "active": None, "stored": False}
    retry = op("retry", (6, 7), result, session="s", run="q2", script="talk")

    assert blamed(FURNISHED, CLEARED, retry, settle()) is None
    assert blamed(FURNISHED, retry, settle(FIRST_TURN, *LAST_TURN)) == promises.T3
