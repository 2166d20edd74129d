"""The *watcher* ability over the gateway watcher of a hermes-webui checkout, in its own process.

The other process is a connection to a database of the agent's shape. It shows no session without
messages, nor one that ended after a few, so each begins with some that are not counted. Its rows
tell neither that a session has no title nor that it ended: the one has a stand-in, for the other
the database is asked.
"""

from __future__ import annotations

import inspect
import queue
import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness.targets.components.gateway_watcher import POLLS, ProjectionError
from harness.targets.hermes_webui import checkout

UNTITLED = "Agent Session"
UNCOUNTED = ("hello",) * 5
SCHEMA = """
CREATE TABLE IF NOT EXISTS sessions (
    id TEXT PRIMARY KEY, source TEXT NOT NULL, user_id TEXT, model TEXT, title TEXT,
    parent_session_id TEXT, started_at REAL NOT NULL, ended_at REAL, end_reason TEXT,
    message_count INTEGER DEFAULT 0
);
CREATE TABLE IF NOT EXISTS messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT, session_id TEXT NOT NULL REFERENCES sessions(id),
    role TEXT NOT NULL, content TEXT, timestamp REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS messages_of ON messages(session_id, timestamp);
"""


def open_adapter(folder: Path) -> WebuiWatcherAdapter:
    """A watcher of a new database in `folder`."""
    return WebuiWatcherAdapter(folder)


class Turns:
    """In the place of the event that stops the watcher's loop, which asks it before each turn."""

    def __init__(self, turns: int) -> None:
        self._left = turns

    def is_set(self) -> bool:
        """Whether they are used up."""
        self._left -= 1
        return self._left < 0


class WebuiWatcherAdapter:
    """One database, somebody who writes it, and a watcher of it."""

    def __init__(self, folder: Path) -> None:
        """Make the database, and begin to watch."""
        checkout.settle(folder)
        self._room: Any = checkout.module("gateway_watcher")
        checkout.be_born_again()
        path = folder / "state.db"
        self._writer = sqlite3.connect(path, isolation_level=None)
        self._writer.executescript(SCHEMA)
        self._read = self._room.read_importable_agent_session_rows
        self._room.read_importable_agent_session_rows = self._projected
        checkout.put("_get_state_db_path", lambda *_: path)  # the older ones are told no other way
        takes_home = "hermes_home" in inspect.signature(self._room.GatewayWatcher).parameters
        self._watcher = self._room.GatewayWatcher(**({"hermes_home": folder} if takes_home else {}))
        self._watcher.POLL_INTERVAL = 0
        self._told: queue.Queue[Any] = self._watcher.subscribe()
        self._projections = 0
        self._failure = ""
        self._held: Any = None
        self._shown: list[list[Any]] | None = None

    def _projected(self, *given: Any, **named: Any) -> Any:
        self._projections += 1
        match self._failure:
            case "raises":
                raise ProjectionError("as told")
            case "none":
                return None
        return self._read(*given, **named)

    # What another process does

    def create(self, session: str, source: str) -> None:
        """Make a session."""
        (known,) = self._writer.execute("SELECT COUNT(*) FROM sessions WHERE id = ?", (session,))
        if known == (0,):
            self._write(
                "INSERT INTO sessions (id, source, started_at) VALUES (?, ?, ?)",
                (session, source, time.time()),
            )
            self._say(session, UNCOUNTED)

    def append(self, session: str, text: str) -> None:
        """Add a message."""
        self._say(session, [text])

    def rewrite(self, session: str, texts: list[str]) -> None:
        """Put other messages in place of those that are there."""
        self._write("DELETE FROM messages WHERE session_id = ?", (session,))
        self._say(session, (*UNCOUNTED, *texts))

    def _say(self, session: str, texts: Iterable[str]) -> None:
        for text in texts:
            self._write(
                "INSERT INTO messages (session_id, role, content, timestamp)"
                " SELECT id, 'user', ?, ? FROM sessions WHERE id = ?",
                (text, time.time(), session),
            )
        self._write(
            "UPDATE sessions SET message_count ="
            " (SELECT COUNT(*) FROM messages WHERE session_id = sessions.id) WHERE id = ?",
            (session,),
        )

    def rename(self, session: str, title: str) -> None:
        """Give it a title."""
        self._write("UPDATE sessions SET title = ? WHERE id = ?", (title, session))

    def end(self, session: str) -> None:
        """End it."""
        self._write(
            "UPDATE sessions SET ended_at = ?, end_reason = 'done'"
            " WHERE id = ? AND ended_at IS NULL",
            (time.time(), session),
        )

    def delete(self, session: str) -> None:
        """Remove it."""
        self._write("DELETE FROM messages WHERE session_id = ?", (session,))
        self._write("DELETE FROM sessions WHERE id = ?", (session,))

    def _write(self, statement: str, values: tuple[Any, ...]) -> None:
        self._writer.execute(statement, values)

    # What the watcher does

    def fail(self, how: str) -> None:
        """From now on the projection raises, gives none, or works again (empty)."""
        self._failure = how

    def poll(self) -> dict[str, Any]:
        """Look twice."""
        self._projections = 0
        self._watcher._stop_event = Turns(POLLS)  # noqa: SLF001  it has no call for one look
        self._watcher._poll_loop()  # noqa: SLF001
        announced = None
        while not self._told.empty():
            announced = self._rows(self._told.get()["sessions"])
        held = self._watcher._last_sessions  # noqa: SLF001  it hands it to nobody who comes late
        if self._watcher._last_hash and held is not self._held:  # noqa: SLF001
            self._held, self._shown = held, self._rows(held)
        return {"announced": announced, "projections": self._projections}

    def shown(self) -> list[list[Any]] | None:
        """The list that the watcher holds, as it was when it announced it."""
        return self._shown

    def _rows(self, rows: list[dict[str, Any]]) -> list[list[Any]]:
        ended = dict(self._writer.execute("SELECT id, ended_at IS NOT NULL FROM sessions"))
        return sorted(
            [
                row["session_id"],
                None if row["title"] == UNTITLED else row["title"],
                row["message_count"] - len(UNCOUNTED),
                bool(ended.get(row["session_id"])),
            ]
            for row in rows
        )

    def close(self) -> None:
        """Stop watching, and writing."""
        self._room.read_importable_agent_session_rows = self._read
        self._writer.close()
