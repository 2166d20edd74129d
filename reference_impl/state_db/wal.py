"""SQLite's write-ahead log of one database: synced for many commits at once, and kept short.

Knows nothing of what is written.

**Durable, outside the lock.** SQLite at `synchronous=FULL` syncs the log inside every commit, under
the write lock, so that the whole machine pays for one sync per write. Here connections commit at
NORMAL, which writes the log and does not sync it; the next writer continues at once; and a commit
is acknowledged only once the log is synced. So a few syncs cover the commits of many processes and
threads (early lock release and group commit: DeWitt et al., "Implementation techniques for main
memory database systems", SIGMOD 1984). The log is one file written in order: a sync of it that
began after a commit, by any process (`group_commit`), covers that commit and all that it builds on,
so an acknowledged write is as durable as with FULL. No process commits for another, so one that
stops or dies leaves only its own writes in doubt. A read may see a commit that is not yet durable;
a write that builds on it is never acknowledged before it is.

When the log starts over, or is removed as the last connection closes, SQLite has synced it first,
copied it, and synced the database. So a sync of the present log file is enough.

**Short, by a checkpoint between two writers.** SQLite starts the log over only when all of it was
copied into the database and no process wrote meanwhile, which beside busy writers never happens:
with 8 to 32 processes, one of them copying all the time, it grew to some 400 MB in 3 s. But the
holder of the ticket lock has that moment. So once the log is longer than `LIMIT_BYTES`, the process
that just committed copies it before it releases the ticket, and the next write starts the log over.
That costs two syncs and, since a thousand pages of the log are some hundred of the database written
repeatedly, little else: 1 to 3 ms every 150 writes. (A thread that copied beside the writers was
starved by 32 processes: the log doubled meanwhile, and ending it then stalled them for 0.3 s.) The
checkpoint is PASSIVE, which waits for no reader; a long read lets the log grow, as it does for any
SQLite, until it ends.

The log file is opened here with a plain `open`. That is safe: SQLite holds no locks on it. It would
not be safe for the database, nor for its `-shm`, and is not done.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
from collections.abc import Callable
from typing import NamedTuple

from reference_impl.state_db.group_commit import UNMARKED, GroupCommit

LIMIT_BYTES = 6 << 20
"""A longer log is checkpointed. SQLite cuts the file to this when it starts the log over."""

_STEP_BYTES = 1 << 20  # how much it grows before another try, if a reader was in the way


class Commit(NamedTuple):
    """One commit: its number in this process, its group commit mark, and earlier failed syncs.

    `failures` counts those of this process, `failed_round` is the last one of any process.
    """

    number: int
    mark: int
    failures: int = 0
    failed_round: int = 0


class WriteAheadLog:
    """The write-ahead log of the database at `path`."""

    def __init__(self, path: str) -> None:
        self._path = f"{path}-wal"
        self._sync_file: Callable[[int], None] = _sync_data
        self._group_commit = GroupCommit(path)
        self._syncing = threading.Lock()
        self._fd = -1
        self._is_in_use = False  # a connection is open, so that files stay open between syncs
        self._committed = 0  # commits so far; counted by one thread at a time
        self._synced = 0  # how many of them are known to be on disk
        self._failures = 0  # syncs that failed: they should have covered all commits before
        self._failures_before = 0  # the commit in progress
        self._failed_before = 0  # likewise: the last round that failed
        self._due_bytes = LIMIT_BYTES  # size for the next checkpoint

    def note_begin(self) -> None:
        """Note that a commit begins: a sync that fails from now on may have covered it."""
        self._is_in_use = True
        self._failures_before = self._failures
        self._failed_before = self._group_commit.failed()

    def note_commit(self) -> Commit:
        """Count one more commit, for `make_durable`."""
        self._committed += 1
        mark = self._group_commit.mark() if self._failed_before != UNMARKED else UNMARKED
        return Commit(self._committed, mark, self._failures_before, self._failed_before)

    def make_durable(self, commit: Commit) -> None:
        """Return once that commit is on disk. Raises OSError if the disk does not confirm it."""
        with self._syncing:
            try:
                self._make_durable(commit)
            finally:
                if not self._is_in_use:  # the connection closed after the commit
                    self._close_files()

    def _make_durable(self, commit: Commit) -> None:
        if commit.failures < self._failures:
            # After a failed sync the system forgets what it failed to write: another sync
            # would succeed without having written it.
            raise OSError(errno.EIO, "an earlier sync failed", self._path)
        if commit.number <= self._synced:
            return
        if self._group_commit.cover(commit.mark, commit.failed_round):
            return
        covered = self._committed
        try:
            is_ours = self._group_commit.join(commit.mark, self._sync)
        except OSError:
            self._failures += 1
            raise
        if is_ours:
            self._synced = covered
        else:
            self._group_commit.cover(commit.mark, commit.failed_round)

    def _sync(self) -> None:
        try:
            self._open()
        except FileNotFoundError:
            return  # the last connection closed: SQLite synced it into the database
        self._sync_file(self._fd)

    def _open(self) -> None:
        """Open the present log file: other processes rely on our sync, and it may be replaced."""
        if self._fd >= 0 and not os.path.samestat(os.fstat(self._fd), os.stat(self._path)):
            self._close()
        if self._fd < 0:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _close_files(self) -> None:
        self._close()
        self._group_commit.close()

    def forget(self) -> None:
        """Close all files: the connection that holds the log file is closing."""
        with self._syncing:
            self._is_in_use = False
            self._close_files()

    def is_long(self) -> bool:
        """Whether a checkpoint is due."""
        size_bytes = os.stat(self._path).st_size
        if size_bytes <= LIMIT_BYTES:
            self._due_bytes = LIMIT_BYTES
        return size_bytes > self._due_bytes

    def copy(self, connection: sqlite3.Connection) -> None:
        """Copy the log into the database, as far as readers allow.

        For the ticket holder after its commit: an error here does not affect the writes, and the
        next one tries again.
        """
        self._due_bytes = os.stat(self._path).st_size + _STEP_BYTES
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()


class UnsyncedWriteAheadLog(WriteAheadLog):
    """A log for handles that fear kills, but no power loss: a commit is good enough.

    It takes no part in group commit, where others would rely on syncs that it does not make.
    """

    def note_begin(self) -> None:
        """Note nothing."""

    def note_commit(self) -> Commit:
        """Count nothing."""
        return Commit(0, 0)

    def make_durable(self, commit: Commit) -> None:
        """Do nothing: the system decides when to write to the disk."""


def _sync_data(fd: int) -> None:
    getattr(os, "fdatasync", os.fsync)(fd)  # some systems lack it
