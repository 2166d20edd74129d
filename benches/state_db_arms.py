"""The arms of the state.db bench: ways to write a message and a counter to a shared file.

The reference, the released hermes-agent, and bare SQLite with three policies for a locked file.
Each updates a full-text index in the same transaction. Knows nothing of the measurement.
"""

# A part of a script, not of a package:
# ruff: noqa: INP001

from __future__ import annotations

import os
import random
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

ROOT = Path(__file__).resolve().parents[1]

Synchronous = Literal["FULL", "NORMAL"]


class Store(Protocol):
    """The store of an arm, shared by all threads of a process."""

    def create(self, session: str) -> None:
        """Create the session."""

    def append(self, session: str, text: str) -> None:
        """Write one message and one counter."""


class Reference:
    """The reference's StateDb."""

    def __init__(self, path: Path, synchronous: Synchronous) -> None:
        sys.path.insert(0, str(ROOT))
        from reference_impl.state_db.state_db import StateDb  # noqa: PLC0415  in this arm's process only

        self._db = StateDb(path, synchronous=synchronous)

    def create(self, session: str) -> None:
        """Create the session."""
        self._db.create_session(session, "bench")

    def append(self, session: str, text: str) -> None:
        """Write one message and one counter."""
        self._db.append_message(session, "user", text)


class Released:
    """The released hermes-agent package, from the folder that HERMES_AGENT names."""

    def __init__(self, path: Path, synchronous: Synchronous) -> None:
        sys.path.insert(0, os.environ["HERMES_AGENT"])
        os.environ["HERMES_HOME"] = str(path.parent)
        from hermes_state import SessionDB  # noqa: PLC0415

        self._db = SessionDB(path)
        self._db._conn.execute(f"PRAGMA synchronous = {synchronous}")  # noqa: SLF001  there is no public way

    def create(self, session: str) -> None:
        """Create the session."""
        self._db.create_session(session, "bench")

    def append(self, session: str, text: str) -> None:
        """Write one message and one counter."""
        self._db.append_message(session, "user", text)


class Bare:
    """One connection for all threads, and a policy for a locked file."""

    begin = "BEGIN IMMEDIATE"
    timeout_s = 0.0
    pauses_s: Callable[[], Iterator[float]]
    """The pauses after attempts that found the file locked; the arm gives up after the last."""

    def __init__(self, path: Path, synchronous: Synchronous) -> None:
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(
            path, timeout=60.0, isolation_level=None, check_same_thread=False
        )
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("BEGIN IMMEDIATE")
        for statement in _BARE_SCHEMA:
            self._connection.execute(statement)
        self._connection.execute("COMMIT")
        self._connection.execute(f"PRAGMA synchronous = {synchronous}")
        self._connection.execute(f"PRAGMA busy_timeout = {self.timeout_s * 1000:.0f}")

    def create(self, session: str) -> None:
        """Create the session."""
        self._write(("INSERT INTO sessions(id) VALUES (?)", (session,)))

    def append(self, session: str, text: str) -> None:
        """Write one message and one counter."""
        self._write(
            ("INSERT INTO messages(session_id, content) VALUES (?, ?)", (session, text)),
            ("UPDATE sessions SET message_count = message_count + 1 WHERE id = ?", (session,)),
        )

    def _write(self, *statements: tuple[str, Sequence[object]]) -> None:
        with self._lock:
            for pause_s in self.pauses_s():
                try:
                    self._connection.execute(self.begin)
                    for statement, values in statements:
                        self._connection.execute(statement, values)
                    self._connection.execute("COMMIT")
                except sqlite3.OperationalError:
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")
                    time.sleep(pause_s)
                else:
                    return
            raise TimeoutError("database is locked")


class Busy30s(Bare):
    """SQLite's busy handler, and deferred transactions."""

    begin = "BEGIN"
    timeout_s = 30.0

    def pauses_s(self) -> Iterator[float]:
        """Yield one pause: one attempt."""
        yield 0.0


class Jitter15(Bare):
    """Fifteen attempts with a busy timeout of one second, and random pauses."""

    timeout_s = 1.0

    def pauses_s(self) -> Iterator[float]:
        """Yield fifteen pauses."""
        for _ in range(15):
            yield random.uniform(0.020, 0.150)


class Constant1ms(Bare):
    """Retries every millisecond."""

    def pauses_s(self) -> Iterator[float]:
        """Yield pauses for 30 s."""
        deadline_s = time.monotonic() + 30.0
        while time.monotonic() < deadline_s:
            yield 0.001


_BARE_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS sessions (id TEXT PRIMARY KEY, message_count INTEGER DEFAULT 0)",
    "CREATE TABLE IF NOT EXISTS messages (id INTEGER PRIMARY KEY, session_id TEXT, content TEXT)",
    "CREATE INDEX IF NOT EXISTS messages_of_a_session ON messages(session_id)",
    """CREATE VIRTUAL TABLE IF NOT EXISTS words
        USING fts5(content, content='messages', content_rowid='id')""",
    """CREATE TRIGGER IF NOT EXISTS words_come AFTER INSERT ON messages BEGIN
        INSERT INTO words(rowid, content) VALUES (new.id, new.content);
    END""",
)
ARMS: Mapping[str, Callable[[Path, Synchronous], Store]] = {
    "reference": Reference,
    "released": Released,
    "busy-30s": Busy30s,
    "jitter-15": Jitter15,
    "constant-1ms": Constant1ms,
}
