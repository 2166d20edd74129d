"""Faults below a database's user: the Nth SQL statement of one call fails, or is the last.

`wrap` puts this under any adapter that uses `sqlite3` on the file `path`, and adds two functions to
it: `faulty` and `beside_a_writer`. The adapter and what it adapts stay as they are. Stand-alone, to
be loaded beside any package.

A statement is an `execute` of any kind or a commit that has something to commit, on any connection
and thread, while the call lasts. A rollback is none: it is what the fault should lead to.

- `full`: the statement fails, "database or disk is full", and the transaction stays open;
- `full-abort`: it fails alike, after SQLite itself has rolled the transaction back, which it may
  do for such errors (see "Response To Errors Within A Transaction" in its documentation);
- `interrupt`: KeyboardInterrupt comes just before the statement;
- `late-interrupt`: it comes just after, as does one that arrives while the statement waits for a
  lock: the interpreter raises it when the statement is back;
- `kill`: the process is killed just before the statement, and `late-kill`: just after.
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


class Trap:
    """Counts the statements of one call, and springs at one of them."""

    def __init__(self, fault: str, at: int) -> None:
        """`at` counts from 1. Raises ValueError for a fault that is none."""
        if fault not in FAULTS:
            raise ValueError(f"no fault is called {fault!r}; there are {', '.join(FAULTS)}")
        self.sprung = False
        self._fault = fault
        self._left = at

    def around(self, connection: sqlite3.Connection, sql: str, run: Callable[[], Any]) -> Any:
        """Run the statement, unless it is the one."""
        if sql.lstrip()[:8].upper() == "ROLLBACK":
            return run()
        self._left -= 1
        if self._left != 0:
            return run()
        self.sprung = True
        return self._spring(connection, run)

    def _spring(self, connection: sqlite3.Connection, run: Callable[[], Any]) -> Any:
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


# These wait until nobody writes; a PASSIVE one does not.
_WAITING_CHECKPOINT = re.compile(r"wal_checkpoint\s*\(\s*(FULL|RESTART|TRUNCATE)", re.IGNORECASE)


class Witness:
    """Counts the statements of one call that met a lock, or waited for one and said nothing."""

    def __init__(self) -> None:
        self.refused = 0

    def around(self, connection: sqlite3.Connection, sql: str, run: Callable[[], Any]) -> Any:  # noqa: ARG002  as a trap's
        """Run the statement, and look how it ended."""
        self.refused += bool(_WAITING_CHECKPOINT.search(sql))
        try:
            return run()
        except sqlite3.OperationalError as error:
            self.refused += "locked" in str(error)
            raise


_guest: Trap | Witness | None = None  # who looks at the statements of the call under way


class FaultyCursor(sqlite3.Cursor):
    """Runs every statement past the trap."""

    def execute(self, sql: str, *parameters: Any) -> Any:
        """As `sqlite3.Cursor.execute`."""
        run = super().execute
        return _around(self.connection, sql, lambda: run(sql, *parameters))

    def executemany(self, sql: str, *parameters: Any) -> Any:
        """As `sqlite3.Cursor.executemany`."""
        run = super().executemany
        return _around(self.connection, sql, lambda: run(sql, *parameters))

    def executescript(self, sql: str) -> Any:
        """As `sqlite3.Cursor.executescript`."""
        run = super().executescript
        return _around(self.connection, sql, lambda: run(sql))


class FaultyConnection(sqlite3.Connection):
    """Hands out faulty cursors, and runs its commits past the trap."""

    def cursor(self, factory: Any = FaultyCursor) -> Any:
        """As `sqlite3.Connection.cursor`."""
        return super().cursor(factory)

    def execute(self, sql: str, *parameters: Any) -> Any:
        """As `sqlite3.Connection.execute`."""
        return self.cursor().execute(sql, *parameters)

    def executemany(self, sql: str, *parameters: Any) -> Any:
        """As `sqlite3.Connection.executemany`."""
        return self.cursor().executemany(sql, *parameters)

    def executescript(self, sql: str) -> Any:
        """As `sqlite3.Connection.executescript`."""
        return self.cursor().executescript(sql)

    def commit(self) -> None:
        """As `sqlite3.Connection.commit`."""
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
    return run() if _guest is None else _guest.around(connection, sql, run)


@contextlib.contextmanager
def _invited(guest: Trap | Witness) -> Iterator[None]:
    """Have the guest look at every statement of the process while the block lasts."""
    global _guest  # noqa: PLW0603  whatever connection and thread
    _guest = guest
    try:
        yield
    finally:
        _guest = None


def _faulty_connect(*arguments: Any, **options: Any) -> sqlite3.Connection:
    connection: sqlite3.Connection = _connect(*arguments, factory=FaultyConnection, **options)
    return connection


class FaultyAdapter:
    """An adapter with two functions more."""

    def __init__(self, adapter: Any) -> None:
        self._adapter = adapter

    def __getattr__(self, function: str) -> Any:
        return getattr(self._adapter, function)

    def faulty(self, function: str, argument: dict[str, Any], at: int, fault: str) -> Any:
        """Ask the function, with this fault at its statement number `at` (from 1).

        `completed` tells whether it was over before it came that far.
        """
        trap = Trap(fault, at)
        with _invited(trap):
            result = getattr(self._adapter, function)(**argument)
        return {"completed": not trap.sprung, "result": result}

    def beside_a_writer(self, function: str, argument: dict[str, Any]) -> Any:
        """Ask the function while another connection has the write lock.

        `refused` tells how many of its statements wanted it too.
        """
        witness = Witness()
        with contextlib.closing(_connect(self._adapter.path, isolation_level=None)) as writer:
            writer.execute("BEGIN IMMEDIATE")
            with _invited(witness):
                result = getattr(self._adapter, function)(**argument)
        return {"refused": witness.refused, "result": result}


def wrap(open_adapter: Callable[[Path], Any]) -> Callable[[Path], FaultyAdapter]:
    """Put faults under an adapter: every connection opened from now on can be hit."""
    sqlite3.connect = _faulty_connect  # type: ignore[assignment]  # takes whatever it took
    return lambda folder: FaultyAdapter(open_adapter(folder))
