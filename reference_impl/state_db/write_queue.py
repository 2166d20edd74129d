"""The queue: everything that one handle wants to write, in order, a batch a transaction.

Knows nothing of sessions. A *write* is a function of a connection; it runs inside a transaction
that is already open, and may be run again if that transaction came to nothing.

Callers leave their writes in the queue and wait. A thread of the queue's own, the *clerk*, stands
in line for them (`write_line`), and when its turn comes commits all that is waiting as one
transaction. That is how callers get a deadline although the line has none, how the threads of a
process are served in order, and how one turn carries many writes. What it does in its turn is
short: it begins with the write lock (BEGIN IMMEDIATE), and syncing and waking callers come after it
left.

* A write that raises is rolled back with all its batch. It alone gets the error; its neighbours go
  back to the head of the queue. A batch that cannot be committed is tried again, one by one.
* A write can be withdrawn until it begins, and not after. So one that lost its patience (after a
  last try round the line), or was interrupted, did nothing; and one that began has the write lock
  already and is waited for.
* Writers that do not stand in line meet us at SQLite's lock. The one at the head of the line asks
  for it every millisecond, so strangers see at most one of us.
* A line that does not move may have a head that was stopped while it held no lock that matters.
  After two looks, `GRACE_S` apart, callers then go round it: SQLite's lock still excludes, and only
  order is lost. Where there is no line, the clerk asks for that lock as it would at the head.
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
from reference_impl.state_db.lock_owner import describe_holder
from reference_impl.state_db.ticket_lock import WriteLine
from reference_impl.state_db.wal import Commit, WriteLog

Result = TypeVar("Result")
Act = Callable[[sqlite3.Connection], Result]

GRACE_S = 0.5
"""How often one who waits looks at the line; if it did not move in between, he goes round it."""

_BATCH = 64  # writes a transaction: a turn stays short whatever is waiting
_LINGER_S = 1.0  # an idle clerk ends after this
_STRANGER_POLL_S = 0.001  # how often the head of the line asks for SQLite's lock
_ROUND_POLL_S = 0.010  # how often one who goes round does

_logger = logging.getLogger(__name__)


class _Write:
    """One write while it waits, and what became of it."""

    __slots__ = ("act", "alone", "begun", "commit", "error", "result", "settled")

    def __init__(self, act: Act[Any]) -> None:
        self.act = act
        self.alone = False  # its batch could not be committed: it goes by itself next time
        self.begun = False
        self.settled = threading.Event()
        self.result: Any = None
        self.error: BaseException | None = None
        self.commit = Commit(0, 0)


class WriteQueue:
    """Writes to the database at `path` by what `connect` opens. `log` makes its log."""

    def __init__(
        self, path: str, connect: Callable[[], sqlite3.Connection], log: Callable[[str], WriteLog]
    ) -> None:
        self._path = path
        self._connect = connect
        self._make_log = log
        self._start_afresh()

    def _start_afresh(self) -> None:
        self._changed = threading.Condition()  # guards what is waiting, and the clerk
        self._waiting: deque[_Write] = deque()
        self._clerk: threading.Thread | None = None
        self._closed = False
        self._desk = threading.RLock()  # guards the connection
        self._connection: sqlite3.Connection | None = None
        self._log = self._make_log(self._path)
        self._line: WriteLine | None = WriteLine(self._path)
        self._stuck_mark: int | None = None  # of the line, if it was found not to move

    @property
    def is_fair(self) -> bool:
        """Whether processes stand in line here; where they cannot they poll, and it was logged."""
        return self._line is not None

    # What callers do -------------------------------------------------------------------------

    def write(self, act: Act[Result], patience_s: float) -> Result:
        """Run `act` in a transaction; return what it returned, once that is durable.

        Raises what `act` raised, or OutOfPatienceError if its turn did not come in time, or
        ClosedError: then nothing happened. NotSyncedError means that it did.
        """
        write = _Write(act)
        try:
            self._hand_in(write)
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

    def _hand_in(self, write: _Write) -> None:
        with self._changed:
            if self._closed:
                raise ClosedError(f"{self._path}: the handle is closed")
            self._waiting.append(write)
            self._call_the_clerk()

    def _wait(self, write: _Write, patience_s: float) -> None:
        deadline_s = time.monotonic() + patience_s
        mark: int | None = None
        while True:
            goes_round = self._clerk is None or self._line_is_stuck()
            left_s = max(deadline_s - time.monotonic(), 0.0)
            if write.settled.wait(min(_ROUND_POLL_S if goes_round else GRACE_S, left_s)):
                return
            if goes_round or left_s == 0.0:
                self._go_round()
            else:
                before, mark = mark, self._look_at_the_line()
                if mark == before:
                    self._stuck_mark = mark
            if left_s == 0.0:
                break
        if not self._withdraw(write):
            write.settled.wait()
            return
        holder = describe_holder(self._path, self._line)
        write.error = OutOfPatienceError(f"{self._path}: no turn in {patience_s:g} s; {holder}")

    def _go_round(self) -> None:
        """Try once without standing in line.

        In a thread, since many writes may be in the batch, and an interrupt is meant for one.
        """
        attempt = threading.Thread(target=lambda: _announce(self._attempt() or []), daemon=True)
        try:
            attempt.start()
        except RuntimeError:  # no more threads, as at exit: then there is no clerk either
            _announce(self._attempt() or [])
        else:
            attempt.join()

    def _line_is_stuck(self) -> bool:
        if self._stuck_mark is not None and self._stuck_mark != self._look_at_the_line():
            self._stuck_mark = None
        return self._stuck_mark is not None

    def _look_at_the_line(self) -> int:
        return self._line.mark() if self._line is not None else 0

    def _withdraw(self, write: _Write) -> bool:
        with self._changed:
            if write.begun:
                return False
            with suppress(ValueError):  # interrupted before it was handed in
                self._waiting.remove(write)
            return True

    def _call_the_clerk(self) -> None:
        if self._clerk is not None:
            self._changed.notify()
            return
        self._clerk = threading.Thread(target=self._serve, name="state.db clerk", daemon=True)
        try:
            self._clerk.start()
        except RuntimeError:  # no more threads, as at exit: then callers go round
            self._clerk = None

    # What the clerk does ---------------------------------------------------------------------

    def _serve(self) -> None:
        while self._has_work():
            self._take_a_turn()

    def _has_work(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed, _LINGER_S)
            if self._waiting:
                return True
            self._clerk = None
            if self._closed and self._line is not None:
                self._line.close()
            return False

    def _take_a_turn(self) -> None:
        settled: list[_Write] | None = None
        self._prepare()
        line = self._stand_in_line()
        try:
            while self._waiting and (settled := self._attempt()) is None:
                time.sleep(_STRANGER_POLL_S)
        finally:
            if line is not None:
                line.leave()
            _announce(settled or [])

    def _prepare(self) -> None:
        """Connect before the turn comes, so that nobody waits for that."""
        with self._desk, suppress(BaseException):  # who cannot connect hears of it in the turn
            if self._connection is None and not self._closed:
                self._connection = self._connect()

    def _stand_in_line(self) -> WriteLine | None:
        line = self._line
        try:
            if line is not None:
                line.stand()
        except OSError as error:
            _logger.warning("%s: no line can be kept here, so writers poll: %s", self._path, error)
            self._line = line = None
        return line

    def _attempt(self) -> list[_Write] | None:
        """Commit what is waiting. Returns what is settled by it; None if SQLite's lock is taken."""
        with self._desk:
            if self._closed:
                return []
            try:
                connection = self._begin()
            except BaseException as error:  # noqa: BLE001 - those who wait shall hear of it
                self._roll_back()
                return None if _is_busy(error) else _blame(self._pick_up(), error)
            writes = self._pick_up()
            culprit: _Write | None = None
            try:
                for culprit in writes:
                    culprit.result = culprit.act(connection)
                culprit = None
                connection.execute("COMMIT")
            except BaseException as error:  # noqa: BLE001 - whoever asked shall hear of it
                was_open = self._roll_back()
                return self._sort_out(writes, culprit, error, was_open=was_open)
            commit = self._log.note_commit()
            for write in writes:
                write.commit = commit
            with suppress(BaseException):  # the writes are committed, whatever happens now
                if self._log.is_long():
                    self._log.copy(connection)
            return writes

    def _begin(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = self._connect()
        self._connection.execute("BEGIN IMMEDIATE")
        return self._connection

    def _roll_back(self) -> bool:
        """Undo all. Returns whether there was anything to undo."""
        if self._connection is None or not self._connection.in_transaction:
            return False
        try:
            self._connection.execute("ROLLBACK")
        except BaseException:  # noqa: BLE001 - the first error is the one to tell
            self._close_connection()  # closing always rolls back
        return True

    def _sort_out(
        self, writes: list[_Write], culprit: _Write | None, error: BaseException, *, was_open: bool
    ) -> list[_Write]:
        """Decide after a rollback who hears of the error, and who tries again."""
        if culprit is not None:
            self._put_back([write for write in writes if write is not culprit])
            return _blame([culprit], error)
        if len(writes) > 1 and was_open:  # committing failed, and any of them may be why
            for write in writes:
                write.alone = True
            self._put_back(writes)
            return []
        return _blame(writes, error)

    def _pick_up(self) -> list[_Write]:
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

    def _put_back(self, writes: list[_Write]) -> None:
        with self._changed:
            for write in reversed(writes):
                write.begun = False
                self._waiting.appendleft(write)

    # Coming and going ------------------------------------------------------------------------

    def close(self) -> None:
        """Refuse what is waiting and let go of everything. What has begun is finished first."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        with self._desk:
            self._close_connection()
        with self._changed:
            refused = list(self._waiting)
            self._waiting.clear()
            for write in refused:
                write.begun = True
            clerk = self._clerk
            if clerk is None and self._line is not None:
                self._line.close()
        _announce(_blame(refused, ClosedError(f"{self._path}: the handle was closed")))
        if clerk not in (None, threading.current_thread()):
            # It ends at once; only if it stands in line, it ends when its turn comes.
            clerk.join(GRACE_S)

    def _close_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._log.forget()
            with suppress(sqlite3.Error):
                connection.close()

    def pause(self) -> None:
        """Finish what has begun, and have no connection open until `resume`: a fork comes."""
        self._desk.acquire()
        self._close_connection()

    def resume(self) -> None:
        """Go on, in the process that forked."""
        self._desk.release()

    def restart(self) -> None:
        """Begin anew in the child of a fork: the clerk and those who waited are not there."""
        closed = self._closed
        if self._line is not None:
            self._line.close()
        self._start_afresh()
        self._closed = closed


def _blame(writes: list[_Write], error: BaseException) -> list[_Write]:
    for write in writes:
        write.error = error
    return writes


def _announce(writes: list[_Write]) -> None:
    for write in writes:
        write.settled.set()


def _is_busy(error: BaseException) -> bool:
    message = str(error)  # "database is locked", "database table is locked", "locking protocol"
    return isinstance(error, sqlite3.OperationalError) and (
        "locked" in message or "locking" in message
    )
