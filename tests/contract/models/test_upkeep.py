"""Tests of the model of a server's upkeep: each fact, right and wrong."""

from __future__ import annotations

from typing import Any

import pytest

from harness.checkers.conformance import conforms
from harness.contract import promises
from harness.contract.models.upkeep import UpkeepModel
from harness.core.contract import Promise
from harness.core.history import History, Operation, Outcome

KEPT = {"status": 200, "same": True, "copied": True}
FACTS = [
    ("grew", {"name": "module.CACHE"}, False, True, promises.H4),
    ("kept", {"change": "pin"}, KEPT, {**KEPT, "status": 500}, promises.S3),
    ("kept", {"change": "pin"}, {**KEPT, "status": 409}, {**KEPT, "same": False}, promises.S2),
    ("kept", {"change": "branch"}, KEPT, {**KEPT, "copied": False}, promises.S2),
    ("answered", {"call": "rename"}, True, False, promises.H6),
    ("idle_without", {"part": "agent", "seconds": 1.0}, False, True, promises.H5),
    ("started_at_once", {"starter": "start"}, 1, 2, promises.H4),
]


def judged(*answers: tuple[str, dict[str, Any], Any]) -> tuple[Any, ...]:
    operations = [
        Operation(0, function, argument, Outcome.OK, at, at, result)
        for at, (function, argument, result) in enumerate(answers)
    ]
    return conforms(UpkeepModel())(History(tuple(operations))).anomalies


@pytest.mark.parametrize(("function", "argument", "right", "wrong", "promise"), FACTS)
def test_wrong_fact_breaks_its_promise(
    function: str, argument: dict[str, Any], right: Any, wrong: Any, promise: Promise
) -> None:
    """The right one breaks none."""
    assert not judged((function, argument, right))
    assert [anomaly.promise for anomaly in judged((function, argument, wrong))] == [promise]


def test_findings_of_two_containers_have_two_signatures() -> None:
    """So that a known one does not hide a new one."""
    found = judged(("grew", {"name": "a.KNOWN"}, True), ("grew", {"name": "a.NEW"}, True))

    assert len({anomaly.signature for anomaly in found}) == len(found) == 2


@pytest.mark.parametrize(
    ("name", "promise"),
    [
        ("config.BG_TASK_COMPLETE_EVENTS_SEEN", promises.W9),
        ("config.SESSION_AGENT_CACHE", promises.A1),
        ("session_lifecycle._sessions", promises.L9),
        ("run_journal._WRITER_LOCKS", promises.T6),
        ("objects of queue.Queue", promises.C11),
        ("config.ACTIVE_RUNS", promises.T3),
        ("objects of sqlite3.Connection", promises.D8),
    ],
)
def test_growth_breaks_the_promise_about_its_content_too(name: str, promise: Promise) -> None:
    """Its name says what it contains."""
    (anomaly,) = judged(("grew", {"name": name}, True))

    assert promise in anomaly.also
