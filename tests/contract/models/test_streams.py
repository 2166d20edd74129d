"""Tests of the models of stream endpoints: right answers, and each breach."""

from __future__ import annotations

from typing import Any

import pytest

from harness.checkers.conformance import conforms
from harness.contract import promises
from harness.contract.models.leaving_readers import LeavingReadersModel
from harness.contract.models.stream_cursors import (
    BUFFERED,
    SNAPSHOT,
    State,
    check_cursors,
    judged,
    run_events,
)
from harness.core.contract import Promise
from harness.core.history import History, Operation, Outcome
from harness.core.model import Refusal

TOKENS = 3
LARGE = 2000  # tokens, more than a server keeps in memory
PREPARED = {
    run: [shown.split()[0] for shown in run_events(run, TOKENS)][: TOKENS if run == "killed" else 9]
    for run in ("earlier", "killed", "rested", "previous", "gone", "current", "others")
}


class CursorsModel:
    """The check of one answer, as a model."""

    name = "stream-cursors"

    def initial(self) -> State:
        return State(TOKENS)

    def step(self, state: State, operation: Operation) -> tuple[State] | Refusal:
        return judged(state, operation) or (state,)


def operation(function: str, argument: Any, result: Any, at: int = 2) -> Operation:
    return Operation(0, function, argument, Outcome.OK, at, at + 1, result)


def read(endpoint: str, subject: str, cursor: str | None, result: Any) -> History:
    argument = {"endpoint": endpoint, "subject": subject, "cases": [[cursor, "header", 0]]}
    made = operation("prepare", {"tokens": TOKENS}, PREPARED, 0)
    return History((made, operation("read", argument, [result])))


@pytest.mark.parametrize(
    ("endpoint", "subject", "cursor"),
    [
        ("run", "current", None),
        ("run", "previous", "previous:2"),
        ("run", "gone", "gone:1"),
        ("events", "own", "previous:1"),
        ("events", "idle", None),
        ("notices", "own", "notices-own:0"),
        ("gateway", "", None),
    ],
)
def test_predicted_answer_is_accepted(endpoint: str, subject: str, cursor: str | None) -> None:
    expected = State(TOKENS).answer(endpoint, subject, cursor, "header").to_json()
    assert not check_cursors(read(endpoint, subject, cursor, expected)).anomalies


def shown(*events: str, closed: bool = False, status: int = 200) -> dict[str, Any]:
    return {"status": status, "events": list(events), "closed": closed}


CURRENT = run_events("current", TOKENS)


@pytest.mark.parametrize(
    ("endpoint", "subject", "cursor", "answer", "broken"),
    [
        ("run", "current", None, shown(*CURRENT[1:]), promises.C3),
        ("run", "current", None, shown(CURRENT[0], *CURRENT), promises.C2),
        ("run", "current", None, shown(*reversed(CURRENT)), promises.C1),
        ("run", "current", "current:2", shown(*CURRENT), promises.C4),
        ("run", "current", "previous:6", shown(*CURRENT), promises.C4),
        ("events", "own", "previous:6", shown(), promises.C4),
        ("events", "own", "others:1", shown(*run_events("others", TOKENS)), promises.C5),
        ("notices", "own", None, shown("initial - own - - -"), promises.C7),
        ("notices", "deleted", None, shown("initial - deleted - - -"), promises.C4),
        ("run", "previous", None, shown(*run_events("previous", TOKENS)), promises.C6),
    ],
)
def test_wrong_answer_breaks_its_promise(
    endpoint: str, subject: str, cursor: str | None, answer: Any, broken: Promise
) -> None:
    (anomaly,) = check_cursors(read(endpoint, subject, cursor, answer)).anomalies
    assert anomaly.promise == broken


def grown(live: list[Any], ended: list[Any]) -> History:
    argument = {"tokens": TOKENS, "cursors": [None]}
    result = {"first": [["token", 1, 3, True]], "live": [live], "ended": [ended]}
    return History((operation("grow", argument, result),))


def followed(tokens: int, *first: list[Any]) -> History:
    """A growing run, as its first reader saw it; the later readers saw all of it."""
    every = ["token", 1, tokens, True]
    ended = [every, ["cancel", tokens + 1, tokens + 1, True]]
    result = {"first": list(first), "live": [[every]], "ended": [ended]}
    return History((operation("grow", {"tokens": tokens, "cursors": [None]}, result),))


BEFORE, GAP, AFTER = (
    ["token", 1, 900, True],
    [SNAPSHOT, 1000, 1000, True],
    ["token", 1001, LARGE, True],
)


@pytest.mark.parametrize("first", [[["token", 1, LARGE, True]], [BEFORE, GAP, AFTER], [GAP, AFTER]])
def test_reader_that_falls_behind_gets_a_snapshot(first: list[list[Any]]) -> None:
    assert not check_cursors(followed(LARGE, *first)).anomalies


@pytest.mark.parametrize(
    ("tokens", "first"),
    [
        (LARGE, [BEFORE, AFTER]),  # a gap that nothing declares
        (LARGE, [BEFORE, GAP]),  # the rest is missing
        (LARGE, [BEFORE, GAP, ["token", 1002, LARGE, True]]),  # one more is missing
        (LARGE, [BEFORE, GAP, ["token", 1000, LARGE, True]]),  # one that it declared missing
        (LARGE, [BEFORE, [SNAPSHOT, 899, 899, True], ["token", 900, LARGE, True]]),  # again
        (LARGE, [BEFORE, GAP, ["token", 1001, LARGE, False]]),  # with another text
        (BUFFERED, [["token", 1, 9, True], [SNAPSHOT, 10, 10, True], ["token", 11, 1024, True]]),
    ],
)
def test_undeclared_gap_of_a_growing_run_is_rejected(tokens: int, first: list[list[Any]]) -> None:
    """Also where the server still has every token in memory: then nothing can be missed."""
    (anomaly,) = check_cursors(followed(tokens, *first)).anomalies
    assert anomaly.promise == promises.C3


def test_run_read_whole_is_accepted() -> None:
    """A cancelled agent may show one token more."""
    live = [["token", 1, 3, True]]
    for last, text in ((3, True), (4, False)):
        ended = [["token", 1, last, text], ["cancel", last + 1, last + 1, True]]
        assert not check_cursors(grown(live, ended)).anomalies


@pytest.mark.parametrize(
    "live", [[["token", 2, 3, True]], [["token", 1, 3, False]], [["token", 1, 2, True]], []]
)
def test_run_read_in_part_is_rejected(live: list[Any]) -> None:
    ended = [["token", 1, 3, True], ["cancel", 4, 4, True]]
    (anomaly,) = check_cursors(grown(live, ended)).anomalies
    assert anomaly.promise == promises.C3


LEAVE = {"endpoint": "run", "way": "half", "moment": "sent", "readers": 3}
STALL = {"way": "half", "readers": 3}
STALLED: dict[str, Any] = {"left": {}, "ended": 3, "stalled": 3, "counted": 3}


@pytest.mark.parametrize(
    ("function", "argument", "result", "broken"),
    [
        ("leave", LEAVE, {"left": {"sse_streams": 3}, "ended": 3}, promises.C11),
        ("leave", LEAVE, {"left": {"streams_taken": -3}, "ended": 3}, promises.C11),
        ("leave", LEAVE, {"left": {}, "ended": 2}, promises.C11),
        ("leave", LEAVE, {"left": {"fds": 3}, "ended": 3}, promises.H8),
        ("leave_stalled", STALL, {**STALLED, "left": {"sse_stalled": 3}}, promises.C11),
        ("leave_stalled", STALL, {**STALLED, "ended": 2}, promises.C11),
        ("leave_stalled", STALL, {**STALLED, "counted": 6}, promises.H4),
        ("rest", {}, {"left": {"channels": 1}}, promises.H8),
        ("idle", {}, {"wakeups_above": 80, "cpu_ms_above": 0}, promises.H5),
    ],
)
def test_what_stays_behind_breaks_its_promise(
    function: str, argument: Any, result: Any, broken: Promise
) -> None:
    history = History((operation(function, argument, result),))
    (anomaly,) = conforms(LeavingReadersModel())(history).anomalies
    assert anomaly.promise == broken


def test_server_that_releases_all_is_accepted() -> None:
    answers = (
        operation("begin", {}, None),
        operation("leave", LEAVE, {"left": {}, "ended": 3}, 4),
        operation("leave_stalled", STALL, {**STALLED, "stalled": 2}, 5),
        operation("rest", {}, {"left": {}}, 6),
        operation("idle", {}, {"wakeups_above": 0, "cpu_ms_above": 0}, 8),
    )
    assert not conforms(LeavingReadersModel())(History(answers)).anomalies
