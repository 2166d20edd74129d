"""The *state_db_crowd* ability over bare SQLite, with one policy for waiting on locks.

Stand-alone: it imports the standard library only. The variable HARNESS_POLICY names the policy. All
use one connection for all threads of a process, as the released packages do, and differ in how a
write waits:

- `busy-30s`: SQLite's own busy handler for 30 s, and deferred transactions;
- `jitter-15`: a second of the busy handler, fifteen times, with random pauses of 20 to 150 ms;
- `constant-1ms`: no busy handler; it tries the lock every millisecond, for 30 s.

It writes only columns that the tables of all targets have, so it can also share a file with another
target.
"""

import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

PATIENCE_S = 30.0
COLUMNS = (
    *("source", "title", "message_count", "tool_call_count"),
    *("input_tokens", "output_tokens"),
)

Statement = tuple[str, Sequence[object]]
Names = list[str]
Rows = list[list[str]]  # [role, text] or [session, text]


def _busy_30s() -> Iterator[float]:
    yield 0.0


def _jitter_15() -> Iterator[float]:
    for _ in range(15):
        yield random.uniform(0.020, 0.150)


def _constant_1ms() -> Iterator[float]:
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        yield 0.001


# How a transaction begins, how long the busy handler waits, and how long to pause between attempts.
POLICIES: dict[str, tuple[str, float, Callable[[], Iterator[float]]]] = {
    "busy-30s": ("BEGIN", PATIENCE_S, _busy_30s),
    "jitter-15": ("BEGIN IMMEDIATE", 1.0, _jitter_15),
    "constant-1ms": ("BEGIN IMMEDIATE", 0.0, _constant_1ms),
}

_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS sessions (
        id TEXT PRIMARY KEY NOT NULL, source TEXT NOT NULL, system_prompt TEXT, title TEXT,
        started_at REAL NOT NULL, ended_at REAL, end_reason TEXT,
        message_count INTEGER NOT NULL DEFAULT 0, tool_call_count INTEGER NOT NULL DEFAULT 0,
        input_tokens INTEGER NOT NULL DEFAULT 0, output_tokens INTEGER NOT NULL DEFAULT 0)""",
    """CREATE TABLE IF NOT EXISTS messages (
        id INTEGER PRIMARY KEY AUTOINCREMENT, session_id TEXT NOT NULL, role TEXT NOT NULL,
        content TEXT, timestamp REAL NOT NULL)""",
    "CREATE INDEX IF NOT EXISTS messages_of_a_session ON messages(session_id)",
    """CREATE VIRTUAL TABLE IF NOT EXISTS words
        USING fts5(content, content='messages', content_rowid='id')""",
    """CREATE TRIGGER IF NOT EXISTS words_come AFTER INSERT ON messages BEGIN
        INSERT INTO words(rowid, content) VALUES (new.id, new.content);
    END""",
    """CREATE TRIGGER IF NOT EXISTS words_go AFTER DELETE ON messages BEGIN
        INSERT INTO words(words, rowid, content) VALUES ('delete', old.id, old.content);
    END""",
)
_INSERT = "INSERT INTO messages(session_id, role, content, timestamp) VALUES (?, ?, ?, ?)"
_EMPTY = "DELETE FROM messages WHERE session_id = ?"


class SqliteAdapter:
    """One connection to the file `path`, and one policy."""

    def __init__(self, path: Path, policy: str) -> None:
        self.path = path
        self._begin, timeout_s, self._pauses_s = POLICIES[policy]
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(
            path, timeout=PATIENCE_S, isolation_level=None, check_same_thread=False
        )
        self._connection.execute("PRAGMA journal_mode = WAL")
        if not self._rows("SELECT 1 FROM sqlite_master WHERE name = 'messages'"):
            self._connection.execute("BEGIN IMMEDIATE")
            for statement in _SCHEMA:
                self._connection.execute(statement)
            self._connection.execute("COMMIT")
        self._connection.execute(f"PRAGMA busy_timeout = {timeout_s * 1000:.0f}")

    def create(self, session: str, source: str) -> None:
        """Create the session, unless it exists."""
        insert = "INSERT OR IGNORE INTO sessions(id, source, started_at) VALUES (?, ?, ?)"
        self._write((insert, (session, source, time.time())))

    def append(self, session: str, role: str, text: str, tool_calls: int = 0) -> None:
        """Append a message that made `tool_calls` tool calls."""
        count = (
            "UPDATE sessions SET message_count = message_count + 1,"
            " tool_call_count = tool_call_count + ? WHERE id = ?"
        )
        row = (session, role, text, time.time())
        self._write((_INSERT, row), (count, (tool_calls, session)))

    def replace(self, session: str, messages: Rows) -> None:
        """Replace all messages."""
        count = "UPDATE sessions SET message_count = ?, tool_call_count = 0 WHERE id = ?"
        rows = [(_INSERT, (session, role, text, time.time())) for role, text in messages]
        self._write((_EMPTY, (session,)), *rows, (count, (len(messages), session)))

    def clear(self, session: str) -> None:
        """Drop all messages of the session."""
        self.replace(session, [])

    def set_title(self, session: str, title: str | None) -> bool:
        """Set or clear the title; whether the session exists."""
        return self._set(session, title=title) > 0

    def set_system_prompt(self, session: str, text: str) -> None:
        """Store the system prompt."""
        self._set(session, system_prompt=text)

    def add_tokens(self, session: str, input: int, output: int) -> None:  # noqa: A002  the wire's
        """Add to the counts."""
        add = "input_tokens = input_tokens + ?, output_tokens = output_tokens + ?"
        self._write((f"UPDATE sessions SET {add} WHERE id = ?", (input, output, session)))  # noqa: S608

    def set_tokens(self, session: str, input: int, output: int) -> None:  # noqa: A002  the wire's
        """Set the counts."""
        self._set(session, input_tokens=input, output_tokens=output)

    def end(self, session: str, reason: str) -> None:
        """End the session."""
        self._set(session, ended_at=time.time(), end_reason=reason)

    def reopen(self, session: str) -> None:
        """Undo its end."""
        self._set(session, ended_at=None, end_reason=None)

    def delete(self, session: str) -> bool:
        """Delete the session with its messages; whether it existed."""
        delete = ("DELETE FROM sessions WHERE id = ?", (session,))
        return self._write((_EMPTY, (session,)), delete) > 0

    def prune(self, days: float) -> int:
        """Delete ended sessions older than `days`; their number."""
        before = (time.time() - days * 86_400.0,)
        old = "SELECT id FROM sessions WHERE ended_at < ?"
        return self._write(
            (f"DELETE FROM messages WHERE session_id IN ({old})", before),  # noqa: S608  our own
            ("DELETE FROM sessions WHERE ended_at < ?", before),
        )

    def get(self, session: str) -> dict[str, object] | None:
        """The session's columns; None if it is unknown."""
        select = f"SELECT {', '.join(COLUMNS)}, ended_at FROM sessions WHERE id = ?"  # noqa: S608
        rows = self._rows(select, (session,))
        if not rows:
            return None
        *columns, ended_at = rows[0]
        return dict(zip(COLUMNS, columns, strict=True)) | {"ended": ended_at is not None}

    def list(self) -> Names:
        """Every session."""
        return [name for (name,) in self._rows("SELECT id FROM sessions ORDER BY id")]

    def messages(self, session: str) -> Rows:
        """The session's messages, in order."""
        select = "SELECT role, content FROM messages WHERE session_id = ? ORDER BY id"
        return [[role, text] for role, text in self._rows(select, (session,))]

    def search(self, word: str) -> Rows:
        """The messages that contain the word, each with its session."""
        found = self._rows(
            "SELECT session_id, content FROM messages"
            " WHERE id IN (SELECT rowid FROM words WHERE words MATCH ?)",
            (word,),
        )
        return sorted([session, text] for session, text in found)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _set(self, session: str, **columns: object) -> int:
        names = ", ".join(f"{name} = ?" for name in columns)
        update = f"UPDATE sessions SET {names} WHERE id = ?"  # noqa: S608  our own names
        return self._write((update, (*columns.values(), session)))

    def _rows(self, query: str, values: Sequence[object] = ()) -> Sequence[tuple[str, ...]]:
        with self._lock:
            return self._connection.execute(query, values).fetchall()

    def _write(self, *statements: Statement) -> int:
        """Run the statements as one transaction; the rows that the last one changed."""
        with self._lock:
            for pause_s in self._pauses_s():
                try:
                    self._connection.execute(self._begin)
                    for statement, values in statements:
                        changed = self._connection.execute(statement, values).rowcount
                    self._connection.execute("COMMIT")
                except sqlite3.OperationalError as error:
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")
                    if "locked" not in str(error):
                        raise
                    time.sleep(pause_s)
                else:
                    return changed
            raise sqlite3.OperationalError("database is locked")


def open_adapter(folder: Path) -> SqliteAdapter:
    """Open a connection with the environment's policy, on a file in `folder`."""
    return SqliteAdapter(folder / "state.db", os.environ["HARNESS_POLICY"])
