"""The *next_turn* ability: a server whose two paths of wakeups can be turned off, each by itself.

Every call waits for a state of the server, so that no time decides what a session holds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.contract.agent_script import Process, ReplyEnd, Tokens, WakeupPrompt, sleep
from harness.engine.http import Web
from harness.processes.server import Launch
from harness.targets.server.lifecycle import ServerAdapter

PATIENCE_S = 20.0
POLL_S = 0.005
HELD = f"{Tokens(1).directive}{sleep(900)}"
BESIDE = {"HERMES_WEBUI_CHANNEL_GRACE": "60"}  # no setting at all means the last ones
_IDLE, _NEXT = "HERMES_WEBUI_IDLE_WAKEUPS", "HERMES_WEBUI_NEXT_TURN_DRAIN"


class NextTurnAdapter:
    """One folder, and the present server of it."""

    def __init__(self, folder: Path, launch: Launch) -> None:
        """Boot nothing yet."""
        self._server = ServerAdapter(folder, launch)
        self._sessions: dict[str, str] = {}

    def boot(self, *, idle: bool, joins: bool) -> None:
        """Kill the server, and boot another one with these paths; they are on by default."""
        self._server.kill()
        off = {name: "off" for name, is_on in ((_IDLE, idle), (_NEXT, joins)) if not is_on}
        self._server.boot(**BESIDE, **off)

    def new(self, session: str) -> None:
        """Make a session."""
        made = self._web.post("/api/session/new")
        self._sessions[session] = made["session"]["session_id"]

    def spawn(self, session: str, word: str, waiting: int) -> None:
        """Start a process that prints the word, and wait until that number of completions waits."""
        self.talk(session, f"{word} {Process(0, word).directive}")
        self._await(lambda: self._waiting() == waiting)

    def talk(self, session: str, text: str, *, is_held: bool = False) -> None:
        """Begin a turn; wait until its session is idle or, if it lasts, until it shows a token."""
        sid = self._sessions[session]
        message = f"{text} {HELD}" if is_held else text
        run = self._web.post("/api/chat/start", session_id=sid, message=message)["stream_id"]
        with self._web.stream(f"/api/chat/stream?stream_id={run}") as events:
            next(events)
        if not is_held:
            path = f"/api/session/status?session_id={sid}"
            self._await(lambda: not self._web.get(path)["agent_running"])

    def delete(self, session: str, waiting: int) -> int:
        """Delete a session, and wait until only `waiting` completions wait; how many do."""
        self._web.post("/api/session/delete", session_id=self._sessions.pop(session))
        self._await(lambda: self._waiting() == waiting, is_needed=False)
        return self._waiting()

    def settle(self) -> int:
        """Wait until nothing runs, and every wakeup was delivered; how many wait all the same."""
        names = ("runs", "process_events_pending", "process_completion_queue")
        self._await(lambda: not any(self._containers(name) for name in names), is_needed=False)
        return self._waiting()

    def look(self, session: str) -> list[list[Any]]:
        """The session's messages: who said it, what, and the mark; of a reply its number."""
        sid = self._sessions[session]
        messages = self._web.get(f"/api/session?session_id={sid}")["session"]["messages"]
        return [self._row(message) for message in messages]

    def close(self) -> None:
        """Kill the server."""
        self._server.close()

    def _row(self, message: dict[str, Any]) -> list[Any]:
        mark = next((name for name in ("interrupted", "cancelled") if message.get(name)), "")
        text = message["content"]
        if message["role"] != "user":
            end = ReplyEnd.parse(text)
            return ["reply", 0 if end is None else end.turn, mark]
        prompt = WakeupPrompt.parse(text)
        if message.get("source") == "process_wakeup" and prompt is not None:
            return ["wakeup", prompt.output, mark]
        return ["user", text.partition(" ")[0], mark]

    @property
    def _web(self) -> Web:
        return Web(self._server.boot()["port"])

    def _containers(self, name: str) -> int:
        size: int = self._web.get("/health")["containers"][name]
        return size

    def _waiting(self) -> int:
        """How many completions were not delivered."""
        return self._containers("process_events_pending")

    def _await(self, is_so: Callable[[], bool], *, is_needed: bool = True) -> None:
        ends_at = time.monotonic() + PATIENCE_S
        while not is_so():
            if time.monotonic() > ends_at:
                if is_needed:
                    raise TimeoutError(f"a turn or process lasts longer than {PATIENCE_S:g} s")
                return
            time.sleep(POLL_S)
