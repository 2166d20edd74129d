"""Tests of the checker of concurrent catalogs: allowed answers, and wrong ones."""

from __future__ import annotations

import pytest

from harness.contract import promises
from harness.contract.checkers.threads.catalog_answers import explained_catalogs
from harness.core.contract import Promise
from harness.core.history import History, Operation, Outcome

Span = tuple[int, int]
check = explained_catalogs(4.0)


def op(function: str, span: Span, result: object = None, **argument: object) -> Operation:
    return Operation(1, function, argument, Outcome.OK, *span, result)


def answer(
    function: str, span: Span, model: str, at_s: float = 0.0, waited_s: float = 0.0
) -> Operation:
    """A catalog of one model."""
    return op(function, span, {"models": [model], "at_s": at_s, "waited_s": waited_s})


def rebuilt(span: Span, model: str, at_s: float = 0.0, waited_s: float = 0.0) -> Operation:
    return answer("rebuilt", span, model, at_s, waited_s)


def shown(span: Span, model: str, at_s: float = 0.0) -> Operation:
    return answer("shown", span, model, at_s)


def fetch(
    span: Span, number: int, took_s: float, at_s: float = 0.0, ended: str = "ok"
) -> Operation:
    return op("fetch", span, number=number, at_s=at_s, took_s=took_s, ended=ended)


def blamed(*operations: Operation) -> list[Promise]:
    history = History(tuple(sorted(operations, key=lambda op: op.invoked_ns)))
    return [found.promise for found in check(history).anomalies]


QUICK = (rebuilt((1, 6), "model-1", waited_s=1.0), fetch((2, 4), 1, 1.0))
SLOW = (rebuilt((1, 6), "minimal", waited_s=4.0), fetch((2, 20), 1, 60.0))
FAILED = (
    rebuilt((1, 6), "minimal", waited_s=1.0),
    fetch((2, 4), 1, 1.0, ended="failed"),
)
CHANGE = op("change_config", (7, 8))


@pytest.mark.parametrize(
    "calls",
    [
        (*QUICK, shown((7, 8), "model-1", 1.0)),
        (*QUICK, rebuilt((3, 7), "model-1", waited_s=1.0), shown((8, 9), "model-1", 1.0)),
        (*SLOW, shown((7, 8), "minimal", 4.0), rebuilt((9, 10), "minimal", 4.0)),
        (rebuilt((1, 6), "minimal", waited_s=1.0), fetch((2, 4), 1, 1.0, ended="failed")),
        (*QUICK, CHANGE, shown((9, 10), "minimal", 1.0)),
        (*QUICK, CHANGE, rebuilt((9, 14), "model-2", 1.0, 1.0), fetch((10, 12), 2, 1.0, 1.0)),
        (*SLOW, op("wait", (7, 25), seconds=100.0), shown((26, 27), "model-1", 104.0)),
    ],
)
def test_explained_catalogs_are_accepted(calls: tuple[Operation, ...]) -> None:
    """What was cached for the config, what a query brought, or the minimal catalog."""
    assert blamed(*calls) == []


@pytest.mark.parametrize(
    ("promise", "calls"),
    [
        (promises.M1, (shown((1, 6), "minimal"), fetch((2, 4), 1, 1.0))),
        (promises.M1, (*QUICK, shown((7, 8), "minimal", 1.0))),
        (promises.M1, (*QUICK, shown((7, 8), "model-2", 1.0))),
        (promises.M2, (*QUICK, rebuilt((7, 12), "model-2", 1.0, 1.0), fetch((8, 10), 2, 1.0, 1.0))),
        (promises.M2, (rebuilt((1, 6), "minimal", waited_s=3.0), fetch((2, 20), 1, 60.0))),
        (promises.M2, (rebuilt((1, 6), "minimal"), fetch((2, 20), 1, 60.0))),
        (promises.M2, (rebuilt((1, 2), "minimal"),)),
        (promises.M2, (*QUICK, shown((7, 8), "model-1", 2.0))),
        (promises.M2, (*FAILED, rebuilt((7, 8), "minimal", 1.0))),
        (promises.M3, (*QUICK, CHANGE, shown((9, 10), "model-1", 1.0))),
    ],
)
def test_unexplained_catalogs_are_rejected(promise: Promise, calls: tuple[Operation, ...]) -> None:
    """A display that queries, a forgotten or stale catalog, a second query, a wait too short."""
    assert blamed(*calls) == [promise]
