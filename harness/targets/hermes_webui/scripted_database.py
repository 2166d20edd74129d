"""The database of the scripted agent: a row for each session, and one for each message.

The server imports it by the name `hermes_state`, as it does with the real one. Of three sessions in
a row, the third has no rows, as if it were older than the database, so that a server is asked about
both kinds. It imports nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

BUSY_S = 10.0
OPENING_S = 0.5  # for the lock, as the real one migrates the file; a server must open it again
TOKENS = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens")
LACKS_ROWS = 3  # each third session
SCHEMA = """
CREATE TABLE IF NOT EXISTS sessions (
    id TEXT PRIMARY KEY, source TEXT NOT NULL, user_id TEXT, model TEXT, model_config TEXT,
    system_prompt TEXT, parent_session_id TEXT, started_at REAL NOT NULL, ended_at REAL,
    end_reason TEXT, message_count INTEGER DEFAULT 0, tool_call_count INTEGER DEFAULT 0,
    input_tokens INTEGER DEFAULT 0, output_tokens INTEGER DEFAULT 0, title TEXT,
    api_call_count INTEGER DEFAULT 0, cache_read_tokens INTEGER DEFAULT 0,
    cache_write_tokens INTEGER DEFAULT 0, estimated_cost_usd REAL, cwd TEXT
);
CREATE TABLE IF NOT EXISTS messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT, session_id TEXT NOT NULL REFERENCES sessions(id),
    role TEXT NOT NULL, content TEXT, tool_call_id TEXT, tool_calls TEXT, tool_name TEXT,
    timestamp REAL NOT NULL, token_count INTEGER, finish_reason TEXT, reasoning TEXT
);
CREATE INDEX IF NOT EXISTS messages_of_session ON messages(session_id, timestamp);
CREATE TABLE IF NOT EXISTS state_meta (key TEXT PRIMARY KEY, value TEXT);
CREATE TABLE IF NOT EXISTS scripted_order (id TEXT PRIMARY KEY);
"""


class SessionDB:
    """One connection to the database. After `close` it has none."""

    def __init__(self, db_path: str | Path | None = None, **_unused: Any) -> None:
        path = Path(db_path) if db_path is not None else _default_db_path()
        self._lock = threading.Lock()
        self._conn: sqlite3.Connection | None = sqlite3.connect(
            path, OPENING_S, isolation_level=None, check_same_thread=False
        )
        self._conn.execute("PRAGMA journal_mode=WAL")
        self._conn.executescript(SCHEMA)
        self._conn.execute("BEGIN IMMEDIATE")
        self._conn.execute("COMMIT")
        self._conn.execute(f"PRAGMA busy_timeout = {round(1000 * BUSY_S)}")

    @contextlib.contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            if self._conn is None:
                raise sqlite3.ProgrammingError("the database handle was closed")
            self._conn.execute("BEGIN IMMEDIATE")
            try:
                yield self._conn
            except BaseException:
                self._conn.rollback()
                raise
            self._conn.commit()

    def _execute_write(self, act: Callable[[sqlite3.Connection], Any]) -> Any:
        with self._write() as connection:
            return act(connection)

    def keeps(self, session_id: str) -> bool:
        """Whether the session has rows here; each third one has not, in the order of turns."""
        if os.environ.get("HARNESS_AGENT_DATABASE") == "all":
            return True
        with self._write() as connection:
            connection.execute("INSERT OR IGNORE INTO scripted_order VALUES (?)", (session_id,))
            find = "SELECT rowid FROM scripted_order WHERE id = ?"
            (number,) = connection.execute(find, (session_id,)).fetchone()
        return bool(number % LACKS_ROWS)

    def ensure_session(
        self,
        session_id: str,
        source: str = "webui",
        model: str | None = None,
        parent: str | None = None,
        **_unused: Any,
    ) -> str:
        """Create the session's row, unless it exists."""
        with self._write() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO sessions (id, source, model, started_at, parent_session_id)"
                " VALUES (?, ?, ?, ?, ?)",
                (session_id, source, model, time.time(), parent),
            )
        return session_id

    create_session = ensure_session

    def append_message(
        self, session_id: str, role: str, content: Any = None, **fields: Any
    ) -> int | None:
        """Add a message; its number."""
        text = content if isinstance(content, str) or content is None else json.dumps(content)
        calls = fields.get("tool_calls")
        more = (
            *(time.time(), fields.get("reasoning"), fields.get("tool_call_id")),
            json.dumps(calls) if calls else None,
        )
        with self._write() as connection:
            cursor = connection.execute(
                "INSERT INTO messages"
                " (session_id, role, content, timestamp, reasoning, tool_call_id, tool_calls)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (session_id, role, text, *more),
            )
            count = "UPDATE sessions SET message_count = message_count + 1 WHERE id = ?"
            connection.execute(count, (session_id,))
            return cursor.lastrowid

    def update_token_counts(self, session_id: str, *_counts: Any, **counts: Any) -> None:
        """Set the counts of tokens, and that of calls and the cost if they are given."""
        more = (counts.get("api_call_count"), counts.get("estimated_cost_usd"), session_id)
        with self._write() as connection:
            connection.execute(
                "UPDATE sessions SET input_tokens = ?, output_tokens = ?, cache_read_tokens = ?,"
                " cache_write_tokens = ?, api_call_count = coalesce(?, api_call_count),"
                " estimated_cost_usd = coalesce(?, estimated_cost_usd) WHERE id = ?",
                (*(counts.get(name, 0) for name in TOKENS), *more),
            )

    def set_session_title(self, session_id: str, title: str) -> bool:
        """Set the title. Raises ValueError where another session has it."""
        with self._write() as connection:
            _refuse_taken(connection, session_id, title)
            connection.execute("UPDATE sessions SET title = ? WHERE id = ?", (title, session_id))
        return True

    def set_auto_title_if_empty(self, session_id: str, title: str) -> bool:
        """Set the title of a session that has none. Raises ValueError where another has it."""
        statement = "UPDATE sessions SET title = ? WHERE id = ? AND title IS NULL"
        with self._write() as connection:
            _refuse_taken(connection, session_id, title)
            return connection.execute(statement, (title, session_id)).rowcount > 0

    def get_next_title_in_lineage(self, title: str) -> str:
        """Another title, for one that is taken."""
        taken = self._read("SELECT title FROM sessions WHERE title LIKE ?", f"{title}%")
        return f"{title} #{1 + len(taken)}"

    def end_session(self, session_id: str, end_reason: str = "") -> None:
        """Mark the session as ended."""
        with self._write() as connection:
            connection.execute(
                "UPDATE sessions SET ended_at = ?, end_reason = ? WHERE id = ?",
                (time.time(), end_reason, session_id),
            )

    def delete_session(self, session_id: str, **_unused: Any) -> bool:
        """Remove the session with its messages."""
        with self._write() as connection:
            connection.execute("DELETE FROM messages WHERE session_id = ?", (session_id,))
            gone = connection.execute("DELETE FROM sessions WHERE id = ?", (session_id,))
            return gone.rowcount > 0

    def replace_messages(self, session_id: str, messages: list[dict[str, Any]]) -> None:
        """Replace all messages of the session."""
        with self._write() as connection:
            connection.execute("DELETE FROM messages WHERE session_id = ?", (session_id,))
        for message in messages:
            self.append_message(session_id, message["role"], message.get("content"))

    def get_session(self, session_id: str) -> dict[str, Any] | None:
        """The session's row."""
        rows = self._read("SELECT * FROM sessions WHERE id = ?", session_id)
        return rows[0] if rows else None

    def get_messages(self, session_id: str, **_unused: Any) -> list[dict[str, Any]]:
        """The messages of the session."""
        return self._read("SELECT * FROM messages WHERE session_id = ? ORDER BY id", session_id)

    get_messages_as_conversation = get_messages

    def _read(self, statement: str, *values: Any) -> list[dict[str, Any]]:
        with self._lock:
            if self._conn is None:
                raise sqlite3.ProgrammingError("the database handle was closed")
            cursor = self._conn.execute(statement, values)
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def get_meta(self, key: str) -> str | None:
        """A text that the server keeps here."""
        rows = self._read("SELECT value FROM state_meta WHERE key = ?", key)
        return str(rows[0]["value"]) if rows else None

    def set_meta(self, key: str, value: str) -> None:
        """Keep a text for the server."""
        with self._write() as connection:
            connection.execute("INSERT OR REPLACE INTO state_meta VALUES (?, ?)", (key, value))

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            if self._conn is not None:
                self._conn.close()
                self._conn = None


def _refuse_taken(connection: sqlite3.Connection, session_id: str, title: str) -> None:
    """Refuse a title that another session has, as the real database does."""
    find = "SELECT id FROM sessions WHERE title = ? AND id != ?"
    if taken := connection.execute(find, (title, session_id)).fetchone():
        raise ValueError(f"Title {title!r} is already in use by session {taken[0]}")


def _default_db_path() -> Path:
    return Path(os.environ.get("HERMES_HOME", ".")) / "state.db"
