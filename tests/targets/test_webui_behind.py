"""Tests of what the turns of a checkout leave behind for readers, agents and other programs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.core.errors import TargetLostError
from harness.engine.http import Event, StatusError
from harness.targets.hermes_webui import scripted_agent, scripted_prompts, turns_behind
from harness.targets.hermes_webui.scripted_agent import GIVEN, AIAgent
from harness.targets.hermes_webui.scripted_database import SessionDB
from harness.targets.hermes_webui.scripted_titles import ALIKE, call_llm
from harness.targets.hermes_webui.server import WebuiLaunch
from harness.targets.hermes_webui.turns_behind import WebuiTurnsBehindAdapter
from harness.targets.server.turns import Turn
from tests.targets.test_webui_beside import Stream

TITLE = Event("r:1", "title", {"title": "t"})


@pytest.fixture
def adapter(unbooted: WebuiLaunch, tmp_path: Path) -> Iterator[Any]:
    """The turns of a checkout that is never booted."""
    adapter: Any = WebuiTurnsBehindAdapter(tmp_path / "folder", unbooted)
    state = tmp_path / "state"
    adapter._server = SimpleNamespace(boot=lambda: {"port": 1}, state=state, close=lambda: None)
    yield adapter
    adapter.close()


@pytest.fixture
def turn() -> Turn:
    """A turn that is over."""
    return Turn("counted", "s", "the text", [("usage", "120:30")], ends=("done",), run="r")


@pytest.mark.parametrize(
    ("counts", "problem"),
    [((200, 40), ""), ((320, 70), "other counts of two turns"), ((80, 10), "other counts")],
)
def test_tokens_of_two_turns_add_up(
    adapter: Any,
    monkeypatch: pytest.MonkeyPatch,
    turn: Turn,
    counts: tuple[int, int],
    problem: str,
) -> None:
    """A turn counted twice is seen, and so is one that replaces the former."""
    web = SimpleNamespace(ask=lambda *_: (200, {}))
    monkeypatch.setattr(WebuiTurnsBehindAdapter, "_web", web)
    adapter._session = lambda _: dict(zip(("input_tokens", "output_tokens"), counts, strict=True))

    assert adapter._begin_next(turn) == 200
    assert adapter._uncounted(turn).startswith(problem)
    assert bool(adapter._uncounted(turn)) == bool(problem)


def test_agent_counts_all_its_turns() -> None:
    """As the real one does, which a server keeps between turns."""
    agent: Any = AIAgent(session_id="s")
    for used in ("[usage=120:30]", "[usage=80:10]"):
        agent.run_conversation(used)

    assert (agent.session_prompt_tokens, agent.session_completion_tokens) == (200, 40)


def test_title_that_is_not_filed_is_seen(adapter: Any, tmp_path: Path, turn: Turn) -> None:
    """Only if a model gave one, and the database has the session."""
    adapter._source, adapter._settles = "sync_session_title", lambda _, is_right: is_right()
    turn.events.append(TITLE)
    assert adapter._untitled(turn) == ""

    database = SessionDB(tmp_path / "state.db")
    database.ensure_session("s")
    assert adapter._untitled(turn).startswith("no title in the database")
    database.set_session_title("s", "t")
    assert adapter._untitled(turn) == ""


def test_database_refuses_a_taken_title(tmp_path: Path) -> None:
    """And names another one, as the real one does."""
    database = SessionDB(tmp_path / "state.db")
    for session in ("a", "b"):
        database.ensure_session(session)
    assert database.set_auto_title_if_empty("a", "t")

    with pytest.raises(ValueError, match="already in use"):
        database.set_auto_title_if_empty("b", "t")
    with pytest.raises(ValueError, match="already in use"):
        database.set_session_title("b", "t")
    assert database.set_auto_title_if_empty("b", database.get_next_title_in_lineage("t"))
    assert database.set_session_title("a", "t")


def test_titles_of_a_model_may_be_alike() -> None:
    """For conversations that say so; the others have a word of their own."""
    titles = [
        call_llm([{"role": "user", "content": text}]).choices[0].message.content
        for text in (f"{ALIKE} waz", f"{ALIKE} wbz", "wcz")
    ]

    assert titles[0] == titles[1] != titles[2]


@pytest.mark.parametrize(
    ("stream", "problem"),
    [
        (Stream(Event("", "initial", {}), Event("", "session-updated", {})), ""),
        (Stream(Event("", "initial", {}), *2 * [Event("", "", "heartbeat")]), "nothing"),
        (Stream(Event("", "initial", {})), "nothing"),
        (Stream(StatusError("GET", 500, {})), "not answered"),
        (Stream(TargetLostError("lost")), "not answered"),
    ],
)
def test_reader_learns_what_it_missed(
    adapter: Any, monkeypatch: pytest.MonkeyPatch, turn: Turn, stream: Stream, problem: str
) -> None:
    """By any event besides the one that each reader gets."""
    asked: list[str] = []

    def read(path: str, **_: Any) -> Stream:
        asked.append(path)
        return stream

    web = SimpleNamespace(stream=read)
    monkeypatch.setattr(WebuiTurnsBehindAdapter, "_web", web)
    monkeypatch.setattr(turns_behind, "replace", lambda web, **_: web)
    rows = [{"role": "user", "content": text} for text in ("before", "the text")]
    adapter._session = lambda _: {"messages": rows}

    assert adapter._untold(turn).partition(" of")[0] == problem
    assert asked[0].endswith("session_id=s&known_count=1")


def test_merged_messages_of_turns_are_seen(adapter: Any, turn: Turn) -> None:
    """An agent may have them as one; a session must not."""
    before = Turn("cancelled 1", "s", "a former text", [])
    adapter._before["s"] = [before]
    rows = [{"role": "user", "content": text} for text in (before.text, turn.text)]
    adapter._session = lambda _: {"messages": rows}
    assert adapter._together(turn) == ""

    rows[1]["content"] = f"{before.text}\n\n{turn.text}"
    assert adapter._together(turn).startswith("one message of 2 turns")


def test_turn_waits_for_a_cancelled_one(
    adapter: Any, monkeypatch: pytest.MonkeyPatch, turn: Turn
) -> None:
    """Its session may be busy for a while, and is asked again."""
    answers: list[Any] = [StatusError("POST", 409, {}), {"stream_id": "second"}]

    def post(*_: Any, **__: Any) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(WebuiTurnsBehindAdapter, "_web", SimpleNamespace(post=post))
    adapter._before["s"], turn.run = [], ""

    adapter._start(turn)

    assert turn.run == "second"


def test_agent_merges_messages_of_users() -> None:
    """Only those that follow each other."""
    history = [{"role": "user", "content": text} for text in ("a", "b")]
    result = AIAgent(session_id="s").run_conversation(
        "[merged][say=c ]", conversation_history=history
    )

    contents = [message["content"] for message in result["messages"]]
    assert contents == ["a\n\nb\n\n[merged][say=c ]", "c "]


@pytest.mark.parametrize("fault", ["", "another agent", "another effort"])
def test_agent_that_is_made_anew_is_seen(
    adapter: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """A pool of keys changes the key of each turn, and no agent; the effort is as it was set."""
    agents = "ab" if fault == "another agent" else "aa"
    effort = None if fault == "another effort" else "high"
    (tmp_path / "spool").mkdir()
    notes = [{"session_id": "s", "agent": agent, "effort": effort} for agent in agents]
    lines = "".join(f"{json.dumps(note)}\n" for note in notes)
    (tmp_path / "spool" / GIVEN).write_text(lines, encoding="utf-8")
    monkeypatch.setattr(WebuiTurnsBehindAdapter, "_web", SimpleNamespace(ask=lambda *_: (200, {})))
    adapter._server.kill = lambda: None
    adapter._server.boot = lambda **_: {"port": 1}
    adapter._turn = lambda name, _: Turn(name, "s", "the text", [])
    adapter._run_all = lambda *_: None

    adapter._go_way("with keys that change")

    found = [problem.partition(":")[0] for problem in adapter._facts.values() if problem]
    assert found == [fault] * bool(fault)


@pytest.mark.parametrize(("shown", "problem"), [(("one ", "two "), ""), (("one ",), "lost")])
def test_second_reader_that_lacks_the_rest_is_seen(
    adapter: Any, monkeypatch: pytest.MonkeyPatch, shown: tuple[str, ...], problem: str
) -> None:
    """It comes in the middle of a turn, and may be shown more than the rest."""
    events = [Event(f"r:{at}", "token", {"text": text}) for at, text in enumerate(shown)]
    stream = Stream(*events, Event("r:9", "stream_end", {}))
    web = SimpleNamespace(stream=lambda *_, **__: stream)
    monkeypatch.setattr(WebuiTurnsBehindAdapter, "_web", web)
    monkeypatch.setattr(turns_behind, "replace", lambda kept, **_: kept)
    turn = Turn("read by two", "s", "the text", [("say", "one "), ("say", "two ")], run="r")
    for name in ("_start", "_follow", "_await_first", "_open_all"):
        setattr(adapter, name, lambda *_: None)

    adapter._read_by_two(turn)

    assert bool(turn.problems["read too"]) == bool(problem)


@pytest.mark.parametrize(("sent", "problem"), [('{"session_id": "s"}', ""), ("{}", "its session")])
def test_gateway_that_lacks_the_session_is_seen(
    adapter: Any, turn: Turn, sent: str, problem: str
) -> None:
    """In the head or the body of the request that has the turn."""
    adapter._runs = lambda: [SimpleNamespace(text=turn.text, sent=sent)]

    assert adapter._unnamed(turn).startswith(problem)
    assert bool(adapter._unnamed(turn)) == bool(problem)


@pytest.mark.parametrize(("choice", "second"), [("once", "once"), ("session", "free")])
def test_agent_asks_again_unless_freed(choice: str, second: str) -> None:
    """One answer is for one question; another one is for all that are alike."""
    shown: list[str] = []
    agent = AIAgent(session_id="s", stream_delta_callback=shown.append)
    key = f"asked again, {choice}"

    def answer(_question: dict[str, Any]) -> None:
        scripted_prompts.resolve_gateway_approval(key, choice)

    scripted_prompts.register_gateway_notify(key, answer)
    token = scripted_agent.set_current_session_key(key)
    try:
        agent.run_conversation(f"[again={choice}]")
    finally:
        scripted_agent.reset_current_session_key(token)
        scripted_prompts.unregister_gateway_notify(key)

    assert shown == [f"{choice} {choice} ", f"{choice} {second} "]


@pytest.mark.parametrize(
    ("times", "problem"), [(2, ""), (1, "an answer for one question: it counts for the next")]
)
def test_answer_that_counts_twice_is_seen(adapter: Any, times: int, problem: str) -> None:
    """Each question waits for an answer of its own, although both are alike."""
    questions = [{"approval_id": f"q{number}", "command": "w"} for number in range(times)]
    turn = Turn("asked again", "s", "the text", [("again", "w")], run="r")

    def respond(_turn: Turn, _kind: str, id_: str, _answer: Any) -> bool:
        is_right = bool(questions) and id_ == questions[0]["approval_id"]
        del questions[: int(is_right)]
        return is_right

    adapter._asked = lambda *_: (questions[0], 1) if questions else (None, 0)
    adapter._respond, adapter._patience_s = respond, 0.0
    adapter._look_asked = adapter._stop = lambda *_: None

    assert adapter._answer_each(turn, "approval", ["w", "w"], []) == (not problem)
    assert turn.problems.get("taken", "") == problem
