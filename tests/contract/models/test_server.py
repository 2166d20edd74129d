"""Tests that the models of a server refuse wrong answers and accept right ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.checkers.conformance import conforms
from harness.contract import promises
from harness.contract.models.backpressure import FEW_FILES, BackpressureModel
from harness.contract.models.bad_input import BadInputModel
from harness.contract.models.catalog_over_http import CatalogOverHttpModel
from harness.contract.models.notifications import NotificationsModel
from harness.contract.models.server import ServerModel
from harness.contract.models.settings import SettingsModel
from harness.core.contract import Promise
from harness.core.history import History, Operation, Outcome
from harness.core.model import Model, Refusal
from harness.targets.server.backpressure import SNAPSHOT, is_whole
from scenarios.server import openapi

HELD = "r1 [sleep=900]"
SHORT = "r1 [tokens=1]"
BEGUN = {"status": 200, "active": None}
Call = tuple[str, dict[str, Any], Any]  # function, argument, result; an exception if it failed


def judged(model: Model[Any], *calls: Call) -> Promise | None:
    """The promise that the last of these answers broke; the others must be accepted."""
    operations = tuple(operations_of(calls))
    assert conforms(model)(History(operations[:-1])).is_valid
    verdict = conforms(model)(History(operations))
    return verdict.anomalies[0].promise if verdict.anomalies else None


def operations_of(calls: Sequence[Call]) -> Iterator[Operation]:
    for at, (function, argument, result) in enumerate(calls):
        fields: dict[str, Any] = {"outcome": Outcome.OK, "result": result}
        if isinstance(result, Exception):
            fields = {"outcome": Outcome.FAIL, "error": str(result)}
        yield Operation(0, function, argument, invoked_ns=2 * at, completed_ns=2 * at + 1, **fields)


def of_session(function: str, result: Any, **argument: Any) -> Call:
    """A call about session s1."""
    return function, {"session": "s1", **argument}, result


def of_run(function: str, result: Any, **argument: Any) -> Call:
    """A call about run r1."""
    return function, {"run": "r1", **argument}, result


def stream(*ids: int | None, names: Sequence[str], closed: bool = True) -> dict[str, Any]:
    """The events of a stream."""
    return {"ids": list(ids), "names": list(names), "closed": closed}


NEW = of_session("new", None)
HOLD = of_session("send", BEGUN, run="r1", text=HELD)
TALK = of_session("send", BEGUN, run="r1", text=SHORT)
DONE = stream(1, 2, 3, names=("token", "done", "stream_end"))
READ = of_run("events", DONE, after=0)
IDLE = of_session("wait_idle", result=True)
CANCEL = of_run("cancel", result=True)
PENDING = {"said": [], "woken": [], "pending": HELD}
GONE = Exception("UnknownError: 404")
REFUSED = {"status": 409, "active": "r1"}


def said(reply: str) -> dict[str, Any]:
    """The messages of one short turn with this reply."""
    rows = [["user", SHORT, ""], ["assistant", reply, ""]]
    return {"said": rows, "woken": [], "pending": None}


@pytest.mark.parametrize(
    ("calls", "promise"),
    [
        ((NEW, HOLD, of_session("send", BEGUN, run="r2", text="again")), promises.T1),
        ((NEW, HOLD, of_session("status", {"busy": False, "active": None})), promises.T3),
        ((NEW, HOLD, of_session("disk", [])), promises.T2),
        (
            (NEW, HOLD, of_session("messages", {"said": [], "woken": [], "pending": None})),
            promises.S13,
        ),
        ((NEW, HOLD, of_run("cancel", result=False)), promises.T4),
        ((NEW, HOLD, IDLE), promises.S13),
        ((NEW, HOLD, CANCEL, of_session("watch", "r1")), promises.C7),
        ((NEW, TALK, IDLE, of_session("watch", "r1")), promises.C7),
        (
            (NEW, TALK, of_session("messages", {"said": [], "woken": [], "pending": None})),
            promises.S2,
        ),
        ((NEW, TALK, of_session("messages", {"said": [], "woken": [], "pending": SHORT})), None),
        ((NEW, HOLD, of_session("messages", {**PENDING, "heard": [[2, 1]]})), promises.S6),
        ((NEW, HOLD, of_session("messages", {**PENDING, "heard": [[1, 1]]})), None),
        ((NEW, TALK, READ, of_session("send", REFUSED, run="r2", text="again")), promises.T8),
        ((NEW, TALK, of_session("send", REFUSED, run="r2", text="again")), None),
        ((NEW, TALK, IDLE, of_session("messages", said("0 1 That was turn 1 of s1."))), None),
        ((NEW, TALK, IDLE, of_session("messages", said("0 1 "))), promises.S2),
        ((NEW, TALK, IDLE, of_session("messages", said("That was turn 1 of s2."))), promises.S2),
        ((NEW, TALK, of_session("messages", said("0 1 "))), None),
        ((NEW, TALK, of_session("wait_idle", result=False)), promises.T3),
        ((NEW, TALK, IDLE, of_session("clear", None), of_session("disk", [SHORT])), promises.S6),
        ((NEW, TALK, of_session("clear", None), of_session("disk", [SHORT])), None),
        ((NEW, TALK, of_session("clear", None), of_session("disk", [])), None),
        ((NEW, TALK, IDLE, of_session("undo", result=False)), promises.S6),
        ((NEW, of_session("undo", result=False)), None),
        (
            (NEW, TALK, IDLE, of_session("truncate", None, keep=1), of_session("disk", [])),
            promises.S2,
        ),
        (
            (NEW, of_session("rename", None, title="x"), of_session("title", "Untitled")),
            promises.S2,
        ),
        (
            (NEW, of_session("rename", None, title="x"), ("titles", {}, [["s1", "Untitled"]])),
            promises.S11,
        ),
        ((NEW, TALK, of_session("title", SHORT), ("titles", {}, [["s1", SHORT]])), None),
        ((NEW, TALK, of_session("title", None), ("titles", {}, [["s1", None]])), None),
        ((NEW, TALK, of_session("title", "Untitled")), promises.S2),
        ((NEW, TALK, ("titles", {}, [["s1", "Untitled"]])), promises.S11),
        ((NEW, TALK, IDLE, of_session("clear", None), of_session("title", SHORT)), promises.S2),
        ((NEW, TALK, IDLE, of_session("clear", None), of_session("title", "Untitled")), None),
        ((NEW, of_session("rename", None, title="x"), of_session("title", None)), promises.S2),
        (
            (NEW, of_session("rename", None, title="x"), ("titles", {}, [["s1", None]])),
            promises.S11,
        ),
        ((NEW, ("titles", {}, [])), promises.S2),
        ((NEW, of_session("delete", None), of_session("title", "x")), promises.S6),
        ((NEW, of_session("delete", None), of_session("title", GONE)), None),
        (
            (NEW, of_session("delete", None), of_session("title", Exception("StatusError: 500"))),
            promises.H2,
        ),
        ((NEW, of_session("title", GONE)), promises.S2),
        ((NEW, HOLD, ("kill", {}, None), of_session("disk", [])), promises.S13),
        ((NEW, of_session("delete", None), of_session("delete", None)), None),
        ((NEW, of_session("delete", None), of_session("delete", GONE)), None),
        ((NEW, TALK, READ, of_session("delete", None), READ), promises.S6),
        ((NEW, TALK, READ, of_session("delete", None), of_run("events", GONE, after=0)), None),
        ((NEW, TALK, of_run("events", {**DONE, "ids": ["x"]}, after=0)), promises.C3),
        ((NEW, TALK, of_run("events_from", {**DONE, "ids": []}, cursor="negative")), promises.C3),
        ((NEW, ("terminate", {}, 1)), promises.H3),
        (
            (NEW, TALK, of_run("events", stream(1, 3, names=("token", "cancel")), after=0)),
            promises.C3,
        ),
        (
            (NEW, TALK, of_run("events", stream(1, 1, names=("token", "cancel")), after=0)),
            promises.C2,
        ),
        (
            (NEW, TALK, of_run("events", stream(2, 1, names=("token", "cancel")), after=0)),
            promises.C1,
        ),
        ((NEW, TALK, of_run("events", stream(1, names=("token",)), after=0)), promises.T3),
        (
            (NEW, TALK, of_run("events", stream(1, names=("cancel",), closed=False), after=0)),
            promises.C6,
        ),
        ((NEW, HOLD, of_run("events", stream(1, names=("token",), closed=False), after=0)), None),
        (
            (NEW, TALK, READ, of_run("events", stream(1, names=("stream_end",)), after=0)),
            promises.C3,
        ),
        (
            (NEW, TALK, READ, of_run("events", stream(1, names=("stream_end",)), after=2)),
            promises.C4,
        ),
        (
            (NEW, TALK, READ, of_run("events", stream(9, names=("session_snapshot",)), after=9)),
            None,
        ),
        ((NEW, TALK, READ, of_run("events_from", DONE, cursor="negative")), promises.C4),
    ],
)
def test_server_model_names_the_broken_promise(
    calls: Sequence[Call], promise: Promise | None
) -> None:
    """The last answer breaks that promise, or is accepted (None)."""
    assert judged(ServerModel(), *calls) is promise


def test_server_model_goes_on_after_a_wrong_answer() -> None:
    """One session lost its messages; the other one is judged as before, and only what it breaks."""
    empty: dict[str, Any] = {"said": [], "woken": [], "pending": None}
    calls = (
        NEW,
        TALK,
        IDLE,
        of_session("messages", empty),
        of_session("messages", empty),
        ("new", {"session": "s2"}, None),
        ("title", {"session": "s2"}, "another"),
        of_session("delete", None),
        NEW,
        of_session("messages", empty),
    )

    verdict = conforms(ServerModel())(History(tuple(operations_of(calls))))

    assert [anomaly.promise for anomaly in verdict.anomalies] == [promises.S2, promises.S2]
    assert [anomaly.evidence[-1].function for anomaly in verdict.anomalies] == ["messages", "title"]


@pytest.mark.parametrize(("said", "lacks"), [([], True), ([["assistant", "0 1", ""]], False)])
def test_lost_reply_and_lost_message_break_two(said: list[list[str]], *, lacks: bool) -> None:
    """A cancelled turn is lost with the text that a client has seen, or without it."""
    shown = of_run("shown", "0 1", tokens=2)
    lost: dict[str, Any] = {"said": said, "woken": [], "pending": None}
    calls = (NEW, HOLD, shown, CANCEL, of_session("messages", lost))

    (anomaly,) = conforms(ServerModel())(History(tuple(operations_of(calls)))).anomalies

    assert (anomaly.promise, promises.T4 in anomaly.also) == (promises.S2, lacks)


@pytest.mark.parametrize("call", ["clear", "undo"])
def test_returned_message_names_what_had_removed_it(call: str) -> None:
    """So that a known finding does not hide another one."""
    back: dict[str, Any] = {"said": [["user", SHORT, ""]], "woken": [], "pending": None}
    removal = of_session(call, True if call == "undo" else None)
    calls = (NEW, TALK, IDLE, removal, of_session("messages", back))

    (anomaly,) = conforms(ServerModel())(History(tuple(operations_of(calls)))).anomalies

    assert anomaly.signature == f"S6 messages: messages has messages that {call} removed"


def answered(*statuses: int, bad: bool = True, error: str | None = "no", **more: Any) -> Call:
    """The answer to a bad request."""
    result = {"statuses": list(statuses), "error": error, "traced": False, **more}
    statuses_of_it = [400, 404] if bad else [200]
    request = {"method": "POST", "path": "/api/session/clear"}
    return (
        "ask_badly",
        {**request, "bad": bad, "promise": "S12", "statuses": statuses_of_it},
        result,
    )


TALKED = {"statuses": [200, 404], "whole": True, "continued": True, "closed": False}


def talked(**changes: Any) -> Call:
    """The answers on one connection, with some facts changed."""
    argument = {"name": "x", "parts": ["a"], "wanted": [200, 404], "closes": False}
    return "converse", argument, {**TALKED, **changes}


def files(bait: str, bystander: str = "b", *more: str, index: str = "0") -> Call:
    """The files on disk; each content is one digit of its digest."""
    found = {"bait": bait * 64, "sessions/_index.json": index * 64}
    found |= dict.fromkeys(more, "c" * 64)
    return "files", {}, {"files": found, "bystanders": {"b.json": bystander * 64}}


CREATED: Call = (
    "ask_badly",
    {
        "method": "POST",
        "path": "/api/session/new",
        "bad": False,
        "promise": "H2",
        "statuses": [200],
    },
    {"statuses": [200], "error": None, "traced": False},
)


@pytest.mark.parametrize(
    ("calls", "promise"),
    [
        ((answered(400),), None),
        ((answered(200),), promises.S12),
        ((answered(200, bad=False, error=None),), None),
        ((answered(201, bad=False, error=None),), promises.S12),
        ((answered(401),), promises.S12),
        ((answered(500),), promises.S12),
        ((answered(400, error=None),), promises.H2),
        ((answered(400, traced=True),), promises.H2),
        ((answered(400, 400),), promises.H2),
        ((answered(error=None),), promises.H2),
        ((files("a"), answered(400), files("b")), promises.H2),
        ((files("a"), answered(400), files("a", index="1")), promises.H2),
        ((files("a"), answered(200, bad=False, error=None), files("a", index="1")), None),
        ((files("a"), answered(200, bad=False, error=None), files("b")), promises.H2),
        ((files("a"), answered(200, bad=False, error=None), files("a", "c")), promises.H2),
        ((files("a"), CREATED, files("a", "b", "sessions/s1.json", index="1")), None),
        ((files("a"), CREATED, files("a")), promises.H2),
        ((files("a"), CREATED, files("a", "b", "sessions/s1.txt")), promises.H2),
        ((files("a"), answered(400), files("a", "b", "sessions/s1.json")), promises.H2),
        ((files("x"),), promises.H2),
        ((("dawdle", {}, {"health": 200, "sessions": 503}),), promises.C10),
        ((talked(),), None),
        ((talked(statuses=[404, 200]),), promises.H2),
        ((talked(statuses=[200]),), promises.H2),
        ((talked(whole=False),), promises.H2),
        ((talked(continued=False),), promises.H2),
        ((talked(closed=True),), promises.H2),
    ],
)
def test_bad_input_model_names_the_broken_promise(
    calls: Sequence[Call], promise: Promise | None
) -> None:
    """Bad input is refused with an error message, and no file changes."""
    assert judged(BadInputModel(), *calls) is promise


STREAMS = "HERMES_WEBUI_STREAMS_MAX"
BOOTED = {"serves": True, "warnings": {}, "limits": {"streams": 99, "sessions": 100}}
BARE = ("boot", {"settings": {}, "password": ""}, BOOTED)


def booted(settings: dict[str, str], password: str = "", **changes: Any) -> Call:
    """A server with settings, and what it says, with some facts changed."""
    return "boot", {"settings": settings, "password": password}, {**BOOTED, **changes}


def knocked(word: str, status: int) -> Call:
    """A request with a password, and its status."""
    return "knock", {"scheme": "Bearer", "word": word}, status


@pytest.mark.parametrize(
    ("calls", "promise"),
    [
        ((BARE,), None),
        ((booted({}, limits={}),), promises.H7),
        ((booted({}, warnings={STREAMS: 1}),), promises.H7),
        ((BARE, booted({STREAMS: "0"}, warnings={STREAMS: 1})), None),
        ((BARE, booted({STREAMS: "0"})), promises.H7),
        ((BARE, booted({STREAMS: "0"}, warnings={STREAMS: 2})), promises.H7),
        ((BARE, booted({STREAMS: "9" * 30}, warnings={STREAMS: 1})), None),
        ((BARE, booted({STREAMS: "x"}, serves=False, warnings={}, limits={})), promises.H7),
        ((BARE, booted({STREAMS: "7"}, limits={"streams": 7, "sessions": 100})), None),
        ((BARE, booted({STREAMS: "7"})), promises.H7),
        ((BARE, booted({}, "ü"), knocked("ü", 200)), None),
        ((BARE, booted({}, "ü"), knocked("ü", 401)), promises.H7),
        ((BARE, booted({}, "ü"), knocked("u", 200)), promises.H1),
    ],
)
def test_settings_model_names_the_broken_promise(
    calls: Sequence[Call], promise: Promise | None
) -> None:
    """A bad setting gives its default and one warning; a password of any script lets in."""
    assert judged(SettingsModel(), *calls) is promise


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        (["1", "2", "3"], True),
        (["1", "3"], False),
        (["1", "1"], False),
        (["1", "snapshot 5", "6"], True),
        (["1", "snapshot 5", "7"], False),
        (["1", "2", "snapshot 1", "2"], False),
    ],
)
def test_stream_is_whole_if_snapshots_cover_its_gaps(numbers: list[str], *, expected: bool) -> None:
    """C3, C2: every gap has a snapshot, and no event comes twice."""
    read = [
        (f"run:{number.removeprefix('snapshot ')}", SNAPSHOT if "snapshot" in number else "token")
        for number in numbers
    ]

    assert is_whole(read) is expected


BOTH = [2, 2]  # readers that were dropped, by each health endpoint
STALLED = {
    "whole": True,
    "last": "stream_end",
    "answered": [200, 200],
    "kept_bytes": 9,
    "let_go": True,
}
FILLED: dict[str, Any] = {
    "refused": [503] * 3,
    "answered": [200] * 4,
    "started": True,
    "taken": 4,
    "again": True,
    "crowd": {"answered": [200, 200], "kept": 513, "oldest": "closed", "newest": True},
}


def crowd(**changes: Any) -> dict[str, Any]:
    """What became of idle connections above the limit, with some facts changed."""
    return {"crowd": {**FILLED["crowd"], **changes}}


def few_files(**changes: Any) -> dict[str, Any]:
    """A stop of a server that may open few files, with some facts changed."""
    return {"ended": [True] * 3, "code": 0, "few_files": {**FEW_FILES, **changes}}


SILENT = {
    "silences_s": [4.0] * 4,
    "locked": [503],
    "freed": [200],
    "dropped_early": [],
    "still_open": [],
}


@pytest.mark.parametrize(
    ("call", "promise"),
    [
        (("stall", {"readers": 2}, {**STALLED, "dropped": BOTH}), None),
        (("stall", {"readers": 2}, {**STALLED, "dropped": [1, 1]}), promises.C8),
        (("stall", {"readers": 2}, {**STALLED, "dropped": [2, 0]}), promises.C8),
        (("stall", {"readers": 2}, {**STALLED, "dropped": BOTH, "last": "token"}), promises.C8),
        (("stall", {"readers": 2}, {**STALLED, "dropped": BOTH, "goes_on": None}), None),
        (("stall", {"readers": 2}, {**STALLED, "dropped": BOTH, "live": False}), promises.S13),
        (("stall", {"readers": 2}, {**STALLED, "dropped": BOTH, "beside": "serves"}), promises.S13),
        (("stall", {"readers": 2}, {**STALLED, "dropped": BOTH, "goes_on": False}), promises.C8),
        (
            ("stall", {"readers": 2}, {**STALLED, "dropped": BOTH, "kept_bytes": 1 << 24}),
            promises.C8,
        ),
        (("stall", {"readers": 2}, {**STALLED, "dropped": BOTH, "whole": False}), promises.C3),
        (("fill", {"streams": 4}, FILLED), None),
        (("fill", {"streams": 4}, {**FILLED, "answered": [200, 503, 200, 200]}), promises.C10),
        (("fill", {"streams": 4}, {**FILLED, "refused": [503, 503]}), promises.C10),
        (("fill", {"streams": 4}, {**FILLED, "taken": 3}), promises.H4),
        (("fill", {"streams": 4}, {**FILLED, **crowd(kept=540)}), promises.C10),
        (("fill", {"streams": 4}, {**FILLED, **crowd(oldest="open")}), promises.C10),
        (("fill", {"streams": 4}, {**FILLED, **crowd(newest=False)}), promises.C10),
        (("keep_silent", {}, {**SILENT, "dropped_early": ["silent"]}), promises.C10),
        (("keep_silent", {}, {**SILENT, "still_open": ["trickling"]}), promises.C10),
        (("leave", {}, {"collected": True, "channels": 0, "heard": False}), promises.C9),
        (("stop", {}, {"ended": [True] * 3, "code": 0}), None),
        (("stop", {}, {"ended": [True] * 3, "code": None}), promises.H3),
        (("stop", {}, {"ended": [True] * 3, "code": 0, "few_files": FEW_FILES}), None),
        (("stop", {}, few_files(refused=0)), promises.C10),
        (("stop", {}, few_files(answered=[200, 0, 200])), promises.C10),
        (("stop", {}, few_files(uncounted=4)), promises.H4),
        (("stop", {}, {"ended": [True, False], "code": 0}), promises.H3),
        (("keep_silent", {}, SILENT), None),
        (("keep_silent", {}, {**SILENT, "silences_s": [4.0, 4.0, 4.0, 30.0]}), promises.C6),
        (("keep_silent", {}, {**SILENT, "locked": [500]}), promises.H6),
        (("keep_silent", {}, {**SILENT, "locked": []}), promises.H6),
    ],
)
def test_backpressure_model_names_the_broken_promise(call: Call, promise: Promise | None) -> None:
    assert judged(BackpressureModel(), call) is promise


def test_uncounted_drop_breaks_the_gauges_too() -> None:
    """A reader may have been dropped, and not counted."""
    (stall,) = operations_of([("stall", {"readers": 2}, {**STALLED, "dropped": [1, 1]})])
    refusal = BackpressureModel().step(None, stall)
    assert isinstance(refusal, Refusal)
    assert refusal.also == (promises.H4,)


ANSWERING = {"askers": 2, "hangs": False}
SILENT_PROVIDER = {"askers": 2, "hangs": True}


@pytest.mark.parametrize(
    ("call", "promise"),
    [
        (("shown", {}, {"models": ["scripted-agent"], "asked": 0}), None),
        (("shown", {}, {"models": ["m"], "asked": 0}), promises.M1),
        (("shown", {}, {"models": ["m"], "asked": 1}), promises.M1),
        (("shown", {}, {"models": [], "asked": 0}), promises.M1),
        (("resolved", {"by": "turn"}, {"models": ["scripted-agent"], "asked": 0}), None),
        (("resolved", {"by": "turn"}, {"models": ["scripted-agent"], "asked": 1}), promises.M4),
        (("resolved", {"by": "turn"}, {"models": ["m"], "asked": 0}), promises.M4),
        (("rebuilt", ANSWERING, {"models": [["model-1"]] * 2, "asked": 1}), None),
        (("rebuilt", SILENT_PROVIDER, {"models": [["scripted-agent"]] * 2, "asked": 1}), None),
        (("rebuilt", ANSWERING, {"models": [["model-1"]], "asked": 1}), promises.M2),
        (("rebuilt", ANSWERING, {"models": [["model-1"]] * 2, "asked": 0}), promises.M3),
        (("rebuilt", SILENT_PROVIDER, {"models": [["model-1"]] * 2, "asked": 1}), promises.M2),
        (("rebuilt", ANSWERING, {"models": [["m"], ["m"]], "asked": 2}), promises.M2),
        (("rebuilt", ANSWERING, {"models": [["m"], None], "asked": 1}), promises.M2),
        (("rebuilt", ANSWERING, {"models": [["m"], []], "asked": 1}), promises.M1),
    ],
)
def test_catalog_model_names_the_broken_promise(call: Call, promise: Promise | None) -> None:
    """Showing the catalog sends no request, and a rebuild sends one at a time."""
    assert judged(CatalogOverHttpModel(), call) is promise


def heard(*rows: list[str], until: str = "r1") -> Call:
    """The events that a tab got."""
    argument = {"tab": "a", "name": "turn_started", "subject": until}
    return "hear", argument, list(rows)


OPEN = ("open", {"tab": "a", "session": "s1"}, None)
START = ["s1", "turn_started", "r1"]
BY_SERVER = ["s1", "server_turn_started", "r1"]
END = ["s1", "bg_task_complete", "p1"]
SEEN = ["s1", "process_watch_match", "matched p1"]
WATCHED = of_session("send", BEGUN, run="r1", text="r1 [process=0:watch=p1:p1]")
WAITED = ("hear", {"tab": "a", "name": END[1], "subject": END[2]})
LATER = ("open", {"tab": "b", "session": "s1"}, None)
HALF = ["s1", "a notice without both names of its process", "p1"]
AGAIN = of_session("send", BEGUN, run="r2", text="r2 [tokens=1]")
SECOND = ["s1", "turn_started", "r2"]
SPAWN = of_session("send", BEGUN, run="r2", text="r2 [process=0:p1]")


@pytest.mark.parametrize(
    ("calls", "promise"),
    [
        ((NEW, OPEN, TALK, heard(START)), None),
        ((NEW, OPEN, TALK, heard()), promises.C3),
        ((NEW, OPEN, TALK, heard(BY_SERVER, START)), promises.C7),
        ((NEW, OPEN, TALK, heard(["s2", *START[1:]])), promises.C5),
        ((NEW, OPEN, TALK, heard(START, START)), promises.C2),
        ((NEW, OPEN, TALK, SPAWN, heard(START, SECOND, END, until="r2")), None),
        ((NEW, OPEN, TALK, SPAWN, heard(START, SECOND, END, END, until="r2")), promises.C2),
        ((NEW, OPEN, TALK, SPAWN, heard(START, END, SECOND, until="r2")), promises.C1),
        ((NEW, OPEN, TALK, heard(END, START)), promises.C5),
        ((NEW, OPEN, TALK, heard(SECOND, START)), promises.C5),
        ((NEW, OPEN, ("begin", {}, "x")), promises.C3),
        ((NEW, ("open", {"tab": "a", "session": "s1"}, "r9")), promises.C7),
        ((NEW, OPEN, TALK, heard(HALF, START)), promises.W11),
        ((NEW, OPEN, WATCHED, (*WAITED, [START, SEEN, END])), None),
        ((NEW, OPEN, WATCHED, LATER, ("hear", {**WAITED[1], "tab": "b"}, [END])), None),
        ((NEW, OPEN, WATCHED, (*WAITED, [START, END])), promises.W13),
        ((NEW, OPEN, WATCHED, (*WAITED, [START, SEEN, SEEN, END])), promises.C2),
        ((NEW, OPEN, WATCHED, (*WAITED, [START, END, SEEN])), promises.W13),
        ((NEW, OPEN, TALK, AGAIN, heard(SECOND, START, until="r2")), promises.C1),
        ((NEW, OPEN, TALK, ("open_again", {"tab": "a"}, None), heard()), None),
        ((NEW, of_session("acknowledge", {"noop": True, "task": "p"}, task="p")), None),
        ((NEW, of_session("acknowledge", {"noop": False, "task": "p"}, task="p")), promises.W11),
        ((of_session("acknowledge", {"noop": True, "task": "p"}, task="p"),), promises.W11),
    ],
)
def test_notifications_model_names_the_broken_promise(
    calls: Sequence[Call], promise: Promise | None
) -> None:
    """A tab gets every event of its session, once and in order."""
    assert judged(NotificationsModel(), *calls) is promise


# Requests from a description

SCHEMAS = st.sampled_from(
    [
        {"type": "string", "maxLength": 128, "pattern": "^[0-9A-Za-z-][0-9A-Za-z_-]{0,127}$"},
        {"type": "string", "maxLength": 500, "minLength": 1, "pattern": r"\S"},
        {"type": "integer", "minimum": 0, "maximum": 10**15 - 1},
        {"anyOf": [{"type": "array"}, {"type": "null"}]},
    ]
)


@given(data=st.data(), schema=SCHEMAS)
def test_drawn_values_fit_the_schema_or_violate_it(
    data: st.DataObject, schema: dict[str, Any]
) -> None:
    """The bounds are those of the description."""
    assert openapi.fits(data.draw(openapi.good(schema)), schema)
    assert not openapi.fits(data.draw(openapi.bad(schema, st.text())), schema)
