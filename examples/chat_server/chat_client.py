"""Adapters of the chat server: one over HTTP to a child process, one in this process.

The module imports the standard library only, so that the test file of a failure can contain it.
"""

from __future__ import annotations

import http.client
import importlib
import json
import queue
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

TIMEOUT_S = 10.0
REST_S = 3.0  # fifteen heartbeats: far longer than the server needs to notice a closed stream


class ChatServer:
    """A server in a child process on a free port. Its methods are the ability `chat`.

    The child stays in the process group of its parent, so it ends with the parent at the latest.
    """

    def __init__(self, place: Path, log: Path) -> None:
        command = [sys.executable, "-S", "-P", str(place / "chat_server.py"), "--port", "0"]
        with log.open("wb") as output:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=output)
        assert self._process.stdout is not None
        address = self._process.stdout.readline().decode().strip()
        if not address:
            self.close()
            raise RuntimeError(f"the server did not start: {log.read_text()[-1000:]}")
        self._port = int(address.rpartition(":")[2])

    def post(self, session: str, text: str) -> int:
        """Append a message; its id."""
        answer: int = self._ask("POST", f"/sessions/{session}/messages", {"text": text})["id"]
        return answer

    def history(self, session: str) -> list[list[Any]]:
        """The session's messages, each as `[id, text]`."""
        found = self._ask("GET", f"/sessions/{session}/messages")["messages"]
        return [[message["id"], message["text"]] for message in found]

    def backlog(self, session: str, after: int) -> list[int]:
        """Open a stream, read it until it is live, and leave; the ids that came."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT_S)
        try:
            connection.request("GET", f"/sessions/{session}/events?after={after}")
            ids: list[int] = []
            for line in connection.getresponse():
                if line == b"event: live\n":
                    return ids
                if line.startswith(b"id: "):
                    ids.append(int(line.removeprefix(b"id: ")))
            raise ConnectionResetError("the stream ended before it was live")
        finally:
            connection.close()

    def delete(self, session: str) -> bool:
        """Delete a session; whether it was there."""
        answer: bool = self._ask("DELETE", f"/sessions/{session}")["deleted"]
        return answer

    def gauges_at_rest(self) -> dict[str, int]:
        """The gauges once no stream is open, or those of the last look before `REST_S` is over."""
        ends_at = time.monotonic() + REST_S
        while True:
            gauges: dict[str, int] = self._ask("GET", "/gauges")
            if not gauges["streams"] or time.monotonic() > ends_at:
                return gauges
            time.sleep(0.02)

    def close(self) -> None:
        """Kill the server and reap it."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT_S)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            response = connection.getresponse()
            document = response.read()
        finally:
            connection.close()
        if response.status != http.client.OK:
            raise RuntimeError(f"{method} {path}: status {response.status}")
        return json.loads(document)


class ChatObject:
    """The object behind the server, in this process. Its methods are the ability `chat_threads`."""

    def __init__(self) -> None:
        self._chat = importlib.import_module("chat_server").Chat()
        self._streams: list[Any] = []

    def post(self, text: str) -> int:
        """Append a message to the only session; its id."""
        answer: int = self._chat.post("s", text)
        return answer

    def history(self) -> list[int]:
        """The ids of the session's messages."""
        return [message["id"] for message in self._chat.history("s")]

    def subscribe(self, after: int) -> None:
        """Open a stream."""
        self._streams.append(self._chat.subscribe("s", after))

    def received(self) -> list[int]:
        """The ids that the first stream has carried so far."""
        ids: list[int] = []
        while True:
            try:
                message = self._streams[0].get_nowait()
            except queue.Empty:
                return ids
            if "id" in message:
                ids.append(message["id"])

    def close(self) -> None:
        """Close nothing: it has neither files nor threads."""
