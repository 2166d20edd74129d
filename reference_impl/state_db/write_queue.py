"""The write queue: all writes of one handle, in order, many per transaction.

Knows nothing of sessions. A *write* is a function of a connection; it runs inside a transaction
that is already open, and may run again if that transaction was rolled back.

Callers put their writes into the queue and wait. The queue's worker thread acquires the ticket lock
(`ticket_lock`) for them, and then commits everything that is waiting as one transaction. So callers
have a deadline although the ticket lock has none, the threads of a process write in order, and one
turn carries many writes. The turn itself is short: it begins with the write lock (BEGIN IMMEDIATE),
and syncing and waking callers come after the ticket is released.

* A write that raises is rolled back with its whole batch, and the others go back to the head of the
  queue. So does the write itself unless it was the first: its error may be due to writes before it,
  which are not committed. It is tried again alone, after them. A batch that cannot be committed is
  tried again, one write at a time.
* A write can be withdrawn until it begins, and not after. So a write that lost its patience (after
  a last try without a ticket), or was interrupted, did nothing; and one that began has the write
  lock already and is waited for.
* Writers without a ticket compete at SQLite's lock. The ticket owner tries that lock every
  millisecond, so foreign writers meet at most one of us.
* If the first ticket does not change, its owner may be stopped while it holds no lock that
  matters. After two looks, `GRACE_S` apart, callers bypass the ticket lock: SQLite's lock still
  excludes, and only order is lost. Where there is no ticket lock, the worker tries SQLite's lock as
  the ticket owner would.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from reference_impl.state_db.errors import ClosedError, NotSyncedError, OutOfPatienceError
from reference_impl.state_db.lock_owner import describe_lock_owner
from reference_impl.state_db.ticket_lock import TicketLock
from reference_impl.state_db.wal import Commit, WriteAheadLog

Result = TypeVar("Result")
Act = Callable[[sqlite3.Connection], Result]

GRACE_S = 0.5
"""How often a waiting caller checks the ticket lock; if it did not change, it is bypassed."""

_BATCH = 64  # writes per transaction: a turn stays short however many are waiting
_IDLE_TIMEOUT_S = 1.0  # an idle worker ends after this
_LOCK_POLL_S = 0.001  # how often the ticket owner tries SQLite's lock
_BYPASS_POLL_S = 0.010  # how often a caller without a ticket does

_logger = logging.getLogger(__name__)


class _Write:
    """One write while it waits, and its result."""

    __slots__ = ("act", "alone", "begun", "commit", "error", "result", "settled")

    def __init__(self, act: Act[Any]) -> None:
        self.act = act
        self.alone = False  # it, or the commit of its batch, failed: next time it is tried alone
        self.begun = False
        self.settled = threading.Event()
        self.result: Any = None
        self.error: BaseException | None = None
        self.commit = Commit(0, 0)


class WriteQueue:
    """Writes to the database at `path` over connections of `connect`. `log` makes its WAL."""

    def __init__(
        self,
        path: str,
        connect: Callable[[], sqlite3.Connection],
        log: Callable[[str], WriteAheadLog],
    ) -> None:
        self._path = path
        self._connect = connect
        self._make_log = log
        self._reset()

    def _reset(self) -> None:
        self._changed = threading.Condition()  # guards what is waiting, and the worker
        self._waiting: deque[_Write] = deque()
        self._worker: threading.Thread | None = None
        self._closed = False
        self._connection_lock = threading.RLock()  # guards the connection
        self._connection: sqlite3.Connection | None = None
        self._log = self._make_log(self._path)
        self._ticket_lock: TicketLock | None = TicketLock(self._path)
        self._stuck_mark: int | None = None  # of the ticket lock, if it was found not to change

    @property
    def is_fair(self) -> bool:
        """Whether writers are ordered by tickets here; otherwise they poll, and it was logged."""
        return self._ticket_lock is not None

    # Callers ---------------------------------------------------------------------------------

    def write(self, act: Act[Result], patience_s: float) -> Result:
        """Run `act` in a transaction; return its result once the transaction is durable.

        Raises what `act` raised, or OutOfPatienceError if its turn did not come in time, or
        ClosedError: then nothing happened. After NotSyncedError the write is committed.
        """
        write = _Write(act)
        try:
            self._enqueue(write)
            self._wait(write, patience_s)
        except BaseException:
            if not self._withdraw(write):
                write.settled.wait()
            raise
        if write.error is not None:
            raise write.error
        try:
            self._log.make_durable(write.commit)
        except OSError as error:
            raise NotSyncedError(f"{self._path}: committed, but not synced: {error}") from error
        result: Result = write.result
        return result

    def _enqueue(self, write: _Write) -> None:
        with self._changed:
            if self._closed:
                raise ClosedError(f"{self._path}: the handle is closed")
            self._waiting.append(write)
            self._wake_worker()

    def _wait(self, write: _Write, patience_s: float) -> None:
        deadline_s = time.monotonic() + patience_s
        mark: int | None = None
        while True:
            bypasses = self._worker is None or self._ticket_lock_is_stuck()
            left_s = max(deadline_s - time.monotonic(), 0.0)
            if write.settled.wait(min(_BYPASS_POLL_S if bypasses else GRACE_S, left_s)):
                return
            if bypasses or left_s == 0.0:
                self._try_without_ticket()
            else:
                before, mark = mark, self._ticket_mark()
                if mark == before:
                    self._stuck_mark = mark
            if left_s == 0.0:
                break
        if not self._withdraw(write):
            write.settled.wait()
            return
        owner = describe_lock_owner(self._path, self._ticket_lock)
        write.error = OutOfPatienceError(f"{self._path}: no turn in {patience_s:g} s; {owner}")

    def _try_without_ticket(self) -> None:
        """Try once without a ticket.

        In a thread, since the batch may hold many writes, and an interrupt is meant for one.
        """
        attempt = threading.Thread(target=lambda: _settle(self._attempt() or []), daemon=True)
        try:
            attempt.start()
        except RuntimeError:  # no more threads, as at exit: then there is no worker either
            _settle(self._attempt() or [])
        else:
            attempt.join()

    def _ticket_lock_is_stuck(self) -> bool:
        if self._stuck_mark is not None and self._stuck_mark != self._ticket_mark():
            self._stuck_mark = None
        return self._stuck_mark is not None

    def _ticket_mark(self) -> int:
        return self._ticket_lock.mark() if self._ticket_lock is not None else 0

    def _withdraw(self, write: _Write) -> bool:
        with self._changed:
            if write.begun:
                return False
            with suppress(ValueError):  # interrupted before it was queued
                self._waiting.remove(write)
            return True

    def _wake_worker(self) -> None:
        if self._worker is not None:
            self._changed.notify()
            return
        self._worker = threading.Thread(
            target=self._run_worker, name="state.db worker", daemon=True
        )
        try:
            self._worker.start()
        except RuntimeError:  # no more threads, as at exit: then callers try by themselves
            self._worker = None

    # The worker ------------------------------------------------------------------------------

    def _run_worker(self) -> None:
        while self._has_work():
            self._run_turn()

    def _has_work(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed, _IDLE_TIMEOUT_S)
            if self._waiting:
                return True
            self._worker = None
            if self._closed and self._ticket_lock is not None:
                self._ticket_lock.close()
            return False

    def _run_turn(self) -> None:
        settled: list[_Write] | None = None
        self._prepare()
        ticket_lock = self._acquire_ticket()
        try:
            while self._waiting and (settled := self._attempt()) is None:
                time.sleep(_LOCK_POLL_S)
        finally:
            if ticket_lock is not None:
                ticket_lock.release()
            _settle(settled or [])

    def _prepare(self) -> None:
        """Connect before the turn comes, so that no other writer waits for that."""
        with self._connection_lock, suppress(BaseException):  # a failure is reported in the turn
            if self._connection is None and not self._closed:
                self._connection = self._connect()

    def _acquire_ticket(self) -> TicketLock | None:
        ticket_lock = self._ticket_lock
        try:
            if ticket_lock is not None:
                ticket_lock.acquire()
        except OSError as error:
            _logger.warning("%s: no ticket lock here, so writers poll: %s", self._path, error)
            self._ticket_lock = ticket_lock = None
        return ticket_lock

    def _attempt(self) -> list[_Write] | None:
        """Commit what is waiting. Returns the settled writes; None if SQLite's lock is taken."""
        with self._connection_lock:
            if self._closed:
                return []
            try:
                connection = self._begin()
            except BaseException as error:  # noqa: BLE001 - passed to the waiting callers
                self._roll_back()
                return None if _is_busy(error) else _fail(self._take_batch(), error)
            writes = self._take_batch()
            failed: _Write | None = None
            try:
                for failed in writes:
                    failed.result = failed.act(connection)
                failed = None
                self._log.note_begin()
                connection.execute("COMMIT")
            except BaseException as error:  # noqa: BLE001 - passed to the write's caller
                was_open = self._roll_back()
                return self._resolve(writes, failed, error, was_open=was_open)
            commit = self._log.note_commit()
            for write in writes:
                write.commit = commit
            with suppress(BaseException):  # the writes are committed in any case
                if self._log.is_long():
                    self._log.copy(connection)
            return writes

    def _begin(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = self._connect()
        self._connection.execute("BEGIN IMMEDIATE")
        return self._connection

    def _roll_back(self) -> bool:
        """Roll back. Returns whether a transaction was open."""
        if self._connection is None or not self._connection.in_transaction:
            return False
        try:
            self._connection.execute("ROLLBACK")
        except BaseException:  # noqa: BLE001 - the first error is the one to report
            self._close_connection()  # closing always rolls back
        return True

    def _resolve(
        self, writes: list[_Write], failed: _Write | None, error: BaseException, *, was_open: bool
    ) -> list[_Write]:
        """After a rollback, decide which writes get the error and which are tried again."""
        if failed is not None and failed is not writes[0]:
            failed.alone = True
            self._requeue(writes)
            return []
        if failed is not None:
            self._requeue(writes[1:])
            return _fail([failed], error)
        if len(writes) > 1 and was_open:  # the commit failed, and any of them may be the reason
            for write in writes:
                write.alone = True
            self._requeue(writes)
            return []
        return _fail(writes, error)

    def _take_batch(self) -> list[_Write]:
        with self._changed:
            writes: list[_Write] = []
            while self._waiting and len(writes) < _BATCH:
                if writes and self._waiting[0].alone:
                    break
                writes.append(self._waiting.popleft())
                writes[-1].begun = True
                if writes[-1].alone:
                    break
            return writes

    def _requeue(self, writes: list[_Write]) -> None:
        with self._changed:
            for write in reversed(writes):
                write.begun = False
                self._waiting.appendleft(write)

    # Closing and forking ---------------------------------------------------------------------

    def close(self) -> None:
        """Refuse waiting writes and close everything. A write that has begun is finished first."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        with self._connection_lock:
            self._close_connection()
        with self._changed:
            refused = list(self._waiting)
            self._waiting.clear()
            for write in refused:
                write.begun = True
            worker = self._worker
            if worker is None and self._ticket_lock is not None:
                self._ticket_lock.close()
        _settle(_fail(refused, ClosedError(f"{self._path}: the handle was closed")))
        if worker not in (None, threading.current_thread()):
            # It ends at once; only if it waits for a ticket, it ends when its turn comes.
            worker.join(GRACE_S)

    def _close_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._log.forget()
            with suppress(sqlite3.Error):
                connection.close()

    def pause(self) -> None:
        """Finish what has begun, and have no connection open until `resume`: the process forks."""
        self._connection_lock.acquire()
        self._close_connection()

    def resume(self) -> None:
        """Continue, in the process that forked."""
        self._connection_lock.release()

    def restart(self) -> None:
        """Start anew in the child of a fork: worker and waiting threads do not exist there."""
        closed = self._closed
        if self._ticket_lock is not None:
            self._ticket_lock.close()
        self._reset()
        self._closed = closed


def _fail(writes: list[_Write], error: BaseException) -> list[_Write]:
    for write in writes:
        write.error = error
    return writes


def _settle(writes: list[_Write]) -> None:
    for write in writes:
        write.settled.set()


def _is_busy(error: BaseException) -> bool:
    message = str(error)  # "database is locked", "database table is locked", "locking protocol"
    return isinstance(error, sqlite3.OperationalError) and (
        "locked" in message or "locking" in message
    )
