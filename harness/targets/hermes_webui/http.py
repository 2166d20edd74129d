"""The *http* ability of a hermes-webui server, where it differs from the reference.

The server does not list a session without messages, and stores it with its first message only: no
promise covers such an empty session. A title that no client set follows rules of the server, so the
adapter answers none; a clear drops a title, so the adapter sets it again. The text of an
interrupted turn loses its last blank. After a kill the server takes a run for alive for half a
minute, and the adapter waits for that.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

from harness.contract.agent_script import ReplyEnd
from harness.contract.clients.message_format import is_wakeup
from harness.contract.models.run_stream import TERMINAL
from harness.core.errors import TargetLostError
from harness.engine.http import Event, StatusError, Web
from harness.processes.server import Launch
from harness.targets.server.http import HEADER, HttpAdapter, named, unknown_as_error

REPAIR_S = 40.0  # more than the documented repair time
REPAIR_POLL_S = 0.1
REPAIRED_S = 4.0  # twice the repair time that the harness gives it
READ_S = 8.0  # of a stream that is about to end
CLOSING_S = 2.5  # of a stream that has ended
KNOWN_OPEN_S = 0.3  # the same, once one was left open for the whole of that time
ENDS = [[name] for name in TERMINAL]
QUIET_S = 6.0  # slightly more than its heartbeat
NOTHING_KNOWN = -1  # a count of messages below that of every session


class WebuiHttpAdapter(HttpAdapter):
    """One server and its folder, through all its restarts."""

    has_epilogue = False  # its health has no gauges

    def __init__(self, folder: Path, launch: Launch) -> None:
        """Boot nothing yet; the first call boots the server."""
        super().__init__(folder, launch)
        self._empty_sessions: set[str] = set()
        self._titles: dict[str, str] = {}
        self._newest: dict[str, str] = {}  # the stream of the last run, by session
        self._leaves_open = False
        self._boots = 0
        self._repair_s = REPAIR_S

    def begin(self) -> None:
        """Forget every name; sessions that exist by now belong to earlier examples."""
        super().begin()
        self._empty_sessions, self._titles = set(), {}

    # Sessions

    def new(self, session: str) -> None:
        """Create a session."""
        super().new(session)
        self._empty_sessions.add(session)

    def clear(self, session: str) -> None:
        """Remove the session's messages."""
        super().clear(session)
        if session in self._titles:
            super().rename(session, self._titles[session])

    def rename(self, session: str, title: str) -> None:
        """Set the session's title."""
        super().rename(session, title)
        self._titles[session] = title

    def title(self, session: str) -> str | None:
        """The session's title; None for one that no client set."""
        title = super().title(session)
        return title if session in self._titles else None

    def titles(self) -> list[list[str | None]]:
        """The names and titles of all sessions; None for a title that no client set."""
        rows: list[Any] = super().titles()
        listed: dict[str, str] = dict(rows)
        titles = {name: self._titles.get(name) for name in self._unlisted({*listed})}
        titles |= {name: listed[name] if name in self._titles else None for name in listed}
        return [[name, titles[name]] for name in sorted(titles)]

    def undo(self, session: str) -> bool:
        """Remove the last turn; whether there was one."""
        try:
            return super().undo(session)
        except StatusError as refused:
            if refused.status != HTTPStatus.BAD_REQUEST:
                raise
            return False

    def delete(self, session: str) -> None:
        """Delete the session."""
        super().delete(session)
        self._titles.pop(session, None)
        self._empty_sessions.discard(session)

    def sessions(self) -> list[str]:
        """The names of all sessions."""
        listed = super().sessions()
        return sorted([*listed, *self._unlisted({*listed})])

    def _unlisted(self, listed: set[str]) -> list[str]:
        """The sessions that exist without messages, and so are not listed."""
        empty = []
        for name, id_ in self._sessions.items():
            if name not in listed:
                status, response = self._web().ask("GET", f"/api/session?session_id={id_}")
                if status == HTTPStatus.OK and not response["session"]["messages"]:
                    empty.append(name)
        return empty

    def messages(self, session: str) -> dict[str, Any]:
        """The messages as rows of role, text and mark; the outputs of wakeups; the pending text."""
        messages = super().messages(session)
        rows = messages.pop("rows")  # this server adds messages of its own
        pending = _unless_wakeup(messages["pending"])
        said = messages["said"]
        if pending is not None and said and said[-1][:2] == ["user", pending]:
            said = said[:-1]  # the row of the agent's database, beside the pending message
        return {**messages, "said": said, "pending": pending, "heard": _heard(rows)}

    def disk(self, session: str) -> list[str]:
        """The users' texts in the session's sidecar: those of messages, then the pending one."""
        return [text for text in super().disk(session) if _unless_wakeup(text) is not None]

    def views(self, session: str) -> dict[str, Any]:
        """Only what the messages' route shows: the others have titles and counts of their own."""
        found = self._get(f"/api/session?session_id={self._sessions[session]}")["session"]
        return {"messages": len(found["messages"])}

    def copies(self, session: str) -> dict[str, Any]:
        """None to compare: this server's agent writes state.db, and it has no run journal."""
        self._get(f"/api/session?session_id={self._sessions[session]}")
        return {}

    # Turns

    def send(self, session: str, run: str, text: str) -> dict[str, Any]:
        """Begin a turn, named `run` from now on; if the session is busy, the active run."""
        self._empty_sessions.discard(session)
        sent = super().send(session, run, text)
        self._newest[session] = self._streams.get(run, self._newest.get(session, ""))
        return sent

    def _pending(self, found: Mapping[str, Any]) -> str | None:
        """The text of the turn that is not saved yet; older releases have no such field."""
        return found.get("pending_user_message")

    def status(self, session: str) -> dict[str, Any]:
        """Whether the session is busy, and the run that a client can attach to."""
        query = f"session_id={self._sessions[session]}"
        answer, status = self._web().ask("GET", f"/api/session/status?{query}")
        if answer != HTTPStatus.OK or "active_stream_id" not in status:
            # Older releases name the run with the messages only, or not at all.
            found = self._get(f"/api/session?{query}")["session"]
            run = self._newest.get(session)
            is_active = run is not None and self._is_active(run)
            known = {"agent_running": is_active, "active_stream_id": run if is_active else None}
            status = {**known, **(status if answer == HTTPStatus.OK else {}), **found}
        active = named(self._streams, status.get("active_stream_id"))
        return {"busy": status["agent_running"], "active": active}

    def _is_active(self, stream_id: str) -> bool:
        """Whether the run goes on, by the route that every release has."""
        path = f"/api/chat/stream/status?stream_id={stream_id}"
        status, answer = self._web().ask("GET", path)
        return status == HTTPStatus.OK and bool(answer["active"])

    # Streams

    def _relay(self, run: str, last_event_id: str = "", query: str = "") -> dict[str, Any]:
        try:
            relay = super()._relay(run, last_event_id, query)
        except StatusError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            return {"ids": [], "names": [], "closed": True}  # the server has no events of the run
        relay.pop("texts")  # this server has events of its own
        self._leaves_open |= not relay["closed"] and relay["names"][-1:] in ENDS
        if relay["names"] and not any(relay["ids"]):  # older releases do not number events
            relay["ids"] = list(range(1, 1 + len(relay["names"])))
        return relay

    def shown(self, run: str, tokens: int) -> str:
        """The text of the run's first `tokens` tokens; none if the stream is gone with its run."""
        try:
            return super().shown(run, tokens).rstrip()
        except StatusError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            return ""

    def watch(self, session: str) -> str | None:
        """The run that a new subscriber of the session is offered."""
        self.status(session)  # raises for an unknown session, for which the stream opens
        query = f"session_id={self._sessions[session]}&known_count={NOTHING_KNOWN}"
        web = Web(self._port(), QUIET_S)
        try:
            with web.stream(f"/api/session/stream?{query}", comments=True) as events:
                for event in events:
                    if not event.name:  # a heartbeat, so the greeting is over
                        return None
                    if event.name == "server_turn_started":
                        return named(self._streams, event.data["stream_id"])
                    if event.name == "session-updated":
                        return None
        except TargetLostError:  # nothing came for longer than between two heartbeats
            return None
        except StatusError as error:
            if error.status != HTTPStatus.NOT_FOUND:  # older releases lack this stream
                raise
        return None

    def events(self, run: str, after: int, by: str = HEADER) -> dict[str, Any]:  # noqa: ARG002  it takes both
        """Read the run's events after number `after`, until the server closes the stream."""
        return super().events(run, after)

    @contextmanager
    def _stream(
        self, path: str, headers: Mapping[str, str] | None = None
    ) -> Iterator[Iterator[Event]]:
        """Pass the cursor in the query as well: older releases read it from there only."""
        cursor = (headers or {}).get(HEADER)
        query = f"&after_event_id={quote(cursor, safe='')}" if cursor else ""
        with unknown_as_error(), self._reader().stream(path + query, headers) as events:
            yield events

    def _reader(self) -> Web:
        """A client of a run's stream, which is read when the run is over, or about to be."""
        closing_s = KNOWN_OPEN_S if self._leaves_open else CLOSING_S
        return Web(self._port(), READ_S, last=TERMINAL, closing_s=closing_s)

    # Restarts

    def kill(self, index: str = "", lags: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002
        """Kill the server with kill -9, and boot another one; its database has no copies."""
        super().kill(index)
        self._recover()

    def terminate(self) -> int | None:
        """End the server by SIGTERM, and boot another one; the exit code, None if it hung."""
        code = super().terminate()
        self._recover()
        return code

    def _recover(self) -> None:
        """Create the empty sessions again, and wait until no killed run counts as alive."""
        for session in self._empty_sessions:
            super().new(session)
            if session in self._titles:
                super().rename(session, self._titles[session])
        self._boots += 1
        if self._boots % 2:  # the read that repairs a session is of this kind, or of the other
            self._await_repair()
        ends_at = time.monotonic() + self._repair_s
        while self._is_any_busy():
            if time.monotonic() > ends_at:
                self._repair_s = REPAIRED_S  # it repairs nothing, so that others need not wait
                return
            time.sleep(REPAIR_POLL_S)

    def _await_repair(self) -> None:
        """Read each session with its messages until it names no run, or the time is over."""
        ends_at = time.monotonic() + REPAIRED_S
        paths = [f"/api/session?session_id={id_}" for id_ in self._sessions.values()]
        while paths and time.monotonic() < ends_at:
            answers = {path: self._web().ask("GET", path) for path in paths}
            paths = [
                path
                for path, (status, body) in answers.items()
                if status == HTTPStatus.OK and body["session"].get("active_stream_id")
            ]
            time.sleep(REPAIR_POLL_S if paths else 0)

    def _is_any_busy(self) -> bool:
        return any(self._is_busy(name) for name in self._sessions)

    def _is_busy(self, session: str) -> bool:
        with suppress(StatusError):
            return bool(self.status(session)["busy"])
        return False  # it was deleted


def _heard(rows: Sequence[Sequence[str]]) -> list[list[int]]:
    """For each reply: the users' messages that its agent was shown, and those that precede it."""
    heard, users = [], 0
    for role, text, *_ in rows:
        users += role == "user"
        end = ReplyEnd.parse(text) if role == "assistant" else None
        if end is not None:
            heard.append([end.turn, users])
    return heard


def _unless_wakeup(text: str | None) -> str | None:
    """The text, or None if it is a wakeup's."""
    return None if is_wakeup(text) else text
