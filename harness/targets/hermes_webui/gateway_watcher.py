"""The *watcher* ability over the gateway watcher of a hermes-webui checkout, in its own process.

The writing process is a connection to a database with the agent's schema. The watcher hides a
session without messages, and one that ended after a few, so each session begins with some messages
that the adapter does not count. Its rows do not say whether a session has a title or has ended: a
missing title is recognised by its stand-in, and the end is read from the database.
"""

from __future__ import annotations

import inspect
import queue
import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness.targets.components.gateway_watcher import POLLS, ScriptedWatcher
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
    """Open a watcher of a new database in `folder`."""
    return WebuiWatcherAdapter(folder)


class Iterations:
    """Replaces the stop event of the watcher's loop, and stops it after a number of iterations."""

    def __init__(self, count: int) -> None:
        self._left = count

    def is_set(self) -> bool:
        """Whether all iterations are used up; the loop calls this before each one."""
        self._left -= 1
        return self._left < 0


class WebuiWatcherAdapter(ScriptedWatcher):
    """One database, a connection that writes it, and a watcher of it."""

    def __init__(self, folder: Path) -> None:
        """Create the database, and start to watch it."""
        super().__init__(folder / "state.db")
        checkout.set_environment(folder)
        self._module: Any = checkout.module("gateway_watcher")
        checkout.reset_globals()
        self._writer = sqlite3.connect(self._path, isolation_level=None)
        self._writer.executescript(SCHEMA)
        self._read = self._module.read_importable_agent_session_rows
        self._module.read_importable_agent_session_rows = self._projected
        checkout.bind("_get_state_db_path", lambda *_: self._path)  # the only way in older releases
        takes_home = "hermes_home" in inspect.signature(self._module.GatewayWatcher).parameters
        self._watcher = self._module.GatewayWatcher(
            **({"hermes_home": folder} if takes_home else {})
        )
        self._watcher.POLL_INTERVAL = 0
        self._announcements: queue.Queue[Any] = self._watcher.subscribe()
        self._last_sessions: Any = None
        self._shown: list[list[Any]] | None = None

    def _projected(self, *given: Any, **named: Any) -> Any:
        return self._scripted(lambda: self._read(*given, **named))

    # Calls of the other process

    def create(self, session: str, source: str) -> None:
        """Create a session."""
        (known,) = self._writer.execute("SELECT COUNT(*) FROM sessions WHERE id = ?", (session,))
        if known == (0,):
            self._write(
                "INSERT INTO sessions (id, source, started_at) VALUES (?, ?, ?)",
                (session, source, time.time()),
            )
            self._insert(session, UNCOUNTED)

    def append(self, session: str, text: str) -> None:
        """Add a message."""
        self._insert(session, [text])

    def rewrite(self, session: str, texts: list[str]) -> None:
        """Replace all messages."""
        self._write("DELETE FROM messages WHERE session_id = ?", (session,))
        self._insert(session, (*UNCOUNTED, *texts))

    def _insert(self, session: str, texts: Iterable[str]) -> None:
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
        """Set the title."""
        self._write("UPDATE sessions SET title = ? WHERE id = ?", (title, session))

    def end(self, session: str) -> None:
        """End the session."""
        self._write(
            "UPDATE sessions SET ended_at = ?, end_reason = 'done'"
            " WHERE id = ? AND ended_at IS NULL",
            (time.time(), session),
        )

    def delete(self, session: str) -> None:
        """Delete the session."""
        self._write("DELETE FROM messages WHERE session_id = ?", (session,))
        self._write("DELETE FROM sessions WHERE id = ?", (session,))

    def restore(self, session: str) -> None:
        """Delete the session; the watcher opens the file anew at each poll in any case."""
        self.delete(session)

    def _write(self, statement: str, values: tuple[Any, ...]) -> None:
        self._writer.execute(statement, values)

    # Calls of the watcher

    def poll(self) -> dict[str, Any]:
        """Poll twice."""
        self._projections = 0
        self._watcher._stop_event = Iterations(POLLS)  # noqa: SLF001  it has no call for one poll
        self._watcher._poll_loop()  # noqa: SLF001
        announced = None
        while not self._announcements.empty():
            announced = self._rows(self._announcements.get()["sessions"])
        sessions = self._watcher._last_sessions  # noqa: SLF001  a late subscriber does not get it
        if self._watcher._last_hash and sessions is not self._last_sessions:  # noqa: SLF001
            self._last_sessions, self._shown = sessions, self._rows(sessions)
        return {"announced": announced, "projections": self._projections}

    def shown(self) -> list[list[Any]] | None:
        """The list that the watcher has, as it was at its announcement."""
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
        """Restore the module, and close the writer."""
        self._module.read_importable_agent_session_rows = self._read
        self._writer.close()
