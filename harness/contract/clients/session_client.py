"""A client of a server that may be dead, and may come back at another port.

Clients name the sessions; runs have the server's own ids. While a client reads a stream, it reports
each `Moment` that it observes to an observer, at once. A stream that breaks off is a result too:
what was read until then.
"""

from __future__ import annotations

import http.client
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Any

from harness.contract.agent_script import REPLY_END
from harness.contract.clients.message_format import translated
from harness.core.errors import TargetLostError
from harness.engine.http import Event, NotReachedError, StatusError, Web

WATCH_S = 0.5  # a silence after which a watch ends
READ_S = 20.0
REST_PATIENCE_S = 60.0  # far longer than any script, and any retry of a wakeup
POLL_S = 0.01
EMPTY_AT_REST = (  # containers in a server's health, where it reports them
    *("streams", "runs_abandoned", "run_writers", "channel_runs"),
    *("processes_running", "process_events_pending", "wakeup_events"),
)
WAITING = "wakeup_events"
PASSING = (  # containers that empty by themselves soon after all clients have left
    *("channel_subscribers", "sse_streams", "sse_stalled", "sse_ready", "streams_taken"),
    *("connections_idle", "connections_leaving", "calls", "wakeup_ready"),
)
PASSING_S = 15.0
SETTLED = ("processes_running", "process_completion_queue", "wakeup_ready")
MARKS = ("interrupted", "cancelled", "error")
_UNKNOWN_COUNT = 10**9  # a count of messages that no session has


class Moment(StrEnum):
    """An event that a client observes, and at which a fault may be injected."""

    ANSWERED = "a call is answered"
    ACKNOWLEDGED = "a turn is acknowledged"
    SHOWN = "a token is shown"
    REPLY_ENDED = "the agent has shown its last token"
    SAVED = "a turn is saved"
    CANCELLING = "a run is about to be cancelled"
    CUT = "messages are removed"
    BOUNDARY = "a session comes to a boundary"
    ENDED = "a background process has ended"
    TURN_STARTED = "a turn starts while its session is watched"


Observer = Callable[[Moment], None]


class ServerAddress:
    """The port of the server at present, which changes with each boot; none while it is dead."""

    def __init__(self) -> None:
        """No server yet."""
        self._changed = threading.Condition()
        self._port: int | None = None
        self._is_given_up = False

    def open(self, port: int) -> None:
        """Record that the server listens on this port."""
        with self._changed:
            self._port = port
            self._changed.notify_all()

    def close(self) -> None:
        """Record that the server is dead, or about to die."""
        with self._changed:
            self._port = None

    def give_up(self) -> None:
        """Record that no server will come any more; releases all waiting clients."""
        with self._changed:
            self._is_given_up = True
            self._changed.notify_all()

    def wait_until_open(self, within_s: float) -> bool:
        """Wait for a server; returns whether there is one."""
        with self._changed:
            self._changed.wait_for(lambda: self._port or self._is_given_up, within_s)
            return self._port is not None

    @property
    def port(self) -> int:
        """The port. Raises NotReachedError while there is none."""
        port = self._port
        if port is None:
            raise NotReachedError("there is no server")
        return port


class Names:
    """The names that clients gave to sessions. Shared by all clients of one state folder."""

    def __init__(self) -> None:
        """No session yet."""
        self._ids: dict[str, str] = {}
        self._names: dict[str, str] = {}

    def add(self, name: str, id_: str) -> None:
        """Record the name of a session."""
        self._ids[name] = id_
        self._names[id_] = name

    def all(self) -> list[str]:
        """The names of all sessions that were recorded."""
        return list(self._ids)

    def id(self, name: str) -> str:
        """The server's id of a session."""
        return self._ids[name]

    def name(self, id_: str) -> str:
        """The name of a session, or its id where it has none."""
        return self._names.get(id_, id_)

    def named(self, text: str) -> str:
        """Replace the id of every named session in a text by its name."""
        return re.sub(r"[0-9a-f]{12,}", lambda match: self.name(match[0]), text)

    def content(self, messages: Iterable[Mapping[str, Any]], pending: str | None) -> dict[str, Any]:
        """A session's content: rows of role, text and mark; and the pending message."""
        rows = [self._row(message) for message in translated(messages)]
        return {"rows": rows, "pending": pending}

    def _row(self, message: Mapping[str, Any]) -> list[str]:
        is_wakeup = message["role"] == "user" and message.get("source") == "process_wakeup"
        mark = next((mark for mark in MARKS if message.get(mark)), "")
        reason = f": {message[mark]}" if mark == "error" else ""
        role = "wakeup" if is_wakeup else message["role"]
        return [role, self.named(message["content"]), self.named(mark + reason)]


class SessionClient:
    """A client whose methods are the journalled functions, with JSON arguments and results."""

    def __init__(self, address: ServerAddress, names: Names, observer: Observer) -> None:
        """Make a client; the first call connects."""
        self._address = address
        self._names = names
        self._observe = observer

    # Sessions

    def new(self, session: str, previous: str | None = None) -> None:
        """Make a session; `previous` names the session that the user leaves."""
        body = {} if previous is None else {"prev_session_id": self._names.id(previous)}
        made = self._post("/api/session/new", **body)
        self._names.add(session, made["session"]["session_id"])
        if previous is not None:
            self._observe(Moment.BOUNDARY)

    def read(self, session: str) -> dict[str, Any]:
        """The session's content: rows of role, text and mark; and the pending message."""
        content = self._get(f"/api/session?session_id={self._names.id(session)}")["session"]
        return self._names.content(content["messages"], content["pending_user_message"])

    def clear(self, session: str, seen: list[str]) -> None:
        """Remove all messages; `seen` are the texts that a read returned."""
        del seen
        self._post("/api/session/clear", session_id=self._names.id(session))
        self._observe(Moment.CUT)

    def truncate(self, session: str, keep: int, seen: list[str]) -> None:
        """Remove all messages behind the first `keep`; `seen` are the texts that were read."""
        del seen
        id_ = self._names.id(session)
        self._post("/api/session/truncate", session_id=id_, keep_count=keep)
        self._observe(Moment.CUT)

    def delete(self, session: str) -> None:
        """Delete the session."""
        self._post("/api/session/delete", session_id=self._names.id(session))
        self._observe(Moment.CUT)

    def sessions(self) -> list[str]:
        """The names of all sessions, in the order of the list."""
        rows = self._get("/api/sessions")["sessions"]
        return [self._names.name(row["session_id"]) for row in rows]

    def status(self, session: str) -> dict[str, Any]:
        """Whether the session is busy, and the run that a client could attach to."""
        status = self._get(f"/api/session/status?session_id={self._names.id(session)}")
        return {"busy": status["agent_running"], "run": status["active_stream_id"]}

    # Turns

    def send(self, session: str, text: str) -> dict[str, Any]:
        """Begin a turn; returns its run, or the run because of which it was refused."""
        body = {"session_id": self._names.id(session), "message": text}
        status, answer = self._request("POST", "/api/chat/start", body)
        if status == http.client.CONFLICT and "active_stream_id" in answer:
            return {"status": status, "run": answer["active_stream_id"]}
        if status != http.client.OK:
            raise StatusError("POST /api/chat/start", status, answer)
        self._observe(Moment.ACKNOWLEDGED)
        return {"status": status, "run": answer["stream_id"]}

    def cancel(self, run: str) -> bool:
        """Cancel a run; returns whether it was cancelled."""
        self._observe(Moment.CANCELLING)
        return bool(self._get(f"/api/chat/cancel?stream_id={run}")["cancelled"])

    def acknowledge(self, session: str, task: str) -> bool:
        """Acknowledge a process's end; returns whether that changed nothing."""
        body = {"session_id": self._names.id(session), "task_id": task}
        return bool(self._post("/api/bg-task-complete-ack", **body)["noop"])

    # Streams

    def relay(self, run: str, after: str | None, leave: int | None, *, stall: bool) -> Any:
        """Read a run's relay after a cursor, to its end or for `leave` events.

        Returns rows of id, name and text. With `stall` it reads nothing after the first event until
        the run is over.
        """
        headers = {} if after is None else {"Last-Event-ID": after}
        rows: list[list[str]] = []

        def take(events: Iterator[Event]) -> str:
            for event in events:
                rows.append([event.id, event.name, self._text_of(event)])
                self._notice(event)
                if leave is not None and len(rows) >= leave:
                    return "left"
                if stall and len(rows) == 1:
                    self._wait_until_over(run)
            return "closed"

        return {"end": self._read(f"/api/chat/stream?stream_id={run}", headers, take), "rows": rows}

    def _text_of(self, event: Event) -> str:
        data = event.data if isinstance(event.data, dict) else {}
        for field in ("text", "output", "reason", "error"):
            if field in data:
                return self._names.named(str(data[field]))
        return ""

    def _notice(self, event: Event) -> None:
        match event.name:
            case "token" if str(event.data["text"]).startswith(REPLY_END):
                self._observe(Moment.REPLY_ENDED)
            case "token":
                self._observe(Moment.SHOWN)
            case "done":
                self._observe(Moment.SAVED)

    def _wait_until_over(self, run: str) -> None:
        """Poll until the run is over, or the server does not answer."""
        path = f"/api/chat/stream/status?stream_id={run}"
        try:
            while self._get(path)["active"]:
                pass
        except (NotReachedError, TargetLostError, StatusError):
            return

    def watch(self, session: str, after: str | None) -> Any:
        """Watch a session's notices after a cursor, until WATCH_S pass without an event.

        Returns rows of id, name, session, run or task, and time of a process's end.
        """
        path = f"/api/session/stream?session_id={self._names.id(session)}"
        headers = {} if after is None else {"Last-Event-ID": after}
        rows: list[list[Any]] = []

        def take(events: Iterator[Event]) -> str:
            for event in events:
                data = event.data
                name = self._names.name(str(data.get("session_id")))
                subject = data.get("stream_id") or data.get("task_id")
                rows.append([event.id, event.name, name, subject, data.get("completed_at")])
                if event.name in ("server_turn_started", "turn_started"):
                    self._observe(Moment.TURN_STARTED)
                elif event.name == "bg_task_complete":
                    self._observe(Moment.ENDED)
            return "closed"

        return {"end": self._read(path, headers, take, WATCH_S), "rows": rows}

    def offered(self, session: str) -> str | None:
        """The run that is offered to a client that begins to watch the session."""
        path = f"/api/session/stream?session_id={self._names.id(session)}"
        found: list[str] = []

        def take(events: Iterator[Event]) -> str:
            for event in events:
                if event.name == "server_turn_started":
                    found.append(event.data["stream_id"])
                elif event.name == "session-updated":  # the last of the greeting
                    break
            return "left"

        end = self._read(f"{path}&known_count={_UNKNOWN_COUNT}", {}, take)
        if end != "left":
            raise TargetLostError(f"the greeting of {session} ended: {end}")
        return found[-1] if found else None

    def _read(
        self,
        path: str,
        headers: Mapping[str, str],
        take: Callable[[Iterator[Event]], str],
        patience_s: float = READ_S,
    ) -> str:
        """Read a stream; returns how it ended."""
        try:
            with Web(self._address.port, patience_s).stream(path, headers) as events:
                try:
                    return take(events)
                except TimeoutError:
                    return "open"
        except TargetLostError:
            return "lost"

    # The server

    def runs(self) -> list[list[str]]:
        """The registered runs in the order of their sessions: session, run and phase of each."""
        return self._runs(self._health())

    def deferred(self, least: int) -> int:
        """Wait until at least `least` wakeups wait for a run to end; returns their number."""
        ends_at = time.monotonic() + READ_S
        while (count := self._containers(self._health()).get(WAITING, 0)) < least:
            if time.monotonic() > ends_at:
                break
            time.sleep(POLL_S)
        return int(count)

    def gauges(self) -> dict[str, int]:
        """The size of every container, once those that empty by themselves are empty.

        A reader that left is released within a second; the wait is longer, for a slow machine.
        """
        ends_at = time.monotonic() + PASSING_S
        while self._above(dict.fromkeys(PASSING, 0)) and time.monotonic() < ends_at:
            time.sleep(POLL_S)
        return self._containers(self._health())

    def rest(self, at_most: Mapping[str, int]) -> dict[str, Any]:
        """Wait until no run is under way, and every container is within its bound at rest.

        Returns what is still there, or too large, after REST_PATIENCE_S.
        """
        ends_at = time.monotonic() + REST_PATIENCE_S
        bounds = {**dict.fromkeys(EMPTY_AT_REST, 0), **at_most}
        while left := self._above(bounds):
            if time.monotonic() > ends_at:
                break
            time.sleep(POLL_S)
        return {"left": left}

    def settled(self) -> bool:
        """Wait until each process has ended and its wakeup was tried; returns whether it is so."""
        ends_at = time.monotonic() + READ_S
        while self._above(dict.fromkeys(SETTLED, 0)):
            if time.monotonic() > ends_at:
                return False
            time.sleep(POLL_S)
        return True

    def _health(self) -> Any:
        return self._get("/health")

    def _runs(self, report: Any) -> list[list[str]]:
        return sorted(
            [self._names.name(run["session_id"]), run["stream_id"], run.get("phase", "")]
            for run in report["runs"]
        )

    def _containers(self, report: Any) -> dict[str, int]:
        found: dict[str, int] = report.get("containers", {})
        return found

    def _above(self, bounds: Mapping[str, int]) -> dict[str, Any]:
        """The containers above their bounds, of those that the server reports; and its runs."""
        report = self._health()
        sizes, runs = self._containers(report), self._runs(report)
        above = {name: sizes[name] for name, most in bounds.items() if sizes.get(name, 0) > most}
        return {**above, "runs": runs} if runs else above

    # Requests

    def _request(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Send a request. Raises TargetLostError for a 5xx: its effect is unknown."""
        status, answer = Web(self._address.port, READ_S).ask(method, path, body)
        if status >= http.client.INTERNAL_SERVER_ERROR:
            raise TargetLostError(f"{method} {path}: {status} {answer}")
        self._observe(Moment.ANSWERED)
        return status, answer

    def _get(self, path: str) -> Any:
        return self._accepted("GET", path, None)

    def _post(self, path: str, **body: Any) -> Any:
        return self._accepted("POST", path, body)

    def _accepted(self, method: str, path: str, body: Any) -> Any:
        status, answer = self._request(method, path, body)
        if status != http.client.OK:
            raise StatusError(f"{method} {path}", status, answer)
        return answer
