"""Tests of the checker of struck turns: an allowed history, and one wrong in one place."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from harness.contract import promises
from harness.contract.checkers.threads.struck_turns import check_struck_turns
from harness.core.contract import Promise
from harness.core.history import History, Operation, Outcome

DONE = [[1, "token", "one "], [2, "token", "two"], [3, "done", None], [4, "stream_end", None]]
ERROR = [*DONE[:2], [3, "apperror", None]]
CANCEL = [*DONE[:2], [3, "cancel", None]]


def turn(script: str = "talk", **more: Any) -> Operation:
    """A turn without a fault."""
    cancelled = True if script == "cancel" else None
    result = {"start": "begun", "cancelled": cancelled, "ended": True}
    return Operation(0, "turn", {"run": "r", "script": script, **more}, Outcome.OK, 0, 1, result)


def struck(outcome: Outcome, strike: str = "kill", script: str = "talk", **more: Any) -> Operation:
    """A turn that met a fault."""
    argument = {"run": "r", "script": script, "strike": strike, "at": 3, **more}
    result = {"start": "begun", "cancelled": None, "ended": True, "struck": True, "changes": 9}
    error = "OSError: [Errno 5] Input/output error" if outcome is Outcome.FAIL else ""
    is_ok = outcome is Outcome.OK
    return Operation(0, "struck", argument, outcome, 0, 1, result if is_ok else None, error)


def look(mark: str = "", end: Any = DONE, state: str = "completed", **more: Any) -> Operation:
    """All copies of a run that replied."""
    reply = ["assistant", "one two", mark]
    shown = ["one ", "two", *(row[1] for row in end if row[1] != "token")]
    found = {
        "messages": {"r": [["user", "r talk", "" if mark == "error" else mark], reply]},
        "streams": {"r": [end]},
        "turns": {"r": [state]},
        "shown": {"r": shown},
        "busy": False,
        "left": {},
        **more,
    }
    return Operation(0, "look", {}, Outcome.OK, 2, 3, copy.deepcopy(found))


REQUEST, REPLY = ["user", "r talk", ""], ["assistant", "one two", ""]
KILLED = struck(Outcome.INFO)
INTERRUPTED = look("interrupted", ERROR, "interrupted", shown={"r": ["one ", "two"]})
NOTHING = look(messages={}, streams={}, turns={}, shown={})
REFUSED = struck(Outcome.FAIL, "broken once")
HURT = struck(Outcome.OK, "broken once")


def blamed(*operations: Operation) -> Promise | None:
    """The promise that the checker reports as broken; None for a valid history."""
    anomalies = check_struck_turns(History(operations)).anomalies
    return anomalies[0].promise if anomalies else None


@pytest.mark.parametrize(
    "operations",
    [
        (turn(), look()),
        (KILLED, INTERRUPTED),
        (KILLED, look()),
        (KILLED, NOTHING),
        (KILLED, look(messages={}, streams={"r": [[]]}, turns={}, shown={})),
        (REFUSED, NOTHING),
        (HURT, look("interrupted", ERROR, "interrupted")),
        (HURT, look(end=ERROR, state="started")),
    ],
)
def test_right_history_is_valid(operations: tuple[Operation, ...]) -> None:
    """Turns that end, are interrupted, or never begin."""
    assert blamed(*operations) is None


@pytest.mark.parametrize(
    ("operations", "promise"),
    [
        ((turn(), look(busy=True)), promises.T3),
        ((turn(), look(left={"run_writers": 1})), promises.T3),
        ((turn(), look(messages={})), promises.T2),
        ((turn(), look("interrupted", ERROR, "interrupted")), promises.T3),
        ((turn(), look(end=[*DONE[:3], *DONE[2:]])), promises.T5),
        ((turn(), look(end=[*DONE[:3], [4, "done", None]])), promises.T3),
        ((turn(), look(state="started")), promises.T3),
        ((turn(), look(streams={"r": []})), promises.T3),
        ((turn(), look(turns={})), promises.T3),
        ((KILLED, look("interrupted", DONE, "interrupted")), promises.T3),
        ((KILLED, look("error", DONE, "completed")), promises.T3),
        ((KILLED, look(messages={"r": [["user", "r talk", ""]]})), promises.S13),
        ((KILLED, look(messages={"r": [["user", "r talk", ""]] * 2})), promises.S13),
        ((KILLED, look(end=DONE[:2])), promises.T3),
        ((KILLED, look(shown={"r": ["one ", "two", "cancel"]})), promises.T3),
        ((struck(Outcome.INFO, wakeup=True), look(messages={})), promises.W4),
        ((REFUSED, look()), promises.S10),
        ((struck(Outcome.FAIL), NOTHING), promises.T3),
        ((struck(Outcome.OK, at=10), look()), promises.T3),
        ((struck(Outcome.OK, at=3), look()), promises.T3),
        ((KILLED, look(messages={"r": [REPLY, REQUEST]})), promises.S2),
        ((KILLED, look(messages={"r": [REQUEST, REPLY, ["assistant", "", ""]]})), promises.S2),
        ((KILLED, look(shown={"r": ["two", "one "]})), promises.S13),
        ((KILLED, look(shown={"r": ["one ", "tow"]})), promises.T5),
        ((KILLED, look(turns={"r": ["completed"] * 2})), promises.T3),
        ((KILLED, look(end=[*DONE[:3], [4, "stream_end", "x"]])), promises.T3),
        ((turn(), look(shown={"r": ["one ", "done", "stream_end"]})), promises.T3),
        ((turn(), look(messages={"r": [REQUEST]})), promises.S13),
        ((turn(), look(messages={"q": [["user", "q", ""]]}, shown={})), promises.T2),
    ],
)
def test_wrong_history_names_the_promise(
    operations: tuple[Operation, ...], promise: Promise
) -> None:
    """One copy is wrong in each history."""
    assert blamed(*operations) == promise
