"""Agents: the protocol of a real agent, and a scripted one that follows directives in its message.

An agent works for one session. It runs one turn at a time and writes what it produces to the turn's
output, from any thread that the turn started. A turn is cancelled by an event, not by a call: a
turn that was cancelled before it began is cancelled all the same.
"""

from __future__ import annotations

import json
import re
import shlex
import threading
import time
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from reference_impl.agents import identity
from reference_impl.agents.processes import ProcessRegistry
from reference_impl.sessions.sidecar import Message


class TurnOutput(Protocol):
    """Where an agent writes a turn's output. A write after the turn's end raises RunOverError."""

    @property
    def cancelled(self) -> threading.Event:
        """Set when the agent must return soon; what it has written remains part of the run."""
        ...

    @property
    def asked(self) -> Mapping[str, Any]:
        """What the turn is asked to work with, by name: model, workspace, attachments, toolsets."""
        ...

    def token(self, text: str) -> None:
        """Write a part of the reply."""
        ...

    def reasoning(self, text: str) -> None:
        """Write a thought, which is not part of the reply."""
        ...

    def tool(self, name: str, arguments: Any) -> None:
        """Report a tool call."""
        ...

    def tool_complete(self, name: str, output: str) -> None:
        """Report the output of a tool call."""
        ...

    def spent(self, **counts: float) -> None:
        """Add to what the turn costs, by names of `USAGE`; before what it pays for is written."""
        ...


class Agent(Protocol):
    """Runs the turns of one session."""

    @property
    def system_prompt(self) -> str:
        """The text before any message; the same in all turns of the session."""
        ...

    def run_turn(self, message: str, history: Sequence[Message], output: TurnOutput) -> str:
        """Work for one message and return the whole reply; may be slow, and may raise anything."""
        ...

    def summarize(self, messages: Sequence[Message]) -> str:
        """Say in short what these messages say; may be slow, and may raise anything."""
        ...

    def sync_turn(self, turn_id: str, request: str, reply: str) -> None:
        """Let the memory know of a completed turn, without extraction; must be quick."""
        ...

    def commit_memory_session(self) -> None:
        """Extract the session's memory; may be slow, and may raise anything."""
        ...

    def close(self) -> None:
        """Release everything; no turn follows."""
        ...


class Memory(Protocol):
    """A session's memory at a provider."""

    def sync_turn(self, turn_id: str, request: str, reply: str) -> None:
        """Send a completed turn; must be quick."""
        ...

    def commit(self) -> None:
        """Extract what was sent; may be slow, and may raise OSError."""
        ...


class ScriptedError(Exception):
    """The message asked for a failure, or the agent was used after `close`."""


_DIRECTIVE = re.compile(
    r"\[(sleep|tokens|beat|think|tool|asked|heard|process|kill|fail|linger|hang|exit)"
    r"(?:=([^\[\]]*))?\]"
)
_COST_USD = 0.25  # of a turn; a binary fraction, so that sums are exact


class ScriptedAgent:
    """An agent that executes the directives in its message, in order.

        [sleep=2]                       waits that many seconds, or until it is cancelled
        [tokens=10]                     writes 10 tokens; `[tokens=10x4]`: on each of 4 threads
        [beat=25:0.04]                  writes 25 tokens, one per 0.04 s, each with its due time
        [think=2]                       writes 2 thoughts, which are not part of the reply
        [tool]                          calls a tool that reports the turn's session
        [asked]                         calls a tool that reports what the turn works with
        [heard]                         writes a digest of each message of its history
        [process=0.5:exit=3:hello]      starts a background process that prints after that time;
                                        `watch=TEXT` before the output watches for a text;
                                        `lost=1` starts it from a thread without turn identity
        [kill]                          kills the processes of its session that run
        [fail]  [exit]                  raises an error; tries to end the program
        [linger=0.3]                    waits until it is cancelled, and that many seconds more;
                                        `[linger=0.3:fail]` raises an error after that
        [hang]                          ignores a cancel until the agent is closed

    In a process's output `{` and `}` become `[` and `]`, so the output can hold directives for its
    wakeup. A turn costs one input token a message, those of its history from a cache, and one
    output token for each token or thought.
    """

    def __init__(
        self,
        session_id: str,
        processes: ProcessRegistry,
        memory: Memory | None = None,
    ) -> None:
        """`memory` is the session's memory, at a provider; without it there is none."""
        self.commits = 0
        self._memory = memory
        self._session_id = session_id
        self._processes = processes
        self._closed = threading.Event()

    @property
    def system_prompt(self) -> str:
        """Name the session, so that no other session has the same prompt."""
        return f"You follow the directives of {self._session_id}."

    def run_turn(self, message: str, history: Sequence[Message], output: TurnOutput) -> str:
        """Execute the directives; the reply is all tokens and a closing sentence."""
        if self._closed.is_set():
            raise ScriptedError(f"run_turn() of {self._session_id} was called after close()")
        shown: list[str] = []
        output.spent(
            input_tokens=len(history) + 1,
            cache_read_tokens=len(history),
            cache_write_tokens=1,
            cost_usd=_COST_USD,
        )
        for directive in _DIRECTIVE.finditer(message):
            if output.cancelled.is_set() and directive[1] != "hang":
                return "".join(shown)
            if directive[1] == "heard":
                self._show(output, shown, _digest(history))
                continue
            self._obey(directive[1], directive[2] or "", output, shown)
        self._show(output, shown, f"That was turn {_turns(history) + 1} of {self._session_id}.")
        return "".join(shown)

    def _obey(self, verb: str, value: str, output: TurnOutput, shown: list[str]) -> None:
        match verb:
            case "sleep":
                output.cancelled.wait(float(value))
            case "tokens":
                self._show_many(output, shown, value)
            case "beat" | "think":
                self._write(verb, output, shown, value)
            case "tool" | "asked" | "kill":
                self._call_tool(verb, output)
            case "process":
                self._start_process(value)
            case "linger":
                self._linger(value, output)
            case "hang":
                self._closed.wait()
            case "fail":
                raise ScriptedError("the message asked for a failure")
            case "exit":
                raise SystemExit(1)

    def _linger(self, value: str, output: TurnOutput) -> None:
        """Go on for a while after a cancel; then raise an error, if the value asks for it."""
        seconds, _, end = value.partition(":")
        output.cancelled.wait()
        self._closed.wait(float(seconds))
        if end:
            raise ScriptedError("the message asked for a failure after a cancel")

    def _show_many(self, output: TurnOutput, shown: list[str], value: str) -> None:
        count, _, threads = value.partition("x")

        def show() -> None:
            for number in range(int(count)):
                if output.cancelled.is_set():
                    return
                self._show(output, shown, f"{number} ")

        if not threads:
            show()
            return
        for thread in [identity.spawn(show) for _ in range(int(threads))]:
            thread.join()

    def _beat(self, output: TurnOutput, shown: list[str], value: str) -> None:
        count, _, interval_s = value.partition(":")
        due = time.time()
        for _ in range(int(count)):
            due += float(interval_s)
            if output.cancelled.wait(max(0.0, due - time.time())):
                return
            self._show(output, shown, f"@{due:.6f} ")

    def _show(self, output: TurnOutput, shown: list[str], text: str) -> None:
        output.spent(output_tokens=1)
        output.token(text)
        shown.append(text)

    def _write(self, verb: str, output: TurnOutput, shown: list[str], value: str) -> None:
        if verb == "beat":
            self._beat(output, shown, value)
        else:
            self._think(output, int(value))

    def _think(self, output: TurnOutput, count: int) -> None:
        for number in range(count):
            output.spent(output_tokens=1, reasoning_tokens=1)
            output.reasoning(f"thought {number} ")

    def _call_tool(self, verb: str, output: TurnOutput) -> None:
        if verb == "asked":
            output.tool("what_was_asked", {})
            output.tool_complete("what_was_asked", json.dumps(output.asked, sort_keys=True))
            return
        if verb == "kill":
            output.tool("kill_processes", {})
            running = self._processes.running(self._session_id)
            killed = [self._processes.kill(process_id) for process_id in running]
            output.tool_complete("kill_processes", str(sum(killed)))
            return
        turn = identity.current()
        output.tool("whose_turn", {})
        output.tool_complete("whose_turn", turn.session_id if turn is not None else "none")

    def _start_process(self, value: str) -> None:
        seconds, *rest = value.split(":")
        options: dict[str, str] = {}
        while rest and rest[0].partition("=")[0] in ("exit", "watch", "lost"):
            name, _, option = rest.pop(0).partition("=")
            options[name] = option
        print_command = f"printf %s {shlex.quote(':'.join(rest))} | tr '{{}}' '[]'"

        def spawn() -> None:
            self._processes.spawn(
                f"sleep {float(seconds)}; {print_command}; exit {int(options.get('exit', 0))}",
                watches=(options["watch"],) if "watch" in options else (),
                session_key=self._session_id,
            )

        if "lost" in options:  # a plain thread has no turn identity
            with ThreadPoolExecutor(1) as pool:
                pool.submit(spawn).result()
        else:
            spawn()

    def summarize(self, messages: Sequence[Message]) -> str:
        """Count them, and repeat the beginning of each request."""
        asked = [message["content"][:40] for message in messages if message.get("role") == "user"]
        return f"Summary of {len(messages)} messages: {'; '.join(asked)}"

    def sync_turn(self, turn_id: str, request: str, reply: str) -> None:
        """Let the memory provider know of a completed turn."""
        if self._memory is not None:
            self._memory.sync_turn(turn_id, request, reply)

    def commit_memory_session(self) -> None:
        """Let the memory provider extract the session. Raises OSError."""
        if self._memory is not None:
            self._memory.commit()
        self.commits += 1

    def close(self) -> None:
        """End every directive that hangs."""
        self._closed.set()


def _digest(history: Sequence[Message]) -> str:
    """The role, the first word and a sum of the words of each message."""
    rows = []
    for message in history:
        words = str(message.get("content") or "").split()
        first = re.sub(r"[^\w-]", "", words[0])[:20] if words else ""
        total = zlib.crc32(" ".join(words).encode())
        rows.append(f"{message.get('role')}/{first}/{total:08x}")
    return f"heard({' '.join(rows)}) "


def _turns(history: Sequence[Message]) -> int:
    return sum(message.get("role") == "user" for message in history)
