"""Injects a fault into the Nth SQL statement of one adapter call: an error, interrupt or kill.

`wrap` works below any adapter that uses `sqlite3` on the file `path`, and adds two functions to it:
`faulty` and `beside_a_writer`. The adapter and the code that it adapts are not changed. The module
imports the standard library only, so that it can be loaded beside any package.

A statement is an `execute` of any kind, or a commit of an open transaction, on any connection and
thread during the call. A rollback does not count: it is the expected reaction to the fault.

- `full`: the statement fails with "database or disk is full"; the transaction stays open;
- `full-abort`: it fails alike after a rollback of the transaction, which SQLite may do for such
  errors (see "Response To Errors Within A Transaction" in its documentation);
- `interrupt`: KeyboardInterrupt is raised just before the statement;
- `late-interrupt`: KeyboardInterrupt is raised just after the statement, as for an interrupt that
  arrives during a wait for a lock: the interpreter raises it when the statement returns;
- `kill`: SIGKILL just before the statement; `late-kill`: just after.
"""

import contextlib
import os
import re
import signal
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

FAULTS = ("full", "full-abort", "interrupt", "late-interrupt", "kill", "late-kill")

_connect = sqlite3.connect


class StatementFault:
    """Counts the statements of one call, and injects its fault into one of them."""

    def __init__(self, fault: str, at: int) -> None:
        """`at` counts from 1. Raises ValueError for an unknown fault."""
        if fault not in FAULTS:
            raise ValueError(f"unknown fault {fault!r}; known: {', '.join(FAULTS)}")
        self.triggered = False
        self._fault = fault
        self._left = at

    def around(self, connection: sqlite3.Connection, sql: str, run: Callable[[], Any]) -> Any:
        """Run the statement, or inject the fault if it is the counted one."""
        if sql.lstrip()[:8].upper() == "ROLLBACK":
            return run()
        self._left -= 1
        if self._left != 0:
            return run()
        self.triggered = True
        return self._trigger(connection, run)

    def _trigger(self, connection: sqlite3.Connection, run: Callable[[], Any]) -> Any:
        match self._fault:
            case "full-abort":
                if connection.in_transaction:
                    sqlite3.Connection.rollback(connection)
                raise sqlite3.OperationalError("database or disk is full")
            case "full":
                raise sqlite3.OperationalError("database or disk is full")
            case "late-interrupt" | "late-kill":
                run()
        if self._fault.endswith("kill"):
            os.kill(os.getpid(), signal.SIGKILL)
        raise KeyboardInterrupt(f"{self._fault} at a statement")


# These modes wait until no connection writes; PASSIVE does not wait.
_WAITING_CHECKPOINT = re.compile(r"wal_checkpoint\s*\(\s*(FULL|RESTART|TRUNCATE)", re.IGNORECASE)


class LockMonitor:
    """Counts the statements of one call that found the database locked, or would wait silently."""

    def __init__(self) -> None:
        self.refused = 0

    def around(self, connection: sqlite3.Connection, sql: str, run: Callable[[], Any]) -> Any:  # noqa: ARG002  same signature as StatementFault
        """Run the statement, and count it if it was refused."""
        self.refused += bool(_WAITING_CHECKPOINT.search(sql))
        try:
            return run()
        except sqlite3.OperationalError as error:
            self.refused += "locked" in str(error)
            raise


_interceptor: StatementFault | LockMonitor | None = None  # of the call in progress


class FaultyCursor(sqlite3.Cursor):
    """Passes every statement to the interceptor."""

    def execute(self, sql: str, *parameters: Any) -> Any:
        """See `sqlite3.Cursor.execute`."""
        run = super().execute
        return _around(self.connection, sql, lambda: run(sql, *parameters))

    def executemany(self, sql: str, *parameters: Any) -> Any:
        """See `sqlite3.Cursor.executemany`."""
        run = super().executemany
        return _around(self.connection, sql, lambda: run(sql, *parameters))

    def executescript(self, sql: str) -> Any:
        """See `sqlite3.Cursor.executescript`."""
        run = super().executescript
        return _around(self.connection, sql, lambda: run(sql))


class FaultyConnection(sqlite3.Connection):
    """Creates faulty cursors, and passes its commits to the interceptor."""

    def cursor(self, factory: Any = FaultyCursor) -> Any:
        """See `sqlite3.Connection.cursor`."""
        return super().cursor(factory)

    def execute(self, sql: str, *parameters: Any) -> Any:
        """See `sqlite3.Connection.execute`."""
        return self.cursor().execute(sql, *parameters)

    def executemany(self, sql: str, *parameters: Any) -> Any:
        """See `sqlite3.Connection.executemany`."""
        return self.cursor().executemany(sql, *parameters)

    def executescript(self, sql: str) -> Any:
        """See `sqlite3.Connection.executescript`."""
        return self.cursor().executescript(sql)

    def commit(self) -> None:
        """See `sqlite3.Connection.commit`."""
        if self.in_transaction:
            _around(self, "COMMIT", super().commit)

    def __exit__(self, kind: object, error: object, trace: object) -> Literal[False]:
        if kind is None:
            try:
                self.commit()
            except BaseException:
                self.rollback()
                raise
        else:
            self.rollback()
        return False


def _around(connection: sqlite3.Connection, sql: str, run: Callable[[], Any]) -> Any:
    return run() if _interceptor is None else _interceptor.around(connection, sql, run)


@contextlib.contextmanager
def intercepting(interceptor: StatementFault | LockMonitor) -> Iterator[None]:
    """Pass every statement of the process to the interceptor for the duration of the block."""
    global _interceptor  # noqa: PLW0603  applies to all connections and threads
    _interceptor = interceptor
    try:
        yield
    finally:
        _interceptor = None


def _faulty_connect(*arguments: Any, **options: Any) -> sqlite3.Connection:
    connection: sqlite3.Connection = _connect(*arguments, factory=FaultyConnection, **options)
    return connection


class FaultyAdapter:
    """An adapter with the functions `faulty` and `beside_a_writer` added."""

    def __init__(self, adapter: Any) -> None:
        self._adapter = adapter

    def __getattr__(self, function: str) -> Any:
        return getattr(self._adapter, function)

    def faulty(self, function: str, argument: dict[str, Any], at: int, fault: str) -> Any:
        """Call the function with this fault at its statement number `at` (from 1).

        `completed` is True if the function returned before that statement.
        """
        interceptor = StatementFault(fault, at)
        with intercepting(interceptor):
            result = getattr(self._adapter, function)(**argument)
        return {"completed": not interceptor.triggered, "result": result}

    def beside_a_writer(self, function: str, argument: dict[str, Any]) -> Any:
        """Call the function while another connection holds the write lock.

        `refused` is the number of its statements that needed the lock.
        """
        monitor = LockMonitor()
        with contextlib.closing(_connect(self._adapter.path, isolation_level=None)) as writer:
            writer.execute("BEGIN IMMEDIATE")
            with intercepting(monitor):
                result = getattr(self._adapter, function)(**argument)
        return {"refused": monitor.refused, "result": result}


def wrap(open_adapter: Callable[[Path], Any]) -> Callable[[Path], FaultyAdapter]:
    """Wrap an adapter: every connection opened from now on can be faulted."""
    sqlite3.connect = _faulty_connect  # type: ignore[assignment]  # same signature
    return lambda folder: FaultyAdapter(open_adapter(folder))
