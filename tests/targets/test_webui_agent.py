"""Tests of the scripted agent of a hermes-webui server, and of its process registry."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from harness.targets.hermes_webui import scripted_agent as scripted
from harness.targets.hermes_webui.scripted_agent import (
    AIAgent,
    Process,
    ProcessRegistry,
    place_agent,
)
from harness.targets.hermes_webui.scripted_database import SessionDB

LONG_S = 30.0


def test_agent_shows_scripted_tokens_and_counts_turns() -> None:
    """The reply is the shown text and a last sentence; tokens of several threads are all shown."""
    shown: list[str] = []
    agent = AIAgent(session_id="s", stream_delta_callback=shown.append)

    first = agent.run_conversation("[tokens=2]")
    second = agent.run_conversation("[tokens=3x4]", conversation_history=first["messages"])

    assert first["final_response"] == "0 1 That was turn 1 of s."
    assert second["messages"][:2] == first["messages"]
    assert sorted(shown[3:-1]) == sorted(4 * ["0 ", "1 ", "2 "])
    assert shown[-1] == "That was turn 2 of s."


def test_interrupt_ends_the_current_turn_only() -> None:
    """The reply keeps the shown text, and the next turn is complete."""
    is_showing = threading.Event()
    agent = AIAgent(session_id="s", stream_delta_callback=lambda _: is_showing.set())
    results: list[dict[str, Any]] = []
    turn = threading.Thread(
        target=lambda: results.append(agent.run_conversation("[tokens=1][sleep=900]"))
    )
    turn.start()
    assert is_showing.wait(LONG_S)
    agent.interrupt("enough")
    turn.join(LONG_S)

    assert [results[0]["final_response"], results[0]["completed"]] == ["0 ", False]
    assert agent.run_conversation("[tokens=1]")["completed"]


def test_interrupt_before_a_turn_ends_it_unless_cleared() -> None:
    """The server clears `_interrupted`, an attribute of its agents, before it reuses one."""
    agent = AIAgent(session_id="s")
    agent.interrupt("at once")
    assert not agent.run_conversation("[sleep=900]")["completed"]

    agent.interrupt("of old")
    agent._interrupted = False  # the server's interface has this name

    assert agent.run_conversation("hello")["completed"]


def test_agent_fails_and_exits_as_scripted() -> None:
    """[fail] raises an error, and [exit] raises SystemExit, which is no `Exception`."""
    with pytest.raises(scripted.ScriptedError):
        AIAgent().run_conversation("[fail]")
    with pytest.raises(SystemExit):
        AIAgent().run_conversation("[exit]")


def test_tool_returns_the_session_key_of_the_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key of the context has precedence over that of the environment."""
    keys: list[str] = []
    agent = AIAgent(tool_complete_callback=lambda *arguments: keys.append(arguments[3]))
    monkeypatch.setenv("HERMES_SESSION_KEY", "of the process")
    agent.run_conversation("[tool]")
    token = scripted.set_current_session_key("of the context")
    agent.run_conversation("[tool]")
    scripted.reset_current_session_key(token)
    agent.run_conversation("[tool]")

    assert keys == ["of the process", "of the context", "of the process"]


def test_process_is_reported_with_its_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event has the session key at the spawn, the whole output and the exit code."""
    registry = ProcessRegistry(tmp_path)
    monkeypatch.setattr(scripted, "process_registry", registry)
    token = scripted.set_current_session_key("s1")
    AIAgent().run_conversation("[process=0:exit=3:{tokens=1} said]")
    scripted.reset_current_session_key(token)

    event = registry.completion_queue.get(timeout=LONG_S)

    assert event["session_key"] == "s1"
    assert event["exit_code"] == 3
    assert event["output"] == "[tokens=1] said"
    process = registry.get(event["session_id"])
    assert isinstance(process, Process)
    assert registry.list_sessions() == [{"session_id": process.id}]
    assert "said" in scripted.format_process_notification(event)


def test_undelivered_completion_is_reported_after_a_restart(tmp_path: Path) -> None:
    """The next registry reports each completion that the server has not marked as delivered.

    first:  |-- spawn(a), spawn(b) -- a, b end -- a delivered -- killed
    second:                                                           |-- b is reported
    """
    first = ProcessRegistry(tmp_path)
    for output in ("a", "b"):
        first.spawn(0, output, 0)
    ended = [first.completion_queue.get(timeout=LONG_S) for _ in range(2)]
    delivered = next(event for event in ended if event["output"] == "a")
    first._completion_consumed.add(delivered["session_id"])  # as the server does
    assert first.is_completion_consumed(delivered["session_id"])

    second = ProcessRegistry(tmp_path)

    assert second.recover_from_checkpoint() == 1
    assert second.completion_queue.get(timeout=LONG_S)["output"] == "b"


def test_agent_lingers_after_an_interrupt() -> None:
    """It waits for the interrupt, and ends a while later."""
    agent = AIAgent(session_id="s")
    agent.interrupt()

    result = agent.run_conversation("[linger=0.01][tokens=1]")

    assert (result["completed"], result["final_response"]) == (False, "")


def test_agent_may_fail_after_an_interrupt() -> None:
    """Where the message says so."""
    agent = AIAgent(session_id="s")
    threading.Timer(0.01, agent.interrupt).start()  # it waits for that

    with pytest.raises(scripted.ScriptedError):
        agent.run_conversation("[linger=0.01:fail]")


def test_agent_notes_a_database_closed_under_its_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a cancel the server may close it."""
    monkeypatch.setenv(scripted.SPOOL, str(tmp_path))
    for session, interrupts in (("s1", True), ("s2", False)):
        database = SessionDB(tmp_path / "state.db")
        agent = AIAgent(session_id=session, session_db=database)

        def close(_: str, agent: AIAgent = agent, *, interrupts: bool = interrupts) -> None:
            agent._session_db.close()
            if interrupts:
                agent.interrupt()

        agent.stream_delta_callback = close
        agent.run_conversation("[tokens=1]")

    assert (tmp_path / scripted.TORN).read_text() == "s2\n"


def test_child_writes_after_the_turn_of_its_parent(tmp_path: Path) -> None:
    """Into the database that the parent had."""
    database = SessionDB(tmp_path / "state.db")
    others = {*threading.enumerate()}
    AIAgent(session_id="s", session_db=database).run_conversation("[child=0][tokens=1]")
    for thread in {*threading.enumerate()} - others:
        thread.join(LONG_S)

    assert [row["role"] for row in database.get_messages(f"s{scripted.OF_CHILD}")] == ["assistant"]


def test_opening_a_locked_database_is_given_up_soon(tmp_path: Path) -> None:
    """A handle that is open waits longer."""
    SessionDB(tmp_path / "state.db").close()
    holder = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.OperationalError):
        SessionDB(tmp_path / "state.db")
    holder.rollback()

    assert SessionDB(tmp_path / "state.db").ensure_session("s") == "s"


def test_messages_of_a_turn_become_rows(tmp_path: Path) -> None:
    """As soon as they are known, so that a failed turn has a row as well."""
    database = SessionDB(tmp_path / "state.db")
    agent = AIAgent(session_id="s", session_db=database)
    agent.run_conversation("[tokens=1]")
    with pytest.raises(scripted.ScriptedError):
        agent.run_conversation("[tokens=1][fail]")

    rows = [(row["role"], row["content"]) for row in database.get_messages("s")]

    assert rows == [
        ("user", "[tokens=1]"),
        ("assistant", "0 That was turn 1 of s."),
        ("user", "[tokens=1][fail]"),
        ("assistant", "0 "),
    ]
    session = database.get_session("s")
    assert session is not None
    assert session["message_count"] == 4


def test_every_third_session_has_no_rows(tmp_path: Path) -> None:
    """In the order of their first turns, and after a restart too."""
    keeps = [SessionDB(tmp_path / "state.db").keeps(f"s{number}") for number in range(6)]

    assert keeps == [True, True, False, True, True, False]
    assert not SessionDB(tmp_path / "state.db").keeps("s2")


def test_closed_database_takes_no_message(tmp_path: Path) -> None:
    """A server that closes the handle of a live agent makes its turn fail."""
    database = SessionDB(tmp_path / "state.db")
    database.close()

    with pytest.raises(sqlite3.ProgrammingError):
        AIAgent(session_id="s", session_db=database).run_conversation("[tokens=1]")


@pytest.mark.parametrize("is_wanted", [True, False])
def test_database_is_importable_if_it_is_wanted(tmp_path: Path, *, is_wanted: bool) -> None:
    """An agent without one has no module of that name."""
    place_agent(tmp_path)
    imported = subprocess.run(
        [sys.executable, "-S", "-P", "-c", "from hermes_state import SessionDB"],
        env={"PYTHONPATH": str(tmp_path), **({scripted.DATABASE: "1"} if is_wanted else {})},
        check=False,
        capture_output=True,
    )

    assert (imported.returncode == 0) is is_wanted


def test_agent_is_importable_by_the_servers_names(tmp_path: Path) -> None:
    """Its folder is the only one on the path beside the standard library."""
    place_agent(tmp_path)
    imports = "; ".join(f"from {name} import {what}" for name, what in scripted.MODULES.items())

    subprocess.run(  # noqa: S603  the command is a constant
        [sys.executable, "-S", "-P", "-c", imports],
        env={"PYTHONPATH": str(tmp_path), scripted.SPOOL: str(tmp_path / "spool")},
        check=True,
    )


def test_steps_are_messages_with_calls_of_tools() -> None:
    """Each call has its result behind it, and the reply comes last."""
    messages = AIAgent(session_id="s").run_conversation("look [steps=2][tokens=1]")["messages"]

    calls = [call["id"] for message in messages for call in message.get("tool_calls", ())]
    results = [message["tool_call_id"] for message in messages if message["role"] == "tool"]
    assert calls == results == ["look-0", "look-1"]
    assert [message["role"] for message in messages[::5]] == ["user", "assistant"]


@pytest.mark.parametrize(("directive", "stays"), [("[compact]", False), ("[prune]", True)])
def test_summary_stands_for_the_history(directive: str, stays: bool) -> None:  # noqa: FBT001
    """It goes on in a session of another id, or in the same one."""
    agent = AIAgent(session_id="s")
    history = agent.run_conversation("[tokens=1]")["messages"]

    result = agent.run_conversation(f"{directive}[tokens=1]", conversation_history=history)

    assert result["messages"][0] == scripted.SUMMARY
    assert len(result["messages"]) == 3
    assert (agent.session_id == "s") is stays


def test_agent_may_return_no_reply() -> None:
    """It lacks what was shown, an error stands for it, or there is none."""
    agent = AIAgent(session_id="s")

    lacking = agent.run_conversation("[tokens=1][lacking]")
    reporting = agent.run_conversation("[tokens=1][reporting]")
    silent = agent.run_conversation("[plain]")

    assert [len(result["messages"]) for result in (lacking, reporting, silent)] == [1, 1, 1]
    assert lacking["final_response"].startswith("0 ")
    assert reporting["failed"]
    assert silent["final_response"] == ""


@pytest.mark.parametrize(
    ("kind", "texts"),
    [
        ("empty", []),
        ("none", None),
        ("absent", "lacking"),
        ("only the turn", ["now", "0 "]),
        ("only the reply", ["0 "]),
        ("only the history", ["before", "then"]),
        ("without its request", ["before", "then", "0 "]),
        ("from its half", ["then", "now", "0 "]),
        ("with marks", ["before", "then", "now", "0 "]),
    ],
)
def test_agent_returns_another_conversation(kind: str, texts: Any) -> None:
    """What it has shown is the same all the time."""
    history = [{"role": "user", "content": "before"}, {"role": "assistant", "content": "then"}]
    message = f"[tokens=1][plain][returns={kind}]"

    result = AIAgent(session_id="s").run_conversation(message, conversation_history=history)

    said = result.get("messages", "lacking")
    found = [row["content"].replace(message, "now") for row in said] if said != texts else said
    assert (found, result["final_response"]) == (texts, "0 ")


def test_agent_notes_what_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each turn, if that is asked for: its agent, model, tools and folder."""
    agent = AIAgent(session_id="s", model="m", enabled_toolsets=["web"])
    monkeypatch.setenv(scripted.SPOOL, str(tmp_path))
    agent.run_conversation("[tokens=1]")
    monkeypatch.setenv(scripted.NOTES, "1")
    for _ in range(2):
        agent.run_conversation("[Workspace::v1: /a/b]\n[tokens=1]")

    lines = (tmp_path / scripted.GIVEN).read_text(encoding="utf-8").splitlines()
    first, second = map(json.loads, lines)

    assert first == second
    assert (first["model"], first["toolsets"], first["folder"]) == ("m", ["web"], "/a/b")


def test_provider_has_another_key_each_time() -> None:
    """All of one pool."""
    first, second = (scripted.resolve_runtime_provider("p") for _ in range(2))

    assert first["api_key"] != second["api_key"]
    assert first["credential_pool"] is second["credential_pool"]
