"""The log: SQLite's write-ahead log of one database, made durable together and kept short.

Knows nothing of what is written, nor of who waits.

**Durable, outside the lock.** SQLite at `synchronous=FULL` syncs the log inside every commit, under
the write lock, so that the whole machine pays for one sync a write. Here connections commit at
NORMAL, which writes the log and does not sync it; the next writer goes on at once; and whoever
committed then syncs the log, and only after that tells its caller. So commits of many processes and
threads are carried by the same few syncs (early lock release and group commit: DeWitt et al.,
"Implementation techniques for main memory database systems", SIGMOD 1984). The log is one file
written in order: a sync that began after my commit covers it and all that it was built upon, so
what was acknowledged is as durable as with FULL. Nobody commits for another process, so one that
stops or dies leaves no doubt about anybody's write but its own. A read may see a commit that is not
yet durable; a write that builds on it is never acknowledged before it is.

**Short, beside the writers.** SQLite starts the log over only when all of it was copied into the
database, which never happens while writers are busy: measured at 8 to 32 processes, 60 to 180 MB in
5 s. So once the log is longer than `LIMIT_BYTES`, a thread copies (PASSIVE, which blocks nobody)
while writers go on, and then a writer that stands at the head of the line copies the little that
came meanwhile. Nobody writes at that moment, so the next write finds everything copied and starts
the log over. Only if the disk copies slower than writers write, and the log has grown to
`BOUND_BYTES`, do they wait for the copying. A reader in the middle of a long read can delay all
that, as it can for any SQLite: the log then grows until it ends.

The log file is opened here with a plain `open`. That is safe: SQLite holds no locks on it. It would
not be safe for the database, nor for its `-shm`, and is not done.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

LIMIT_BYTES = 4 << 20
"""The log's own file is cut to this when it starts over, so a longer one is due for copying."""

BOUND_BYTES = 12 << 20
"""From this length on the log is copied where writers must wait for it."""

_STEP_BYTES = 1 << 20  # how much it grows before another try, where a reader was in the way
_POLL_S = 0.001  # how often one asks whether another's copying is over


class WriteLog:
    """The write-ahead log of the database at `path`.

    `connect` opens a connection to the database; `sync` makes an open file durable, or raises
    OSError: `sync_data`, or a function that does nothing where nobody fears a power loss.
    """

    def __init__(
        self, path: Path, connect: Callable[[], sqlite3.Connection], sync: Callable[[int], None]
    ) -> None:
        self._path = path.with_name(path.name + "-wal")
        self._connect = connect
        self._sync_file = sync
        self._syncing = threading.Lock()
        self._fd = -1
        self._committed = 0  # commits so far; counted by one thread at a time
        self._synced = 0  # how many of them are surely on disk
        self._doubtful = range(0)  # the commits that a failed sync should have covered
        self._copying = threading.Lock()
        self._due_bytes = LIMIT_BYTES  # when to begin copying
        self._bound_bytes = BOUND_BYTES  # when to make writers wait for it
        self._ends_soon = False  # the rest of the log is small: copy it where nobody writes

    def note_commit(self) -> int:
        """Count one more commit; returns its number, for `make_durable`."""
        self._committed += 1
        return self._committed

    def make_durable(self, commit: int) -> None:
        """Return once that commit is on disk. Raises OSError if the disk will not say so."""
        with self._syncing:
            if commit in self._doubtful:
                # After a failed sync the system forgets what it failed to write: another sync
                # would succeed, and mean nothing.
                raise OSError(errno.EIO, "an earlier sync failed", str(self._path))
            if commit <= self._synced:
                return
            covered = self._committed
            try:
                self._sync()
            except OSError:
                self._doubtful = range(self._synced + 1, covered + 1)
                raise
            self._synced = covered

    def _sync(self) -> None:
        if self._fd < 0:
            try:
                self._fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                return  # the last connection closed: SQLite synced it into the database
        self._sync_file(self._fd)

    def forget(self) -> None:
        """Let go of the log's file: the connection that kept it alive goes away."""
        with self._syncing:
            fd, self._fd = self._fd, -1
            if fd >= 0:
                os.close(fd)

    def tend(self) -> None:
        """Start copying the log into the database, if it is long. Returns at once."""
        size_bytes = self._size_bytes()
        if size_bytes <= LIMIT_BYTES:
            self._due_bytes = LIMIT_BYTES
        if size_bytes > self._due_bytes and self._copying.acquire(blocking=False):
            self._due_bytes = size_bytes + _STEP_BYTES
            threading.Thread(target=self._copy, name="state.db log", daemon=True).start()

    def _copy(self) -> None:
        try:
            with suppress(sqlite3.Error), closing(self._connect()) as connection:
                if not _copy_is_refused(connection):
                    self._ends_soon = True
        finally:
            self._copying.release()

    def finish(self, connection: sqlite3.Connection) -> None:
        """Copy the rest, if it is little or must be. For one in line, without a transaction."""
        size_bytes = self._size_bytes()
        if size_bytes <= LIMIT_BYTES:
            self._bound_bytes = BOUND_BYTES
        must = size_bytes > self._bound_bytes
        if not must and not self._ends_soon:
            return
        self._ends_soon = False
        with suppress(sqlite3.Error):  # the writes are committed, whatever becomes of the copying
            while _copy_is_refused(connection) and must:
                time.sleep(_POLL_S)
        if must:
            self._bound_bytes = size_bytes + _STEP_BYTES

    def _size_bytes(self) -> int:
        try:
            return self._path.stat().st_size
        except FileNotFoundError:
            return 0

    def pause(self) -> None:
        """Wait until no thread copies, and let none begin before `resume`."""
        self._copying.acquire()

    def resume(self) -> None:
        """Let copying begin again."""
        self._copying.release()


def _copy_is_refused(connection: sqlite3.Connection) -> bool:
    """Copy what no reader still needs; or find that another is just copying, and return True."""
    refused: int = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[0]
    return refused == 1


def sync_data(fd: int) -> None:
    """Make what was written to an open file durable. Raises OSError if the disk will not."""
    _fdatasync(fd)


_fdatasync = getattr(os, "fdatasync", os.fsync)  # some systems have only the greater one
