"""A gateway that takes the turns of a hermes-webui server, and follows their steps.

It answers a turn with one stream, or takes a run first and streams its events. Approvals are asked
in both, and answered by a call of their own.
"""

from __future__ import annotations

import json
import uuid
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

from harness.engine.http import LOOPBACK
from harness.targets.hermes_webui.scripted_turns import (
    TOOL,
    Step,
    call_id,
    freed_by,
    seen,
    steps_in,
)

FEATURES = ("approval_events", "run_approval_response", "approval_identity_v1")
CAPABILITIES = {"features": dict.fromkeys(FEATURES, True)}
RUNS = "/v1/runs"
BEAT_S = 0.1
POLL_S = 0.02
NO_ANSWER = "no answer"


class Run:
    """One turn: its steps, and what was answered to it."""

    def __init__(self, text: str, *, is_run: bool) -> None:
        self.id = f"run_{uuid.uuid4().hex[:12]}"
        self.text, self.is_run = text, is_run
        self.sent = ""  # its request, with the head of that
        self.steps: list[Step] = steps_in(text)
        self.answers: dict[str, str] = {}  # by the id of an approval
        self.answered = Event()
        self.stopped = Event()


class TurnGateway:
    """A server on loopback, through which turns of several sessions may run at once."""

    def __init__(self) -> None:
        """Start to listen, and to answer."""
        self._closed = Event()
        self.runs: dict[str, Run] = {}
        self.opened: set[str] = set()  # names of gates
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path.startswith(RUNS):
                    with suppress(OSError):  # the server leaves when the turn is cancelled
                        gateway.stream(RunEvents(self, gateway.runs[self.path.split("/")[3]]))
                else:
                    _answer(self, CAPABILITIES)

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with suppress(OSError):
                    gateway.take(self, body)

            def log_message(self, *_: Any) -> None:
                """Log nothing."""

        self._server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://{LOOPBACK}:{self._server.server_port}"
        Thread(target=self._server.serve_forever, args=(POLL_S,), daemon=True).start()

    def take(self, request: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        """Take a turn, an answer to one, or its end."""
        if request.path.startswith(f"{RUNS}/"):
            run = self.runs[request.path.split("/")[3]]
            if request.path.endswith("/stop"):
                run.stopped.set()
            else:
                run.answers[str(body.get("approval_id") or "")] = str(body["choice"])
                run.answered.set()
            _answer(request, {"ok": True, "run_id": run.id, "resolved": 1})
            return
        is_run = request.path == RUNS
        said = body["input"] if is_run else body["messages"][-1]["content"]
        run = Run(str(said), is_run=is_run)
        run.sent = f"{request.headers}{json.dumps(body)}"
        self.runs[run.id] = run
        for gate in [value for verb, value in run.steps if verb == "late"]:
            while gate not in self.opened and not self._closed.wait(POLL_S):
                pass
        refused = next((int(value) for verb, value in run.steps if verb == "refuse"), 0)
        if refused:
            _answer(request, {"error": {"message": f"refused with {refused}"}}, refused)
        elif is_run:
            _answer(request, {"run_id": run.id, "status": "started"})
        else:
            self.stream(Chunks(request, run))

    def stream(self, events: Chunks | RunEvents) -> None:
        """Follow the steps of a run until it is stopped."""
        events.begin()
        for verb, value in events.run.steps:
            if events.run.stopped.is_set():
                break
            if verb == "cut":
                return
            if verb in ("raise", "report"):
                events.fail(value)
                return
            self._take(events, verb, value)
        events.end()

    def _take(self, events: Chunks | RunEvents, verb: str, value: str) -> None:
        """Take one step, which does not end the stream."""
        run, id_ = events.run, f"approval-{uuid.uuid4().hex[:8]}"
        if verb in ("approve", "free", "forget"):
            events.ask(id_, value)
        if verb in ("approve", "free"):
            while not run.answered.wait(BEAT_S) and not run.stopped.is_set():
                self._beat(events)
            run.answered.clear()
            answer = run.answers.get(id_, run.answers.get("", NO_ANSWER))
            events.say(f"{value} {freed_by(answer) if verb == 'free' else answer} ")
        elif verb == "gate":
            while value not in self.opened and not run.stopped.wait(BEAT_S):
                self._beat(events)
        elif verb == "hold":
            while not run.stopped.wait(BEAT_S):
                self._beat(events)
        elif verb in ("say", "think", "call", "usage"):
            getattr(events, verb)(value)

    def _beat(self, events: Chunks | RunEvents) -> None:
        """Send a comment, so that the server learns when it may leave. Raises OSError."""
        if self._closed.is_set():
            raise ConnectionAbortedError
        events.send(": still at work\n\n")

    def close(self) -> None:
        """Stop to listen, and end what waits."""
        self._closed.set()
        self._server.shutdown()
        self._server.server_close()


class Chunks:
    """The stream of a turn that is one request."""

    def __init__(self, request: BaseHTTPRequestHandler, run: Run) -> None:
        self._request = request
        self.run = run
        self._usage: dict[str, int] = {}

    def begin(self) -> None:
        """Send the head of the response."""
        self._request.send_response(200)
        self._request.send_header("Content-Type", "text/event-stream")
        self._request.end_headers()

    def send(self, text: str) -> None:
        """Send some bytes now."""
        self._request.wfile.write(text.encode())
        self._request.wfile.flush()

    def event(self, payload: Any, name: str = "") -> None:
        """Send one event."""
        head = f"event: {name}\n" if name else ""
        self.send(f"{head}data: {json.dumps(payload)}\n\n")

    def _delta(self, **delta: str) -> None:
        self.event({"choices": [{"index": 0, "delta": delta}], "usage": self._usage or None})

    def say(self, value: str) -> None:
        """Show a text."""
        self._delta(content=value)

    def think(self, value: str) -> None:
        """Show reasoning."""
        self._delta(reasoning_content=value)

    def call(self, value: str) -> None:
        """Say that a tool was called, and what it answered."""
        fields = {"tool": TOOL, "toolCallId": call_id(value), "args": {"at": value}}
        self.event({**fields, "status": "running", "label": value}, "hermes.tool.progress")
        self.event({**fields, "status": "completed", "label": seen(value)}, "hermes.tool.progress")

    def usage(self, value: str) -> None:
        """Say how many tokens were used, with what comes next."""
        tokens_in, tokens_out = map(int, value.split(":"))
        self._usage = {"prompt_tokens": tokens_in, "completion_tokens": tokens_out}

    def ask(self, id_: str, value: str) -> None:
        """Ask for an approval."""
        self.event(_question(self.run, id_, value), "hermes.approval.request")

    def fail(self, value: str) -> None:
        """End with an error."""
        self.event({"error": value})
        self.send("data: [DONE]\n\n")

    def end(self) -> None:
        """End the stream as a run that succeeded does."""
        self.send("data: [DONE]\n\n")


class RunEvents(Chunks):
    """The stream of the events of a run that was taken before."""

    def __init__(self, request: BaseHTTPRequestHandler, run: Run) -> None:
        super().__init__(request, run)
        self._said = ""

    def say(self, value: str) -> None:
        """Show a text."""
        self._said += value
        self.event({"event": "message.delta", "delta": value})

    def think(self, value: str) -> None:
        """Show reasoning."""
        self.event({"event": "reasoning.available", "text": value})

    def call(self, value: str) -> None:
        """Say that a tool was called, and what it answered."""
        fields = {"tool": TOOL, "tool_call_id": call_id(value), "args": {"at": value}}
        self.event({"event": "tool.started", **fields, "preview": value})
        self.event({"event": "tool.completed", **fields, "preview": seen(value)})

    def ask(self, id_: str, value: str) -> None:
        """Ask for an approval."""
        self.event({"event": "approval.request", **_question(self.run, id_, value)})

    def fail(self, value: str) -> None:
        """End with an error."""
        self.event({"event": "run.failed", "error": value})

    def end(self) -> None:
        """End well, or because the run was stopped."""
        if self.run.stopped.is_set():
            self.event({"event": "run.cancelled"})
        else:
            usage = {"usage": self._usage} if self._usage else {}
            self.event({"event": "run.completed", "output": self._said, **usage})


def _question(run: Run, id_: str, value: str) -> dict[str, Any]:
    return {
        "run_id": run.id,
        "approval_id": id_,
        "tool": TOOL,
        "command": value,
        "description": f"about {value}",
        "pattern_key": f"pattern of {value}",
        "choices": ["once", "session", "deny"],
    }


def _answer(request: BaseHTTPRequestHandler, body: Any, status: int = 200) -> None:
    data = json.dumps(body).encode()
    request.send_response(status)
    request.send_header("Content-Type", "application/json")
    request.send_header("Content-Length", str(len(data)))
    request.end_headers()
    request.wfile.write(data)
