"""The state database: sessions and their messages, searchable, shared by many processes.

Every write is one transaction, prepared before it begins, committed in ticket order
(`write_queue`), and acknowledged once durable (`wal`). A write that raised did nothing. Readers
never wait. The clock is a parameter; nothing here polls, sleeps or retries.

The table compares many concurrent writers with the released hermes-agent 0.19.0, which waits by
SQLite's busy handler and retries: `benches/bench_state_db.py`, arms in turn, medians of two or
three rounds on two cores; on a quiet machine, and on one where forty other processes wanted to run.
For the last row it was busy both times.

| processes x threads | writes/s | p99.9 of waits | longest wait | Jain index, theirs |
|---|---|---|---|---|
| 8 x 1 | 1.1, 6.5 times | 1/55, 1/15 | 1/48, 1/13 | 1.00, 1.00; 0.77, 0.35 |
| 32 x 1 | 1.1, 1.1 times | 1/56, 1/9 | 1/76, 1/9 | 1.00, 0.99; 0.55, 0.18 |
| 8 x 4 | 3.7, 7.7 times | 1/81, 1/13 | 1/100, 1/12 | 1.00, 0.98; 0.63, 0.64 |
| 8 x 4, 4 ms a sync | 19, 17 times | 1/49, 1/28 | 1/48, 1/28 | 1.00, 1.00; 0.61, 0.39 |

The median wait is longer than there (10 ms, not 0.3, at 32 x 1): without a ticket lock, one process
takes the write lock many times in a row while thirty wait a second.

Syncing outside the lock covers the commits of many processes by few syncs (`wal`), where they are
slow by one for all (`group_commit`); batches put many writes of a process into one turn
(`write_queue`); tickets keep the order however late a process wakes (`ticket_lock`). Letting one
process commit for others was considered and rejected: if it stopped, the others could neither
withdraw their writes nor know their result. Group commit needs no such trust, and reached the same
throughput.

Tables and columns have the names that the released hermes-agent package uses, so that both can
write the same file; each has a full-text index of its own. Opening a file adds the columns that an
older schema, or the package, did not have.

No connection is open during a fork (`fork_guard`); both processes open their own when needed.
"""

from __future__ import annotations

import os
import sqlite3
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from reference_impl.state_db.changes import Changes
from reference_impl.state_db.errors import DatabaseFailedError
from reference_impl.state_db.read_pool import ReadPool
from reference_impl.state_db.records import (
    SELECT_MESSAGES,
    SELECT_SESSIONS,
    Draft,
    Message,
    Session,
    Usage,
    calls_of,
    message_of,
    session_of,
)
from reference_impl.state_db.wal import LIMIT_BYTES, UnsyncedWriteAheadLog, WriteAheadLog
from reference_impl.state_db.write_queue import Act, WriteQueue
from reference_impl.storage.files import StrPath
from reference_impl.storage.fork_guard import guard

Result = TypeVar("Result")

_DAY_S = 86_400.0
_VERSION = 2  # of the schema, in the file's user_version: reading it needs only a shared lock

# Columns that files of version 1 do not have.
_ADDED = {
    "sessions": {
        "model": "TEXT",
        "model_config": "TEXT",
        "user_id": "TEXT",
        "cache_read_tokens": "INTEGER NOT NULL DEFAULT 0",
        "cache_write_tokens": "INTEGER NOT NULL DEFAULT 0",
        "reasoning_tokens": "INTEGER NOT NULL DEFAULT 0",
        "estimated_cost_usd": "REAL",
        "billing_mode": "TEXT",
    },
    "messages": {
        "tool_call_id": "TEXT",
        "tool_name": "TEXT",
        "token_count": "INTEGER",
        "finish_reason": "TEXT",
        "reasoning": "TEXT",
        "reasoning_details": "TEXT",
    },
}
_NEWER = {
    table: "".join(f", {name} {kind}" for name, kind in added.items())
    for table, added in _ADDED.items()
}

_SCHEMA = (
    f"""CREATE TABLE IF NOT EXISTS sessions (
        id TEXT PRIMARY KEY NOT NULL,
        source TEXT NOT NULL,
        system_prompt TEXT,
        parent_session_id TEXT,
        started_at REAL NOT NULL,
        ended_at REAL,
        end_reason TEXT,
        message_count INTEGER NOT NULL DEFAULT 0,
        tool_call_count INTEGER NOT NULL DEFAULT 0,
        input_tokens INTEGER NOT NULL DEFAULT 0,
        output_tokens INTEGER NOT NULL DEFAULT 0,
        title TEXT{_NEWER["sessions"]}
    )""",
    f"""CREATE TABLE IF NOT EXISTS messages (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        session_id TEXT NOT NULL REFERENCES sessions(id),
        role TEXT NOT NULL,
        content TEXT,
        tool_calls TEXT,
        timestamp REAL NOT NULL{_NEWER["messages"]}
    )""",
    """CREATE UNIQUE INDEX IF NOT EXISTS one_session_a_title ON sessions(title)
        WHERE title IS NOT NULL""",
    "CREATE INDEX IF NOT EXISTS messages_of_a_session ON messages(session_id)",
    """CREATE INDEX IF NOT EXISTS sessions_of_a_parent ON sessions(parent_session_id)
        WHERE parent_session_id IS NOT NULL""",
    """CREATE VIRTUAL TABLE IF NOT EXISTS words
        USING fts5(content, content='messages', content_rowid='id', columnsize=0)""",
    """CREATE TRIGGER IF NOT EXISTS words_come AFTER INSERT ON messages BEGIN
        INSERT INTO words(rowid, content) VALUES (new.id, new.content);
    END""",
    """CREATE TRIGGER IF NOT EXISTS words_go AFTER DELETE ON messages BEGIN
        INSERT INTO words(words, rowid, content) VALUES ('delete', old.id, old.content);
    END""",
    """CREATE TRIGGER IF NOT EXISTS words_change AFTER UPDATE OF id, content ON messages BEGIN
        INSERT INTO words(words, rowid, content) VALUES ('delete', old.id, old.content);
        INSERT INTO words(rowid, content) VALUES (new.id, new.content);
    END""",
    "INSERT INTO words(words) VALUES ('rebuild')",  # rows that another program wrote before us
    f"PRAGMA user_version = {_VERSION}",
)


_LATEST_OF_EACH = (
    "SELECT max(messages.id) FROM words JOIN messages ON messages.id = words.rowid"
    " WHERE words MATCH ? GROUP BY session_id"
)


class StateDb:
    """A handle on the database at `path`, for any number of threads and processes.

    It is made if it is missing. `patience_s` is how long a write waits for its turn before it
    raises OutOfPatienceError. With `synchronous="FULL"` an acknowledged write survives a power
    loss, with "NORMAL" any kill, but not that. Every method raises DatabaseFailedError where
    SQLite or the disk refuses, and ClosedError after `close`.
    """

    def __init__(
        self,
        path: StrPath,
        *,
        patience_s: float = 30.0,
        synchronous: Literal["FULL", "NORMAL"] = "FULL",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path = os.path.realpath(path)
        self._patience_s = patience_s
        self._clock = clock
        log = {"FULL": WriteAheadLog, "NORMAL": UnsyncedWriteAheadLog}[synchronous]
        self._readers = ReadPool(self._path, partial(_connect_to_read, self._path, patience_s))
        self._writers = WriteQueue(self._path, partial(_connect_to_write, self._path), log)
        self._finalizer = weakref.finalize(self, _close, self._readers, self._writers)
        guard(self._readers)
        guard(self._writers)
        try:
            self._make_ready()
        except BaseException:
            self.close()
            raise

    def _make_ready(self) -> None:
        with _clear_errors(self._path):
            os.makedirs(os.path.dirname(self._path), exist_ok=True)
        if self._rows("PRAGMA user_version")[0][0] < _VERSION:
            self._write(_make_schema)

    # Several changes at once ---------------------------------------------------------------------

    def changes(self, session: str) -> Changes:
        """Begin a set of changes of one session, to be written together."""
        return Changes(session, self._path, self._clock)

    def write(self, changes: Changes) -> Any:
        """Make the changes in one transaction; gives what the last of them gives.

        Raises what they name; then none was made.
        """
        return self._write(changes)

    # Sessions --------------------------------------------------------------------------------

    def create_session(self, session: str, source: str, **about: Any) -> None:
        """Ensure that the session exists; an existing one is not changed.

        `about` are further columns, as `Changes.create_session` names them. Raises
        SessionUnknownError if its parent does not exist.
        """
        self.write(self.changes(session).create_session(source, **about))

    def end_session(self, session: str, reason: str, at: float | None = None) -> None:
        """Note when and why the session ended, by default now; the first end stays.

        Raises SessionUnknownError.
        """
        self.write(self.changes(session).end_session(reason, at))

    def reopen_session(self, session: str) -> None:
        """Let an ended session go on. Raises SessionUnknownError."""
        self.write(self.changes(session).reopen_session())

    def set_title(self, session: str, title: str | None) -> bool:
        """Set or remove the session's title; False if there is no such session.

        It is stored on one line, without characters that nothing shows; if nothing is left, there
        is no title. Raises TitleTakenError if another session has that title.
        """
        return bool(self.write(self.changes(session).set_title(title)))

    def set_system_prompt(self, session: str, text: str) -> None:
        """Store the session's initial prompt. Raises SessionUnknownError."""
        self.write(self.changes(session).set_system_prompt(text))

    def add_tokens(self, session: str, usage: Usage) -> None:
        """Add the usage of one call; the first model and billing mode stay.

        Raises SessionUnknownError.
        """
        self.write(self.changes(session).add_tokens(usage))

    def set_tokens(self, session: str, usage: Usage) -> None:
        """Store totals that the caller counted itself; the first model and billing mode stay.

        Raises SessionUnknownError.
        """
        self.write(self.changes(session).set_tokens(usage))

    def get_session(self, session: str) -> Session | None:
        """Find a session."""
        rows = self._rows(SELECT_SESSIONS + "WHERE id = ?", (session,))
        return session_of(rows[0]) if rows else None

    def list_sessions(self) -> list[Session]:
        """List all sessions, the latest start first."""
        rows = self._rows(SELECT_SESSIONS + "ORDER BY started_at DESC, id")
        return [session_of(row) for row in rows]

    def delete_session(self, session: str, source: str | None = None) -> bool:
        """Delete a session with its messages, of one source if it is given; False if there is none.

        Its children stay, without a parent.
        """

        def act(connection: sqlite3.Connection) -> bool:
            found = "SELECT 1 FROM sessions WHERE id = ? AND source = ifnull(?, source)"
            if connection.execute(found, (session, source)).fetchone() is None:
                return False
            connection.execute("DELETE FROM messages WHERE session_id = ?", (session,))
            leave = "UPDATE sessions SET parent_session_id = NULL WHERE parent_session_id = ?"
            connection.execute(leave, (session,))
            return connection.execute("DELETE FROM sessions WHERE id = ?", (session,)).rowcount > 0

        return self._write(act)

    def prune(self, older_than_days: float, source: str | None = None) -> int:
        """Delete ended sessions that started longer ago, with their messages.

        Only those of `source`, if it is given. Returns their number.
        """
        old = "ended_at IS NOT NULL AND started_at < ? AND source = ifnull(?, source)"
        values = (self._clock() - older_than_days * _DAY_S, source)

        def act(connection: sqlite3.Connection) -> int:
            pruned = f"SELECT id FROM sessions WHERE {old}"  # noqa: S608  our own condition
            connection.execute(f"DELETE FROM messages WHERE session_id IN ({pruned})", values)  # noqa: S608  likewise
            orphaned = f"parent_session_id IN ({pruned})"
            leave = f"UPDATE sessions SET parent_session_id = NULL WHERE {orphaned}"  # noqa: S608  likewise
            connection.execute(leave, values)
            delete = f"DELETE FROM sessions WHERE {old}"  # noqa: S608  our own condition
            return connection.execute(delete, values).rowcount

        return self._write(act)

    # Messages --------------------------------------------------------------------------------

    def append_message(
        self,
        session: str,
        role: str,
        content: str | None,
        tool_calls: Sequence[Any] | Mapping[str, Any] = (),
        **details: Any,
    ) -> int:
        """Add a message at the end; returns its id. Raises SessionUnknownError.

        A mapping is one tool call. `details` are further fields of a Draft.
        """
        draft = Draft(role, content, calls_of(tool_calls), **details)
        return int(self.write(self.changes(session).append_message(draft)))

    def replace_messages(self, session: str, drafts: Iterable[Draft]) -> None:
        """Replace all messages of the session. Raises SessionUnknownError."""
        self.write(self.changes(session).replace_messages(tuple(drafts)))

    def clear_messages(self, session: str) -> None:
        """Delete all messages of the session. Raises SessionUnknownError."""
        self.write(self.changes(session).clear_messages())

    def get_messages(self, session: str) -> list[Message]:
        """Read a session's messages in order; empty also if there is no such session."""
        return self._messages("WHERE session_id = ? ORDER BY id", (session,))

    def search(self, words: str, *, one_a_session: bool = False) -> list[Message]:
        """Find the messages that contain all these words, or the latest of each session.

        The latest comes first. Words are letters and digits, in any case; other characters find
        nothing.
        """
        ids = _LATEST_OF_EACH if one_a_session else "SELECT rowid FROM words WHERE words MATCH ?"
        plain = words.replace("\0", " ").replace('"', " ")
        quoted = " ".join(f'"{word}"' for word in plain.split())
        if not quoted:
            return []
        return self._messages(f"WHERE id IN ({ids}) ORDER BY id DESC", (quoted,))

    # Fairness and closing --------------------------------------------------------------------

    @property
    def is_fair(self) -> bool:
        """Whether processes write in order of arrival, which not every system supports."""
        return self._writers.is_fair

    def close(self) -> None:
        """Close the file. A write that has begun is finished, one that waits is refused.

        A handle that is garbage-collected closes itself.
        """
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # -----------------------------------------------------------------------------------------

    def _write(self, act: Act[Result]) -> Result:
        with _clear_errors(self._path):
            return self._writers.write(act, self._patience_s)

    def _rows(self, query: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        with _clear_errors(self._path), self._readers.lend() as connection:
            return connection.execute(query, values).fetchall()

    def _messages(self, condition: str, values: tuple[Any, ...]) -> list[Message]:
        return [message_of(row) for row in self._rows(SELECT_MESSAGES + condition, values)]


@contextmanager
def _clear_errors(path: str) -> Iterator[None]:
    """Turn errors of SQLite and the disk into one sentence that names the file."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise DatabaseFailedError(f"{path}: {error}") from error


def _connect_to_read(path: str, patience_s: float) -> sqlite3.Connection:
    return _connect(path, patience_s, "PRAGMA query_only = 1")


def _connect_to_write(path: str) -> sqlite3.Connection:
    """Open a connection that neither waits nor syncs nor checkpoints: the queue does that."""
    connection = _connect(
        path,
        0.0,
        "PRAGMA journal_mode = WAL",
        "PRAGMA synchronous = NORMAL",
        "PRAGMA wal_autocheckpoint = 0",
        f"PRAGMA journal_size_limit = {LIMIT_BYTES}",
    )
    with ExitStack() as on_error:
        on_error.callback(connection.close)
        (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
        if mode != "wal":
            raise DatabaseFailedError(f"{path}: journal_mode is {mode} here, and must be wal")
        on_error.pop_all()
    return connection


def _connect(path: str, timeout_s: float, *pragmas: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, timeout=timeout_s, isolation_level=None, check_same_thread=False
    )
    with ExitStack() as on_error:
        on_error.callback(connection.close)
        for pragma in pragmas:
            connection.execute(pragma)
        on_error.pop_all()
    return connection


def _make_schema(connection: sqlite3.Connection) -> None:
    for statement in _SCHEMA:
        connection.execute(statement)
    for table, added in _ADDED.items():
        present = {name for _, name, *_ in connection.execute(f"PRAGMA table_info({table})")}
        for name in added.keys() - present:
            connection.execute(f"ALTER TABLE {table} ADD COLUMN {name} {added[name]}")


def _close(readers: ReadPool, writers: WriteQueue) -> None:
    readers.close()
    writers.close()
