"""The *state_db_threads* ability: handles on one database, called by concurrent threads.

Beside the calls of the *state_db* ability there are those that make a schedule difficult: another
connection that holds the write lock, statements and syncs that fail, a handle that is closed while
other threads use it. A call goes to the handle whose number it names. Syncs take virtual time, and
are reported with the commits, so that a checker can say what a power loss would lose.

`commit` uses the log of a handle without the handle: a write lock, a commit and its sync are a
tenth of the points of an append, so that a few schedules reach what takes three processes.
"""

from __future__ import annotations

import errno
import fcntl
import importlib
import os
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness.targets.reference.state_db import PATIENCE_S, StateDbAdapter
from harness.targets.threads.wakeups import See

INJECTED = "injected"  # in the text of an error that the adapter raised itself
TEXT = "alpha"  # how the texts of messages begin
# In a mapping, where the explorer replaces nothing: how many descriptors the process has must not
# decide how many points a schedule has.
NATIVE: dict[str, Callable[..., Any]] = {
    name: getattr(os, name) for name in ("listdir", "readlink", "open", "write", "close")
}
FULL = 2  # the value of `PRAGMA synchronous` with which SQLite syncs each commit itself
SETTLING_S = 2.0  # of virtual time, until the threads of a closed handle have ended


class StateDbThreadsAdapter(StateDbAdapter):
    """Handles on the file `path`; the first one is number 0."""

    def __init__(self, path: Path) -> None:
        self.patience_s = PATIENCE_S
        self._syncs_s: Sequence[float] = (0.0,)
        self._failing_syncs: Sequence[int] = ()
        self._syncs = 0
        self._unreported: set[int] = set()  # handles that a failed sync was not reported to yet
        self._failing: list[str] = []  # beginnings of statements that fail, each once
        self._current = threading.local()  # the handle that this thread calls
        self._holder: Any = None
        self._waiter: _Connection | None = None  # the first that tried to begin since `take_lock`
        self._until_s: float | None = None  # from when on a try in vain frees the lock
        self._stalled = "", 0.0  # how the statement begins that takes long, and how long
        self._yields = False  # whether the lock is freed when another one tries, too
        self._ticket: Any = None  # the ticket lock of a process that is stopped
        self._queue: Any = importlib.import_module("reference_impl.state_db.write_queue")
        self._grace_s = self._queue.GRACE_S
        self._rounds: Any = importlib.import_module("reference_impl.state_db.group_commit")
        self._lock: Callable[..., Any] = self._rounds.fcntl
        self._late: tuple[float, ...] = ()
        self._behind = ""  # how the statement begins behind which the lock is taken
        self._handles: dict[int, Any] = {}
        self._logs: dict[int, tuple[Any, threading.Lock]] = {}  # each with its connection's lock
        self._closed_logs: set[int] = set()
        self._write_lock = threading.Lock()  # of all logs, as SQLite has one
        self.tick: Callable[[], int] = lambda: 0
        self.see: See = lambda *_: None
        _observe(self)
        super().__init__(path)

    def _open(self) -> Any:
        return None  # a handle is opened when it is first called, so that `arrange` costs nothing

    def _opened(self, number: int) -> Any:
        """The handle of this number."""
        if number not in self._handles:
            self._handles[number] = self._module.StateDb(
                self.path, clock=self._clock, patience_s=self.patience_s
            )
        return self._handles[number]

    @property
    def _db(self) -> Any:
        return self._opened(0)

    @_db.setter
    def _db(self, handle: Any) -> None:
        assert handle is None
        self._handles.pop(0, None)

    def watch(self, tick: Callable[[], int], see: See) -> None:
        """Report events to `see`, with times of the clock `tick`."""
        self.tick, self.see = tick, see

    # What makes a schedule difficult -------------------------------------------------------------

    def arrange(
        self,
        patience_s: float = PATIENCE_S,
        handles: int = 1,
        sync_s: float = 0.0,
        failing_syncs: Sequence[int] = (),
        grace_s: float = 0.0,
    ) -> None:
        """Open this number of handles; syncs take `sync_s`, and those of these numbers fail.

        A ticket that does not move is looked at every `grace_s`, if it is not 0.
        """
        self.patience_s, self._syncs_s = patience_s, (sync_s,)
        if grace_s:
            self._queue.GRACE_S = grace_s
        for number in range(handles):
            self._opened(number)
        self._failing_syncs, self._syncs = failing_syncs, 0

    def arrange_logs(
        self,
        logs: int,
        syncs_s: Sequence[float],
        failing_syncs: Sequence[int] = (),
        late: Sequence[float] = (),
    ) -> None:
        """Open this number of logs, each as another process would.

        The first syncs take `syncs_s`, and later ones as long as the last of them. `late` is a log
        whose process is stopped, once, as it is about to lock a round, and for how long.
        """
        self._late = tuple(late)
        self._rounds.fcntl = self._lock_late
        module = importlib.import_module("reference_impl.state_db.wal")
        self._syncs_s, self._failing_syncs, self._syncs = syncs_s, failing_syncs, 0
        self._write_lock = threading.Lock()
        self._append_to_log(b"begin")
        self._logs = {
            number: (module.WriteAheadLog(str(self.path)), threading.Lock())
            for number in range(logs)
        }

    def take_lock(self, behind: str = "", *, yields: bool = False, until_s: float = 0.0) -> int:
        """Take the write lock, over a connection of another program; returns this process's id.

        With `behind` not now, but as soon as the next statement that begins like this is over. If
        it `yields`, it is freed when a second connection tries to begin, behind one that waits.
        With `until_s` it is freed behind the first try in vain after that time.
        """
        self._behind, self._yields, self._waiter = behind, yields, None
        self._until_s = time.monotonic() + until_s if until_s else None
        if not behind:
            self._take_lock()
        return os.getpid()

    def _take_lock(self) -> None:
        self._holder = _base(sqlite3.connect)(
            self.path, isolation_level=None, check_same_thread=False, timeout=60.0
        )
        self._holder.execute("BEGIN IMMEDIATE")

    def stall(self, statement: str, seconds: float) -> None:
        """Let the next statement that begins like this take some virtual time."""
        self._stalled = statement, seconds

    def free_lock(self, after_s: float = 0.0) -> None:
        """Free the write lock after some virtual time, if it was taken."""
        time.sleep(after_s)
        self._behind, holder, self._holder = "", self._holder, None
        if holder is not None:
            holder.execute("ROLLBACK")
            holder.close()

    def take_ticket(self) -> None:
        """Draw a ticket and get its turn, as a process that is then stopped has it."""
        module = importlib.import_module("reference_impl.state_db.ticket_lock")
        self._ticket = module.TicketLock(os.path.realpath(self.path))
        self._ticket.acquire()

    def free_ticket(self) -> None:
        """Let the turn pass on, as a process that was stopped and goes on does."""
        ticket, self._ticket = self._ticket, None
        ticket.release()
        ticket.close()

    def wait(self, seconds: float) -> None:
        """Let virtual time pass."""
        time.sleep(seconds)

    def fail(self, statements: Sequence[str]) -> None:
        """Fail, once each, the next statement that begins like this."""
        self._failing = list(statements)

    def close_handle(self, handle: int) -> None:
        """Close a handle, which other threads may be calling."""
        self._opened(handle).close()

    def left_open(self) -> int:
        """Close every handle; the number of descriptors of the database's files that stay open."""
        self._close_handles()
        time.sleep(SETTLING_S)
        folder = str(self.path.parent.resolve())
        count = 0
        for name in NATIVE["listdir"]("/proc/self/fd"):
            try:
                target = NATIVE["readlink"](f"/proc/self/fd/{name}")
            except OSError:  # the descriptor of the listing
                continue
            count += os.path.dirname(target) == folder  # noqa: PTH120  likewise
        return count

    # Calls of one log ----------------------------------------------------------------------------

    def commit(self, text: str, handle: int) -> None:
        """Commit a text to the log, and return when it is durable."""
        log, connection_lock = self._logs[handle]
        self._current.handle = handle
        with connection_lock:
            if handle in self._closed_logs:
                raise ValueError(f"log {handle} is closed")
            with self._write_lock:  # free before the log notes the commit, as SQLite's is
                log.note_begin()
                begun = self.tick()
                self._append_to_log(text.encode())
                self.see("committed", {"texts": [text], "synced": False}, begun)
            commit = log.note_commit()
        log.make_durable(commit)

    def _lock_late(self, fd: int, command: int, record: bytes) -> Any:
        """Lock a part of a file, as `fcntl` does; a process that is late waits before it."""
        is_round = command == fcntl.F_OFD_SETLK and _kind(record) == fcntl.F_WRLCK
        if is_round and self._late[:1] == (getattr(self._current, "handle", None),):
            _, seconds = self._late
            self._late = ()
            time.sleep(seconds)
        return self._lock(fd, command, record)

    def close_log(self, handle: int) -> None:
        """Close the files of a log, as when its connection closes."""
        log, connection_lock = self._logs[handle]
        with connection_lock:
            self._closed_logs.add(handle)
            log.forget()

    def _append_to_log(self, data: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        fd = NATIVE["open"](f"{self.path}-wal", flags, 0o600)
        NATIVE["write"](fd, data)
        NATIVE["close"](fd)

    # Calls of one handle -------------------------------------------------------------------------

    def append(  # noqa: PLR0913, PLR0917  one more than the ability has
        self,
        session: str,
        role: str,
        text: str,
        tool_calls: int | dict[str, Any] = 0,
        more: dict[str, Any] | None = None,
        handle: int = 0,
    ) -> None:
        """Append a message; reports how long that took."""
        assert isinstance(tool_calls, int)
        calls = [{"id": f"call-{number}"} for number in range(tool_calls)]
        self._current.handle = handle
        begun, began_s = self.tick(), time.monotonic()
        try:
            self._opened(handle).append_message(session, role, text, calls, **(more or {}))
        finally:
            took_s = round(time.monotonic() - began_s, 6)
            self.see("took", {"text": text, "handle": handle, "seconds": took_s}, begun)

    def messages(self, session: str, handle: int = 0) -> list[list[str]]:
        """The session's messages, in order."""
        found = self._opened(handle).get_messages(session)
        return [[message.role, message.content] for message in found]

    def close(self) -> None:
        """Close every handle."""
        self._close_handles()
        self._queue.GRACE_S, self._rounds.fcntl = self._grace_s, self._lock
        _unobserve()

    def _close_handles(self) -> None:
        for handle in self._handles.values():
            handle.close()
        for number in self._logs.keys() - self._closed_logs:
            self.close_log(number)
        self._handles.clear()
        self._logs.clear()

    # What is observed ----------------------------------------------------------------------------

    def try_to_begin(self, connection: _Connection) -> None:
        """Free a lock that yields, if another connection waits for it already."""
        if self._yields and self._holder is not None:
            self._waiter = self._waiter or connection
            if connection is not self._waiter:
                self.free_lock()

    def try_in_vain(self) -> None:
        """Free a lock whose time is over, behind a try that met it."""
        if self._until_s is not None and time.monotonic() >= self._until_s:
            self._until_s = None
            self.free_lock()

    def strike(self, sql: str) -> None:
        """Raise if this statement is to fail, or take the time that it is to take."""
        statement, seconds = self._stalled
        if statement and sql.startswith(statement):
            self._stalled = "", 0.0
            time.sleep(seconds)
        for start in self._failing:
            if sql.startswith(start):
                self._failing.remove(start)
                raise sqlite3.OperationalError(f"disk I/O error ({INJECTED} at {start})")

    def pass_by(self, sql: str) -> None:
        """Take the lock for another program if this statement is the one to wait for."""
        if self._behind and sql.startswith(self._behind):
            self._behind = ""
            self._take_lock()

    def sync(self, fd: int) -> None:
        """Sync a file of the database, or fail as a broken disk does: once for every handle."""
        name = os.path.basename(NATIVE["readlink"](f"/proc/self/fd/{fd}"))  # noqa: PTH119  likewise
        handle = getattr(self._current, "handle", 0)
        begun = self.tick()
        self._syncs += 1
        is_first = self._syncs in self._failing_syncs
        fails = is_first or handle in self._unreported
        if is_first:
            self._unreported = {*self._handles, *self._logs}
        self._unreported.discard(handle)
        if sync_s := self._syncs_s[min(self._syncs, len(self._syncs_s)) - 1]:
            time.sleep(sync_s)
        event = {"file": name, "handle": handle, "first": is_first, "ok": not fails}
        self.see("synced", event, begun)
        if fails:
            raise OSError(errno.EIO, f"Input/output error ({INJECTED})")


class _Connection:
    """A connection whose statements may fail, and whose commits are reported with their texts."""

    def __init__(self, connection: Any, adapter: StateDbThreadsAdapter) -> None:
        self._connection = connection
        self._adapter = adapter
        self._texts: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """See `sqlite3.Connection.execute`."""
        self._adapter.strike(sql)
        if sql.startswith(("BEGIN", "ROLLBACK")):
            self._texts = []
        if sql.startswith("BEGIN"):
            return self._begin(sql)
        self._add_texts(sql, parameters)
        if sql == "ROLLBACK":
            self._connection.execute(sql)
            return self._adapter.pass_by(sql)
        if sql != "COMMIT":  # a local variable might keep a cursor, and so its statement, open
            return self._connection.execute(sql, parameters)
        begun = self._adapter.tick()
        cursor = self._connection.execute(sql)
        if self._texts:
            (synchronous,) = self._connection.execute("PRAGMA synchronous").fetchone()
            event = {"texts": self._texts, "synced": synchronous >= FULL}
            self._adapter.see("committed", event, begun)
        return cursor

    def _begin(self, sql: str) -> Any:
        self._adapter.try_to_begin(self)
        try:
            return self._connection.execute(sql)
        except sqlite3.OperationalError:
            self._adapter.try_in_vain()
            raise

    def executemany(self, sql: str, rows: Sequence[Sequence[Any]]) -> Any:
        """See `sqlite3.Connection.executemany`."""
        self._adapter.strike(sql)
        for row in rows:
            self._add_texts(sql, row)
        return self._connection.executemany(sql, rows)

    def _add_texts(self, sql: str, parameters: Sequence[Any]) -> None:
        if sql.startswith("INSERT"):
            texts = [value for value in parameters if isinstance(value, str)]
            self._texts += [text for text in texts if text.startswith(TEXT)]


def _kind(record: bytes) -> int:
    """Whether a record locks to read, to write, or unlocks: its first field."""
    return int.from_bytes(record[:2], sys.byteorder)


def _base(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function below the one that observes it."""
    base: Callable[..., Any] = getattr(function, "observes", function)
    return base


def _observe(adapter: StateDbThreadsAdapter) -> None:
    """Pass connections and syncs of this process through the adapter, instead of another one."""
    _unobserve()
    native_connect, native_sync = sqlite3.connect, os.fdatasync

    def connect(*arguments: Any, **options: Any) -> Any:
        return _Connection(native_connect(*arguments, **options), adapter)

    def sync(fd: int) -> None:
        adapter.sync(fd)
        native_sync(fd)

    connect.observes, sync.observes = native_connect, native_sync  # type: ignore[attr-defined]
    sqlite3.connect, os.fdatasync = connect, sync  # type: ignore[assignment]


def _unobserve() -> None:
    sqlite3.connect = _base(sqlite3.connect)
    os.fdatasync = _base(os.fdatasync)
