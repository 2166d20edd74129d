"""The *endpoints* ability: every endpoint of a server, with its whole answer.

Callers write names, such as `<s1>` and `<r1>`, where a request has the ids of a session and a run.
The adapter puts the server's ids there, and names them in the answer. A time becomes the number of
the call during which, or after which, it lies, so that a model can predict it; a text that is free,
such as an error message, stays as it is.
"""

from __future__ import annotations

import http.client
import json
import re
import threading
import time
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from harness.engine.http import LOOPBACK, Event, StillOpenError, Web
from harness.processes.server import Launch
from harness.targets.server.lifecycle import ServerAdapter

PATIENCE_S = 20.0
POLL_S = 0.005
REST_S = 10.0
SILENCE_S = 8.0  # of events, while comments come: two periods of them
NEVER = {"<never>": "0" * 12, "<no run>": "0" * 32, "<foreign>": "0" * 11 + "1"}
HEADERS = (
    *("content-type", "cache-control", "x-content-type-options", "allow", "retry-after"),
    *("deprecation", "x-replaced-by"),
)
TIMES = (
    *("created_at", "updated_at", "pending_started_at", "timestamp", "started_at"),
    *("ended_at", "last_run_finished_at", "last_request_at", "server_started_at", "server_time"),
)
LEFT = {
    "end": "UPDATE sessions SET ended_at = NULL, end_reason = NULL WHERE id = ?",
    "reopen": "UPDATE sessions SET ended_at = started_at, end_reason = 'user' WHERE id = ?",
    "other end": "UPDATE sessions SET ended_at = 1.0, end_reason = 'former' WHERE id = ?",
    "foreign": (
        "INSERT INTO sessions(id, source, started_at, ended_at, end_reason, title)"
        " SELECT ?, 'cli', julianday('now') * 86400 - 210866760000, 1.0, 'done', 'foreign'"
    ),
    "age": "UPDATE sessions SET started_at = started_at - 2 * 86400 WHERE id = ?",
}
UPTIME, AGES = "uptime_seconds", ("oldest_run_age_seconds",)
STARTED_AT = "server_started_at"
NO_CALL = -1  # where the time of a start lies that is later than the first moment of listening
_ID = re.compile(r"[0-9a-f]{12}(?:[0-9a-f]{20})?")
_NAME = re.compile(r"<[^<>]+>")


class EndpointsAdapter:
    """One server and its folder, through all its restarts."""

    has_epilogue = True

    def __init__(self, folder: Path, launch: Launch) -> None:
        """Boot nothing yet."""
        self._server = ServerAdapter(folder, launch, notes_gauges=True)
        self._ids: dict[str, str] = dict(NEVER)
        self._names = {id_: name for name, id_ in NEVER.items()}
        self._began: list[float] = []  # when each call began
        self._sent = 0  # requests to this boot of the server

    # Restarts

    def boot(self) -> None:
        """Boot the server."""
        self._begin()
        self._server.boot()
        self._sent = 1  # for the first values of the gauges

    def kill(self, left: Mapping[str, str] | None = None) -> None:
        """Kill the server with kill -9, and boot another one on its folder.

        In between state.db gets what the kill `left` of a session, by a key of LEFT: an end or a
        reopening that was not copied there, a former end, or a start two days before; or a
        session of another program.
        """
        self._begin()
        self._server.kill()
        for session, name in (left or {}).items():
            self._server.write_database(LEFT[name], self._with_ids(session))
        self._server.boot()
        self._sent = 1

    def epilogue(self) -> dict[str, Any]:
        """Let all clients leave; what is above its first value after that."""
        return self._server.epilogue()

    def close(self) -> None:
        """Kill the server."""
        self._server.close()

    # Calls

    def call(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
        name: str = "",
    ) -> dict[str, Any]:
        """Send a request; the status, the headers and the JSON of the answer.

        `name` is given to the session that the call makes, or to the run that it starts.
        """
        self._begin()
        return self._asked(method, path, query or {}, body, name)

    def together(self, body: Mapping[str, Any], names: list[str]) -> list[dict[str, Any]]:
        """Start a turn for each name at the same moment; the answers, the accepted one first."""
        self._begin()
        barrier = threading.Barrier(len(names))

        def start(name: str) -> tuple[int, Any]:
            data = {key: self._with_ids(f"{value}") for key, value in body.items()}
            data["message"] = f"{name} {data['message']}"
            barrier.wait()
            return Web(self._port, PATIENCE_S).ask("POST", "/api/chat/start", data)

        with ThreadPoolExecutor(len(names)) as pool:
            answers = list(pool.map(start, names))
        self._sent += len(names)
        for name, (status, answer) in zip(names, answers, strict=True):
            if status == http.client.OK:
                self._learn(name, answer)
        return [
            {"name": name, "status": status, "body": self._named(answer)}
            for name, (status, answer) in sorted(
                zip(names, answers, strict=True), key=lambda pair: pair[1][0]
            )
        ]

    def read(  # noqa: PLR0913 - the parts of a request
        self,
        *,
        path: str,
        query: Mapping[str, Any] | None = None,
        cursor: str = "",
        events: int = 1000,
        until: str = "",
        start: Mapping[str, Any] | None = None,
        name: str = "",
        polls: int = 0,
    ) -> dict[str, Any]:
        """Read a stream up to that many events, that event, or its end; then `start` a turn.

        The turn starts in the moment in which the last event came, before the stream is left.
        Meanwhile `polls` other clients ask for the list of sessions again and again.
        """
        self._begin()
        found: list[Event] = []
        started = None
        is_closed = False
        with (
            self._polled(polls),
            self._stream(path, query or {}, cursor) as (response, reader),
        ):
            if response.status != http.client.OK:
                body = self._named(json.loads(response.read()))
                return {"status": response.status, "body": body}
            while len(found) < events:
                try:
                    event = next(reader, None)
                except TimeoutError:  # the stream stays open, and lacks events
                    break
                if event is None:
                    is_closed = True
                    break
                found.append(event)
                if event.name == until:
                    break
            if start is not None:
                started = self._asked("POST", "/api/chat/start", {}, start, name)
        rows = [[self._text(row.id), row.name, self._named(row.data)] for row in found]
        kind = response.headers["content-type"]
        answer = {"status": response.status, "type": kind, "events": rows, "closed": is_closed}
        return answer if start is None else {**answer, "started": started}

    def watch(
        self,
        path: str,
        query: Mapping[str, Any],
        greeting: int,
        call: Mapping[str, Any],
        until: str,
    ) -> dict[str, Any]:
        """Watch a stream, make a call when it is open, and read on to an event or reason.

        `greeting` is the number of events that come at once. What never comes is missing in the
        answer.
        """
        self._begin()
        with self._stream(path, query, "") as (response, reader):
            if response.status != http.client.OK:
                body = self._named(json.loads(response.read()))
                return {"status": response.status, "body": body}
            first = [next(reader) for _ in range(greeting)]
            answer = self._asked(
                call["method"],
                call["path"],
                call.get("query") or {},
                call.get("body"),
                call.get("name", ""),
            )
            found = list(first)
            with suppress(StillOpenError, TimeoutError):
                for event in reader:
                    found.append(event)
                    if until in (event.name, event.data.get("reason")):
                        break
        rows = [[self._text(row.id), row.name, self._named(row.data)] for row in found]
        return {"status": response.status, "events": rows, "answer": answer}

    def conclude(self, session: str) -> bool:
        """Wait until the session is idle; False after the timeout."""
        self._begin()
        ends_at = time.monotonic() + REST_S
        path = f"/api/session/status?session_id={self._with_ids(session)}"
        while time.monotonic() < ends_at:
            self._sent += 1
            _, answer = Web(self._port, PATIENCE_S).ask("GET", path)
            if not answer.get("agent_running"):
                return True
            time.sleep(POLL_S)
        return False

    def stored(self, session: str, runs: list[str]) -> dict[str, Any]:
        """What is on disk of a session and its runs: copies, names of files and empty folders."""
        self._begin()
        sid = self._with_ids(session)
        folder = self._server.state / "sessions"
        ids = {sid, *(self._with_ids(run) for run in runs)}
        files = [
            str(path.relative_to(folder))
            for path in sorted(folder.rglob("*"))
            if _is_left(path) and ids & {*_ID.findall(str(path.relative_to(folder)))}
        ]
        row = self._server.index_row(sid)
        copies = self._server.database(sid)
        if (folder / f"{sid}.json").exists():
            sidecar = self._server.sidecar(sid)
            texts = [[message["role"], message["content"]] for message in sidecar["messages"]]
            copies["sidecar"] = {
                "title": sidecar["title"],
                "count": sidecar["message_count"],
                "texts": texts,
            }
        stored = {
            "files": sorted(self._text(name) for name in files if "_locks/" not in name),
            "index": None if row is None else [row["title"], row["message_count"]],
            "copies": copies,
            "runs": self._server.journal(sid),
            "tool_calls": self._server.tool_calls(sid),
            "details": self._server.details(sid),
        }
        named: dict[str, Any] = self._named(stored)
        named["runs"] = {self._text(run): text for run, text in named["runs"].items()}
        return named

    def logged(self) -> dict[str, int]:
        """What the last start of the server logged of its recovery; empty for nothing."""
        self._begin()
        return self._server.recovery_logged()

    # HTTP

    @contextmanager
    def _polled(self, clients: int) -> Iterator[None]:
        """Let other clients ask for the list until the block ends."""
        is_over = threading.Event()

        def poll() -> int:
            web, count = Web(self._port, PATIENCE_S), 0
            while not is_over.is_set():
                web.ask("GET", "/api/sessions")
                count += 1
            return count

        with ThreadPoolExecutor(max(1, clients)) as pool:
            polling = [pool.submit(poll) for _ in range(clients)]
            try:
                yield
            finally:
                is_over.set()
                self._sent += sum(client.result() for client in polling)

    @property
    def _port(self) -> int:
        return self._server.boot()["port"]

    def _begin(self) -> None:
        self._began.append(time.time())

    def _asked(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any],
        body: Mapping[str, Any] | None,
        name: str,
    ) -> dict[str, Any]:
        data = None if body is None else json.dumps(self._with_ids_below(body)).encode()
        connection = http.client.HTTPConnection(LOOPBACK, self._port, timeout=PATIENCE_S)
        self._sent += 1
        try:
            connection.request(method, self._target(path, query), data)
            with connection.getresponse() as response:
                content = response.read()
                kind = response.headers.get("content-type", "")
                answer = json.loads(content) if content and "json" in kind else None
                headers = {
                    header: response.headers[header]
                    for header in HEADERS
                    if header in response.headers
                }
                length = int(response.headers.get("content-length", -1))
        finally:
            connection.close()
        if name and response.status == http.client.OK and answer is not None:
            self._learn(name, answer)
        is_whole = length == len(content) or (method == "HEAD" and length > 0 == len(content))
        return {
            "status": response.status,
            "headers": headers,
            "whole": is_whole,
            "body": self._named(answer),
        }

    def _learn(self, name: str, answer: Mapping[str, Any]) -> None:
        if "session" in answer:
            known = {name: answer["session"]["session_id"]}
        else:
            known = {name: answer["stream_id"], f"<turn of {name[1:-1]}>": answer["turn_id"]}
        for alias, id_ in known.items():
            self._ids[alias] = id_
            self._names.setdefault(id_, alias)

    @contextmanager
    def _stream(
        self, path: str, query: Mapping[str, Any], cursor: str
    ) -> Iterator[tuple[http.client.HTTPResponse, Iterator[Event]]]:
        connection = http.client.HTTPConnection(LOOPBACK, self._port, timeout=PATIENCE_S)
        self._sent += 1
        headers = {"Last-Event-ID": self._with_ids(cursor)} if cursor else {}
        try:
            connection.request("GET", self._target(path, query), headers=headers)
            with connection.getresponse() as response:
                yield response, _events(response)
        finally:
            connection.close()

    def _target(self, path: str, query: Mapping[str, Any]) -> str:
        pairs = [f"{name}={quote(self._with_ids(str(value)))}" for name, value in query.items()]
        return quote(self._with_ids(path)) + ("?" + "&".join(pairs) if pairs else "")

    # Names

    def _with_ids(self, text: str) -> str:
        return _NAME.sub(lambda found: self._ids.get(found[0], found[0]), text)

    def _with_ids_below(self, body: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: self._with_ids(value) if isinstance(value, str) else value
            for name, value in body.items()
        }

    def _text(self, text: str) -> str:
        named = _ID.sub(lambda found: self._names.get(found[0], found[0]), text)
        return named.replace(str(self._server.state), "<home>")

    def _named(self, value: Any, key: str = "") -> Any:
        if isinstance(value, Mapping):
            ages = self._moments(value)
            return {name: self._named(below, name) for name, below in value.items()} | ages
        if isinstance(value, list):
            return [self._named(below) for below in value]
        if isinstance(value, str):
            return self._text(value)
        if key == "requests_total":
            return value - self._sent
        if key in TIMES and isinstance(value, float | int):
            is_late = key == STARTED_AT and value > self._server.listened_at
            return NO_CALL if is_late else self._call_at(value)
        return value

    def _moments(self, answer: Mapping[str, Any]) -> dict[str, int]:
        """Of each age in a health response, the call in which what it dates lies.

        An uptime dates the response itself, and every other age what began that long before it.
        """
        started, uptime_s = answer.get(STARTED_AT), answer.get(UPTIME)
        if not isinstance(started, float) or not isinstance(uptime_s, float):
            return {}
        now = started + uptime_s
        ages = {name: answer[name] for name in AGES if isinstance(answer.get(name), float)}
        began = {name: self._call_at(now - age_s) for name, age_s in ages.items()}
        return {UPTIME: self._call_at(now), **began}

    def _call_at(self, time_s: float) -> int:
        return bisect_right(self._began, time_s) - 1


def _is_left(path: Path) -> bool:
    """Whether it is a file, or a folder that is empty."""
    return path.is_file() or (path.is_dir() and not any(path.iterdir()))


def _events(response: http.client.HTTPResponse) -> Iterator[Event]:
    """The events of a stream. Raises StillOpenError when none comes for SILENCE_S."""
    fields: dict[str, str] = {}
    ends_at = time.monotonic() + SILENCE_S
    for line in response:  # heartbeats bring a line now and then
        if time.monotonic() > ends_at:
            raise StillOpenError(f"expected an event within {SILENCE_S:g} s")
        name, _, value = line.decode().rstrip("\n").partition(": ")
        if line.startswith(b":"):
            continue
        if name:
            fields[name] = value
        elif "event" in fields:
            yield Event(fields.get("id", ""), fields["event"], json.loads(fields["data"]))
            fields, ends_at = {}, time.monotonic() + SILENCE_S
