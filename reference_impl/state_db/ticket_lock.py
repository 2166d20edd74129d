"""The line: processes that want to write one file, first come, first served.

Knows nothing of SQLite. The line only *orders* writers; what *excludes* them is SQLite's own lock.
So a line that is stuck, or missing, or that a writer ignores, costs fairness and never correctness.

Whoever comes draws a ticket and locks one byte of a small file beside the database, the byte of
that number; then it waits for the lock on the byte before. Leaving is unlocking. So each one is
woken by its predecessor and by nobody else: nobody polls, nobody stampedes, and nobody barges in,
however long the woken one takes to get a processor. (Without tickets, on a `flock` with or without
a second one as a gate, the lock is free between one leaving and the next waking. On a busy machine
those who run just then took it again and again: 32 processes shared the writes at a Jain index of
0.85.) The kernel drops the locks of a process that dies, in whatever way, at its turn or waiting
for it, so that the next one goes on at once.

The locks are *open file description* locks, of Linux: unlike POSIX's they belong to one handle, so
two handles in one process exclude each other and closing one does not drop the other's. Waiting for
such a lock has no deadline. Whoever needs one lets a thread stand in line, and waits for that
thread: see `write_queue`.
"""

from __future__ import annotations

import errno
import os
import struct
import sys
import time
from contextlib import suppress
from dataclasses import dataclass

try:
    from fcntl import F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW, F_RDLCK, F_UNLCK, F_WRLCK, fcntl
except ImportError:  # another system: then there is no line, and `stand` says so
    fcntl = None  # type: ignore[assignment]

_COMMAND = " ".join(" ".join(sys.orig_argv).split())

_FLOCK = struct.Struct("@hhqqi")  # `struct flock`: kind, whence, start, length, pid

# The file: the number of the last ticket drawn, and notes on who drew them, the latest in place of
# the oldest. The locks are beyond all that.
_NUMBER = struct.Struct("=q")
_NOTES_AT, _NOTE_BYTES, _NOTES = 256, 256, 256
_DRAWING = 1 << 40  # locked while one draws a ticket
_DRAWING_S, _DRAWING_MAX_S = 0.00005, 0.002  # between two tries to draw
_TICKETS = _DRAWING + 1  # the byte of ticket 0, which nobody draws


@dataclass(frozen=True, slots=True)
class Stander:
    """A process in line: its number, its command, and since when (seconds of the epoch)."""

    pid: int
    since_s: float
    command: str


class WriteLine:
    """The line before one file. Opens its side file when first used."""

    def __init__(self, path: str) -> None:
        """Make the line that belongs to the file at `path`."""
        self._path = f"{path}.line"
        self._fd = -1

    def stand(self) -> None:
        """Wait until all who came before have left. Raises OSError where there is no line."""
        ticket = self._draw()
        self._lock(F_RDLCK, _TICKETS + ticket - 1)
        if ticket > 1:  # the one before may have died in line, with others before it
            self._lock(F_RDLCK, _TICKETS, ticket - 1)

    def _draw(self) -> int:
        if fcntl is None:
            raise OSError(errno.ENOSYS, "this system has no open file description locks")
        if self._fd < 0:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._begin_drawing()
        try:
            ticket = _last_drawn(self._fd) + 1
            self._lock(F_WRLCK, _TICKETS + ticket)
            self._write(0, _NUMBER.pack(ticket))
            note = f"{os.getpid()} {time.time():.6f} {_COMMAND}".encode(errors="replace")
            self._write(_note_at(ticket), note[:_NOTE_BYTES].ljust(_NOTE_BYTES))
        finally:
            self._lock(F_UNLCK, _DRAWING)
        return ticket

    def _begin_drawing(self) -> None:
        """Lock the drawing of tickets, which takes microseconds; while it is locked, try again.

        Whoever waits for a lock in the kernel waits behind the first who does. On a busy machine
        that one took 100 ms to get a processor, and those who had one drew 80 tickets meanwhile.
        """
        pause_s = _DRAWING_S
        while True:
            try:
                fcntl(self._fd, F_OFD_SETLK, _packed(F_WRLCK, _DRAWING))
            except BlockingIOError:
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, _DRAWING_MAX_S)  # the one who draws may be stopped
            else:
                return

    def leave(self) -> None:
        """Let the next one go."""
        self._lock(F_UNLCK, 0, 0)

    def mark(self) -> int:
        """Find something that changes whenever the line moves: the first ticket of the others."""
        return _first_ticket(self._fd) if self._fd >= 0 else 0

    def first(self) -> Stander | None:
        """Find who is at the head of the line, or stopped on the way there."""
        # Asking through a descriptor of its own: a handle does not see its own locks.
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            return _signed(fd, _first_ticket(fd))
        finally:
            os.close(fd)

    def close(self) -> None:
        """Let go of the side file. A copy of a lock that a fork made goes, its original stays."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _lock(self, kind: int, start: int, length: int = 1) -> None:
        fcntl(self._fd, F_OFD_SETLKW, _packed(kind, start, length))

    def _write(self, at: int, data: bytes) -> None:
        with suppress(OSError):  # a full disk spoils the order, not more
            os.pwrite(self._fd, data, at)


def _packed(kind: int, start: int, length: int = 1) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, start, length, 0)


def _last_drawn(fd: int) -> int:
    data = os.pread(fd, _NUMBER.size, 0)
    return int(_NUMBER.unpack(data)[0]) if len(data) == _NUMBER.size else 0


def _first_ticket(fd: int) -> int:
    """Look for the lowest ticket that another handle has locked; 0 if there is none."""
    ticket, end = 0, _TICKETS + _last_drawn(fd) + 1
    while True:  # the system names a lock in the way, which need not be the lowest
        question = _packed(F_RDLCK, _TICKETS, end - _TICKETS)
        kind, _, start, _, _ = _FLOCK.unpack_from(fcntl(fd, F_OFD_GETLK, question))
        if kind == F_UNLCK:
            return ticket
        ticket, end = start - _TICKETS, start


def _signed(fd: int, ticket: int) -> Stander | None:
    match os.pread(fd, _NOTE_BYTES, _note_at(ticket)).decode(errors="replace").split(" ", 2):
        case [pid, since_s, command] if ticket:
            return Stander(int(pid), float(since_s), command.strip())
        case _:  # nobody is in line, or one who has not signed yet
            return None


def _note_at(ticket: int) -> int:
    return _NOTES_AT + ticket % _NOTES * _NOTE_BYTES
