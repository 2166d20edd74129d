"""A ticket lock: processes that want to write one file, first come, first served.

Knows nothing of SQLite. The ticket lock only *orders* writers; SQLite's own lock *excludes* them.
So a ticket lock that is stuck, missing or ignored by a writer costs fairness, never correctness.

A process draws a ticket and locks one byte of a small file beside the database, the byte of that
number; then it waits for the lock on the byte before. Releasing is unlocking. So each process is
woken only by its predecessor: no polling, no thundering herd, and no barging, however long the
woken process takes to get a processor. (Without tickets, on a `flock` with or without a second one
as a gate, the lock is free between one release and the next wake. On a busy machine the processes
that ran just then took it again and again: 32 processes shared the writes at a Jain index of 0.85.)
The kernel drops the locks of a process that dies, in whatever way, holding or waiting, so that the
next one continues at once.

The locks are *open file description* locks, of Linux: unlike POSIX's they belong to one handle, so
two handles in one process exclude each other and closing one does not drop the other's. Waiting for
such a lock has no deadline. A caller that needs one lets a thread wait, and waits for that thread:
see `write_queue`.
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
except ImportError:  # another system: then there is no ticket lock, and `acquire` raises OSError
    fcntl = None  # type: ignore[assignment]

_COMMAND = " ".join(" ".join(sys.orig_argv).split())

_FLOCK = struct.Struct("@hhqqi")  # `struct flock`: kind, whence, start, length, pid

# The file: the number of the last ticket drawn, and notes of the processes that drew tickets, the
# latest in place of the oldest. The locked bytes are beyond all that.
_NUMBER = struct.Struct("=q")
_NOTES_AT, _NOTE_BYTES, _NOTES = 256, 256, 256
_DRAWING = 1 << 40  # locked while a process draws a ticket
_DRAWING_S, _DRAWING_MAX_S = 0.00005, 0.002  # between two tries to draw
_TICKETS = _DRAWING + 1  # the byte of ticket 0, which is never drawn


@dataclass(frozen=True, slots=True)
class TicketOwner:
    """A process with a ticket: its number, its command, and since when (seconds of the epoch)."""

    pid: int
    since_s: float
    command: str


class TicketLock:
    """The ticket lock of one file. Opens its side file when first used."""

    def __init__(self, path: str) -> None:
        """Make the ticket lock of the file at `path`."""
        self._path = f"{path}.line"
        self._fd = -1

    def acquire(self) -> None:
        """Wait until all earlier tickets are released. Raises OSError where it cannot work."""
        ticket = self._draw()
        self._lock(F_RDLCK, _TICKETS + ticket - 1)
        if ticket > 1:  # the predecessor may have died waiting, with others before it
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

        A process that waits for a lock in the kernel waits behind the first waiter. On a busy
        machine that one took 100 ms to get a processor, and ticket holders drew 80 more meanwhile.
        """
        pause_s = _DRAWING_S
        while True:
            try:
                fcntl(self._fd, F_OFD_SETLK, _packed(F_WRLCK, _DRAWING))
            except BlockingIOError:
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, _DRAWING_MAX_S)  # the drawing process may be stopped
            else:
                return

    def release(self) -> None:
        """Release the ticket, so that the next one continues."""
        self._lock(F_UNLCK, 0, 0)

    def mark(self) -> int:
        """A number that changes whenever the order advances: the first ticket of other handles."""
        return _first_ticket(self._fd) if self._fd >= 0 else 0

    def owner(self) -> TicketOwner | None:
        """The process whose ticket is first; it may be stopped."""
        # Through a descriptor of its own: a handle does not see its own locks.
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            return _noted_owner(fd, _first_ticket(fd))
        finally:
            os.close(fd)

    def close(self) -> None:
        """Close the side file. A fork's copy of a lock goes, its original stays."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _lock(self, kind: int, start: int, length: int = 1) -> None:
        fcntl(self._fd, F_OFD_SETLKW, _packed(kind, start, length))

    def _write(self, at: int, data: bytes) -> None:
        with suppress(OSError):  # a full disk affects the order only
            os.pwrite(self._fd, data, at)


def _packed(kind: int, start: int, length: int = 1) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, start, length, 0)


def _last_drawn(fd: int) -> int:
    data = os.pread(fd, _NUMBER.size, 0)
    return int(_NUMBER.unpack(data)[0]) if len(data) == _NUMBER.size else 0


def _first_ticket(fd: int) -> int:
    """The lowest ticket that another handle has locked; 0 if there is none."""
    ticket, end = 0, _TICKETS + _last_drawn(fd) + 1
    while True:  # the system names a conflicting lock, which need not be the lowest
        query = _packed(F_RDLCK, _TICKETS, end - _TICKETS)
        kind, _, start, _, _ = _FLOCK.unpack_from(fcntl(fd, F_OFD_GETLK, query))
        if kind == F_UNLCK:
            return ticket
        ticket, end = start - _TICKETS, start


def _noted_owner(fd: int, ticket: int) -> TicketOwner | None:
    match os.pread(fd, _NOTE_BYTES, _note_at(ticket)).decode(errors="replace").split(" ", 2):
        case [pid, since_s, command] if ticket:
            return TicketOwner(int(pid), float(since_s), command.strip())
        case _:  # there is no ticket, or its process has not written its note yet
            return None


def _note_at(ticket: int) -> int:
    return _NOTES_AT + ticket % _NOTES * _NOTE_BYTES
