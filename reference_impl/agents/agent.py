"""Agents: the protocol that a real one follows, and one that does what the message tells it.

An agent works for one session. It is asked to run one turn at a time; what it produces it shows on
the turn's *stage*, from any thread that the turn started. It is told to stop by an event, not by a
call: a turn that was cancelled before it began is cancelled all the same.
"""

from __future__ import annotations

import re
import shlex
import threading
import time
from collections.abc import Sequence
from typing import Any, Protocol

from reference_impl.agents import identity
from reference_impl.agents.processes import ProcessRegistry
from reference_impl.sessions.sidecar import Message


class Stage(Protocol):
    """What a turn offers its agent. Whatever is shown after the turn's end raises RunOverError."""

    @property
    def cancelled(self) -> threading.Event:
        """Set when the agent shall return soon; what it has shown is kept."""
        ...

    def token(self, text: str) -> None:
        """Show a part of the reply."""
        ...

    def reasoning(self, text: str) -> None:
        """Show a thought, which is no part of the reply."""
        ...

    def tool(self, name: str, arguments: Any) -> None:
        """Show that a tool is called."""
        ...

    def tool_complete(self, name: str, output: str) -> None:
        """Show what the tool said."""
        ...


class Agent(Protocol):
    """Who does the work of a session's turns."""

    def run_turn(self, message: str, history: Sequence[Message], stage: Stage) -> str:
        """Work for one message and return the whole reply; may be slow, and may raise anything."""
        ...

    def commit_memory_session(self) -> None:
        """Extract the session's memory; may be slow, and may raise anything."""
        ...

    def close(self) -> None:
        """Let go of everything; no turn follows."""
        ...


class ScriptedError(Exception):
    """The message asked for a failure."""


_DIRECTIVE = re.compile(r"\[(sleep|tokens|beat|tool|process|fail|hang|exit)(?:=([^\[\]]*))?\]")


class ScriptedAgent:
    """An agent that obeys the directives in its message, in order.

        [sleep=2]                       waits so many seconds, or until it is cancelled
        [tokens=10]                     shows so many tokens; `[tokens=10x4]`: on each of 4 threads
        [beat=25:0.04]                  shows so many, one every so often, that say when it is due
        [tool]                          calls a tool, which says whose turn it is
        [process=0.5:exit=3:hello]      starts a background process that prints after so long;
                                        `watch=TEXT` before the output watches for a text
        [fail]  [exit]                  raises an error; tries to end the program
        [hang]                          heeds no cancel, until the agent is closed

    In a process's output `{` and `}` become `[` and `]`: so it can tell its wakeup what to do.
    """

    def __init__(self, session_id: str, processes: ProcessRegistry) -> None:
        self.commits = 0
        self._session_id = session_id
        self._processes = processes
        self._closed = threading.Event()

    def run_turn(self, message: str, history: Sequence[Message], stage: Stage) -> str:
        """Do as the message says; the reply is what was shown, and a word at the end."""
        if self._closed.is_set():
            raise ScriptedError(f"the agent of {self._session_id} was closed, and asked to work")
        shown: list[str] = []
        for directive in _DIRECTIVE.finditer(message):
            if stage.cancelled.is_set():
                return "".join(shown)
            self._obey(directive[1], directive[2] or "", stage, shown)
        self._show(stage, shown, f"That was turn {_turns(history) + 1} of {self._session_id}.")
        return "".join(shown)

    def _obey(self, verb: str, value: str, stage: Stage, shown: list[str]) -> None:
        match verb:
            case "sleep":
                stage.cancelled.wait(float(value))
            case "tokens":
                self._show_many(stage, shown, value)
            case "beat":
                self._beat(stage, shown, value)
            case "tool":
                self._call_tool(stage)
            case "process":
                self._start_process(value)
            case "hang":
                self._closed.wait()
            case "fail":
                raise ScriptedError("the message asked for a failure")
            case "exit":
                raise SystemExit(1)

    def _show_many(self, stage: Stage, shown: list[str], value: str) -> None:
        count, _, threads = value.partition("x")

        def show() -> None:
            for number in range(int(count)):
                if stage.cancelled.is_set():
                    return
                self._show(stage, shown, f"{number} ")

        if not threads:
            show()
            return
        for thread in [identity.spawn(show) for _ in range(int(threads))]:
            thread.join()

    def _beat(self, stage: Stage, shown: list[str], value: str) -> None:
        count, _, interval_s = value.partition(":")
        due = time.time()
        for _ in range(int(count)):
            due += float(interval_s)
            if stage.cancelled.wait(max(0.0, due - time.time())):
                return
            self._show(stage, shown, f"@{due:.6f} ")

    def _show(self, stage: Stage, shown: list[str], text: str) -> None:
        stage.token(text)
        shown.append(text)

    def _call_tool(self, stage: Stage) -> None:
        turn = identity.current()
        stage.tool("whose_turn", {})
        stage.tool_complete("whose_turn", turn.session_id if turn is not None else "nobody's")

    def _start_process(self, value: str) -> None:
        seconds, *rest = value.split(":")
        options: dict[str, str] = {}
        while rest and rest[0].partition("=")[0] in ("exit", "watch"):
            name, _, option = rest.pop(0).partition("=")
            options[name] = option
        says = f"printf %s {shlex.quote(':'.join(rest))} | tr '{{}}' '[]'"
        self._processes.spawn(
            f"sleep {float(seconds)}; {says}; exit {int(options.get('exit', 0))}",
            watches=(options["watch"],) if "watch" in options else (),
        )

    def commit_memory_session(self) -> None:
        """Count it."""
        self.commits += 1

    def close(self) -> None:
        """End whatever hangs."""
        self._closed.set()


def _turns(history: Sequence[Message]) -> int:
    return sum(message.get("role") == "user" for message in history)
