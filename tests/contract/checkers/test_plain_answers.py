"""Tests that calls of threads which never refuse, or return nothing, are held to that."""

from __future__ import annotations

from typing import Any

import pytest

from harness.contract import promises
from harness.contract.checkers.threads.plain_answers import with_plain_answers
from harness.core.history import History, Operation, Outcome
from harness.core.verdict import Anomaly, Verdict


def _silent_check(history: History) -> Verdict:  # noqa: ARG001 - a checker's signature
    return Verdict()


JUDGE = with_plain_answers(_silent_check, promises.C9, accepted=("stop",), silent=("stop", "begin"))


def _operation(function: str, outcome: Outcome = Outcome.OK, result: Any = None) -> Operation:
    return Operation(1, function, None, outcome, 1, 2, result, "" if result is None else "busy")


@pytest.mark.parametrize(
    ("operation", "name"),
    [
        (_operation("stop", Outcome.FAIL), "refused"),
        (_operation("stop", result=1), "unexpected-answer"),
        (_operation("begin", result=0), "unexpected-answer"),
    ],
)
def test_plain_answer_of_another_kind_is_an_anomaly(operation: Operation, name: str) -> None:
    """A refusal, and an answer other than None, are anomalies of the promise."""
    (anomaly,) = JUDGE(History((operation,))).anomalies
    assert (anomaly.name, anomaly.promise) == (name, promises.C9)


@pytest.mark.parametrize(
    "operation",
    [_operation("stop"), _operation("begin", Outcome.FAIL), _operation("read", result=[1])],
)
def test_plain_answer_as_expected_is_valid(operation: Operation) -> None:
    """None is expected, a refusal where one may come, and any answer of other functions."""
    assert not JUDGE(History((operation,))).anomalies


def test_plain_answers_keep_the_anomaly_of_the_checker() -> None:
    """What the room's checker finds comes first, and alone."""
    found = Verdict((Anomaly(promises.C1, "out of order"),))
    judge = with_plain_answers(lambda _: found, promises.C9, accepted=("stop",), silent=())
    assert judge(History((_operation("stop", Outcome.FAIL),))) is found
