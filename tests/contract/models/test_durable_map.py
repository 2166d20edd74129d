"""Tests that the model of a durable map refuses what no host may find in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from harness.checkers.conformance import conforms
from harness.contract import promises
from harness.contract.models.durable_map import HISTORY_ROWS_MAX, DurableMapModel
from harness.core.contract import Promise
from harness.core.history import History, Operation, Outcome

OK, FAIL, INFO = Outcome.OK, Outcome.FAIL, Outcome.INFO
Call = tuple[str, dict[str, Any], Any, Outcome]


def change(outcome: Outcome = OK, **values: int | None) -> Call:
    return "change", {"values": values}, None, outcome


def struck(outcome: Outcome, **values: int | None) -> Call:
    argument = {"function": "change", "argument": {"values": values}, "strike": "kill", "at": 1}
    return "striking", argument, {"struck": True} if outcome is OK else None, outcome


def look(*values: tuple[str, int], rows: int | None = -1, agrees: bool = True) -> Call:
    listed = " ".join(f"{key}={at}" for key, at in values)
    seen: dict[str, Any] = {"values": listed, "length": len(values), "agrees": agrees}
    seen["rows"] = len(values) if rows == -1 else rows
    return "look", {}, seen, OK


def error(outcome: Outcome) -> str:
    return {OK: "", FAIL: "OSError: refused", INFO: "TargetLostError: killed"}[outcome]


def history(calls: Sequence[Call]) -> History:
    return History(
        tuple(
            Operation(0, function, argument, outcome, 2 * at, 2 * at + 1, result, error(outcome))
            for at, (function, argument, result, outcome) in enumerate(calls)
        )
    )


A, B = change(a=1), change(b=2)
LONG = HISTORY_ROWS_MAX + 3
WRONG: tuple[tuple[Sequence[Call], Promise], ...] = (
    ((change(FAIL, a=1),), promises.W4),
    ((A, look()), promises.W4),
    ((A, look(("a", 2))), promises.W4),
    ((A, ("look", {}, None, FAIL)), promises.W4),
    ((A, look(("a", 1), agrees=False)), promises.W4),
    ((A, change(a=None), look(("a", 1))), promises.W1),
    ((A, B, look(("b", 2), ("a", 1))), promises.W3),
    ((A, look(("a", 1), rows=LONG)), promises.W9),
    ((A, A, look(("a", 1))), promises.W9),
    (((*A[:2], 1, OK),), promises.W4),
    ((A, struck(FAIL, b=2), look(("a", 1), ("b", 2))), promises.W1),
    ((A, struck(INFO, b=2, c=3), look(("a", 1), ("c", 3))), promises.W1),
)
RIGHT: tuple[Sequence[Call], ...] = (
    (A, B, look(("a", 1), ("b", 2))),
    (A, B, change(a=None), A, look(("b", 2), ("a", 1), rows=4)),
    (A, change(c=None), ("spoil", {"line": "x"}, None, OK), look(("a", 1), rows=2)),
    (("prime", {"values": 1, "spare": 0}, None, OK), change(k0=5), look(("k0", 5))),
    (A, struck(FAIL, b=2), look(("a", 1), rows=None)),
    (A, struck(INFO, b=2, c=3), look(("a", 1), ("b", 2), rows=None)),
    (A, struck(OK, b=2), look(("a", 1), ("b", 2), rows=None)),
)


def wrong_stories() -> Iterator[Sequence[Operation]]:
    """Stories that end with a wrong answer."""
    yield from (tuple(history(calls)) for calls, _ in WRONG)


@pytest.mark.parametrize(("calls", "promise"), WRONG)
def test_wrong_map_names_the_broken_promise(calls: Sequence[Call], promise: Promise) -> None:
    """Values that are lost, came back, or are in another order; a file that grows."""
    verdict = conforms(DurableMapModel())(history(calls))
    assert [anomaly.promise for anomaly in verdict.anomalies[:1]] == [promise]


@pytest.mark.parametrize("calls", RIGHT)
def test_map_after_a_fault_is_valid(calls: Sequence[Call]) -> None:
    """A killed change may have happened in part, a refused one has not."""
    assert conforms(DurableMapModel())(history(calls)).is_valid
