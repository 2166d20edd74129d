"""Tests that the model of copies refuses each copy that differs, and each view that is late."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest

from harness.contract import promises
from harness.contract.agent_script import sleep
from harness.contract.models.conversation import Phase, Session, Turn
from harness.contract.models.copies import compared, viewed
from harness.core.history import Operation, Outcome
from harness.core.model import Refusal

TEXT, REPLY = "r1 [tokens=1]", "0 That was turn 1 of s1."
SESSION = Session(named="plans", turns=(Turn("r1", TEXT),), begun=(Turn("r1", TEXT),))
COPY: dict[str, Any] = {
    "title": "plans",
    "count": 2,
    "texts": [["user", TEXT], ["assistant", REPLY]],
}
COPIES: dict[str, Any] = {
    "copies": {name: dict(COPY) for name in ("http", "sidecar", "database", "search")},
    "index": ["plans", 2],
    "runs": {"r1": REPLY},
    "pending": None,
}
VIEWS: dict[str, Any] = {
    "titles": ["plans"] * 4,
    "counts": [2] * 4,
    "listed": 1,
    "last": True,
    "messages": 2,
    "busy": False,
}


def operation(function: str, result: Any) -> Operation:
    return Operation(0, function, {"session": "s1"}, Outcome.OK, 0, 1, result, "")


def changed(*path: str | int, to: Any) -> dict[str, Any]:
    """The copies, with one value changed."""
    result = deepcopy(COPIES)
    found: Any = result
    for name in path[:-1]:
        found = found[name]
    found[path[-1]] = to
    return result


def test_equal_copies_are_accepted() -> None:
    """The database may lack a title that another session has."""
    untitled = changed("copies", "database", "title", to="Untitled")

    assert compared(SESSION, operation("copies", COPIES), None) is SESSION
    assert compared(SESSION, operation("copies", untitled), None) is SESSION
    assert viewed(SESSION, operation("views", VIEWS), None) is SESSION


@pytest.mark.parametrize(
    "result",
    [
        *(
            changed("copies", name, field, to=value)
            for name in COPIES["copies"]
            for field, value in (("title", "notes"), ("count", 3), ("texts", []))
        ),
        changed("index", 1, to=3),
        changed("runs", "r1", to="another"),
        changed("pending", to=TEXT),
    ],
)
def test_copy_that_differs_is_refused(result: dict[str, Any]) -> None:
    """Each copy, and each of its fields."""
    refusal = compared(SESSION, operation("copies", result), None)

    assert isinstance(refusal, Refusal)
    assert refusal.promise == promises.S14


def test_lost_message_of_a_live_run_was_settled() -> None:
    """S13: a run that is alive is never repaired."""
    held = Turn("r2", f"r2 {sleep(900)}")
    busy = replace(SESSION, turns=(*SESSION.turns, held), phase=Phase.PENDING, run=held)
    refusal = compared(busy, operation("copies", COPIES), None)

    assert isinstance(refusal, Refusal)
    assert refusal.also == (promises.S13,)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("titles", ["plans"] * 3 + ["notes"]),
        ("counts", [2, 2, 0, 2]),
        ("listed", 0),
        ("last", False),
        ("messages", 0),
        ("busy", True),
    ],
)
def test_view_that_is_late_is_refused(field: str, value: object) -> None:
    """Each route, after an acknowledged change."""
    refusal = viewed(SESSION, operation("views", {**VIEWS, field: value}), None)

    assert isinstance(refusal, Refusal)
    assert refusal.promise == promises.S15
