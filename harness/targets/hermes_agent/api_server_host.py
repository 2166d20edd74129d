"""Runs the HTTP server of the released package with a scripted agent: PORT, STATE as arguments.

Stand-alone: it imports the standard library and the package, found on the path with what it
imports. Of the server one method is overridden, which makes its agent. This agent does with the
database what the real one does: it stores the user's message and its own answer in the session.

A message `[open]` is a turn that goes on until it is interrupted, and says what other turns hand
to it: `[to RUN] text` hands text to that run. `[slow] text` is a turn of half a second.
"""

import asyncio
import importlib
import os
import queue
import re
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

SLOW_S = 0.5  # the turn of a slow message
LOOK_S = 0.2  # how often an open turn looks whether it was interrupted
HANDED = re.compile(r"\[to ([^]]*)\] (.*)", re.DOTALL)


class ScriptedAgent:
    """An agent that follows its instructions; `opened` has the open turns, by session."""

    opened: ClassVar[dict[str, "queue.Queue[str]"]] = {}
    session_prompt_tokens = session_completion_tokens = session_total_tokens = 1

    def __init__(self, database: Any, given: dict[str, Any]) -> None:
        self.session_id = given.get("session_id")
        self._database = database
        self._say: Callable[[str], None] = given.get("stream_delta_callback") or (lambda _: None)
        self._is_interrupted = threading.Event()

    def interrupt(self, _: str = "") -> None:
        """End an open turn."""
        self._is_interrupted.set()

    def run_conversation(self, user_message: Any, **_: Any) -> dict[str, Any]:
        """One turn: store the message, follow it, and store the answer."""
        text = user_message if isinstance(user_message, str) else str(user_message)
        if handed := HANDED.fullmatch(text):
            if handed[1] in self.opened:
                self.opened[handed[1]].put(handed[2])
            return {"final_response": "handed", "messages": []}
        if text == "[open]":
            self._stay_open()
            return {"final_response": "closed", "messages": []}
        self._database.create_session(self.session_id, "api_server")
        self._database.append_message(self.session_id, "user", text)
        if text.startswith("[slow]"):
            time.sleep(SLOW_S)
        self._say("heard")
        self._database.append_message(self.session_id, "assistant", "heard")
        return {"final_response": "heard", "messages": []}

    def _stay_open(self) -> None:
        heard = self.opened.setdefault(str(self.session_id), queue.Queue())
        while not self._is_interrupted.is_set():
            try:
                self._say(heard.get(timeout=LOOK_S))
            except queue.Empty:
                continue


def main(port: int, state: Path) -> None:
    """Serve until the process ends."""
    os.environ["HERMES_HOME"] = os.environ["HOME"] = str(state)
    config: Any = importlib.import_module("gateway.config")  # it reads its home when imported
    package: Any = importlib.import_module("gateway.platforms.api_server")

    class Server(package.APIServerAdapter):  # type: ignore[misc]
        """The package's server; its agents are scripted."""

        def _create_agent(self, **given: Any) -> ScriptedAgent:
            return ScriptedAgent(self._ensure_session_db(), given)

    async def serve() -> None:
        extra = {"host": "127.0.0.1", "port": port, "key": os.environ["API_SERVER_KEY"]}
        server = Server(config.PlatformConfig(enabled=True, extra=extra))
        if not await server.connect():
            raise SystemExit("the server refuses to start")
        await asyncio.Event().wait()

    asyncio.run(serve())


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
