"""Tests that the model of the visible state refuses each field that an answer has wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from harness.checkers.conformance import Fold, conforms
from harness.contract import promises
from harness.contract.checkers.server.back_to_zero import resting
from harness.contract.models.answers import AtLeast, OneOf, Span, Text, difference
from harness.contract.models.server import ServerModel
from harness.contract.models.server_answers import JSON_HEADERS, STREAM_TYPE, predicted
from harness.contract.models.server_values import COUNTED
from harness.contract.models.visible_state import RUN_JOURNAL, VisibleStateModel
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
    "title": "hold [tokens=1][sleep=900]",
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


RECORD: dict[str, Any] = {
    **dict.fromkeys(("title", "system_prompt", "user_id", "parent_session_id", "model_config")),
    "id": "<s1>",
    "source": "webui",
    "started_at": 2,
    "ended_at": 2,
    "end_reason": "user",
    "message_count": 0,
    "tool_call_count": 0,
    "usage": {**dict.fromkeys(("model", "billing_mode")), **dict.fromkeys(COUNTED, 0)},
}
END: Call = (
    "call",
    call("POST", "/api/session/end", session_id="<s1>"),
    answered(
        {
            "ok": True,
            "session": {
                **ROW,
                "version": 2,
                "updated_at": 2,
                "ended_at": 2,
                "end_reason": "user",
            },
        }
    ),
)


def recorded(**values: Any) -> Call:
    """The row of the session in state.db."""
    asked = call("GET", "/api/session/record", session_id="<s1>")
    return "call", asked, answered({"record": {**RECORD, **values}})


def pruned(days: int, count: int) -> Call:
    """Old sessions are deleted."""
    asked = call("POST", "/api/sessions/prune", older_than_days=days)
    return "call", asked, answered({"ok": True, "pruned": count})


@pytest.mark.parametrize(
    ("last", "promise"),
    [
        (recorded(), None),
        (recorded(ended_at=None), promises.D13),
        (recorded(usage={**RECORD["usage"], "input_tokens": 1}), promises.D13),
        (recorded(message_count=1), promises.S14),
        (pruned(0, 1), None),
        (pruned(0, 0), promises.D13),
        (pruned(1, 1), promises.D13),
    ],
)
def test_record_and_prune_follow_the_end(last: Call, promise: Promise | None) -> None:
    """D13: an ended session is pruned by the age of its start, and its row says all of it."""
    assert promise_of(BOOT, NEW, END, last) is promise


def test_session_that_began_days_ago_is_pruned() -> None:
    """D13: its row says when it began, and what ended lately began long ago."""
    left: Call = ("kill", {"left": {"<s1>": "age"}}, None)

    assert promise_of(BOOT, NEW, END, left, recorded(started_at=-1)) is None
    assert promise_of(BOOT, NEW, END, left, recorded()) is promises.S14
    assert promise_of(BOOT, NEW, END, left, pruned(1, 1)) is None
    assert promise_of(BOOT, NEW, END, left, pruned(1, 0)) is promises.D13
    assert promise_of(BOOT, NEW, END, left, pruned(2, 1)) is promises.D13


def test_pruned_session_in_a_list_is_rejected() -> None:
    """S6 and D13, besides what the list breaks."""
    row = {**ROW, "version": 2, "updated_at": 2, "ended_at": 2, "end_reason": "user"}
    about = {"webui_session_count": 1, "server_time": 4, "server_tz": "+0000"}
    asked = call("GET", "/api/sessions")
    shown: Call = ("call", asked, answered({"sessions": [row], **about}))
    none: Call = ("call", asked, answered({"sessions": [], **about, "webui_session_count": 0}))

    check = conforms(VisibleStateModel())
    assert check(history(BOOT, NEW, END, pruned(0, 1), none)).is_valid
    (anomaly,) = check(history(BOOT, NEW, END, pruned(0, 1), shown)).anomalies
    assert {promises.S6, promises.D13} <= {anomaly.promise, *anomaly.also}


def test_session_of_another_program_stays() -> None:
    """D1: neither a start nor a prune of other sessions removes it."""
    left: Call = ("kill", {"left": {"<f>": "foreign"}}, None)

    def stored(title: str) -> Call:
        copy = {"title": title, "count": 0, "texts": []}
        copies = {"database": copy, "search": copy}
        rest = {"runs": {}, "tool_calls": {"count": 0, "calls": []}, "details": []}
        found = {"files": [], "index": None, "copies": copies, **rest}
        return "stored", {"session": "<f>", "runs": []}, found

    assert promise_of(BOOT, left, stored("foreign")) is None
    assert promise_of(BOOT, left, stored("Untitled")) is promises.D1
    assert promise_of(BOOT, left, pruned(1, 0), stored("foreign")) is None
    assert promise_of(BOOT, left, pruned(0, 1), stored("Untitled")) is None
    assert promise_of(BOOT, left, pruned(0, 1), stored("foreign")) is promises.S6


def test_start_answers_the_title_of_its_request() -> None:
    """S15: the first request names the session; a later rename stays."""
    untitled = answered({**STARTED, "title": "Untitled"})
    assert promise_of(BOOT, NEW, (*START[:2], untitled)) is promises.S15

    renamed = {**ROW, "version": 2, "updated_at": 2, "title": "a name"}
    rename = call("POST", "/api/session/rename", session_id="<s1>", title="a name")
    name: Call = ("call", rename, answered({"ok": True, "session": renamed}))
    begun = {**STARTED, "pending_started_at": 3, "title": "a name"}
    assert promise_of(BOOT, NEW, name, (*START[:2], answered(begun))) is None


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


# Health -------------------------------------------------------------------------------------------


def filled(expected: Any) -> Any:
    """A value that a predicted one accepts."""
    match expected:
        case Span(first, _):
            return first
        case AtLeast(least):
            return least
        case OneOf(values):
            return values[0]
        case dict():
            return {name: filled(value) for name, value in expected.items()}
        case list() | tuple():
            return [filled(value) for value in expected]
    return expected


def health(path: str, **query: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The argument and a right answer of a health request, with a run since call 2."""
    argument = call("GET", path, **query)
    fold = Fold(VisibleStateModel())
    for operation in history(BOOT, NEW, START):
        fold.step(operation)
    (state,) = fold.states
    return argument, filled(predicted(replace(state, clock=state.clock + 1), argument).body)


def blamed(argument: dict[str, Any], body: Any) -> Promise | None:
    return promise_of(BOOT, NEW, START, ("call", argument, answered(body)))


def test_age_dates_the_oldest_run() -> None:
    """Its age is as long as the run, and an uptime ends with the answer."""
    argument, body = health("/health")

    assert blamed(argument, body) is None
    assert blamed(argument, {**body, "oldest_run_age_seconds": 3}) == promises.H4
    assert blamed(argument, {**body, "uptime_seconds": 2}) == promises.H4


def test_deep_health_says_what_it_checked() -> None:
    argument, body = health("/health", deep=1)
    checks = body.pop("checks")

    broken = {**checks, "state_db": {"status": "broken"}}

    assert blamed(argument, {**body, "checks": checks}) is None
    assert blamed(argument, body) == promises.H4
    assert blamed(argument, {**body, "checks": broken}) == promises.H4


def test_fields_of_one_answer_agree() -> None:
    """The same size stands in two places of a health response."""
    argument, body = health("/api/system/health")
    held = {**body["containers"], "sessions_held": 5}

    assert blamed(argument, body) is None
    assert blamed(argument, {**body, "containers": held}) == promises.H4


@pytest.mark.parametrize(("tokens", "also"), [(1, None), (None, (promises.T4,))])
def test_cut_short_reply_keeps_its_parts(
    tokens: int | None, also: tuple[Promise, ...] | None
) -> None:
    """T4: on the disk, a cancelled reply has the number of its tokens too."""
    texts = [["user", HELD], ["assistant", "0 "]]
    copy = {"title": HELD, "count": 2, "texts": texts}
    cancelled = answered({"ok": True, "cancelled": True, "stream_id": "<r1>"})
    stored = {
        "files": ["<s1>.json", f"{RUN_JOURNAL}<s1>/<r1>.jsonl"],
        "index": [HELD, 2],
        "copies": {"database": copy, "search": copy, "sidecar": copy},
        "runs": {"<r1>": "0 "},
        "tool_calls": {"count": 0, "calls": []},
        "details": [[None, None, None], ["cancelled", None, tokens]],
    }
    calls = (
        *(BOOT, NEW, START, read("/api/chat/stream")),
        ("call", call("GET", "/api/chat/cancel", stream_id="<r1>"), cancelled),
        ("conclude", {"session": "<s1>"}, True),
        ("stored", {"session": "<s1>"}, stored),
    )

    anomalies = conforms(VisibleStateModel())(history(*calls)).anomalies

    assert [anomaly.also for anomaly in anomalies] == ([] if also is None else [also])


def test_late_greeting_names_its_promise() -> None:
    """C7: a client that watches a session waits in vain for the count that it lacks."""
    open_ = Operation(0, "watch", {"session": "s1"}, Outcome.FAIL, 4, 5, None, "StillOpenError: x")
    made = Operation(0, "new", {"session": "s1"}, Outcome.OK, 2, 3, None, "")

    (anomaly,) = conforms(ServerModel())(History((made, open_))).anomalies

    assert (anomaly.promise, anomaly.also) == (promises.S2, (promises.C7,))
