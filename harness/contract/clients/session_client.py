"""The visitor: one of many clients of a server that may be dead, and come back at another port.

Whoever asks names the sessions; runs have the server's own ids. What a visitor sees while it reads
a stream, it tells at once to whoever waits for such moments. A stream that breaks off is an answer
too: what was read until then.
"""

from __future__ import annotations

import http.client
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Any

from harness.contract.clients.message_format import translated
from harness.core.errors import TargetLostError
from harness.engine.http import Event, NotReachedError, StatusError, Web

WATCH_S = 0.5  # that long nobody hears anything: then a watcher leaves
READ_S = 20.0
REST_PATIENCE_S = 60.0  # far more than any script takes, and any wakeup that is tried again
POLL_S = 0.01
EMPTY_AT_REST = (  # containers of a server's health, where it tells of them
    *("streams", "runs_abandoned", "run_writers", "channel_runs"),
    *("processes_running", "process_events_pending", "wakeup_events"),
)
SETTLED = ("processes_running", "process_completion_queue", "wakeup_ready")
MARKS = ("interrupted", "cancelled", "error")
_LAST_WORDS = "That was turn"
_UNKNOWN_COUNT = 10**9  # a count of messages that no session has


class Moment(StrEnum):
    """What a visitor can see happen."""

    ASKED = "a call is answered"
    ACKNOWLEDGED = "a turn is acknowledged"
    SHOWN = "a token is shown"
    LAST_WORDS = "the agent has said its last word"
    SAVED = "a turn is saved"
    CANCELLING = "a run is told to end"
    CUT = "messages are removed"
    BOUNDARY = "a session comes to a boundary"
    ENDED = "a background process has ended"
    WOKEN = "a session is watched while a turn starts"


Witness = Callable[[Moment], None]


class Door:
    """Where the server is found now; closed while it is dead."""

    def __init__(self) -> None:
        """Closed."""
        self._changed = threading.Condition()
        self._port: int | None = None
        self._is_bricked_up = False

    def open(self, port: int) -> None:
        """The server listens there."""
        with self._changed:
            self._port = port
            self._changed.notify_all()

    def close(self) -> None:
        """The server is dead, or about to be."""
        with self._changed:
            self._port = None

    def brick_up(self) -> None:
        """There will be no server any more."""
        with self._changed:
            self._is_bricked_up = True
            self._changed.notify_all()

    def await_open(self, within_s: float) -> bool:
        """Wait until there is a server; whether there is."""
        with self._changed:
            self._changed.wait_for(lambda: self._port or self._is_bricked_up, within_s)
            return self._port is not None

    @property
    def port(self) -> int:
        """The port. Raises NotReachedError while there is none."""
        port = self._port
        if port is None:
            raise NotReachedError("there is no server")
        return port


class Names:
    """Sessions by the names that visitors gave them. Shared by all visitors of one folder."""

    def __init__(self) -> None:
        """None yet."""
        self._ids: dict[str, str] = {}
        self._names: dict[str, str] = {}

    def add(self, name: str, id_: str) -> None:
        """Name a session."""
        self._ids[name] = id_
        self._names[id_] = name

    def all(self) -> list[str]:
        """Every name."""
        return list(self._ids)

    def id(self, name: str) -> str:
        """The server's id of a session."""
        return self._ids[name]

    def name(self, id_: str) -> str:
        """The name of a session; one that nobody named is told by its id."""
        return self._names.get(id_, id_)

    def named(self, text: str) -> str:
        """The text, with every session's name for its id."""
        return re.sub(r"[0-9a-f]{12,}", lambda match: self.name(match[0]), text)

    def told(self, messages: Iterable[Mapping[str, Any]], pending: str | None) -> dict[str, Any]:
        """What a session holds: rows of role, text and mark; and the message that is pending."""
        rows = [self._row(message) for message in translated(messages)]
        return {"rows": rows, "pending": pending}

    def _row(self, message: Mapping[str, Any]) -> list[str]:
        is_wakeup = message["role"] == "user" and message.get("source") == "process_wakeup"
        mark = next((mark for mark in MARKS if message.get(mark)), "")
        why = f": {message[mark]}" if mark == "error" else ""
        role = "wakeup" if is_wakeup else message["role"]
        return [role, self.named(message["content"]), self.named(mark + why)]


class Visitor:
    """Its methods are the functions that can be asked, in JSON."""

    def __init__(self, door: Door, names: Names, witness: Witness) -> None:
        """Ask nothing yet."""
        self._door = door
        self._names = names
        self._witness = witness

    # Sessions

    def new(self, session: str, previous: str | None = None) -> None:
        """Make a session, after another one."""
        body = {} if previous is None else {"prev_session_id": self._names.id(previous)}
        told = self._post("/api/session/new", **body)
        self._names.add(session, told["session"]["session_id"])
        if previous is not None:
            self._witness(Moment.BOUNDARY)

    def read(self, session: str) -> dict[str, Any]:
        """All that was said: rows of role, text and mark; and the message that is pending."""
        told = self._get(f"/api/session?session_id={self._names.id(session)}")["session"]
        return self._names.told(told["messages"], told["pending_user_message"])

    def clear(self, session: str, seen: list[str]) -> None:
        """Remove all messages; `seen` are the texts that were there."""
        del seen
        self._post("/api/session/clear", session_id=self._names.id(session))
        self._witness(Moment.CUT)

    def truncate(self, session: str, keep: int, seen: list[str]) -> None:
        """Remove all messages but the first; `seen` are the texts that were there."""
        del seen
        id_ = self._names.id(session)
        self._post("/api/session/truncate", session_id=id_, keep_count=keep)
        self._witness(Moment.CUT)

    def delete(self, session: str) -> None:
        """Delete the session."""
        self._post("/api/session/delete", session_id=self._names.id(session))
        self._witness(Moment.CUT)

    def sessions(self) -> list[str]:
        """The names of all sessions."""
        rows = self._get("/api/sessions")["sessions"]
        return sorted(self._names.name(row["session_id"]) for row in rows)

    def status(self, session: str) -> dict[str, Any]:
        """Whether the session is busy, and the run that a client could attach to."""
        told = self._get(f"/api/session/status?session_id={self._names.id(session)}")
        return {"busy": told["agent_running"], "run": told["active_stream_id"]}

    # Turns

    def send(self, session: str, text: str) -> dict[str, Any]:
        """Begin a turn; its run, or the run that is in its way."""
        body = {"session_id": self._names.id(session), "message": text}
        status, told = self._ask("POST", "/api/chat/start", body)
        if status == http.client.CONFLICT and "active_stream_id" in told:
            return {"status": status, "run": told["active_stream_id"]}
        if status != http.client.OK:
            raise StatusError("POST /api/chat/start", status, told)
        self._witness(Moment.ACKNOWLEDGED)
        return {"status": status, "run": told["stream_id"]}

    def cancel(self, run: str) -> bool:
        """Cancel a run; whether it was."""
        self._witness(Moment.CANCELLING)
        return bool(self._get(f"/api/chat/cancel?stream_id={run}")["cancelled"])

    def acknowledge(self, session: str, task: str) -> bool:
        """Acknowledge a process's end; whether that changed nothing."""
        body = {"session_id": self._names.id(session), "task_id": task}
        return bool(self._post("/api/bg-task-complete-ack", **body)["noop"])

    # Streams

    def relay(self, run: str, after: str | None, leave: int | None, *, stall: bool) -> Any:
        """Read a run's relay after a cursor, until it closes, or one leaves after some events.

        Rows of id, name and text. Whoever stalls takes nothing more after the first event until
        the run is over.
        """
        headers = {} if after is None else {"Last-Event-ID": after}
        rows: list[list[str]] = []

        def take(events: Iterator[Event]) -> str:
            for event in events:
                rows.append([event.id, event.name, self._told(event)])
                self._notice(event)
                if leave is not None and len(rows) >= leave:
                    return "left"
                if stall and len(rows) == 1:
                    self._await_over(run)
            return "closed"

        return {"end": self._read(f"/api/chat/stream?stream_id={run}", headers, take), "rows": rows}

    def _told(self, event: Event) -> str:
        data = event.data if isinstance(event.data, dict) else {}
        for field in ("text", "output", "reason", "error"):
            if field in data:
                return self._names.named(str(data[field]))
        return ""

    def _notice(self, event: Event) -> None:
        match event.name:
            case "token" if str(event.data["text"]).startswith(_LAST_WORDS):
                self._witness(Moment.LAST_WORDS)
            case "token":
                self._witness(Moment.SHOWN)
            case "done":
                self._witness(Moment.SAVED)

    def _await_over(self, run: str) -> None:
        """Ask until the run is over, or nobody answers."""
        path = f"/api/chat/stream/status?stream_id={run}"
        try:
            while self._get(path)["active"]:
                pass
        except (NotReachedError, TargetLostError, StatusError):
            return

    def watch(self, session: str, after: str | None) -> Any:
        """Watch a session after a cursor, until nothing comes for a while.

        Rows of id, name, session, run or task, and time of a process's end.
        """
        path = f"/api/session/stream?session_id={self._names.id(session)}"
        headers = {} if after is None else {"Last-Event-ID": after}
        rows: list[list[Any]] = []

        def take(events: Iterator[Event]) -> str:
            for event in events:
                data = event.data
                name = self._names.name(str(data.get("session_id")))
                what = data.get("stream_id") or data.get("task_id")
                rows.append([event.id, event.name, name, what, data.get("completed_at")])
                if event.name == "server_turn_started":
                    self._witness(Moment.WOKEN)
                elif event.name == "bg_task_complete":
                    self._witness(Moment.ENDED)
            return "closed"

        return {"end": self._read(path, headers, take, WATCH_S), "rows": rows}

    def offered(self, session: str) -> str | None:
        """The run that is offered to whoever begins to watch the session now."""
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
        """Read a stream; how that ended."""
        try:
            with Web(self._door.port, patience_s).stream(path, headers) as events:
                try:
                    return take(events)
                except TimeoutError:
                    return "open"
        except TargetLostError:
            return "lost"

    # The server

    def health(self) -> dict[str, Any]:
        """The runs that are registered, and the sizes of what should be empty when all is quiet."""
        status, told = self._ask("GET", "/health")
        runs = [
            [self._names.name(run["session_id"]), run["stream_id"], run.get("phase", "")]
            for run in told["runs"]
        ]
        return {"status": status, "runs": runs, "containers": told.get("containers", {})}

    def rest(self, at_most: Mapping[str, int]) -> dict[str, Any]:
        """Wait until nothing is under way, and containers are no larger than they may be at rest.

        What is still there, or too large, when patience ends.
        """
        ends_at = time.monotonic() + REST_PATIENCE_S
        bounds = {**dict.fromkeys(EMPTY_AT_REST, 0), **at_most}
        while left := _above(bounds, self.health()):
            if time.monotonic() > ends_at:
                break
            time.sleep(POLL_S)
        return {"left": left}

    def settled(self) -> bool:
        """Wait until every process has ended, and its wakeup was tried; whether that came true."""
        ends_at = time.monotonic() + READ_S
        while _above(dict.fromkeys(SETTLED, 0), self.health()):
            if time.monotonic() > ends_at:
                return False
            time.sleep(POLL_S)
        return True

    # The wire

    def _ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Ask. Whatever the server says with a 5xx, nobody knows what it did."""
        status, told = Web(self._door.port, READ_S).ask(method, path, body)
        if status >= http.client.INTERNAL_SERVER_ERROR:
            raise TargetLostError(f"{method} {path}: {status} {told}")
        self._witness(Moment.ASKED)
        return status, told

    def _get(self, path: str) -> Any:
        return self._accepted("GET", path, None)

    def _post(self, path: str, **body: Any) -> Any:
        return self._accepted("POST", path, body)

    def _accepted(self, method: str, path: str, body: Any) -> Any:
        status, told = self._ask(method, path, body)
        if status != http.client.OK:
            raise StatusError(f"{method} {path}", status, told)
        return told


def _above(bounds: Mapping[str, int], health: Mapping[str, Any]) -> dict[str, Any]:
    """What is larger than it may be, of what the server tells of."""
    sizes = health["containers"]
    above = {name: sizes[name] for name, most in bounds.items() if sizes.get(name, 0) > most}
    return {**above, "runs": health["runs"]} if health["runs"] else above
