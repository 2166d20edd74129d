"""Databases: SQLite's waiting, done in virtual time.

SQLite waits for a busy database inside C, with real sleeps, where no scheduler can see it. Under
control a connection is opened with no patience of its own; each statement is a point at which
others may act, and a refusal (SQLITE_BUSY) is retried until the patience that the caller asked for
has passed on the virtual clock. As in SQLite, a transaction that has begun to read and now wants
to write is refused at once, for waiting could only deadlock.
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
_PATIENCE = re.compile(r"\s*PRAGMA\s+busy_timeout\s*[=(]\s*(\d+)", re.IGNORECASE)
_OPTIONS = (
    *("timeout", "detect_types", "isolation_level", "check_same_thread"),
    *("factory", "cached_statements", "uri"),
)
_SHOWN = 40  # characters of a statement that a story quotes
T = TypeVar("T")


class PatientCursor(sqlite3.Cursor):
    """A cursor whose statements wait in virtual time."""

    connection: PatientConnection

    def execute(self, sql: str, parameters: Any = (), /) -> PatientCursor:
        """As `sqlite3.Cursor.execute`."""
        if asked := _PATIENCE.match(sql):
            self.connection.patience_ns = int(asked[1]) * 1_000_000
            sql = "PRAGMA busy_timeout"
        run = super().execute
        self.connection.patiently(sql, lambda: run(sql, parameters))
        return self

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> PatientCursor:
        """As `sqlite3.Cursor.executemany`."""
        run, rows = super().executemany, list(parameters)
        self.connection.patiently(sql, lambda: run(sql, rows))
        return self

    def executescript(self, script: str, /) -> PatientCursor:
        """As `sqlite3.Cursor.executescript`, but one statement at a time."""
        if self.connection.in_transaction:
            self.connection.commit()
        isolation = self.connection.isolation_level
        self.connection.isolation_level = None  # a script's transactions are its own
        try:
            statement = ""
            for piece in re.split(r"(?<=;)", script):
                statement += piece
                if sqlite3.complete_statement(statement):
                    self.execute(statement)
                    statement = ""
            if statement.strip():
                self.execute(statement)
        finally:
            self.connection.isolation_level = isolation
        return self


class PatientConnection(sqlite3.Connection):
    """A connection whose statements wait in virtual time."""

    patience_ns = 5_000_000_000
    _has_read = False

    def cursor(self, factory: Any = PatientCursor) -> Any:
        """As `sqlite3.Connection.cursor`."""
        return super().cursor(factory)

    def execute(self, sql: str, parameters: Any = (), /) -> Any:
        """As `sqlite3.Connection.execute`."""
        return self.cursor().execute(sql, parameters)

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> Any:
        """As `sqlite3.Connection.executemany`."""
        return self.cursor().executemany(sql, parameters)

    def executescript(self, script: str, /) -> Any:
        """As `sqlite3.Connection.executescript`."""
        return self.cursor().executescript(script)

    def commit(self) -> None:
        """As `sqlite3.Connection.commit`."""
        self.patiently("COMMIT", super().commit)

    def rollback(self) -> None:
        """As `sqlite3.Connection.rollback`."""
        self.patiently("ROLLBACK", super().rollback)

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

    def patiently(self, sql: str, statement: Callable[[], T]) -> T:
        """Run a statement; while the database is busy, wait and try again."""
        run = scheduler()
        if run is None:
            return statement()
        note(run, "sqlite", " ".join(sql.split())[:_SHOWN])
        deadline_ns = run.clock.now_ns + self.patience_ns
        while True:
            upgrades = self.in_transaction and self._has_read and not sql.startswith("COMMIT")
            try:
                result = statement()
            except sqlite3.OperationalError as error:
                busy = getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_BUSY
                if not busy or upgrades or run.clock.now_ns >= deadline_ns:
                    raise
                run.poll("a busy database")
            else:
                self._has_read = self.in_transaction and not _begins(sql)
                return result


def connect(database: Any, *args: Any, **kwargs: Any) -> Any:
    """`sqlite3.connect`; under control, of a connection that waits in virtual time."""
    if scheduler() is None:
        return _connect(database, *args, **kwargs)
    options = dict(zip(_OPTIONS, args, strict=False)) | kwargs
    wanted = options.get("factory", sqlite3.Connection)
    options["factory"] = PatientConnection
    if wanted is not sqlite3.Connection:
        options["factory"] = type(wanted.__name__, (PatientConnection, wanted), {})
    patience_s = options.pop("timeout", 5.0)
    connection = _connect(database, timeout=0.0, **options)
    connection.patience_ns = nanoseconds(patience_s)
    return connection


def _begins(sql: str) -> bool:
    return sql.lstrip()[:5].upper() == "BEGIN"


def replacements() -> list[tuple[Any, Any]]:
    """Originals, and what stands in for them."""
    return [(_connect, connect)]
