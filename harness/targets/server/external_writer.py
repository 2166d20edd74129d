"""The *outside* ability: a server, and the world around it.

Another process writes the server's state.db, and a tab tells what the gateway stream announces. A
provider of models counts who asks it, and may never answer.
"""

from __future__ import annotations

import itertools
import json
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

POLL_S = "0.1"
BUDGET_S = "0.5"
TAB_S = 60.0  # how long the tab stays open, at most
SENTINEL = "sentinel"  # a session of ours, whose titles tell how far the watcher has come
Rows = list[list[Any]]


class Writer(Protocol):
    """Another process, with the database of a folder open."""

    def open(self, folder: Path) -> None:
        """Open the database there."""
        ...

    def ask(self, function: str, argument: Mapping[str, Any]) -> Any:
        """Call a function of the *state_db* ability."""
        ...

    def close(self) -> None:
        """End it."""
        ...


class OutsideAdapter:
    """One server, one writer, one tab and one provider."""

    def __init__(self, folder: Path, launch: Launch, writer: Writer) -> None:
        """Boot, and begin to watch."""
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
        self._tab = ExitStack()
        stream = Web(booted["port"], TAB_S).stream("/api/sessions/gateway/stream")
        self._events = self._tab.enter_context(stream)
        self._writer.ask("create", {"session": SENTINEL, "source": "cli"})
        list(self._read_to(self._mark()))

    # What another process does

    def create(self, session: str, source: str) -> None:
        """Make a session."""
        self._writer.ask("create", {"session": session, "source": source})

    def append(self, session: str, text: str) -> None:
        """Add a message."""
        self._writer.ask("append", {"session": session, "role": "user", "text": text})

    def rewrite(self, session: str, texts: list[str]) -> None:
        """Put other messages in place of those that are there."""
        messages = [["user", text] for text in texts]
        self._writer.ask("replace", {"session": session, "messages": messages})

    def rename(self, session: str, title: str) -> None:
        """Give it a title."""
        self._writer.ask("set_title", {"session": session, "title": title})

    def end(self, session: str) -> None:
        """End it."""
        self._writer.ask("end", {"session": session, "reason": "done"})

    def delete(self, session: str) -> None:
        """Remove it."""
        self._writer.ask("delete", {"session": session})

    def poll(self, *, awaited: bool) -> dict[str, Any]:
        """Tell what was announced; if `awaited`, wait for it, else make sure that all had time."""
        announced: list[Event] = []
        with suppress(TimeoutError):  # nothing was, however long we waited
            announced = [next(self._events)] if awaited else [*self._read_to(self._mark())]
        return {"announced": _rows(announced[-1]) if announced else None, "projections": 0}

    def _mark(self) -> str:
        """Change what is shown, so that there surely is something to announce."""
        title = next(self._titles)
        self._writer.ask("set_title", {"session": SENTINEL, "title": title})
        return title

    def _read_to(self, title: str) -> Iterator[Event]:
        """Give what was announced before the list in which the sentinel has that title."""
        for event in self._events:
            if any(row["title"] == title for row in event.data["sessions"]):
                return
            yield event

    # Models

    def shown(self) -> dict[str, Any]:
        """What every display path is given, and how often the provider was asked for it."""
        before = self._provider.asked
        for path in ("/api/sessions", "/health", "/api/system/health"):
            self._web.get(path)
        models = _models(self._web.get("/api/models"))
        return {"models": models, "asked": self._provider.asked - before}

    def rebuilt(self, askers: int, *, hangs: bool) -> dict[str, Any]:
        """What several are given who want it fresh, all at once, from one that may never answer."""
        before = self._provider.asked
        self._provider.answers.clear() if hangs else self._provider.answers.set()
        with ThreadPoolExecutor(askers) as pool:
            told = list(pool.map(lambda _: self._refreshed(), range(askers)))
        self._provider.answers.set()  # only now, so nobody has waited for it
        return {"models": told, "asked": self._provider.asked - before}

    def _refreshed(self) -> list[str] | None:
        """The models, asked for anew; None for no answer while the provider gives none."""
        try:
            return _models(self._web.get("/api/models?refresh=1"))
        except TargetLostError:
            return None

    def close(self) -> None:
        """End all of them."""
        self._tab.close()
        self._server.close()
        self._writer.close()
        self._provider.close()


class Provider:
    """A provider of models on loopback, which offers a new one each time it is asked."""

    def __init__(self) -> None:
        """Answer nobody who asks, until told."""
        self.answers = Signal()
        self.asked = 0
        self._lock = Lock()
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps(provider.offer()).encode()
                with suppress(OSError):  # whoever asked may be gone by now
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://{LOOPBACK}:{self._server.server_port}/models"
        self._thread = Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def offer(self) -> dict[str, Any]:
        """Count the question, and answer it when that is wanted."""
        with self._lock:
            self.asked += 1
            number = self.asked
        self.answers.wait()
        return {"provider": "live", "models": [f"model-{number}"]}

    def close(self) -> None:
        """Answer whoever waits, and listen no more."""
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
