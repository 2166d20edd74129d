"""Tests that the model of memory boundaries refuses each request that is missing or too many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from harness.checkers.conformance import conforms
from harness.contract import promises
from harness.contract.models.memory_boundaries import TIGHT_S, MemoryBoundariesModel
from harness.core.contract import Promise
from harness.core.history import History, Operation, Outcome

Call = tuple[str, dict[str, Any], Any]
TALK: Call = ("talk", {"session": "s1", "text": "t1"}, None)
OTHERS: tuple[Call, ...] = tuple(
    ("talk", {"session": name, "text": "t2"}, None) for name in ("s2", "s3")
)
LEAVE: Call = ("new", {"session": "s4", "previous": "s1"}, None)
CLEAR: Call = ("clear", {"session": "s1"}, None)
DELETE: Call = ("delete", {"session": "s1"}, None)
TIGHT: Call = ("boot", {"cache_max": 2, "drain_s": TIGHT_S}, None)
HANG: Call = ("hang", {"session": "s5"}, None)
ACCEPT: Call = ("provider", {"refuses": []}, None)
REFUSE: Call = ("provider", {"refuses": ["s1"]}, None)
REFUSE_COMMITS: Call = ("provider", {"refuses": ["s1"], "takes_turns": True}, None)


def got(*sessions: str) -> Call:
    return "requests", {"expected": len(sessions)}, list(sessions)


def ends(end: str) -> Call:
    return "talk", {"session": "s1", "text": "t9", "end": end}, None


def heard(*rows: tuple[str, str, str]) -> Call:
    return "turns", {"expected": len(rows)}, [list(row) for row in rows]


def owned_by_two(*requests: str) -> Sequence[Call]:
    """A session whose second turn has another agent, and what its boundary asked for."""
    before = (TALK, REFUSE_COMMITS, CLEAR, got("s1"), ends("done"), heard(FIRST, NINTH), ACCEPT)
    return *before, LEAVE, got(*requests)


FIRST, NINTH = ("s1", "t1", "whole"), ("s1", "t9", "whole")


def stopped(*left: str, code: int | None = 0) -> Call:
    return "stop", {}, {"code": code, "left": list(left)}


def history(*calls: Call) -> History:
    return History(
        tuple(
            Operation(0, function, argument, Outcome.OK, 2 * at, 2 * at + 1, result)
            for at, (function, argument, result) in enumerate(calls)
        )
    )


WRONG: tuple[tuple[Sequence[Call], Promise], ...] = (
    ((TALK, got("s1")), promises.L12),
    ((TALK, LEAVE, got()), promises.L15),
    ((TALK, LEAVE, got("s1"), LEAVE, got("s1")), promises.L12),
    ((TALK, CLEAR, got()), promises.L15),
    ((TALK, CLEAR, got("s1", "s1")), promises.L12),
    ((TALK, DELETE, got()), promises.L15),
    ((TALK, *OTHERS, got()), promises.L15),
    ((TALK, *OTHERS, got("s2")), promises.L15),
    ((TALK, REFUSE, stopped()), promises.L15),
    ((TALK, stopped("s1")), promises.L15),
    ((TALK, stopped(code=None)), promises.H3),
    ((TALK, stopped(), got()), promises.L15),
    ((TALK, HANG, stopped("s1")), promises.L15),
    ((TIGHT, TALK, stopped("s1")), promises.L15),
    ((TIGHT, TALK, HANG, stopped("s5")), promises.L15),
    ((TIGHT, TALK, HANG, stopped(), got()), promises.L15),
    ((TIGHT, TALK, HANG, stopped("s1"), got("s1", "s1")), promises.L12),
    ((TALK, heard()), promises.L15),
    ((TALK, heard(FIRST, FIRST)), promises.L15),
    ((TALK, heard(("s2", "t1", "whole"))), promises.L15),
    ((TALK, heard(("s1", "t1", "0 "))), promises.L15),
    ((TALK, ends("done"), heard(NINTH, FIRST)), promises.L15),
    ((ends("cancel"), heard(NINTH)), promises.L15),
    ((ends("aside"), LEAVE, got("s1")), promises.L12),
    ((REFUSE, TALK, ACCEPT, LEAVE, heard()), promises.L15),
    ((REFUSE, TALK, LEAVE, got("s1")), promises.L15),
    ((REFUSE, TALK, LEAVE, ("refused_turns", {"expected": 2}, 1)), promises.L15),
    ((("clear", {"session": "s1"}, 1),), promises.L15),
    (owned_by_two("s1"), promises.L15),
    (owned_by_two("s1", "s1", "s1", "s1"), promises.L12),
)


def wrong_stories() -> Iterator[tuple[MemoryBoundariesModel, Sequence[Operation]]]:
    """Stories that end with a wrong answer."""
    for calls, _ in WRONG:
        yield MemoryBoundariesModel(), history(*calls).operations
    failed = Operation(0, "talk", {"session": "s1"}, Outcome.FAIL, 0, 1, None, "StatusError: 500")
    yield MemoryBoundariesModel(), [failed]


@pytest.mark.parametrize(
    "calls",
    [
        (TALK, got(), LEAVE, got("s1"), LEAVE, got()),
        (TALK, TALK, CLEAR, got("s1")),
        (TALK, *OTHERS, got("s1")),
        (TALK, REFUSE, CLEAR, got("s1"), ("provider", {"refuses": []}, None), LEAVE, got("s1")),
        (TALK, *OTHERS[:1], REFUSE, stopped("s1"), got("s1", "s1", "s2")),
        (TALK, LEAVE, got("s1"), TALK, got("s1")),
        (TALK, ends("fail"), ends("cancel"), ends("aside"), heard(FIRST), LEAVE, got("s1")),
        (REFUSE, TALK, LEAVE, got(), ACCEPT, ends("done"), heard(FIRST, NINTH)),
        (REFUSE, TALK, LEAVE, ("refused_turns", {"expected": 2}, 2), heard()),
        owned_by_two("s1", "s1"),
        (TIGHT, TALK, HANG, stopped(), got("s1")),
        (TIGHT, TALK, HANG, stopped("s1"), got()),
        (TIGHT, TALK, HANG, stopped("s1"), got("s1")),
    ],
)
def test_right_requests_are_accepted(calls: Sequence[Call]) -> None:
    """One a boundary of a dirty session; a turn behind a boundary may be committed with it."""
    assert conforms(MemoryBoundariesModel())(history(*calls)).is_valid


@pytest.mark.parametrize(("calls", "promise"), WRONG)
def test_wrong_requests_break_their_promise(calls: Sequence[Call], promise: Promise) -> None:
    """Missing, of another session, too many, or of a session that the log does not name."""
    (anomaly,) = conforms(MemoryBoundariesModel())(history(*calls)).anomalies

    assert anomaly.promise is promise
