"""Tests of what a model says of its state where it refuses an operation."""

from __future__ import annotations

from typing import Any

import pytest

from harness.checkers.conformance import conforms
from harness.checkers.linearizability import linearizable
from harness.contract import promises
from harness.core.history import History, Operation, Outcome
from harness.core.model import Refusal
from harness.core.state_rows import StateRow
from harness.core.verdict import Anomaly


class Tally:
    """A count: `add` gives the new one, which `lists_results`, `knows_after` or else is unknown."""

    name = "tally"

    def __init__(self, kind: str = "lists_results") -> None:
        self._kind = kind

    def initial(self) -> int:
        """Nothing was added."""
        return 0

    def step(self, state: int, operation: Operation) -> tuple[int, ...] | Refusal:
        """The count after it."""
        after = state + operation.argument["n"]
        if operation.outcome is Outcome.INFO:
            return state, after
        if operation.outcome is Outcome.OK and operation.result == after:
            return (after,)
        return Refusal(
            promises.S2,
            "another count",
            (after,) if self._kind == "lists_results" else (),
            after=after if self._kind == "knows_after" else None,
        )


def add(number: int, result: Any, outcome: Outcome = Outcome.OK, process: int = 0) -> Operation:
    times = (number * 10, number * 10 + 5)
    return Operation(process, "add", {"n": 1}, outcome, *times, result)


def refused(model: Tally, *operations: Operation) -> Anomaly:
    (anomaly,) = conforms(model)(History(operations)).anomalies
    return anomaly


@pytest.mark.parametrize("kind", ["lists_results", "knows_after"])
def test_refusal_shows_state_before_and_after(kind: str) -> None:
    """After the expected answer, not after the observed one; an error is one too."""
    wrong = refused(Tally(kind), add(0, 1), add(1, 7))
    failed = refused(Tally(kind), add(0, 1), add(1, None, Outcome.FAIL))

    assert wrong.state == failed.state == (StateRow("state", "1", "2"),)


def test_unknown_answer_shows_state_before_alone() -> None:
    """The model does not say which answer it expects."""
    assert refused(Tally("knows none"), add(0, 7)).state == (StateRow("state", "0", None),)


def test_silent_model_shows_no_state() -> None:
    """Its state is no reason for anything."""
    silent = Tally()
    silent.shows_state = False  # type: ignore[attr-defined]

    assert refused(silent, add(0, 7)).state == ()


def test_state_is_stored_with_its_anomaly() -> None:
    """A document without it, such as that of an earlier version, is read too."""
    anomaly = refused(Tally(), add(0, 7))
    document = anomaly.to_json()

    assert Anomaly.from_json(document) == anomaly
    del document["state"]
    assert Anomaly.from_json(document).state == ()
    assert "state" not in Anomaly.from_json(document).to_json()


def test_order_with_one_possible_state_shows_it() -> None:
    """It is the state that the operations of the proof leave."""
    check = linearizable(Tally(), promises.S2)

    (anomaly,) = check(History((add(1, 1), add(2, 1)))).anomalies

    assert anomaly.state == (StateRow("state", "1", "2"),)
