"""The *http* ability of a hermes-webui server: where it words things otherwise than the reference.

A session without messages is not listed there, and kept only once something was said in it: nothing
was promised of such a shell. A title that nobody gave is the server's own; one that was given goes
with a clear, and is given again. What a turn had shown when it was cut short loses its last blank.
After a death it holds a run for alive for half a minute: that is waited for.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

from harness.contract.clients.message_format import is_wakeup
from harness.engine.http import Event, StatusError, StillOpenError, Web
from harness.processes.server import Launch
from harness.targets.server.http import HEADER, HttpAdapter, named

REPAIR_S = 90.0  # three times what it says it takes
REPAIR_POLL_S = 0.1
UNTITLED = "Untitled"
QUIET_S = 6.0  # a little more than its heartbeat
NOTHING_KNOWN = -1  # a count of messages that every session exceeds


class WebuiHttpAdapter(HttpAdapter):
    """One server and its folder, through all its deaths."""

    def __init__(self, folder: Path, launch: Launch) -> None:
        """Boot nothing yet; the first question does."""
        super().__init__(folder, launch)
        self._shells: set[str] = set()
        self._titles: dict[str, str] = {}

    def begin(self) -> None:
        """Forget every name: what there is by now is somebody else's, and none of our business."""
        super().begin()
        self._shells, self._titles = set(), {}

    # Sessions

    def new(self, session: str) -> None:
        """Make a session."""
        super().new(session)
        self._shells.add(session)

    def clear(self, session: str) -> None:
        """Remove the session's messages."""
        super().clear(session)
        if session in self._titles:
            super().rename(session, self._titles[session])

    def rename(self, session: str, title: str) -> None:
        """Give the session a title."""
        super().rename(session, title)
        self._titles[session] = title

    def title(self, session: str) -> str:
        """Tell the session's title."""
        told = super().title(session)
        return told if session in self._titles else UNTITLED

    def titles(self) -> list[list[str]]:
        """The names and titles of all sessions."""
        listed = dict(super().titles())
        every = {name: self._titles.get(name, UNTITLED) for name in self._empty({*listed})}
        every |= {name: listed[name] if name in self._titles else UNTITLED for name in listed}
        return sorted([name, title] for name, title in every.items())

    def undo(self, session: str) -> bool:
        """Remove the last turn that was said; whether there was one."""
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
        self._shells.discard(session)

    def sessions(self) -> list[str]:
        """The names of all sessions."""
        listed = super().sessions()
        return sorted([*listed, *self._empty({*listed})])

    def _empty(self, listed: set[str]) -> list[str]:
        """The sessions that are not listed, but there, and without messages."""
        empty = []
        for name, id_ in self._sessions.items():
            if name not in listed:
                status, told = self._web().ask("GET", f"/api/session?session_id={id_}")
                if status == HTTPStatus.OK and not told["session"]["messages"]:
                    empty.append(name)
        return empty

    def messages(self, session: str) -> dict[str, Any]:
        """What was said: rows of role, text and mark; which outputs woke it; what is pending."""
        told = super().messages(session)
        return {**told, "pending": _asked(told["pending"])}

    def disk(self, session: str) -> list[str]:
        """What users said, by the session's sidecar: the messages, and then the pending one."""
        return [text for text in super().disk(session) if _asked(text) is not None]

    # Turns

    def send(self, session: str, run: str, text: str) -> dict[str, Any]:
        """Begin a turn, called `run` from now on; or else which run is in its way."""
        self._shells.discard(session)
        return super().send(session, run, text)

    def status(self, session: str) -> dict[str, Any]:
        """Whether the session is busy, and the run that a client could attach to."""
        query = f"session_id={self._sessions[session]}"
        told = self._get(f"/api/session/status?{query}")
        if "active_stream_id" not in told:  # the older ones tell it with the messages only
            told |= self._get(f"/api/session?{query}")["session"]
        active = named(self._streams, told.get("active_stream_id"))
        return {"busy": told["agent_running"], "active": active}

    # Streams

    def _relay(self, run: str, last_event_id: str = "", query: str = "") -> dict[str, Any]:
        try:
            return super()._relay(run, last_event_id, query)
        except StatusError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            return {"ids": [], "names": [], "closed": True}  # it has nothing to say of the run

    def shown(self, run: str, tokens: int) -> str:
        """What the run shows in its first so many tokens."""
        return super().shown(run, tokens).rstrip()

    def watch(self, session: str) -> str | None:
        """Which run is offered to whoever begins to watch the session now."""
        self.status(session)  # its stream opens for a session that there is not, too
        query = f"session_id={self._sessions[session]}&known_count={NOTHING_KNOWN}"
        web = Web(self._server.boot()["port"], QUIET_S)
        try:
            with web.stream(f"/api/session/stream?{query}") as events:
                for event in events:
                    if event.name == "server_turn_started":
                        return named(self._streams, event.data["stream_id"])
                    if event.name == "session-updated":
                        return None
        except StillOpenError:  # a heartbeat came, so the greeting is over
            return None
        except StatusError as error:
            if error.status != HTTPStatus.NOT_FOUND:  # the older ones have nothing to watch
                raise
        return None

    def events(self, run: str, after: int, by: str = HEADER) -> dict[str, Any]:  # noqa: ARG002  all
        """Read the run's relay, after so many events, until the server closes it."""
        return super().events(run, after)

    @contextmanager
    def _stream(
        self, path: str, headers: Mapping[str, str] | None = None
    ) -> Iterator[Iterator[Event]]:
        """A cursor goes into the query too: the older ones look for it there alone."""
        cursor = (headers or {}).get(HEADER)
        query = f"&after_event_id={quote(cursor, safe='')}" if cursor else ""
        with super()._stream(path + query, headers) as events:
            yield events

    # The server's lives

    def kill(self) -> None:
        """Kill the server with kill -9, and boot another one on its folder."""
        super().kill()
        self._recover()

    def terminate(self) -> int | None:
        """End the server by SIGTERM, and boot another one; the exit code, None if it hung."""
        code = super().terminate()
        self._recover()
        return code

    def _recover(self) -> None:
        """Make the shells again, and wait until nothing that died is held for alive."""
        for session in self._shells:
            super().new(session)
            if session in self._titles:
                super().rename(session, self._titles[session])
        ends_at = time.monotonic() + REPAIR_S
        while self._is_any_busy() and time.monotonic() < ends_at:
            time.sleep(REPAIR_POLL_S)

    def _is_any_busy(self) -> bool:
        paths = (f"/api/session/status?session_id={id_}" for id_ in self._sessions.values())
        told = [self._web().ask("GET", path) for path in paths]
        return any(body["agent_running"] for status, body in told if status == HTTPStatus.OK)


def _asked(text: str | None) -> str | None:
    """What a user asked, so no wakeup."""
    return None if is_wakeup(text) else text
