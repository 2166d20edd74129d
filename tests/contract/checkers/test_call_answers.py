"""Tests of the checker of every answer: each wrong answer of a small sound history is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from harness.contract import promises
from harness.contract.checkers.server.call_answers import call_anomalies
from harness.contract.checkers.server.client_history import ClientHistory
from harness.core.contract import Promise
from harness.core.history import History, Outcome
from tests.contract.checkers.test_client_history import Builder, Rows, turn, wakeup

TALK, HELD, LAST = "a1 [tokens=2]", "a2 [process=0:w1][tokens=1][sleep=900]", "a3 [tokens=1]"
ROWS: Rows = [
    *turn(TALK, "0 1 That was turn 1 of a."),
    *turn(HELD, "0 ", "cancelled"),
    *wakeup("w1", 3, "a"),
]
ALL: Rows = [*ROWS, *turn(LAST, "0 That was turn 4 of a.")]
TEXTS = [row[:2] for row in ALL]
AT_REST = {
    "runs": 0,
    "wakeup_events": 0,
    "channel_subscribers": 0,
    "agents_kept": 1,
    "agents_cached": 1,
    "lifecycle_entries": 1,
    "channels": 2,
    "channel_frames_kept": 1,
    "sessions_held": 2,
    "session_index_rows": 2,
    "turn_journal": 4,
    "processes_finished": 1,
}
FRESH = {
    **AT_REST,
    "agents_kept": 0,
    "agents_cached": 0,
    "lifecycle_entries": 0,
    "processes_finished": 0,
    "channel_frames_kept": 0,
}
ENDED: list[Any] = ["p-w1", 5.0]
SEEN = ("n:1", "process_watch_match", "a", "p-w1", None)
INITIAL = ["", "initial", "a", None, None]


def sound() -> Builder:
    """A turn, a cancelled one that starts a process, a wakeup, a kill, and every view at rest."""
    built = Builder()
    built.add("boot", {"pid": 1, "port": 1})
    for session in ("a", "b"):
        built.add("new", session=session, previous=None)
    built.send("a", TALK, "r1")
    built.relay("r1", [(1, "token", "0 "), (2, "token", "1 "), (3, "stream_end", "")])
    built.read("a", ROWS[:2])
    built.send("a", HELD, "r2")
    built.add("runs", [["a", "r2", "running"]])
    built.add("status", {"busy": True, "run": "r2"}, session="a")
    built.add("deferred", 1, least=1)
    built.read("a", ROWS[:2], pending=HELD)
    built.add("cancel", result=True, run="r2")
    built.relay("r2", [(1, "token", "0 "), (2, "cancel", "")])
    built.add("cancel", result=False, run="r1")
    ends = [("n:1", name, "a", *ENDED) for name in ("bg_task_complete", "process_complete")]
    for _ in range(2):
        built.watch("a", [SEEN, ("n:2", *ends[0][1:]), ("n:3", *ends[1][1:])])
    built.add("settled", result=True)
    built.send("a", LAST, "r3")
    _come_to_rest(built, AT_REST)
    built.add("kill")
    for session, rows in (("a", ALL), ("b", [])):
        built.add("kept", {"rows": rows, "pending": None}, session=session)
    built.add("boot", {"pid": 2, "port": 2})
    _come_to_rest(built, FRESH)
    copies = {"sidecar": TEXTS, "database": TEXTS, "index": len(ALL)}
    built.add("copies", copies, session="a")
    return built


def _come_to_rest(built: Builder, sizes: dict[str, int]) -> None:
    built.add("rest", {"left": {}}, at_most={})
    for session, rows in (("a", ALL), ("b", [])):
        built.read(session, rows)
        built.add("status", {"busy": False, "run": None}, session=session)
        built.add("offered", None, session=session)
    built.add("sessions", ["a", "b"])
    built.add("gauges", sizes)


def broken(built: Builder) -> set[Promise]:
    """The promises that a history breaks, in which each call takes seconds."""
    slowly = [
        replace(
            op,
            invoked_ns=op.invoked_ns * 2 * 10**8,
            completed_ns=None if op.completed_ns is None else op.completed_ns * 2 * 10**8,
        )
        for op in built.operations
    ]
    anomalies = call_anomalies(ClientHistory(History(tuple(slowly))))
    return {promise for anomaly in anomalies for promise in anomaly.promises}


def test_sound_answers_are_valid() -> None:
    """Nothing is wrong with it."""
    assert not broken(sound())


def _with(**fields: Any) -> Callable[[Any], Any]:
    return lambda result: {**result, **fields}


WRONG: tuple[tuple[str, dict[str, Any], Callable[[Any], Any], Promise], ...] = (
    ("new", {}, lambda _: {}, promises.H2),
    ("boot", {}, _with(pid=1), promises.H2),
    ("send", {"text": LAST}, _with(status=201), promises.H2),
    ("send", {"text": LAST}, _with(run="r1"), promises.T1),
    ("send", {"text": LAST}, _with(run="r1x"), promises.T1),
    ("runs", {}, lambda _: [], promises.T1),
    ("runs", {}, lambda _: [["b", "r2", "running"]], promises.T1),
    ("runs", {}, lambda _: [["a", "r2", "resting"]], promises.T1),
    ("status", {"session": "a"}, _with(busy=True), promises.T3),
    ("offered", {"session": "b"}, lambda _: "r3", promises.T3),
    ("cancel", {"run": "r1"}, lambda _: True, promises.T4),
    ("cancel", {"run": "r2"}, lambda _: False, promises.T4),
    ("deferred", {}, lambda _: 0, promises.W3),
    ("deferred", {}, lambda _: 2, promises.W9),
    ("settled", {}, lambda _: False, promises.W5),
    ("relay", {"run": "r1"}, _with(end="open"), promises.C6),
    ("relay", {"run": "r1"}, _with(end="lost"), promises.C6),
    ("relay", {"run": "r2"}, _with(rows=[["r2:1", "token", "7 "]]), promises.C3),
    ("watch", {}, _with(end="closed"), promises.C6),
    (
        "watch",
        {},
        _with(rows=[INITIAL, ["n:1", "bg_task_complete", "a", "p-w1", 5]]),
        promises.W1,
    ),
    ("watch", {}, _with(rows=[INITIAL, ["n:1", SEEN[1], "a", None, None]]), promises.C3),
    ("watch", {}, _with(rows=[INITIAL, ["", *SEEN[1:]]]), promises.C3),
    ("read", {"session": "a"}, _with(rows=ROWS), promises.S15),
    ("read", {"session": "a"}, _with(rows=ALL[2:]), promises.S15),
    ("read", {"session": "a"}, _with(rows=[*ALL[:2], *ALL[1:]]), promises.S2),
    ("read", {"session": "a"}, _with(rows=[["user", "never sent", ""], *ALL]), promises.S2),
    ("read", {"session": "b"}, _with(pending="never sent"), promises.S15),
    ("kept", {"session": "a"}, _with(pending=LAST), promises.S14),
    ("kept", {"session": "a"}, lambda _: None, promises.S14),
    ("sessions", {}, lambda _: ["a", "b", "b"], promises.S11),
    ("sessions", {}, lambda _: ["a", "b", "c"], promises.S11),
    ("sessions", {}, lambda _: ["b", "a"], promises.S8),
    ("copies", {}, _with(database=TEXTS[:-1]), promises.S14),
    ("copies", {}, _with(index=1), promises.S14),
    ("gauges", {}, _with(agents_kept=1), promises.A1),
    ("gauges", {}, _with(turn_journal=3), promises.T6),
    ("gauges", {}, _with(channels=1), promises.C9),
    ("gauges", {}, _with(channels=3), promises.C9),
    ("gauges", {}, _with(sessions_held=1), promises.A6),
    ("gauges", {}, _with(wakeup_events=1), promises.W9),
    ("gauges", {}, _with(channel_subscribers=-1), promises.H4),
)


@pytest.mark.parametrize(("function", "which", "act", "promise"), WRONG)
def test_wrong_answers_break_their_promise(
    function: str, which: dict[str, Any], act: Callable[[Any], Any], promise: Promise
) -> None:
    """The last such answer is changed."""
    built = sound()
    built.change(function, act, **which)

    assert promise in broken(built)


@pytest.mark.parametrize(
    ("function", "outcome", "error", "promise"),
    [
        ("read", Outcome.FAIL, "StatusError: GET /x: 404 {}", promises.S15),
        ("relay", Outcome.FAIL, "StatusError: GET /x: 404 {}", promises.C3),
        ("send", Outcome.FAIL, "StatusError: POST /x: 400 {}", promises.T8),
        ("status", Outcome.INFO, "TargetLostError: GET /x: TimeoutError('timed out')", promises.H6),
        ("runs", Outcome.INFO, "TargetLostError: GET /x: reset", promises.H3),
        ("runs", Outcome.FAIL, "NotReachedError: GET /x: refused", promises.H3),
    ],
)
def test_unexplained_refusals_break_their_promise(
    function: str, outcome: Outcome, error: str, promise: Promise
) -> None:
    """Long before the server is killed."""
    built = sound()
    at = next(i for i, op in enumerate(built.operations) if op.function == function)
    failed = replace(built.operations[at], outcome=outcome, result=None, error=error)
    built.operations[at] = failed

    assert promise in broken(built)
