"""Tests of the checker of a registry's events: a right history, and wrong ones."""

from __future__ import annotations

from typing import Any

import pytest

from harness.contract import promises
from harness.contract.checkers.threads.process_events import check_process_events
from harness.core.contract import Promise
from harness.core.history import History, Operation, Outcome


def op(function: str, at: int, result: Any = None, **argument: Any) -> Operation:
    """A call that takes one moment."""
    return Operation(0, function, argument or None, Outcome.OK, at, at + 1, result)


def deliver(at: int, process: str | None, consumed: str = "") -> Operation:
    """A delivery, with when its event was consumed; by default afterwards."""
    is_taken = process is not None
    before = "before" in consumed if is_taken or consumed else None
    return op("deliver", at, {"process": process, "before": before, "after": is_taken or None})


def settle(*rest: str, pending: int = 0) -> Operation:
    """What is left in the end."""
    finished = ["p1", "p2"]
    sizes = {"pending": pending, "ledger": pending, "finished": finished, "notified": 2}
    return op("settle", 90, {"rest": list(rest), **sizes})


P1, P2 = op("end", 1, process="p1"), op("end", 3, process="p2")
FIRST, SECOND = deliver(5, "p1"), deliver(7, "p2")
REFUSED = op("deliver", 7, {"process": "p2", "before": False, "after": False}, marks=False)
MARKED = op("deliver", 7, {"process": "p2", "before": False, "after": True}, marks=False)
LATE = (deliver(5, "p2"), deliver(7, "p1"))


@pytest.mark.parametrize(
    ("operations", "expected"),
    [
        ((FIRST, SECOND, settle()), []),
        ((FIRST, REFUSED, settle(pending=1)), []),
        ((FIRST, settle("p2", pending=1)), []),
        ((FIRST, op("look", 9, result=True, process="p1"), SECOND, settle()), []),
        ((FIRST, op("look", 9, result=False, process="p1"), SECOND, settle()), [promises.W5]),
        ((FIRST, REFUSED, op("look", 9, result=True, process="p2"), settle()), [promises.W9]),
        ((FIRST, MARKED, settle(pending=1)), [promises.W5]),
        ((deliver(5, "p1", "before"), SECOND, settle()), [promises.W1]),
        ((deliver(-1, "p1"), SECOND, settle()), [promises.W1]),
        ((FIRST, FIRST, SECOND, settle()), [promises.W1]),
        ((FIRST, settle()), [promises.W1]),
        ((deliver(5, None, "before"), settle("p1", "p2", pending=2)), [promises.W1]),
        ((*LATE, settle()), [promises.W3]),
        ((SECOND, settle("p1", pending=1)), [promises.W3]),
        ((op("end", 4, 1, process="p3"), settle()), [promises.W1]),
    ],
)
def test_each_event_is_taken_once(
    operations: tuple[Operation, ...], expected: list[Promise]
) -> None:
    """W1, W3, W5, W9: lost, repeated, overtaken, marked otherwise, or left."""
    history = History(tuple(sorted((P1, P2, *operations), key=lambda op: op.invoked_ns)))

    found = [anomaly.promise for anomaly in check_process_events(history).anomalies]

    assert found == expected
