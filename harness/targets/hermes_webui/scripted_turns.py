"""Turns of the scripted agent that show, think, call, ask and fail, step by step.

    [say=TEXT]  [think=TEXT]     shows a text, or reasoning
    [call=TEXT]                  calls a tool with this argument, as a message of the conversation
    [run=TEXT]  [edit=ONE+TWO]   calls a tool whose argument, or arguments, may be long
    [echo=PART]                  thinks a part of the text that it has just shown, once more
    [note=TEXT]                  says that this text, which was shown, ends a message
    [quiet=TEXT]                 replies with a text that it did not show before
    [approve=TEXT]               asks for an approval, and shows the answer
    [free=TEXT]                  the same, if it is answered by freeing the session of questions
    [again=TEXT]                 asks for the same approval twice, and shows both answers
    [both=ONE+TWO]               asks for two at once, and shows both answers
    [clarify=TEXT]               asks a question, and shows the answer
    [raise=TEXT]  [report=TEXT]  raises an error with a text; ends with an error in its result
    [hint=TEXT]  [blame=TEXT]    ends without a reply, with an error in its result that says no
                                 more, or that only the agent keeps
    [parts=KIND]                 has its messages in parts from here on
    [limit=TEXT]                 replies with a text, because it has called too many tools
    [usage=100:20]               has used these tokens more, in and out
    [merged]                     has messages of users that follow each other as one, as the real
                                 agent repairs them for its provider
    [steered]  [deaf]            waits for a message beside the turn, and shows it, or leaves it
    [gate=NAME]                  waits until the file NAME is in the agent's folder of processes
    [spawn=TEXT]                 starts a background process that prints this text
    [hold]                       waits until it is interrupted
    [forget=TEXT]                asks for an approval and does not wait, if a gateway does it
    [late=NAME]                  begins only when this gate is open, if a gateway does it
    [cut]  [refuse=500]          ends in the middle, or with a status, if a gateway does it

A message with one of these is followed by this module alone. A gateway follows the same steps. It
imports the standard library and its neighbours, because the server's process need not have the
harness.
"""

from __future__ import annotations

import contextvars
import json
import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.targets.hermes_webui import scripted_prompts

Message = dict[str, Any]
Step = tuple[str, str]

TOOL = "look"
SPOOL = "HARNESS_AGENT_SPOOL"  # the variable that names the folder of the processes' output
POLL_S = 0.02
ECHOED = 120  # characters that are thought once more
GATE_S = 60.0  # a gate that its client never opens
# The tool of each verb, and the names of its arguments.
TOOLS = {
    "call": (TOOL, ("at",)),
    "run": ("terminal", ("command",)),
    "edit": ("patch", ("path", "new_string")),
}
GRANTS, FREED = ("once", "session", "always", "free"), "freed"
_STEP = re.compile(
    r"\[(say|think|echo|call|run|edit|note|quiet|approve|again|free|both|clarify|raise|report|hint"
    r"|blame|limit|usage|steered|deaf|hold|gate|spawn|parts|merged|late|refuse|cut|forget)"
    r"(?:=([^\[\]]*))?\]"
)

_METHODS = {"note": "_end_shown"}


class StepError(Exception):
    """The message asked for a failure."""


def steps_in(text: str) -> list[Step]:
    """The steps of a message, in order."""
    return [(found[1], found[2] or "") for found in _STEP.finditer(text)]


def text_of(*steps: Step) -> str:
    """The text that has these steps."""
    return "".join(f"[{verb}={value}]" if value else f"[{verb}]" for verb, value in steps)


def call_id(value: str) -> str:
    """The id of the call of a tool with this argument."""
    return f"call-{value}"


def arguments_of(verb: str, value: str) -> dict[str, str]:
    """The arguments of the tool that this verb calls."""
    return dict(zip(TOOLS[verb][1], value.split("+"), strict=False))


def opened(name: str) -> bool:
    """Whether the gate of this name is open."""
    return (Path(os.environ.get(SPOOL, "spool")) / name).exists()


def await_gate(name: str, is_stopped: Callable[[], bool] = lambda: False) -> None:
    """Wait until a gate is open, or the turn is stopped."""
    ends_at = time.monotonic() + GATE_S
    while not opened(name) and not is_stopped() and time.monotonic() < ends_at:
        time.sleep(POLL_S)


def meet_gate(name: str) -> None:
    """Say that something is at a gate, and wait until it is open."""
    spool = Path(os.environ.get(SPOOL, "spool"))
    spool.mkdir(parents=True, exist_ok=True)
    (spool / f"{name}.met").touch()
    await_gate(name)


def in_parts(content: str, kind: str, calls: list[Message]) -> list[Message]:
    """The content of a message as parts: calls of tools come last, or before the last text."""
    key = "output_text" if kind == "output" else "text"
    texts = [{"type": key, key: content}] if content else []
    uses = [
        {
            "type": "tool_use",
            "id": call["id"],
            "name": call["function"]["name"],
            "input": json.loads(call["function"]["arguments"]),
        }
        for call in calls
    ]
    return [*texts, *uses]


def merged(messages: list[Message]) -> list[Message]:
    """The messages, where those of users that follow each other are one."""
    rows: list[Message] = []
    for message in messages:
        if rows and message["role"] == rows[-1]["role"] == "user":
            rows[-1] = {**rows[-1], "content": f"{rows[-1]['content']}\n\n{message['content']}"}
        else:
            rows.append(message)
    return rows


def freed_by(answer: str) -> str:
    """The same word for each answer that lets a freed turn go on."""
    return FREED if answer in GRANTS else answer


def seen(value: str) -> str:
    """What the tool answers."""
    return f"seen {value}"


class ScriptedTurn:
    """One turn of an agent, which has the server's callbacks."""

    def __init__(self, agent: Any, session_key: str, note: Callable[..., None]) -> None:
        """`note` writes a message into the agent's database."""
        self._agent = agent
        self._session_key = session_key
        self._note = note
        self._said: list[Message] = []
        self._content = self._reasoning = self._parts_kind = ""
        self._is_merged = False
        self._ended: dict[str, Any] = {}

    def follow(self, steps: list[Step], history: list[Message], text: str) -> dict[str, Any]:
        """Take each step until the turn is interrupted; its result. Raises StepError."""
        agent = self._agent
        user = {"role": "user", "content": text}
        self._note(**user)
        try:
            for verb, value in steps:
                if agent.is_stopped:
                    break
                getattr(self, _METHODS.get(verb, f"_{verb}"))(value)
            is_whole = not agent.is_stopped
        finally:
            agent.is_stopped = False
        if self._content or self._reasoning:
            self._end_message()
        if self._is_merged:
            agent.forget_request()
        reply = next((_text(m) for m in reversed(self._said) if m["role"] == "assistant"), "")
        return {
            "final_response": reply,
            "messages": [*(merged if self._is_merged else list)([*history, user]), *self._said],
            "completed": is_whole,
            "interrupted": not is_whole,
            "api_calls": 1,
            **self._ended,
        }

    def _end_message(self, **fields: Any) -> None:
        message = {"role": "assistant", "content": self._content, **fields}
        self._note(**message)
        if self._reasoning:
            message["reasoning"] = self._reasoning
        if self._parts_kind:
            calls = fields.get("tool_calls", [])
            message["content"] = in_parts(self._content, self._parts_kind, calls)
        self._said.append(message)
        self._content = self._reasoning = ""

    def _show(self, value: str) -> None:
        self._content += value
        if self._agent.stream_delta_callback is not None:
            self._agent.stream_delta_callback(value)

    # Steps

    def _say(self, value: str) -> None:
        self._show(value)

    def _think(self, value: str) -> None:
        self._reasoning += value
        if self._agent.reasoning_callback is not None:
            self._agent.reasoning_callback(value)

    def _echo(self, value: str) -> None:
        at = {"begin": slice(0, ECHOED), "end": slice(-ECHOED, None)}[value]
        if self._agent.reasoning_callback is not None:
            self._agent.reasoning_callback(self._content.strip()[at])

    def _quiet(self, value: str) -> None:
        self._content += value

    def _end_shown(self, value: str) -> None:
        if self._agent.interim_assistant_callback is not None:
            self._agent.interim_assistant_callback(value, already_streamed=True)

    def _call(self, value: str) -> None:
        self._use("call", value)

    def _run(self, value: str) -> None:
        self._use("run", value)

    def _edit(self, value: str) -> None:
        self._use("edit", value)

    def _use(self, verb: str, value: str) -> None:
        agent, tool = self._agent, TOOLS[verb][0]
        id_, arguments = call_id(value.split(maxsplit=1)[0]), arguments_of(verb, value)
        function = {"name": tool, "arguments": json.dumps(arguments)}
        if self._content and agent.interim_assistant_callback is not None:
            agent.interim_assistant_callback(self._content, already_streamed=True)
        self._end_message(tool_calls=[{"id": id_, "type": "function", "function": function}])
        if agent.tool_progress_callback is not None:
            agent.tool_progress_callback("tool.started", tool, value, arguments)
        if agent.tool_start_callback is not None:
            agent.tool_start_callback(id_, tool, arguments)
        answer = seen(value.split(maxsplit=1)[0])
        if agent.tool_progress_callback is not None:
            agent.tool_progress_callback(
                "tool.completed", tool, answer, arguments, duration=0.01, is_error=False
            )
        if agent.tool_complete_callback is not None:
            agent.tool_complete_callback(id_, tool, arguments, answer)
        row = {"role": "tool", "content": answer, "tool_call_id": id_}
        self._note(**row)
        self._said.append({**row, "name": tool})

    def _approve(self, value: str) -> None:
        answer = self._asked(value)
        if not self._agent.is_stopped:
            self._show(f"{value} {answer} ")

    def _again(self, value: str) -> None:
        for _ in range(2):
            self._approve(value)

    def _free(self, value: str) -> None:
        answer = self._asked(value)
        if not self._agent.is_stopped:
            self._show(f"{value} {freed_by(answer)} ")

    def _asked(self, value: str) -> str:
        return scripted_prompts.ask(self._session_key, value, lambda: self._agent.is_stopped)

    def _both(self, value: str) -> None:
        answers: dict[str, str] = {}

        def ask(command: str) -> None:
            answers[command] = self._asked(command)

        threads = [
            threading.Thread(target=contextvars.copy_context().run, args=(ask, command))
            for command in value.split("+")
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if not self._agent.is_stopped:
            shown = [f"{command} {answers[command]} " for command in value.split("+")]
            self._show("".join(shown))

    def _clarify(self, value: str) -> None:
        ask = self._agent.clarify_callback
        answer = "no user" if ask is None else ask(value, ["yes", "no"])
        if not self._agent.is_stopped:
            self._show(f"{value} {answer} ")

    def _raise(self, value: str) -> None:
        raise StepError(value)

    def _report(self, value: str) -> None:
        self._content = self._reasoning = ""  # such a conversation lacks what was shown last
        self._ended = {"error": value, "failed": True, "completed": False, "final_response": ""}

    def _hint(self, value: str) -> None:
        code = int(value.split(maxsplit=1)[0]) if value.split(maxsplit=1)[0].isdigit() else 0
        self._content = self._reasoning = ""
        error = {"status_code": code, "message": value} if code else value
        self._ended = {"error": error, "completed": False, "final_response": ""}

    def _blame(self, value: str) -> None:
        self._content = self._reasoning = ""
        self._agent._last_error = value  # noqa: SLF001  where the server looks for it
        self._ended = {"completed": False, "final_response": ""}

    def _parts(self, value: str) -> None:
        self._parts_kind = value

    def _merged(self, _value: str) -> None:
        self._is_merged = True

    def _gate(self, value: str) -> None:
        await_gate(value, lambda: bool(self._agent.is_stopped))

    def _spawn(self, value: str) -> None:
        self._agent.spawn(value)

    def _limit(self, value: str) -> None:
        self._content += value
        self._ended = {"completed": False, "turn_exit_reason": "max_iterations_reached"}

    def _usage(self, value: str) -> None:
        tokens_in, tokens_out = map(int, value.split(":"))
        agent = self._agent  # whose counts are those of all its turns
        tokens_in += getattr(agent, "session_prompt_tokens", 0)
        tokens_out += getattr(agent, "session_completion_tokens", 0)
        agent.session_prompt_tokens = agent.session_input_tokens = tokens_in
        agent.session_completion_tokens = agent.session_output_tokens = tokens_out

    def _steered(self, _value: str) -> None:
        while not self._agent.steering and not self._agent.is_stopped:
            self._agent.steered.wait(POLL_S)
        for text in self._agent.taken_steering():
            self._show(f"{text} ")

    def _deaf(self, _value: str) -> None:
        while not self._agent.steering and not self._agent.is_stopped:
            self._agent.steered.wait(POLL_S)

    def _hold(self, _value: str) -> None:
        self._agent.wait_until_stopped()


def _text(message: Message) -> str:
    """The text of a message of an agent."""
    content = message["content"]
    if isinstance(content, str):
        return content
    return "".join(str(part.get("text") or part.get("output_text") or "") for part in content)
