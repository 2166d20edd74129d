"""The *cursors* ability: every stream endpoint, asked with every kind of cursor.

One server has sessions that run, rest and are deleted, and runs of an earlier process. Ids are
reported by the name of their stream: `current:2` is the second event of the current run. A read
ends when the server closes the stream, at a comment, since what was to be written before it was
written, or a moment after the last expected event of a stream that stays open.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from harness.contract.agent_script import Tokens, sleep
from harness.engine.http import LOOPBACK, PATIENCE_S, Event, Web
from harness.processes.server import Launch
from harness.targets.server.lifecycle import ServerAdapter

LINGER_S = 0.03  # for an event too many
READERS = 8
SHORT_S = 0.5
GROWN_S = 60.0  # a read of a large run that lacks its last event
GROWING_S = 120.0  # for all tokens of a run, on a busy machine
POLL_S = 0.02
HEADER = "header"
OLDER = {"after_seq": "0", "after_event_id": "unknown:1"}
ENDPOINTS = {
    "run": "/api/chat/stream?stream_id={stream}",
    "events": "/api/sessions/{session}/events?",
    "notices": "/api/session/stream?session_id={session}",
    "gateway": "/api/sessions/gateway/stream?",
    "list": "/api/sessions/events?",
}
# The cursor, how it is sent, the expected events, and whether the stream must end behind them.
Case = tuple[str | None, str, int, bool]


class StreamCursorsAdapter:
    """One server, its sessions and runs by name."""

    def __init__(self, folder: Path, launch: Launch) -> None:
        """Boot nothing yet."""
        self._server = ServerAdapter(folder, launch)
        self._web = Web(0)
        self._ids: dict[str, str] = {}
        self._open = ExitStack()
        self._is_short = False  # a read lacked events, so that others need not wait as long

    def prepare(self, tokens: int) -> dict[str, list[str]]:
        """Make sessions and runs, some by an earlier process; the events of each run."""
        self._boot()
        for session in ("own", "other", "deleted", "idle"):
            self._new(session)
        runs = {"earlier": self._ended("earlier", "own", tokens)}
        runs["killed"] = self._held("killed", "own", tokens)
        self._watched("notices-earlier", "own")
        self._server.kill()
        self._boot()
        _wait_idle(self._web, self._ids["own"])
        runs["rested"] = self._ended("rested", "idle", tokens)
        runs["previous"] = self._ended("previous", "own", tokens)
        runs["gone"] = self._ended("gone", "deleted", tokens)
        self._watched("notices-deleted", "deleted")
        self._web.post("/api/session/delete", session_id=self._ids["deleted"])
        self._watched("notices-own", "own")
        self._watched("notices-other", "other")
        self._watched("notices-idle", "idle")
        runs["current"] = self._held("current", "own", tokens)
        runs["others"] = self._held("others", "other", tokens)
        return runs

    def read(self, endpoint: str, subject: str, cases: list[Case]) -> list[dict[str, Any]]:
        """Read one endpoint of one subject once with each cursor, several at once.

        A case is its cursor, how it is sent (header, after_event_id or after_seq; behind a `+` the
        parameter of an older cursor that is sent too), how many events are expected, and whether
        the server must close the stream behind them.
        """
        id_ = self._ids.get(subject, subject)
        path = ENDPOINTS[endpoint].format(session=id_, stream=id_)
        with ThreadPoolExecutor(READERS) as pool:
            return list(pool.map(lambda case: self._answer(path, case), cases))

    def grow(self, tokens: int, cursors: list[int | None]) -> dict[str, Any]:
        """Read a run of many tokens after each cursor, while it lasts and after it was cancelled.

        Each read is reported as its ranges of numbers; whether each token had its text.
        """
        self._new("grown")
        path = self._start("grown-run", "grown", f"{Tokens(tokens).directive}{sleep(900)}")
        first = self._ranged(path, None, tokens, GROWING_S)
        live = [self._ranged(path, cursor, tokens) for cursor in cursors]
        self._web.get(f"/api/chat/cancel?stream_id={self._ids['grown-run']}")
        _wait_idle(self._web, self._ids["grown"])
        ended = [self._ranged(path, cursor, None) for cursor in cursors]
        return {"first": first, "live": live, "ended": ended}

    def _ranged(
        self, path: str, cursor: int | None, last: int | None, patience_s: float = GROWN_S
    ) -> list[list[Any]]:
        """Read after a cursor, up to the event of that number or to the end."""
        path = path if cursor is None else f"{path}&after_seq={cursor}"
        events: list[Event] = []
        with (
            Web(self._web.port, patience_s).stream(path) as shown,
            suppress(TimeoutError, StopIteration),
        ):
            while last is None or max(cursor or 0, *map(_number, events[-1:]), 0) < last:
                events.append(next(shown))
        return _ranges(events)

    def _answer(self, path: str, case: Case) -> dict[str, Any]:
        (cursor, by, expected, ends), headers = case, {}
        if cursor is not None:
            name, colon, seq = cursor.rpartition(":")
            cursor = f"{self._ids[name]}:{seq}" if colon and name in self._ids else cursor
            by, _, older = by.partition("+")
            path = f"{path}&{older}={OLDER[older]}" if older else path
            if by == HEADER:
                headers = {"Last-Event-ID": cursor}
            else:
                path = f"{path}&{by}={quote(cursor)}"
        connection = http.client.HTTPConnection(LOOPBACK, self._web.port, timeout=PATIENCE_S)
        try:
            connection.request("GET", path, headers=headers)
            with connection.getresponse() as response:
                if response.status != http.client.OK:
                    return {"status": response.status, "events": [], "closed": True}

                patience_s = SHORT_S if self._is_short else PATIENCE_S
                events, closed = _read(response, expected, patience_s, ends=ends)
                self._is_short |= len(events) < expected or (ends and not closed)
        finally:
            connection.close()
        shown = [self._shown(fields) for fields in events]
        return {"status": http.client.OK, "events": shown, "closed": closed}

    def _shown(self, fields: Mapping[str, str]) -> str:
        """An event as `name id session stream recovered text`; what it lacks is a dash."""
        data = json.loads(fields["data"])
        facts = (
            fields["event"],
            self._named_id(fields.get("id", "")),
            self._named(str(data.get("session_id", ""))),
            self._named(str(data.get("stream_id", ""))),
            "recovered" if data.get("recovered") is True else "",
            self._text(str(data.get("text", ""))),
        )
        return " ".join(fact or "-" for fact in facts)

    def _text(self, text: str) -> str:
        """A token's text, with sessions by their names."""
        for name, id_ in self._ids.items():
            text = text.replace(id_, name)
        return text.strip()

    def _named_id(self, id_: str) -> str:
        name, colon, seq = id_.rpartition(":")
        return f"{self._named(name)}{colon}{seq}"

    def _named(self, id_: str) -> str:
        return next((name for name, known in self._ids.items() if known == id_), id_)

    # Sessions and runs

    def _boot(self) -> None:
        self._web = Web(self._server.boot(HERMES_WEBUI_STREAMS_MAX="64")["port"])

    def _new(self, session: str) -> None:
        self._ids[session] = self._web.post("/api/session/new")["session"]["session_id"]

    def _start(self, run: str, session: str, script: str) -> str:
        body = {"session_id": self._ids[session], "message": script}
        self._ids[run] = self._web.post("/api/chat/start", **body)["stream_id"]
        return f"/api/chat/stream?stream_id={self._ids[run]}"

    def _ended(self, run: str, session: str, tokens: int) -> list[str]:
        path = self._start(run, session, f"{Tokens(tokens).directive}")
        with self._web.stream(path) as events:
            names = [event.name for event in events]
        _wait_idle(self._web, self._ids[session])
        return names

    def _held(self, run: str, session: str, tokens: int) -> list[str]:
        """Start a run that goes on, and wait for its tokens."""
        path = self._start(run, session, f"{Tokens(tokens).directive}{sleep(900)}")
        names: list[str] = []
        with self._web.stream(path) as events:
            while names.count("token") < tokens:
                names.append(next(events).name)
        return names

    def _watched(self, name: str, session: str) -> None:
        """Keep a reader of a session's notices, and learn the name of their stream.

        A cursor of a stream that does not exist is answered by a snapshot, whose id names it.
        """
        path = f"/api/session/stream?session_id={self._ids[session]}"
        events = self._open.enter_context(
            self._web.stream(path, {"Last-Event-ID": "notices-unknown:1"})
        )
        for event in events:
            if event.name == "session_snapshot":
                self._ids[name] = event.id.rpartition(":")[0]
                return

    def close(self) -> None:
        """Close the readers, and kill the server."""
        with suppress(Exception):
            self._open.close()
        self._server.close()


def _read(
    response: http.client.HTTPResponse, expected: int, patience_s: float, *, ends: bool
) -> tuple[list[dict[str, str]], bool]:
    """Read until the end or a comment; whether it ended.

    A stream that need not end is left LINGER_S after its expected events. The end of the others is
    waited for: a busy machine may need longer than that to close a connection.
    """
    events: list[dict[str, str]] = []
    raw = response.fp.raw._sock  # type: ignore[attr-defined]  # noqa: SLF001
    raw.settimeout(patience_s if expected or ends else LINGER_S)
    with suppress(TimeoutError):
        for fields in _fields(response):
            if not fields:
                return events, False
            events.append(fields)
            if len(events) >= expected and not ends:
                raw.settimeout(LINGER_S)
        return events, True
    return events, False


def _number(event: Event) -> int:
    return int(event.id.rpartition(":")[2] or -1)


def _ranges(events: list[Event]) -> list[list[Any]]:
    """The events as ranges of one name and consecutive numbers: name, first, last, texts.

    `texts` is whether each token has the text of its number.
    """
    ranges: list[list[Any]] = []
    for event in events:
        number = _number(event)
        has_text = event.name != "token" or event.data["text"] == f"{number - 1} "
        last = ranges[-1] if ranges else None
        if last is not None and last[0] == event.name and last[2] + 1 == number:
            last[2:] = [number, last[3] and has_text]
        else:
            ranges.append([event.name, number, number, has_text])
    return ranges


def _fields(lines: http.client.HTTPResponse) -> Iterator[dict[str, str]]:
    """The fields of each event; none for a comment."""
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.decode().rstrip("\n").partition(": ")
        if line.startswith(b":"):
            yield {}
        elif name:
            fields[name] = value
        elif fields:
            yield fields
            fields = {}


def _wait_idle(web: Web, session_id: str) -> None:
    ends_at = time.monotonic() + PATIENCE_S
    while web.get(f"/api/session/status?session_id={session_id}")["agent_running"]:
        if time.monotonic() > ends_at:
            raise TimeoutError(f"session {session_id} did not come to rest")
        time.sleep(POLL_S)
