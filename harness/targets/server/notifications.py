"""The *tabs* ability: the *http* ability, and tabs that subscribe to its sessions.

A tab receives an event for each turn that starts, each watched line and each process that ends.
`hear` names the event up to which it reads, and returns all events since the last `hear`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.contract.agent_script import MATCHED
from harness.engine.http import Event, Web
from harness.processes.server import Launch
from harness.targets.server.http import HttpAdapter, UnknownError, named

TAB_S = 60.0  # the timeout of a tab's stream
STARTED = ("server_turn_started", "turn_started")
ENDED, SEEN = "bg_task_complete", "process_watch_match"
HALF_NAMED = "a notice without both names of its process"
_UNKNOWN_COUNT = 10**9  # a count that no session has, so that the server sends its own


@dataclass
class Tab:
    """A stream of notifications, and the last event that was read."""

    session: str
    last_id: str = ""
    stream: AbstractContextManager[Iterator[Event]] | None = None
    events: Iterator[Event] = field(default_factory=lambda: iter(()))


class NotificationsAdapter(HttpAdapter):
    """One server, and tabs by name."""

    def __init__(self, folder: Path, launch: Launch) -> None:
        """Boot nothing yet, and open no tab."""
        super().__init__(folder, launch)
        self._tabs: dict[str, Tab] = {}

    def begin(self) -> None:
        """Forget every name, and close every tab."""
        for tab in [*self._tabs]:
            self._shut(tab)
        super().begin()

    def open(self, tab: str, session: str) -> str | None:
        """Subscribe to the session; the run that the server offers at once."""
        self._shut(tab)
        self._tabs[tab] = Tab(session)
        return self._connect(self._tabs[tab])

    def open_again(self, tab: str) -> str | None:
        """Close the tab's connection, and reconnect from its last event."""
        self._disconnect(self._tabs[tab])
        return self._connect(self._tabs[tab])

    def hear(self, tab: str, name: str, subject: str) -> list[list[str | None]]:
        """Read events up to this one; all of them as session, name, subject.

        The last one is the awaited event, unless it did not come before the timeout.
        """
        heard = []
        try:
            for event in self._tabs[tab].events:
                self._tabs[tab].last_id = event.id or self._tabs[tab].last_id
                if event.name in (*STARTED, ENDED, SEEN):
                    heard.append(self._row(event))
                    if [event.name, heard[-1][2]] == [name, subject]:
                        break
        except TimeoutError:
            pass  # the awaited event did not come
        return heard

    def acknowledge(self, session: str, task: str) -> dict[str, Any] | None:
        """Acknowledge a process's end; None for an unknown session."""
        sid = self._sessions.get(session, "0" * 12)
        try:
            response = self._post("/api/bg-task-complete-ack", session_id=sid, task_id=task)
        except UnknownError:
            return None
        return {"noop": response["noop"], "task": response["task_id"]}

    def _row(self, event: Event) -> list[str | None]:
        """The event's session, its name, and its subject: a run, a line, or a command's word."""
        session = named(self._sessions, event.data["session_id"])
        if event.name in STARTED:
            return [session, event.name, named(self._streams, event.data["stream_id"])]
        names = event.data["task_id"], event.data.get("process_id")
        word = event.data["summary"].partition("%s ")[2].partition(" ")[0]
        if event.name == SEEN:
            word = f"{MATCHED} {event.data['summary']}"
        return [session, event.name if names[0] == names[1] else HALF_NAMED, word]

    def _connect(self, tab: Tab) -> str | None:
        query = f"session_id={self._sessions[tab.session]}&known_count={_UNKNOWN_COUNT}"
        headers: Mapping[str, str] = {"Last-Event-ID": tab.last_id} if tab.last_id else {}
        web = Web(self._server.boot()["port"], TAB_S, lasts=True)
        tab.stream = web.stream(f"/api/session/stream?{query}", headers)
        tab.events = tab.stream.__enter__()
        offered = None
        for event in tab.events:
            if event.name in STARTED:
                offered = event.data["stream_id"]
            elif event.name == "session-updated":  # the last of the first events
                break
        return named(self._streams, offered)

    def _shut(self, tab: str) -> None:
        if known := self._tabs.pop(tab, None):
            self._disconnect(known)

    @staticmethod
    def _disconnect(tab: Tab) -> None:
        if tab.stream is not None:
            tab.stream.__exit__(None, None, None)
            tab.stream = None

    def epilogue(self) -> dict[str, Any]:
        """Close every tab, and let all clients leave; what is above its first value after that."""
        for tab in [*self._tabs]:
            self._shut(tab)
        return super().epilogue()

    def close(self) -> None:
        """Close every tab, and kill the server."""
        for tab in [*self._tabs]:
            self._shut(tab)
        super().close()
