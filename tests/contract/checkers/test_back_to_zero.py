"""Tests of the check that a server is back at its first values after every client has left."""

from __future__ import annotations

from typing import Any

import pytest

from harness.contract import promises
from harness.contract.checkers.server.back_to_zero import resting
from harness.core.history import History, Operation, Outcome
from harness.core.verdict import VALID, Verdict


def valid(_: History) -> Verdict:
    return VALID


def after(result: Any, outcome: Outcome = Outcome.OK) -> Verdict:
    """The verdict on an epilogue with this answer."""
    error = "TimeoutError: no answer" if outcome is Outcome.INFO else ""
    epilogue = Operation(0, "epilogue", {}, outcome, 1, 2, result, error)
    return resting(valid)(History((epilogue,)))


def test_server_at_its_first_values_is_valid() -> None:
    assert after({"left": {}}).is_valid


@pytest.mark.parametrize(
    ("gauge", "promise"),
    [
        ("channels", promises.C11),
        ("streams_taken", promises.C11),
        ("active_runs", promises.T3),
        ("wakeup_lines", promises.W9),
        ("threads", promises.H4),
    ],
)
def test_gauge_above_its_first_value_is_named(gauge: str, promise: Any) -> None:
    """H8, and the promise of what the gauge counts."""
    (anomaly,) = after({"left": {gauge: 1}}).anomalies

    assert anomaly.promise is promises.H8
    assert promise in anomaly.also
    assert gauge in anomaly.observed


def test_server_that_does_not_answer_is_not_back() -> None:
    (anomaly,) = after(None, Outcome.INFO).anomalies

    assert anomaly.promise is promises.H8
