"""Tests of the model of turns of every kind, and of what a turn shows and keeps."""

from __future__ import annotations

from typing import Any

import pytest

from harness.checkers.conformance import conforms
from harness.contract import promises
from harness.contract.models.turn_ways import TURN_FACTS
from harness.core.contract import Promise
from harness.core.history import History, Operation, Outcome
from harness.engine.http import Event
from harness.targets.server.turn_facts import (
    foreign,
    lacking,
    misnumbered,
    shown_by,
    shown_in,
    unlike,
    without_last_thought,
    wrong_end,
)

STEPS = [("think", "a "), ("call", "b"), ("say", "c "), ("say", "d "), ("hold", "")]
EVENTS = [
    Event("r:1", "reasoning", {"text": "a "}),
    Event("r:2", "tool", {"args": {"at": "b"}, "session_id": "s"}),
    Event("r:3", "tool_complete", {"args": {"at": "b"}}),
    Event("r:4", "token", {"text": "c "}),
    Event("r:5", "token", {"text": "d "}),
    Event("r:6", "done", {"session": {"session_id": "s"}}),
    Event("r:7", "stream_end", {"session_id": "s"}),
]
FACTS = [
    ("plain, ended: ends", "no end: the last", promises.T3),
    ("plain, ended: ends", "it stays open: its run is over", promises.C6),
    ("plain, ended: own", "metering names another session: x", promises.C5),
    ("plain, ended: shown", "lost reasoning: a", promises.C3),
    ("any turn, ended, a gap, token: numbered", "a gap, token: 3 behind 1", promises.C3),
    ("any turn, ended, twice: numbered", "twice, or back, cancel: 3", promises.C1),
    ("any turn, ended, no replay: again", "no replay: behind 0", promises.C4),
    ("any turn, ended, status 409: next", "status 409: for the turn", promises.T8),
    ("plain, ended: idle", "busy by its session: it is over", promises.T3),
    ("plain, cancelled: busy", "over by its session: it goes on", promises.C7),
    ("plain, ended: kept", "lost text: a", promises.S2),
    ("plain, struck: kept", "lost text: a", promises.S13),
    ("plain, ended: left", "in config.STREAMS: the run is over", promises.T3),
    ("counted, ended: counted", "other counts: 0:0", promises.S14),
    ("plain, ended: final", "lost text: a", promises.S14),
    ("plain, ended: titled", "another title in the list: a", promises.S14),
    ("plain, by runs, cancelled: stopped", "its run goes on: x", promises.T4),
    ("approval, asked: asked", "no question: it asks", promises.C7),
    ("approval, asked: asked no more", "still by the list: it is over", promises.T3),
    ("approval, asked: agreed", "a question that the list lacks", promises.S14),
    ("approval, asked: another answer", "it was taken: its question", promises.T9),
    ("approval, asked: taken", "refused: the answer to x", promises.T9),
    ("approval, asked: answered once", "still by the list: it was", promises.S15),
    ("plain, ended: resumable", "live events have no numbers: a", promises.C2),
    ("changed, changed: set", "another model in its session: x", promises.S15),
    ("woken, woken: woken", "no wakeup: its process ended", promises.W2),
    ("woken, woken: sourced", "its message lacks its origin, x: y", promises.S14),
    ("beside a slow title, beside a title: begun", "its turn does not go on: a", promises.H6),
    ("aside, aside: forgotten", "the list has it: it was asked", promises.S14),
    ("a shell that exits, with terminals: released", "descriptors stay: x", promises.H4),
    ("with a goal, with goals: pursued", "no word on the goal: its", promises.T9),
    ("its run, with cursors, a cursor far: cursor", "silence", promises.C4),
    ("its run, with cursors, a cursor far: cursor", "not answered", promises.H2),
    ("plain, ended: kept", "not answered: TimeoutError", promises.H2),
]


def judged(function: str, argument: Any, result: Any, outcome: Outcome = Outcome.OK) -> list[Any]:
    operation = Operation(0, function, argument, outcome, 0, 0, result, "")
    return [each.promise for each in conforms(TURN_FACTS)(History((operation,))).anomalies]


@pytest.mark.parametrize(("name", "problem", "promise"), FACTS)
def test_problem_breaks_its_promise(name: str, problem: str, promise: Promise) -> None:
    """No problem breaks none."""
    assert not judged("fact", {"name": name}, "")
    assert judged("fact", {"name": name}, problem) == [promise]


def test_unknown_fact_of_a_turn_is_refused() -> None:
    """A fact that is unknown is no right one."""
    assert judged("fact", {"name": "plain, ended: kept"}, None, Outcome.FAIL) == [promises.H2]
    assert judged("way", {"name": "ended"}, [1]) == [promises.H2]


def test_stream_shows_the_steps_of_its_turn() -> None:
    """Tokens and reasoning may come in any pieces, and calls with their results."""
    assert shown_in(EVENTS) == shown_by(STEPS)
    assert unlike(shown_by(STEPS), shown_in(EVENTS)) == ""
    assert without_last_thought([("text", "a"), ("reasoning", "b")]) == [("text", "a")]


@pytest.mark.parametrize(
    ("events", "kind"),
    [
        (EVENTS[1:], "lost reasoning"),
        ([*EVENTS[:4], *EVENTS[5:]], "lost text"),
        ([*EVENTS, Event("", "token", {"text": "x"})], "surplus text"),
        ([*EVENTS[:4], EVENTS[3], *EVENTS[4:]], "text twice, or in another order"),
        ([*EVENTS[1:5], EVENTS[0]], "another order"),
    ],
)
def test_stream_that_differs_is_of_a_kind(events: list[Event], kind: str) -> None:
    """What is lost comes before what is surplus or in another order."""
    assert unlike(shown_by(STEPS), shown_in(events)).partition(":")[0] == kind


@pytest.mark.parametrize(
    ("events", "is_closed", "problem"),
    [
        (EVENTS, True, ""),
        (EVENTS, False, "it stays open"),
        (EVENTS[:3], True, "no end"),
        ([*EVENTS, Event("", "cancel", {})], True, "done and cancel"),
        ([Event("", "cancel", {})], True, "another end, cancel"),
    ],
)
def test_run_has_one_end(events: list[Event], problem: str, *, is_closed: bool) -> None:
    """It is of the kind that its steps have, and the stream closes behind it."""
    assert wrong_end(events, ("done",), is_closed=is_closed).partition(":")[0] == problem


def test_events_are_numbered_without_gaps() -> None:
    """Events without numbers are those of older servers."""
    assert misnumbered([Event("", "token", {}), *EVENTS]) == ""
    assert misnumbered([EVENTS[0], EVENTS[3]]).startswith("a gap, token")
    assert misnumbered([EVENTS[0], EVENTS[0]]).startswith("twice, or back, reasoning")


def test_events_name_their_own_session_and_run() -> None:
    """Whatever names another one is foreign."""
    assert foreign([*EVENTS, Event("", "metering", {"stream_id": "r"})], "s", "r") == ""
    assert foreign(EVENTS, "another", "r").startswith("tool names another session")
    assert "another run" in foreign([Event("", "x", {"stream_id": "y"})], "s", "r")
    inner = Event("", "done", {"session": {"session_id": "y"}})
    assert "session of its copy" in foreign([inner], "s", "r")


def kept(*replies: str, user: str = "turn [say=c ]", reasoning: str = "a") -> dict[str, Any]:
    """A session with one turn."""
    rows = [{"role": "assistant", "content": reply} for reply in replies]
    calls = [{"args": {"at": "b"}}]
    user_row = {"role": "user", "content": user, "reasoning": reasoning}
    return {"messages": [user_row, *rows], "tool_calls": calls}


def test_session_keeps_what_its_turn_showed() -> None:
    """The message once, each text once, reasoning and calls anywhere but in the message."""
    text = "turn [say=c ]"

    assert lacking(kept("c d"), STEPS, text) == ""
    assert lacking(kept("c d", user="x"), STEPS, text).startswith("the user's message is there 0")
    assert lacking(kept("c"), STEPS, text) == "lost text: d"
    assert lacking(kept("c d", "d"), STEPS, text) == "text twice: d"
    assert lacking(kept("c d", reasoning=""), [("think", "zz")], text) == "lost reasoning: zz"
    with_call = kept("c d", user=f"{text} zz")
    assert lacking(with_call, [("call", "zz")], f"{text} zz") == "lost call: zz"


def test_steps_are_kept_in_their_messages() -> None:
    """Reasoning of the first message must not be in the last one."""
    rows: list[dict[str, Any]] = [
        {"role": "user", "content": "turn"},
        {"role": "assistant", "content": "", "tool_calls": ["b"]},
        {"role": "assistant", "content": "c d", "reasoning": "aa"},
    ]
    steps = [("think", "aa "), ("call", "b"), ("say", "c "), ("say", "d ")]

    assert lacking({"messages": rows}, steps, "turn").startswith("call behind a later step")
    rows[1]["reasoning"] = rows[2].pop("reasoning")
    assert lacking({"messages": rows}, steps, "turn") == ""


def test_long_argument_that_is_cut_is_seen() -> None:
    """Each list of a turn's calls has their whole arguments, if it has the call."""
    steps = [("edit", "a xxx b+c yyy d")]
    call = {"function": {"arguments": '{"path": "a xxx b", "new_string": "c yyy d"}'}}
    messages = [
        {"role": "user", "content": "text"},
        {"role": "assistant", "content": [], "tool_calls": [call]},
    ]
    listed = {"path": "a xxx b", "new_string": "c yyy d"}

    def problem(args: dict[str, str]) -> str:
        session = {"messages": messages, "tool_calls": [{"args": args}]}
        return lacking(session, steps, "text").partition(":")[0]

    assert shown_by(steps)[0] == shown_in([Event("r:1", "tool", {"args": listed})])[0]
    assert problem(listed) == ""
    assert problem({**listed, "new_string": "c yy..."}) == "an argument of a call is cut"
    assert problem({"at": "of another call"}) == ""


def test_reply_in_parts_is_read() -> None:
    """A message may have its text in parts of several kinds."""
    parts = [{"type": "text", "text": "a b"}, {"type": "output_text", "output_text": "c"}]
    messages = [{"role": "user", "content": "text"}, {"role": "assistant", "content": parts}]

    assert lacking({"messages": messages}, [("say", "a "), ("say", "c ")], "text") == ""
    assert lacking({"messages": messages}, [("say", "d ")], "text") == "lost text: d"
