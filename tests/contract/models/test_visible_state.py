"""Tests that the model of the visible state refuses each field that an answer has wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from harness.checkers.conformance import conforms
from harness.contract import promises
from harness.contract.checkers.server.back_to_zero import resting
from harness.contract.models.answers import AtLeast, OneOf, Span, Text, difference
from harness.contract.models.visible_state import JSON_HEADERS, STREAM_TYPE, VisibleStateModel
from harness.core.contract import Promise
from harness.core.history import History, Operation, Outcome

TURN = "<turn of r1>"
ROW: dict[str, Any] = {
    **dict.fromkeys(("model", "profile", "workspace", "personality", "active_stream_id")),
    **dict.fromkeys(("pending_started_at", "truncation_watermark", "shrunk_at")),
    "session_id": "<s1>",
    "version": 1,
    "title": "Untitled",
    "created_at": 1,
    "updated_at": 1,
    "intentional_shrink_generation": 0,
    "message_count": 0,
    "has_pending_user_message": False,
}
STARTED = {
    "stream_id": "<r1>",
    "session_id": "<s1>",
    "pending_started_at": 2,
    "turn_id": TURN,
    "title": "Untitled",
    "effective_model": "scripted-agent",
    "effective_model_provider": "scripted",
}
HELD = "hold [tokens=1][sleep=900]"
Call = tuple[str, dict[str, Any], Any]
EVENTS = [["<r1>:1", "token", {"text": "0 "}]]


def answered(body: Any, status: int = 200) -> dict[str, Any]:
    """A whole answer."""
    return {"status": status, "headers": JSON_HEADERS, "whole": True, "body": body}


def call(method: str, path: str, name: str = "", **values: Any) -> dict[str, Any]:
    """The argument of a call."""
    place = "query" if method == "GET" else "body"
    return {"method": method, "path": path, place: values, "name": name}


def history(*calls: tuple[str, dict[str, Any], Any]) -> History:
    return History(
        tuple(
            Operation(0, function, argument, Outcome.OK, 2 * at, 2 * at + 1, result, "")
            for at, (function, argument, result) in enumerate(calls)
        )
    )


BOOT: Call = ("boot", {}, None)
NEW = (
    "call",
    call("POST", "/api/session/new", "<s1>"),
    answered({"session": {**ROW, "messages": []}}),
)
START = (
    "call",
    call("POST", "/api/chat/start", "<r1>", session_id="<s1>", message=HELD),
    answered(STARTED),
)
GONE = answered({"error": "no such session"}, 404)


def promise_of(*calls: tuple[str, dict[str, Any], Any]) -> Promise | None:
    """The promise that the last answer breaks; the others must be accepted."""
    check = conforms(VisibleStateModel())
    assert check(history(*calls[:-1])).is_valid
    anomalies = check(history(*calls)).anomalies
    return anomalies[0].promise if anomalies else None


def read(path: str, **result: Any) -> tuple[str, dict[str, Any], Any]:
    query = {"stream_id": "<r1>"}
    answer = {"status": 200, "type": STREAM_TYPE, "events": EVENTS, "closed": False, **result}
    return "read", {"path": path, "query": query, "events": 1}, answer


LOST = Operation(0, "boot", {}, Outcome.INFO, 0, 1, None, "TargetLostError: timed out")


def wrong_stories() -> Iterator[tuple[VisibleStateModel, Sequence[Operation]]]:
    """Stories that end with a wrong answer."""
    wrong_boot: Call = ("boot", {}, 1)
    lasts: tuple[Call, ...] = (
        read("/api/chat/stream", events=[]),
        ("conclude", {"session": "<s1>"}, True),
        wrong_boot,
    )
    for last in lasts:
        yield VisibleStateModel(), history(BOOT, NEW, START, last).operations
    yield VisibleStateModel(), [LOST]


def test_right_answers_are_accepted() -> None:
    """A session, its held run, and a second start that is refused with the run."""
    refused = answered({"error": "busy", "active_stream_id": "<r1>"}, 409)

    assert promise_of(BOOT, NEW, START, read("/api/chat/stream")) is None
    assert promise_of(BOOT, NEW, START, (*START[:2], refused)) is None


@pytest.mark.parametrize("field", sorted(ROW))
def test_each_wrong_field_of_a_row_is_refused(field: str) -> None:
    """Whatever the field, no other value passes."""
    wrong = {**ROW, field: "another"}

    assert promise_of(BOOT, (*NEW[:2], answered({"session": {**wrong, "messages": []}})))


@pytest.mark.parametrize(
    ("last", "promise"),
    [
        (("call", call("GET", "/api/session", session_id="<s2>"), answered({})), promises.H2),
        ((*START[:2], answered(STARTED)), promises.T1),
        (
            (*START[:2], answered({"error": "busy", "active_stream_id": None}, 409)),
            promises.T1,
        ),
        ((*START[:2], answered({"error": "internal"}, 500)), promises.H6),
        (read("/api/chat/stream", events=[["<r1>:2", "token", {"text": "0 "}]]), promises.T3),
        (("conclude", {"session": "<s1>"}, True), promises.T3),
        (("boot", {}, 1), promises.H3),
    ],
)
def test_wrong_answer_breaks_its_promise(last: Any, promise: Promise) -> None:
    """While a run is held."""
    assert promise_of(BOOT, NEW, START, last) is promise


def test_wish_that_is_dropped_breaks_t9() -> None:
    """A session that was asked for with a model, and does not have it."""
    new = call("POST", "/api/session/new", "<s1>", model="m")
    kept = answered({"session": {**ROW, "model": "m", "messages": []}})

    assert promise_of(BOOT, ("call", new, kept)) is None
    assert promise_of(BOOT, ("call", new, NEW[2])) is promises.T9


def test_wrong_model_of_a_turn_breaks_m4() -> None:
    """A session without a wish works with the default of the catalog."""
    wrong = (*START[:2], answered(STARTED | {"effective_model": "m"}))

    assert promise_of(BOOT, NEW, wrong) is promises.M4


def test_lost_answer_breaks_a_promise() -> None:
    """A server that hangs is not excused."""
    (anomaly,) = conforms(VisibleStateModel())(History((LOST,))).anomalies

    assert anomaly.promise is promises.H6


def test_deleted_session_is_found_nowhere() -> None:
    """An answer about it breaks S6."""
    deleted = answered({"ok": True, "state_db_cleanup_failed": False})
    delete = ("call", call("POST", "/api/session/delete", session_id="<s1>"), deleted)
    ask = call("GET", "/api/session/status", session_id="<s1>")

    assert promise_of(BOOT, NEW, delete, ("call", ask, GONE)) is None
    assert promise_of(BOOT, NEW, delete, ("call", ask, answered(ROW))) is promises.S6


@pytest.mark.parametrize(
    ("expected", "right", "wrong"),
    [
        (Span(2, 3), 3, 4),
        (Text(), "a", " "),
        (Text("[+-]1"), "+1", "+11"),
        (AtLeast(1), 1.5, 0),
        (OneOf((True, False)), True, 1),
        ({"a": [1]}, {"a": [1]}, {"a": [1, 1]}),
        ({"a": 1}, {"a": 1}, {"a": 1, "b": 1}),
        (True, True, 1),
    ],
)
def test_difference_finds_wrong_values(expected: Any, right: Any, wrong: Any) -> None:
    """Matchers accept what they describe, and values only themselves."""
    assert difference(expected, right) is None
    assert difference(expected, wrong) is not None


def test_gauge_above_its_first_value_breaks_h8() -> None:
    """An epilogue that leaves something behind, or gets no answer."""
    check = resting(conforms(VisibleStateModel()))

    assert check(history(BOOT, ("epilogue", {}, {"left": {}}))).is_valid
    (left,) = check(history(BOOT, ("epilogue", {}, {"left": {"channels": 1}}))).anomalies
    assert left.promise is promises.H8
    assert promises.C11 in left.also
