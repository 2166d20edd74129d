"""Tests of the model of a disturbed server: each fact, right and wrong."""

from __future__ import annotations

from typing import Any

import pytest

from harness.checkers.conformance import conforms
from harness.contract import promises
from harness.contract.models.disturbances import DisturbancesModel
from harness.core.contract import Promise
from harness.core.history import History, Operation, Outcome

KEPT = {"status": 200, "keeps": True, "one": 1, "two": 1, "whole": True, "torn": False}
CUT = {**KEPT, "keeps": False, "one": 0}
RACED = {"begun": 1, "status": 200, "once": True, "whole": True}
CHANGE, START, NAME, KIND = {"change": "x"}, {"kind": "start"}, {"name": "read"}, {"kind": "noise"}
WOKEN = ["before", "after"]
FACTS = [
    ("interfere", CHANGE, KEPT, {**KEPT, "status": 500}, promises.H2),
    ("interfere", CHANGE, KEPT, {**KEPT, "status": 0}, promises.H2),
    ("interfere", CHANGE, KEPT, {**KEPT, "torn": True}, promises.A2),
    ("interfere", CHANGE, KEPT, {**KEPT, "two": 2}, promises.S2),
    ("interfere", CHANGE, KEPT, {**KEPT, "whole": False}, promises.S2),
    ("interfere", CHANGE, KEPT, {**KEPT, "one": 0}, promises.S2),
    ("interfere", CHANGE, CUT, {**CUT, "one": 1}, promises.S6),
    ("interfere", CHANGE, {**CUT, "two": 0, "whole": False}, {**CUT, "two": 2}, promises.S2),
    ("interfere", CHANGE, {**CUT, "status": 409, "one": 1}, {**CUT, "status": 409}, promises.S2),
    ("interfere", CHANGE, KEPT, {**KEPT, "status": 201}, promises.H2),
    ("interfere", CHANGE, CUT, {**CUT, "status": 409, "one": 1, "two": 0}, promises.S2),
    ("raced", START, RACED, {**RACED, "begun": 2}, promises.T1),
    ("raced", START, RACED, {**RACED, "status": 409}, promises.T3),
    ("raced", START, RACED, {**RACED, "once": False}, promises.S2),
    ("raced", START, RACED, {**RACED, "whole": False}, promises.T3),
    ("beside_locked", NAME, {"status": 404}, {"status": 503}, promises.D3),
    ("beside_locked", NAME, {"status": 200, "kept": True}, {"status": 0}, promises.D3),
    ("beside_locked", NAME, {"status": 200}, {"status": 200, "kept": False}, promises.D3),
    ("beside_locked", NAME, {"status": 200}, {"status": 199}, promises.H2),
    ("beside_committing", NAME, 200, 410, promises.H2),
    ("beside_committing", NAME, 409, 0, promises.L14),
    ("beside_committing", NAME, 200, 500, promises.L14),
    ("outlived", {"by": "nothing"}, True, False, promises.A2),
    ("followed", {"opened": "head"}, True, False, promises.C3),
    ("woken_beside", KIND, WOKEN, ["before", "", "after"], promises.W13),
    ("woken_beside", KIND, WOKEN, ["before", "before", "after"], promises.W13),
    ("woken_beside", KIND, WOKEN, ["before"], promises.W2),
]


def judged(function: str, argument: Any, result: Any, outcome: Outcome = Outcome.OK) -> list[Any]:
    operation = Operation(0, function, argument, outcome, 0, 0, result, "")
    return [each.promise for each in conforms(DisturbancesModel())(History((operation,))).anomalies]


@pytest.mark.parametrize(("function", "argument", "right", "wrong", "promise"), FACTS)
def test_wrong_fact_breaks_its_promise(
    function: str, argument: Any, right: Any, wrong: Any, promise: Promise
) -> None:
    """The right one breaks none."""
    assert not judged(function, argument, right)
    assert judged(function, argument, wrong) == [promise]


def test_call_without_an_answer_is_refused() -> None:
    """A fact that is unknown is no right one."""
    assert judged("raced", START, None, Outcome.FAIL) == [promises.H2]
