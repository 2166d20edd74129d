"""A server's models refuse what a wrong server would answer, and take what a right one may."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.checkers.conformance import conforms
from harness.contract.models.backpressure import StreamsModel
from harness.contract.models.bad_input import HostileModel
from harness.contract.models.catalog_over_http import OffersModel
from harness.contract.models.notifications import TabsModel
from harness.contract.models.server import ServerModel
from harness.core.history import History, Operation, Outcome
from harness.core.model import Model
from harness.core.promises import Promise
from harness.targets.server.backpressure import SNAPSHOT, is_whole
from scenarios.server import openapi

HELD = "r1 [sleep=900]"
SHORT = "r1 [tokens=1]"
BEGUN = {"status": 200, "active": None}
Call = tuple[str, dict[str, Any], Any]  # function, argument, result; an exception if it failed


def judged(model: Model[Any], *calls: Call) -> Promise | None:
    """The promise that the last of these answers broke; the others have to be right."""
    operations = tuple(_operations(calls))
    assert conforms(model)(History(operations[:-1])).is_valid
    verdict = conforms(model)(History(operations))
    return verdict.anomalies[0].promise if verdict.anomalies else None


def _operations(calls: Sequence[Call]) -> Iterator[Operation]:
    for at, (function, argument, result) in enumerate(calls):
        told: dict[str, Any] = {"outcome": Outcome.OK, "result": result}
        if isinstance(result, Exception):
            told = {"outcome": Outcome.FAIL, "error": str(result)}
        yield Operation(0, function, argument, invoked_ns=2 * at, completed_ns=2 * at + 1, **told)


def one(function: str, result: Any, **argument: Any) -> Call:
    """Ask about session s1 and its run."""
    return function, {"session": "s1", **argument}, result


def of_run(function: str, result: Any, **argument: Any) -> Call:
    """Ask about run r1."""
    return function, {"run": "r1", **argument}, result


def relay(*ids: int | None, names: Sequence[str], closed: bool = True) -> dict[str, Any]:
    """What a relay told."""
    return {"ids": list(ids), "names": list(names), "closed": closed}


NEW = one("new", None)
HOLD = one("send", BEGUN, run="r1", text=HELD)
TALK = one("send", BEGUN, run="r1", text=SHORT)
DONE = relay(1, 2, 3, names=("token", "done", "stream_end"))
READ = of_run("events", DONE, after=0)
IDLE = one("wait_idle", result=True)
CANCEL = of_run("cancel", result=True)
GONE = Exception("UnknownError: 404")


@pytest.mark.parametrize(
    ("calls", "promise"),
    [
        ((NEW, HOLD, one("send", BEGUN, run="r2", text="again")), Promise.T1),
        ((NEW, HOLD, one("status", {"busy": False, "active": None})), Promise.T3),
        ((NEW, HOLD, one("disk", [])), Promise.T2),
        ((NEW, HOLD, one("messages", {"said": [], "woken": [], "pending": None})), Promise.S13),
        ((NEW, HOLD, of_run("cancel", result=False)), Promise.T4),
        ((NEW, HOLD, IDLE), Promise.S13),
        ((NEW, HOLD, CANCEL, one("watch", "r1")), Promise.C7),
        ((NEW, TALK, IDLE, one("watch", "r1")), Promise.C7),
        ((NEW, TALK, one("messages", {"said": [], "woken": [], "pending": None})), Promise.S2),
        ((NEW, TALK, one("messages", {"said": [], "woken": [], "pending": SHORT})), None),
        ((NEW, TALK, one("wait_idle", result=False)), Promise.T3),
        ((NEW, TALK, IDLE, one("clear", None), one("disk", [SHORT])), Promise.S6),
        ((NEW, TALK, one("clear", None), one("disk", [SHORT])), None),
        ((NEW, TALK, one("clear", None), one("disk", [])), None),
        ((NEW, TALK, IDLE, one("undo", result=False)), Promise.S6),
        ((NEW, one("undo", result=False)), None),
        ((NEW, TALK, IDLE, one("truncate", None, keep=1), one("disk", [])), Promise.S2),
        ((NEW, one("rename", None, title="x"), one("title", "Untitled")), Promise.S2),
        ((NEW, one("rename", None, title="x"), ("titles", {}, [["s1", "Untitled"]])), Promise.S11),
        ((NEW, ("titles", {}, [])), Promise.S2),
        ((NEW, one("delete", None), one("title", "x")), Promise.S6),
        ((NEW, one("delete", None), one("title", GONE)), None),
        ((NEW, one("delete", None), one("title", Exception("StatusError: 500"))), Promise.H2),
        ((NEW, one("title", GONE)), Promise.S2),
        ((NEW, HOLD, ("kill", {}, None), one("disk", [])), Promise.S13),
        ((NEW, ("terminate", {}, 1)), Promise.H3),
        (
            (NEW, TALK, of_run("events", relay(1, 3, names=("token", "cancel")), after=0)),
            Promise.C3,
        ),
        (
            (NEW, TALK, of_run("events", relay(1, 1, names=("token", "cancel")), after=0)),
            Promise.C2,
        ),
        (
            (NEW, TALK, of_run("events", relay(2, 1, names=("token", "cancel")), after=0)),
            Promise.C1,
        ),
        ((NEW, TALK, of_run("events", relay(1, names=("token",)), after=0)), Promise.T3),
        (
            (NEW, TALK, of_run("events", relay(1, names=("cancel",), closed=False), after=0)),
            Promise.C6,
        ),
        ((NEW, HOLD, of_run("events", relay(1, names=("token",), closed=False), after=0)), None),
        ((NEW, TALK, READ, of_run("events", relay(1, names=("stream_end",)), after=0)), Promise.C3),
        ((NEW, TALK, READ, of_run("events", relay(1, names=("stream_end",)), after=2)), Promise.C4),
        ((NEW, TALK, READ, of_run("events", relay(9, names=("session_snapshot",)), after=9)), None),
        ((NEW, TALK, READ, of_run("events_from", DONE, cursor="negative")), Promise.C4),
    ],
)
def test_what_one_client_is_told(calls: Sequence[Call], promise: Promise | None) -> None:
    """The last answer is wrong by that promise, or may be right."""
    assert judged(ServerModel(), *calls) is promise


def answered(*statuses: int, bad: bool = True, told: str | None = "no", **more: Any) -> Call:
    """What a bad request was answered."""
    result = {"statuses": list(statuses), "told": told, "traced": False, **more}
    return "ask_badly", {"bad": bad, "promise": "S12"}, result


def files(bait: str, bystander: str = "b") -> Call:
    """What lies there."""
    return "files", {}, {"files": {"bait": bait}, "bystanders": {"b.json": bystander}}


@pytest.mark.parametrize(
    ("calls", "promise"),
    [
        ((answered(400),), None),
        ((answered(200),), Promise.S12),
        ((answered(200, bad=False),), None),
        ((answered(500),), Promise.S12),
        ((answered(400, told=None),), Promise.H2),
        ((answered(400, traced=True),), Promise.H2),
        ((answered(400, 400),), Promise.H2),
        ((answered(),), None),
        ((files("x"), answered(400), files("y")), Promise.H2),
        ((files("x"), answered(200, bad=False), files("y")), None),
        ((files("x"), answered(200, bad=False), files("y", "c")), Promise.H2),
        ((("dawdle", {}, {"health": 200, "sessions": 503}),), Promise.C10),
    ],
)
def test_what_bad_input_is_answered(calls: Sequence[Call], promise: Promise | None) -> None:
    """Refused with a sentence, and nothing has changed."""
    assert judged(HostileModel(), *calls) is promise


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
def test_a_stream_is_whole_where_a_snapshot_tells_of_each_gap(
    numbers: list[str], *, expected: bool
) -> None:
    """C3, C2: nothing is left out unsaid, and nothing comes twice."""
    read = [
        (f"run:{number.removeprefix('snapshot ')}", SNAPSHOT if "snapshot" in number else "token")
        for number in numbers
    ]

    assert is_whole(read) is expected


STALLED = {"whole": True, "last": "stream_end", "answered": [200], "kept_bytes": 9, "let_go": True}
FILLED = {"refused": [503], "answered": [200], "started": True, "taken": 4, "again": True}
SILENT = {"silences_s": [4.0], "locked": [503], "freed": [200]}


@pytest.mark.parametrize(
    ("call", "promise"),
    [
        (("stall", {"readers": 2}, {**STALLED, "dropped": 2}), None),
        (("stall", {"readers": 2}, {**STALLED, "dropped": 1}), Promise.C8),
        (("stall", {"readers": 2}, {**STALLED, "dropped": 2, "last": "token"}), Promise.C8),
        (("stall", {"readers": 2}, {**STALLED, "dropped": 2, "kept_bytes": 1 << 24}), Promise.C8),
        (("stall", {"readers": 2}, {**STALLED, "dropped": 2, "whole": False}), Promise.C3),
        (("fill", {"streams": 4}, FILLED), None),
        (("fill", {"streams": 4}, {**FILLED, "answered": [200, 503]}), Promise.C10),
        (("fill", {"streams": 4}, {**FILLED, "refused": [503, None]}), Promise.C10),
        (("fill", {"streams": 4}, {**FILLED, "taken": 3}), Promise.H4),
        (("leave", {}, {"collected": True, "channels": 0, "heard": False}), Promise.C9),
        (("stop", {}, {"ended": [True, True], "code": 0}), None),
        (("stop", {}, {"ended": [True, True], "code": None}), Promise.H3),
        (("stop", {}, {"ended": [True, False], "code": 0}), Promise.H3),
        (("keep_silent", {}, SILENT), None),
        (("keep_silent", {}, {**SILENT, "silences_s": [4.0, 30.0]}), Promise.C6),
        (("keep_silent", {}, {**SILENT, "locked": [500]}), Promise.H6),
        (("keep_silent", {}, {**SILENT, "locked": []}), Promise.H6),
    ],
)
def test_what_readers_are_granted(call: Call, promise: Promise | None) -> None:
    """Whatever some of them do."""
    assert judged(StreamsModel(), call) is promise


@pytest.mark.parametrize(
    ("call", "promise"),
    [
        (("shown", {}, {"models": ["m"], "asked": 0}), None),
        (("shown", {}, {"models": ["m"], "asked": 1}), Promise.M1),
        (("shown", {}, {"models": [], "asked": 0}), Promise.M1),
        (("rebuilt", {}, {"models": [["m"], ["m"]], "asked": 1}), None),
        (("rebuilt", {}, {"models": [["m"], ["m"]], "asked": 2}), Promise.M2),
        (("rebuilt", {}, {"models": [["m"], None], "asked": 1}), Promise.M2),
        (("rebuilt", {}, {"models": [["m"], []], "asked": 1}), Promise.M1),
    ],
)
def test_who_is_asked_for_models(call: Call, promise: Promise | None) -> None:
    """Nobody for showing them, and one at a time for asking anew."""
    assert judged(OffersModel(), call) is promise


def heard(*rows: list[str], until: str = "r1") -> Call:
    """What a tab heard."""
    argument = {"tab": "a", "name": "server_turn_started", "subject": until}
    return "hear", argument, list(rows)


OPEN = ("open", {"tab": "a", "session": "s1"}, None)
START = ["s1", "server_turn_started", "r1"]
END = ["s1", "bg_task_complete", "p1"]
AGAIN = one("send", BEGUN, run="r2", text="r2 [tokens=1]")
SECOND = ["s1", "server_turn_started", "r2"]


@pytest.mark.parametrize(
    ("calls", "promise"),
    [
        ((NEW, OPEN, TALK, heard(START)), None),
        ((NEW, OPEN, TALK, heard()), Promise.C3),
        ((NEW, OPEN, TALK, heard(["s2", *START[1:]])), Promise.C5),
        ((NEW, OPEN, TALK, heard(START, START)), Promise.C2),
        ((NEW, OPEN, TALK, heard(END, END, START)), Promise.C2),
        ((NEW, OPEN, TALK, AGAIN, heard(SECOND, START, until="r2")), Promise.C1),
        ((NEW, OPEN, TALK, ("open_again", {"tab": "a"}, None), heard()), None),
        ((NEW, one("acknowledge", {"noop": True, "task": "p"}, task="p")), None),
        ((NEW, one("acknowledge", {"noop": False, "task": "p"}, task="p")), Promise.W11),
        ((one("acknowledge", {"noop": True, "task": "p"}, task="p"),), Promise.W11),
    ],
)
def test_what_a_tab_hears(calls: Sequence[Call], promise: Promise | None) -> None:
    """All of its own session, once, in order."""
    assert judged(TabsModel(), *calls) is promise


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
def test_what_is_drawn_as_good_fits_and_as_bad_does_not(
    data: st.DataObject, schema: dict[str, Any]
) -> None:
    """By the description's own bounds."""
    assert openapi.fits(data.draw(openapi.good(schema)), schema)
    assert not openapi.fits(data.draw(openapi.bad(schema, st.text())), schema)
