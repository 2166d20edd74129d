"""The line: processes that want to write one file, first come, first served.

Knows nothing of SQLite. The line only *orders* writers; what *excludes* them is SQLite's own lock.
So a line that is stuck, or missing, or that a writer ignores, costs fairness and never correctness.

Two advisory locks (`flock`) on two small files beside the database. Whoever comes takes the *gate*,
waits there for the *head*, and opens the gate again once it has it. The kernel queues waiters in
order and wakes the first one only, so nobody polls and nobody stampedes. The gate is there against
barging: without it the one who leaves the head could take it again before the woken waiter runs,
but the gate is then already in that waiter's hands. The kernel drops the locks of a process that
dies, in whatever way, so that its successor goes on at once.

A `flock` cannot wait with a deadline. Whoever needs one lets a thread stand in line, and waits for
that thread: see `write_queue`.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

try:
    import fcntl
except ImportError:  # not a POSIX system: then there is no line, and `stand` says so
    fcntl = None  # type: ignore[assignment]

_COMMAND = " ".join(" ".join(sys.orig_argv).split())
_NOTE_BYTES = 256


@dataclass(frozen=True, slots=True)
class Stander:
    """A process in line: its number, its command, and since when (seconds of the epoch)."""

    pid: int
    since_s: float
    command: str


class WriteLine:
    """The line before one file. Opens its two side files when first used."""

    def __init__(self, path: Path) -> None:
        """Make the line that belongs to the file at `path`."""
        self._gate = _Door(path.with_name(path.name + ".gate"))
        self._head = _Door(path.with_name(path.name + ".line"))

    def stand(self) -> None:
        """Wait until all who came before have left. Raises OSError where there is no `flock`."""
        self._gate.enter()
        try:
            self._head.enter()
        finally:
            self._gate.leave()

    def leave(self) -> None:
        """Let the next one go."""
        self._head.leave()

    def blocker(self) -> Stander | None:
        """Find who keeps the line from moving: the one at its head, or else at the gate."""
        return self._head.occupant() or self._gate.occupant()

    def mark(self) -> bytes:
        """Read something that changes whenever the line moves."""
        return self._head.note()

    def close(self) -> None:
        """Let go of the side files. A copy of a lock that a fork made goes, its original stays."""
        self._gate.close()
        self._head.close()


class _Door:
    """One lock on one side file, and a note in it that says who passed last."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1

    def enter(self) -> None:
        if fcntl is None:
            raise OSError(errno.ENOSYS, "this system has no flock")
        if self._fd < 0:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        note = f"{os.getpid()} {time.time():.6f} {_COMMAND}".encode(errors="replace")
        with suppress(OSError):  # a full disk spoils the note, not the lock
            os.pwrite(self._fd, note[:_NOTE_BYTES].ljust(_NOTE_BYTES), 0)

    def leave(self) -> None:
        fcntl.flock(self._fd, fcntl.LOCK_UN)

    def occupant(self) -> Stander | None:
        # Asking through a descriptor of its own: a lock belongs to the open file that took it, so
        # asking through ours would trade away a lock that we may hold.
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _read_note(os.pread(fd, _NOTE_BYTES, 0))
        finally:
            os.close(fd)
        return None

    def note(self) -> bytes:
        return os.pread(self._fd, _NOTE_BYTES, 0) if self._fd >= 0 else b""

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _read_note(note: bytes) -> Stander | None:
    match note.decode(errors="replace").split(" ", 2):
        case [pid, since_s, command]:
            return Stander(int(pid), float(since_s), command.strip())
        case _:  # it took the lock a moment ago and has not signed yet
            return None
