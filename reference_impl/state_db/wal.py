"""The log: SQLite's write-ahead log of one database, made durable together and kept short.

Knows nothing of what is written.

**Durable, outside the lock.** SQLite at `synchronous=FULL` syncs the log inside every commit, under
the write lock, so that the whole machine pays for one sync a write. Here connections commit at
NORMAL, which writes the log and does not sync it; the next writer goes on at once; and only once
the log is synced is the caller told. So commits of many processes and threads are carried by the
same few syncs (early lock release and group commit: DeWitt et al., "Implementation techniques for
main memory database systems", SIGMOD 1984). The log is one file written in order: a sync of it that
began after my commit, whoever made it (`write_rounds`), covers it and all that it was built upon,
so what was acknowledged is as durable as with FULL. Nobody commits for another process, so one that
stops or dies leaves no doubt about anybody's write but its own. A read may see a commit that is not
yet durable; a write that builds on it is never acknowledged before it is.

Where the log starts over, or goes as the last connection closes, SQLite has synced it first, copied
it, and synced the database before it says so. So a sync of what is there now is enough.

**Short, in the pause between two writers.** SQLite starts the log over only when all of it was
copied into the database and nobody wrote meanwhile, which beside busy writers never happens: with 8
to 32 processes, one of them copying all the time, it grew to some 400 MB in 3 s. But one who stands
at the head of the line has that moment. So once the log is longer than `LIMIT_BYTES`, whoever just
committed copies it before it leaves, and the next write starts the log over. That costs the line
two syncs and, since a thousand pages of the log are some hundred of the database written again and
again, little else: 1 to 3 ms every 150 writes. (A thread that copied beside the writers was starved
by 32 processes: the log doubled meanwhile, and ending it then stalled them for 0.3 s.) It is done
PASSIVE, which waits for no reader; a reader in the middle of a long read keeps the log growing, as
it does for any SQLite, until it ends.

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

from reference_impl.state_db.group_commit import SyncRounds

LIMIT_BYTES = 6 << 20
"""A longer log is copied. SQLite cuts the file to this when it starts the log over."""

_STEP_BYTES = 1 << 20  # how much it grows before another try, where a reader was in the way


class Commit(NamedTuple):
    """One commit: its number in this process, and its mark among the rounds of all."""

    number: int
    mark: int


class WriteLog:
    """The write-ahead log of the database at `path`."""

    def __init__(self, path: str) -> None:
        self._path = f"{path}-wal"
        self._sync_file = _sync_data
        self._rounds = SyncRounds(path)
        self._syncing = threading.Lock()
        self._fd = -1
        self._committed = 0  # commits so far; counted by one thread at a time
        self._synced = 0  # how many of them are surely on disk
        self._doubtful = range(0)  # the commits that a failed sync should have covered
        self._due_bytes = LIMIT_BYTES  # when to copy

    def note_commit(self) -> Commit:
        """Count one more commit, for `make_durable`."""
        self._committed += 1
        return Commit(self._committed, self._rounds.mark())

    def make_durable(self, commit: Commit) -> None:
        """Return once that commit is on disk. Raises OSError if the disk will not say so."""
        with self._syncing:
            if commit.number in self._doubtful:
                # After a failed sync the system forgets what it failed to write: another sync
                # would succeed, and mean nothing.
                raise OSError(errno.EIO, "an earlier sync failed", self._path)
            if commit.number <= self._synced or self._rounds.cover(commit.mark):
                return
            covered = self._committed
            try:
                is_ours = self._rounds.join(commit.mark, self._sync)
            except OSError:
                self._doubtful = range(self._synced + 1, covered + 1)
                raise
            if is_ours:
                self._synced = covered
            else:
                self._rounds.cover(commit.mark)

    def _sync(self) -> None:
        try:
            self._open()
        except FileNotFoundError:
            return  # the last connection closed: SQLite synced it into the database
        self._sync_file(self._fd)

    def _open(self) -> None:
        """Have the log open that is there now: others rely on it, and we may be late."""
        if self._fd >= 0 and not os.path.samestat(os.fstat(self._fd), os.stat(self._path)):
            self._close()
        if self._fd < 0:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def forget(self) -> None:
        """Let go of all files: the connection that kept the log alive goes away."""
        with self._syncing:
            self._close()
            self._rounds.close()

    def is_long(self) -> bool:
        """Whether it is time to copy the log."""
        size_bytes = os.stat(self._path).st_size
        if size_bytes <= LIMIT_BYTES:
            self._due_bytes = LIMIT_BYTES
        return size_bytes > self._due_bytes

    def copy(self, connection: sqlite3.Connection) -> None:
        """Copy the log into the database, as far as readers allow.

        For one who stands at the head of the line and has committed: whatever goes wrong here is
        no concern of the writes, and the next one tries again.
        """
        self._due_bytes = os.stat(self._path).st_size + _STEP_BYTES
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()


class UnsyncedLog(WriteLog):
    """The log of one who fears kills, and no power loss: what is committed is good enough.

    It takes no part in the rounds, where others would rely on syncs that it does not make.
    """

    def note_commit(self) -> Commit:
        """Count nothing."""
        return Commit(0, 0)

    def make_durable(self, commit: Commit) -> None:
        """Leave it to the system when to write to the disk."""


_sync_data: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)  # some systems lack it
