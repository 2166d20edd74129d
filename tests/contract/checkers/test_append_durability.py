"""Tests of the checker of appends across kills."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from harness.contract import promises
from harness.contract.checkers.state_db.append_durability import check_append_durability
from harness.core.contract import Promise
from harness.core.history import History, Operation, Outcome
from harness.core.verdict import Verdict


def _op(at: int, function: str, outcome: Outcome, result: Any = None, **argument: Any) -> Operation:
    completed = None if outcome is Outcome.INFO else at + 1
    error = "" if outcome is Outcome.OK else "OperationalError: no"
    return Operation(0, function, argument, outcome, at, completed, result, error)


def _judge(outcome: Outcome, *rows: str, count: int | None = None) -> Verdict:
    append = _op(0, "append", outcome, session="s", text="a")
    read = _op(2, "messages", Outcome.OK, [["user", text] for text in rows], session="s")
    counted = {"message_count": len(rows) if count is None else count, "rows": len(rows)}
    counters = _op(4, "counters", Outcome.OK, counted, session="s")
    return check_append_durability(History((append, read, counters)))


def test_append_with_lost_reply_may_exist() -> None:
    """An append without a reply may have happened or not.

    C0: |--- append("a") ---  killed
    C1:                           |--- messages() -> [] or ["a"] ---|
    """
    assert _judge(Outcome.INFO).is_valid
    assert _judge(Outcome.INFO, "a").is_valid
    assert _judge(Outcome.OK, "a").is_valid


@pytest.mark.parametrize(
    ("outcome", "rows", "count", "name", "broken"),
    [
        (Outcome.OK, [], None, "lost-write", promises.D1),
        (Outcome.OK, ["a", "a"], None, "doubled-write", promises.D2),
        (Outcome.INFO, ["a", "a"], None, "doubled-write", promises.D2),
        (Outcome.FAIL, ["a"], None, "refused-write", promises.D2),
        (Outcome.INFO, ["b"], None, "phantom", promises.D2),
        (Outcome.OK, ["a"], 2, "drift", promises.D2),
    ],
)
def test_wrong_rows_after_a_kill_are_named(
    outcome: Outcome, rows: list[str], count: int | None, name: str, broken: Promise
) -> None:
    """Each kind of wrong state has its own anomaly and promise."""
    anomalies = {
        found.name: found.promise for found in _judge(outcome, *rows, count=count).anomalies
    }
    assert anomalies.get(name) is broken


def test_refused_call_is_an_anomaly() -> None:
    """A refusal while opening counts as well."""
    read = _op(0, "list", Outcome.FAIL)
    append = _op(2, "append", Outcome.FAIL, session="s", text="a")
    opened = replace(append, error="OperationalError: while opening: database is locked")
    verdict = check_append_durability(History((read, append, opened)))
    broken = [anomaly.promise for anomaly in verdict.anomalies]
    assert broken == [promises.D8, promises.D3, promises.D8]


def test_lock_that_outlives_its_holder_is_an_anomaly() -> None:
    """The probe finds the write lock held after the kill."""
    probe = _op(0, "probe", Outcome.OK, {"locked": True, "integrity": "ok"})
    (anomaly,) = check_append_durability(History((probe,))).anomalies
    assert anomaly.promise == promises.D5
