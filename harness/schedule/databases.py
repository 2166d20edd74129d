"""SQLite connections under control: a wait for a busy database takes virtual time.

SQLite waits for a busy database inside C, with real sleeps that the scheduler cannot see. Under
control a connection is opened with a busy timeout of zero; each statement is a point at which other
tasks may act, and SQLITE_BUSY is retried until the caller's busy timeout has passed on the virtual
clock. As in SQLite, a transaction that has read and now needs to write is refused immediately,
because a wait could only deadlock.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Literal, TypeVar

from harness.schedule.clock import nanoseconds
from harness.schedule.control import scheduler
from harness.schedule.files import note

_connect = sqlite3.connect
_BUSY_TIMEOUT = re.compile(r"\s*PRAGMA\s+busy_timeout\s*[=(]\s*(\d+)", re.IGNORECASE)
_OPTIONS = (
    *("timeout", "detect_types", "isolation_level", "check_same_thread"),
    *("factory", "cached_statements", "uri"),
)
_QUOTED_CHARS = 40  # of a statement in a step
T = TypeVar("T")


class VirtualWaitCursor(sqlite3.Cursor):
    """A cursor whose statements wait in virtual time."""

    connection: VirtualWaitConnection

    def execute(self, sql: str, parameters: Any = (), /) -> VirtualWaitCursor:
        """See `sqlite3.Cursor.execute`."""
        if match := _BUSY_TIMEOUT.match(sql):
            self.connection.busy_timeout_ns = int(match[1]) * 1_000_000
            sql = "PRAGMA busy_timeout"
        run = super().execute
        self.connection.run_with_retries(sql, lambda: run(sql, parameters))
        return self

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> VirtualWaitCursor:
        """See `sqlite3.Cursor.executemany`."""
        run, rows = super().executemany, list(parameters)
        self.connection.run_with_retries(sql, lambda: run(sql, rows))
        return self

    def executescript(self, script: str, /) -> VirtualWaitCursor:
        """See `sqlite3.Cursor.executescript`; runs one statement at a time."""
        if self.connection.in_transaction:
            self.connection.commit()
        isolation = self.connection.isolation_level
        self.connection.isolation_level = None  # a script's transactions are its own
        try:
            statement = ""
            for part in re.split(r"(?<=;)", script):
                statement += part
                if sqlite3.complete_statement(statement):
                    self.execute(statement)
                    statement = ""
            if statement.strip():
                self.execute(statement)
        finally:
            self.connection.isolation_level = isolation
        return self


class VirtualWaitConnection(sqlite3.Connection):
    """A connection whose statements wait in virtual time."""

    busy_timeout_ns = 5_000_000_000
    _has_read = False

    def cursor(self, factory: Any = VirtualWaitCursor) -> Any:
        """See `sqlite3.Connection.cursor`."""
        return super().cursor(factory)

    def execute(self, sql: str, parameters: Any = (), /) -> Any:
        """See `sqlite3.Connection.execute`."""
        return self.cursor().execute(sql, parameters)

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> Any:
        """See `sqlite3.Connection.executemany`."""
        return self.cursor().executemany(sql, parameters)

    def executescript(self, script: str, /) -> Any:
        """See `sqlite3.Connection.executescript`."""
        return self.cursor().executescript(script)

    def commit(self) -> None:
        """See `sqlite3.Connection.commit`."""
        self.run_with_retries("COMMIT", super().commit)

    def rollback(self) -> None:
        """See `sqlite3.Connection.rollback`."""
        self.run_with_retries("ROLLBACK", super().rollback)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> Literal[False]:
        if kind is None:
            self.commit()
        else:
            self.rollback()
        return False

    def run_with_retries(self, sql: str, statement: Callable[[], T]) -> T:
        """Run a statement; while the database is busy, wait and retry."""
        run = scheduler()
        if run is None:
            return statement()
        note(run, "sqlite", " ".join(sql.split())[:_QUOTED_CHARS])
        deadline_ns = run.clock.now_ns + self.busy_timeout_ns
        while True:
            is_upgrade = self.in_transaction and self._has_read and not sql.startswith("COMMIT")
            try:
                result = statement()
            except sqlite3.OperationalError as error:
                is_busy = getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_BUSY
                if not is_busy or is_upgrade or run.clock.now_ns >= deadline_ns:
                    raise
                run.poll("a busy database")
            else:
                self._has_read = self.in_transaction and not _begins(sql)
                return result


def connect(database: Any, *args: Any, **kwargs: Any) -> Any:
    """`sqlite3.connect`; under control it returns a connection that waits in virtual time."""
    if scheduler() is None:
        return _connect(database, *args, **kwargs)
    options = dict(zip(_OPTIONS, args, strict=False)) | kwargs
    factory = options.get("factory", sqlite3.Connection)
    options["factory"] = VirtualWaitConnection
    if factory is not sqlite3.Connection:
        options["factory"] = type(factory.__name__, (VirtualWaitConnection, factory), {})
    timeout_s = options.pop("timeout", 5.0)
    connection = _connect(database, timeout=0.0, **options)
    connection.busy_timeout_ns = nanoseconds(timeout_s)
    return connection


def _begins(sql: str) -> bool:
    return sql.lstrip()[:5].upper() == "BEGIN"


def replacements() -> list[tuple[Any, Any]]:
    """Return the originals with their replacements."""
    return [(_connect, connect)]
