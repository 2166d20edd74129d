"""The *outside* ability: a server, another process that writes its database, and a model provider.

The other process writes the server's state.db, while a client reads the gateway stream. The
provider of models counts its requests, and may hang.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event as Signal
from threading import Lock, Thread
from typing import Any, Protocol

from harness.core.errors import TargetLostError
from harness.engine.http import LOOPBACK, Event, Web
from harness.processes.server import Launch
from harness.targets.server.lifecycle import ServerAdapter

POLL_S = "0.05"
BUDGET_S = "0.5"
STREAM_TIMEOUT_S = 60.0
IDLE_POLL_S = 0.005
SENTINEL = "sentinel"  # a session whose title shows which writes the watcher has announced
Rows = list[list[Any]]


class Writer(Protocol):
    """Another process that has the database of a folder open."""

    def open(self, folder: Path) -> None:
        """Open the database in `folder`."""
        ...

    def ask(self, function: str, argument: Mapping[str, Any]) -> Any:
        """Call a function of the *state_db* ability."""
        ...

    def close(self) -> None:
        """End the process."""
        ...


class ExternalWriterAdapter:
    """One server, one writer, one client of the gateway stream and one provider."""

    def __init__(self, folder: Path, launch: Launch, writer: Writer) -> None:
        """Boot, and open the gateway stream."""
        self._provider = Provider()
        self._server = ServerAdapter(folder, launch)
        booted = self._server.boot(
            HERMES_WEBUI_GATEWAY_POLL=POLL_S,
            HERMES_WEBUI_MODELS_URL=self._provider.url,
            HERMES_WEBUI_MODELS_REBUILD_BUDGET=BUDGET_S,
        )
        self._web = Web(booted["port"])
        self._writer = writer
        self._writer.open(self._server.state)
        self._titles = map("at {}".format, itertools.count())
        self._session: str | None = None
        self._stream = ExitStack()
        web = Web(booted["port"], STREAM_TIMEOUT_S, lasts=True)
        self._events = self._stream.enter_context(web.stream("/api/sessions/gateway/stream"))
        self._writer.ask("create", {"session": SENTINEL, "source": "cli"})
        list(self._read_to(self._mark()))

    # Calls of the other process

    def create(self, session: str, source: str) -> None:
        """Create a session."""
        self._writer.ask("create", {"session": session, "source": source})

    def append(self, session: str, text: str) -> None:
        """Add a message."""
        self._writer.ask("append", {"session": session, "role": "user", "text": text})

    def rewrite(self, session: str, texts: list[str]) -> None:
        """Replace all messages."""
        messages = [["user", text] for text in texts]
        self._writer.ask("replace", {"session": session, "messages": messages})

    def rename(self, session: str, title: str) -> None:
        """Set the title."""
        self._writer.ask("set_title", {"session": session, "title": title})

    def end(self, session: str) -> None:
        """End the session."""
        self._writer.ask("end", {"session": session, "reason": "done"})

    def delete(self, session: str) -> None:
        """Delete the session."""
        self._writer.ask("delete", {"session": session})

    def poll(self, *, awaited: bool) -> dict[str, Any]:
        """The last announcement, and their number, up to the one of a change that is made now.

        If one is `awaited`, that change is made only after it.
        """
        announced: list[Event] = []
        with suppress(TimeoutError):  # no announcement came
            announced = [next(self._events)] if awaited else []
            announced += self._read_to(self._mark())
        # A client tells the events of several streams apart by their type.
        is_named = announced and announced[-1].data.get("type") == announced[-1].name
        last = _rows(announced[-1]) if is_named else None
        return {"announced": last, "announcements": len(announced)}

    def _mark(self) -> str:
        """Change the sentinel's title, so that there is a change to announce; the new title."""
        title = next(self._titles)
        self._writer.ask("set_title", {"session": SENTINEL, "title": title})
        return title

    def _read_to(self, title: str) -> Iterator[Event]:
        """The announcements before the list in which the sentinel has that title."""
        for event in self._events:
            if any(row["title"] == title for row in event.data["sessions"]):
                return
            yield event

    # Models

    def shown(self) -> dict[str, Any]:
        """The models that display paths receive, and the number of provider requests."""
        before = self._provider.asked
        for path in ("/api/sessions", "/health", "/api/system/health"):
            self._web.get(path)
        models = _models(self._web.get("/api/models"))
        return {"models": models, "asked": self._provider.asked - before}

    def resolved(self, by: str) -> dict[str, Any]:
        """The model of a session, or of a turn, and the number of provider requests.

        A token of the store of secrets has another value each time.
        """
        if self._session is None:
            self._session = self._web.post("/api/session/new")["session"]["session_id"]
        token = next(self._titles)
        auth = self._server.state / "auth.json"
        auth.write_text(json.dumps({"provider": "live", "access_token": token}), "utf-8")
        before = self._provider.asked
        sid = self._session
        if by == "turn":
            answer = self._web.post("/api/chat/start", session_id=sid, message="hello")
            self._await_idle(sid)
        else:
            answer = self._web.get(f"/api/session?session_id={sid}&resolve_model=1")["session"]
        return {"models": [answer["effective_model"]], "asked": self._provider.asked - before}

    def _await_idle(self, sid: str) -> None:
        ends_at = time.monotonic() + STREAM_TIMEOUT_S
        while self._web.get(f"/api/session/status?session_id={sid}")["agent_running"]:
            if time.monotonic() > ends_at:
                raise TimeoutError(f"session {sid} is busy after {STREAM_TIMEOUT_S:g} s")
            time.sleep(IDLE_POLL_S)

    def rebuilt(self, askers: int, *, hangs: bool) -> dict[str, Any]:
        """The models of `askers` concurrent refreshes, while the provider answers or hangs."""
        before = self._provider.asked
        self._provider.answers.clear() if hangs else self._provider.answers.set()
        with ThreadPoolExecutor(askers) as pool:
            models = list(pool.map(lambda _: self._refreshed(), range(askers)))
        self._provider.answers.set()  # only now, so no refresh has waited for it
        return {"models": models, "asked": self._provider.asked - before}

    def _refreshed(self) -> list[str] | None:
        """The models after a refresh; None if the server does not answer."""
        try:
            return _models(self._web.get("/api/models?refresh=1"))
        except TargetLostError:
            return None

    def close(self) -> None:
        """Close the stream, the server, the writer and the provider."""
        self._stream.close()
        self._server.close()
        self._writer.close()
        self._provider.close()


class Provider:
    """A provider of models on loopback, which returns a new model for each request."""

    def __init__(self) -> None:
        """Start to listen; requests wait until the event `answers` is set."""
        self.answers = Signal()
        self.asked = 0
        self._lock = Lock()
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps(provider.offer()).encode()
                with suppress(OSError):  # the client may have closed the connection
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Log nothing."""

        self._server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://{LOOPBACK}:{self._server.server_port}/models"
        self._thread = Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def offer(self) -> dict[str, Any]:
        """Count a request, and answer it when `answers` is set."""
        with self._lock:
            self.asked += 1
            number = self.asked
        self.answers.wait()
        return {"provider": "live", "models": [f"model-{number}"]}

    def close(self) -> None:
        """Answer waiting requests, and stop listening."""
        self.answers.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _rows(event: Event) -> Rows:
    return sorted(
        [row["session_id"], row["title"], row["message_count"], row["ended_at"] is not None]
        for row in event.data["sessions"]
        if row["session_id"] != SENTINEL
    )


def _models(catalog: Mapping[str, Any]) -> list[str]:
    return [model["id"] for group in catalog["groups"] for model in group["models"]]
