"""Tests of the steps of a scripted turn: by the agent, and by a gateway in its place."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.processes.waiting import came_true
from harness.targets.hermes_webui import scripted_goals, scripted_turns
from harness.targets.hermes_webui import scripted_prompts as prompts
from harness.targets.hermes_webui.scripted_agent import AIAgent, process_registry
from harness.targets.hermes_webui.scripted_turns import StepError, steps_in, text_of
from harness.targets.hermes_webui.turn_gateway import TurnGateway

STEPS = [("think", "a "), ("call", "b"), ("say", "c ")]
TIMEOUT_S = 10.0


@pytest.fixture
def gateway() -> Iterator[TurnGateway]:
    """A gateway that is closed afterwards."""
    gateway = TurnGateway()
    yield gateway
    gateway.close()


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The questions of a session whose user is there, and has approved nothing."""
    asked: list[Any] = []
    monkeypatch.setattr(prompts, "_approved", {})
    prompts.register_gateway_notify("s", asked.append)
    yield asked
    prompts.unregister_gateway_notify("s")


def sent(gateway: TurnGateway, path: str, body: Any = None) -> str:
    """The whole answer of the gateway."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(gateway.url + path, data)  # noqa: S310  ours
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310  ours
        return str(answer.read().decode())


def test_steps_are_read_as_they_were_written() -> None:
    """Other directives are no steps."""
    assert steps_in(f"words [plain]{text_of(*STEPS, ('hold', ''))}") == [*STEPS, ("hold", "")]


def test_agent_calls_back_for_each_step() -> None:
    """The conversation has what was shown, in messages as an agent has them."""
    seen: list[Any] = []
    agent = AIAgent(
        session_id="s",
        stream_delta_callback=seen.append,
        reasoning_callback=seen.append,
        tool_complete_callback=lambda *call: seen.append(call[3]),
    )

    result = agent.run_conversation(text_of(*STEPS))

    assert seen == ["a ", "seen b", "c "]
    assert [message["role"] for message in result["messages"]] == [
        *("user", "assistant", "tool", "assistant")
    ]
    assert [result["final_response"], result["messages"][1]["reasoning"]] == ["c ", "a "]
    with pytest.raises(StepError, match="no more"):
        agent.run_conversation("[raise=no more]")


def test_approvals_wait_for_answers_in_turn(session: list[Any]) -> None:
    """An answer goes to the oldest question; what is free is not asked."""
    results: list[str] = []
    turn = threading.Thread(
        target=lambda: results.append(prompts.ask("s", "a command", lambda: False))
    )
    turn.start()

    assert came_true(lambda: prompts.has_blocking_approval("s"), TIMEOUT_S)
    assert prompts.resolve_gateway_approval("s", "session") == 1
    turn.join(TIMEOUT_S)
    assert results == ["session"]
    assert prompts.ask("s", "a command", lambda: False) == "free"
    assert prompts.ask("s", "another", lambda: True) == "no answer"
    assert [data["command"] for data in session] == ["a command", "another"]
    assert prompts.ask("another session", "a command", lambda: False) == "no user"


def test_two_answers_come_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the questions, whatever their words are."""
    monkeypatch.setattr(prompts, "ask", lambda *_: "once")

    result = AIAgent(session_id="s").run_conversation("[both=z+a]")

    assert result["final_response"] == "z once a once "


def test_gateway_streams_each_step(gateway: TurnGateway) -> None:
    """A turn is one request, or a run with a stream of events."""
    text = text_of(*STEPS)
    chunks = sent(gateway, "/v1/chat/completions", {"messages": [{"content": text}]})
    run = json.loads(sent(gateway, "/v1/runs", {"input": text}))["run_id"]
    events = sent(gateway, f"/v1/runs/{run}/events")

    assert chunks.index("reasoning_content") < chunks.index("tool.progress") < chunks.index("c ")
    assert chunks.endswith("data: [DONE]\n\n")
    assert events.index("reasoning.available") < events.index("tool.completed")
    assert events.index("message.delta") < events.index("run.completed")


def test_gateway_waits_for_an_answer_or_a_stop(gateway: TurnGateway) -> None:
    """A run that is stopped says so."""
    streams = {}
    for end, body in (("approval", {"choice": "once", "approval_id": ""}), ("stop", {})):
        run = json.loads(sent(gateway, "/v1/runs", {"input": "[approve=x]"}))["run_id"]
        sent(gateway, f"/v1/runs/{run}/{end}", body)
        streams[end] = sent(gateway, f"/v1/runs/{run}/events")

    assert "x once" in streams["approval"]
    assert "run.cancelled" in streams["stop"]


def test_gateway_answers_late(gateway: TurnGateway) -> None:
    """It has the request at once, and a run when its gate is open."""
    answers: list[str] = []
    asking = threading.Thread(
        target=lambda: answers.append(sent(gateway, "/v1/runs", {"input": "[late=g]"}))
    )
    asking.start()

    assert came_true(lambda: bool(gateway.runs), TIMEOUT_S)
    assert answers == []
    gateway.opened.add("g")
    asking.join(TIMEOUT_S)
    assert [json.loads(answer)["run_id"] for answer in answers] == [*gateway.runs]


@pytest.mark.parametrize(
    ("step", "error"),
    [
        (("hint", "401 no key"), {"status_code": 401, "message": "401 no key"}),
        (("hint", "no reply"), "no reply"),
        (("blame", "no key"), None),
    ],
)
def test_error_without_a_failure_is_given(step: tuple[str, str], error: Any) -> None:
    """By the result, in a structure or a text, or by the agent alone; what was shown is lost."""
    agent = AIAgent(session_id="s")

    result = agent.run_conversation(text_of(("say", "a "), step))

    assert result.get("error") == error
    assert [message["role"] for message in result["messages"]] == ["user"]
    assert "failed" not in result
    assert agent._last_error == (None if error else "no key")


def test_messages_come_in_parts() -> None:
    """Texts and calls are parts of one message; the reply is their text."""
    result = AIAgent(session_id="s").run_conversation(
        text_of(("parts", "output"), ("say", "a "), ("edit", "b+c"), ("say", "d "))
    )
    contents = [m["content"] for m in result["messages"] if m["role"] == "assistant"]

    assert [part["type"] for part in contents[0]] == ["output_text", "tool_use"]
    assert contents[0][1]["input"] == {"path": "b", "new_string": "c"}
    assert [contents[1][0]["output_text"], result["final_response"]] == ["d ", "d "]


def test_turn_waits_at_a_gate(gateway: TurnGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until its file is there, or the gateway knows that it is open."""
    waited: list[str] = []

    def opened(name: str) -> bool:
        waited.append(name)
        return len(waited) > 1

    monkeypatch.setattr(scripted_turns, "opened", opened)
    text = text_of(("gate", "g"), ("say", "a "))
    assert AIAgent(session_id="s").run_conversation(text)["final_response"] == "a "
    assert waited == ["g", "g"]

    gateway.opened.add("g")
    assert "a " in sent(gateway, "/v1/chat/completions", {"messages": [{"content": text}]})


def test_process_prints_what_its_turn_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn can start a process that wakes its session."""
    spawned: list[Any] = []
    monkeypatch.setattr(process_registry, "spawn", lambda *process: spawned.append(process))

    AIAgent(session_id="s").run_conversation(text_of(("spawn", "{say=a }")))

    assert spawned == [(0.0, "{say=a }", 0)]


def test_text_is_thought_once_more() -> None:
    """As reasoning, which is no part of the conversation."""
    thought: list[str] = []
    agent = AIAgent(session_id="s", reasoning_callback=thought.append)

    result = agent.run_conversation(text_of(("say", "a b "), ("echo", "begin"), ("echo", "end")))

    assert thought == ["a b", "a b"]
    assert "reasoning" not in result["messages"][-1]


def test_goal_goes_on_until_it_is_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is kept, and another manager knows it."""
    monkeypatch.setenv("HERMES_HOME", str(tmp_path))
    goals = scripted_goals.GoalManager("s")
    assert not goals.has_goal()
    goals.set("a goal")
    assert goals.evaluate_after_turn("")["continuation_prompt"] == "go on with a goal"
    assert goals.pause() is not None
    assert not scripted_goals.GoalManager("s").is_active()

    goals.set(scripted_goals.REACHED)
    assert not goals.evaluate_after_turn("")["should_continue"]
    assert [goals.state and goals.state.status, goals.status_line()[:4]] == ["done", "done"]
    goals.clear()
    assert scripted_goals.load_goal("s") is None


@pytest.mark.parametrize("text", ["hello [tokens=1]", "hello [prune][tokens=1]", "hello [say=x]"])
def test_agent_says_where_the_request_is(text: str) -> None:
    """A server that does not know it adds the request once more behind a summary."""
    history = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    agent = AIAgent(session_id="s")
    result = agent.run_conversation(text, conversation_history=history)
    turn = agent._current_turn_id

    found = result["messages"][agent._persist_user_message_idx]
    assert (found["role"], found["content"]) == ("user", text)
    agent.run_conversation(text)
    assert agent._current_turn_id not in ("", turn)
