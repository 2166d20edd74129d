"""Tests that the model of both paths of wakeups refuses what is lost, repeated or misplaced."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from harness.checkers.conformance import conforms
from harness.contract import promises
from harness.contract.models.next_turn import NextTurnModel
from harness.core.contract import Promise
from harness.core.history import History, Operation, Outcome

Call = tuple[str, dict[str, Any], Any]
Rows = list[list[Any]]


def booted(*, idle: bool = False, joins: bool = True) -> Call:
    return "boot", {"idle": idle, "joins": joins}, None


NEW: Call = ("new", {"session": "s"}, None)
SPAWN: Call = ("spawn", {"session": "s", "word": "w1", "waiting": 1}, None)
TALK: Call = ("talk", {"session": "s", "text": "t1", "is_held": False}, None)
HOLD: Call = ("talk", {"session": "s", "text": "t1", "is_held": True}, None)
SPAWNED: Rows = [["user", "w1", ""], ["reply", 1, ""]]
JOINED: Rows = [*SPAWNED, ["wakeup", "w1", ""], ["user", "t1", ""], ["reply", 3, ""]]
ALONE: Rows = [*SPAWNED, ["user", "t1", ""], ["reply", 2, ""]]
WOKEN: Rows = [*ALONE, ["wakeup", "w1", ""], ["reply", 3, ""]]
STRUCK: Rows = [
    *SPAWNED,
    *(["wakeup", "w1", "interrupted"], ["user", "t1", "interrupted"], ["reply", 0, "interrupted"]),
]
READY = (booted(), NEW, SPAWN)


def looked(rows: Rows) -> Call:
    return "look", {"session": "s"}, rows


def settled(left: int = 0) -> Call:
    return "settle", {}, left


def history(*calls: Call) -> History:
    return History(
        tuple(
            Operation(0, function, argument, Outcome.OK, 2 * at, 2 * at + 1, result)
            for at, (function, argument, result) in enumerate(calls)
        )
    )


WRONG: tuple[tuple[Sequence[Call], Promise], ...] = (
    ((*READY, TALK, looked(ALONE)), promises.W1),
    ((*READY, TALK, looked([*JOINED, ["wakeup", "w1", ""], ["reply", 4, ""]])), promises.W1),
    ((*READY, looked([*SPAWNED, ["wakeup", "w1", ""], ["reply", 2, ""]])), promises.W1),
    ((*READY, TALK, looked([*JOINED[:-1], ["reply", 2, ""]])), promises.W1),
    ((*READY, TALK, looked([*JOINED[:3], *JOINED[4:]])), promises.S2),
    ((booted(joins=False), NEW, SPAWN, TALK, looked(JOINED)), promises.W1),
    ((*READY, HOLD, booted(idle=True), settled(), looked(ALONE)), promises.W1),
    ((*READY, booted(idle=True), settled(1)), promises.W3),
    ((*READY, looked([["user", "w1", "", ""], ["reply", 1, ""]])), promises.S2),
    ((booted(), ("new", {"session": "s"}, "x")), promises.T3),
    ((*READY, ("delete", {"session": "s", "waiting": 0}, 1)), promises.W9),
    ((*READY, ("new", {"session": "t"}, None), ("delete", {"session": "t"}, 0)), promises.W9),
)


def wrong_stories() -> Iterator[tuple[NextTurnModel, Sequence[Operation]]]:
    """Stories that end with a wrong answer."""
    for calls, _ in WRONG:
        yield NextTurnModel(), history(*calls).operations
    failed = Operation(0, "talk", {"session": "s"}, Outcome.FAIL, 0, 1, None, "TimeoutError: 20 s")
    yield NextTurnModel(), [failed]


@pytest.mark.parametrize(
    "calls",
    [
        (*READY, looked(SPAWNED), TALK, looked(JOINED)),
        (booted(joins=False), NEW, SPAWN, TALK, booted(idle=True), settled(), looked(WOKEN)),
        (*READY, HOLD, booted(idle=True), settled(), looked(STRUCK)),
        (*READY, ("delete", {"session": "s", "waiting": 0}, 0)),
    ],
)
def test_each_completion_by_one_path_is_accepted(calls: Sequence[Call]) -> None:
    """It is taken along, starts a turn of its own, or is in a turn that a kill ended."""
    assert conforms(NextTurnModel())(history(*calls)).is_valid


@pytest.mark.parametrize(("calls", "promise"), WRONG)
def test_wrong_deliveries_break_their_promise(calls: Sequence[Call], promise: Promise) -> None:
    """Lost, delivered by both paths or by one that is off, out of place, or never."""
    (anomaly,) = conforms(NextTurnModel())(history(*calls)).anomalies

    assert anomaly.promise is promise
