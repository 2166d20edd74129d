"""A gateway that a hermes-webui server can send its turns to, in place of its own agent.

It answers one request a turn with a stream of tokens, and follows the directives of the message as
the scripted agent does. It says that it can ask for no approvals.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

from harness.contract.agent_script import ReplyEnd, Script, Tokens
from harness.engine.http import LOOPBACK

CAPABILITIES = {"features": {"approval_events": False}}
FAILED = 500
BEAT_S = 0.1
POLL_S = 0.02


class Gateway:
    """A server on loopback, through which turns of several sessions may run at once."""

    def __init__(self) -> None:
        """Start to listen, and to answer."""
        self._closed = Event()
        self._turns: Counter[str] = Counter()
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps(CAPABILITIES).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                session = self.headers.get("x-hermes-session-id", "")
                with suppress(OSError):  # the server leaves when the turn is cancelled
                    gateway.answer(self, str(body["messages"][-1]["content"]), session)

            def log_message(self, *_: Any) -> None:
                """Log nothing."""

        self._server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://{LOOPBACK}:{self._server.server_port}"
        Thread(target=self._server.serve_forever, args=(POLL_S,), daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler, message: str, session: str) -> None:
        """Follow the directives of a message. A failure before any token is a status."""
        script = Script.parse(message)
        if script.fails and not script.tokens:
            request.send_response(FAILED)
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        request.send_response(200)
        request.send_header("Content-Type", "text/event-stream")
        request.end_headers()
        for directive in script.directives:
            if directive.verb == "tokens":
                for number in range(Tokens.parse(directive.value).count):
                    _send(request, f"{number} ")
            elif directive.verb == "sleep":
                self._wait(request, float(directive.value))
            elif directive.verb == "fail":
                return
        self._turns[session] += 1
        _send(request, str(ReplyEnd(self._turns[session], session)))
        request.wfile.write(b"data: [DONE]\n\n")

    def _wait(self, request: BaseHTTPRequestHandler, seconds: float) -> None:
        """Send a comment now and then, until the time is over or the server has left."""
        ends_at = time.monotonic() + seconds
        while time.monotonic() < ends_at and not self._closed.wait(BEAT_S):
            request.wfile.write(b": still at work\n\n")
            request.wfile.flush()

    def close(self) -> None:
        """Stop to listen, and end what waits."""
        self._closed.set()
        self._server.shutdown()
        self._server.server_close()


def _send(request: BaseHTTPRequestHandler, text: str) -> None:
    payload = json.dumps({"choices": [{"index": 0, "delta": {"content": text}}]})
    request.wfile.write(f"data: {payload}\n\n".encode())
    request.wfile.flush()
