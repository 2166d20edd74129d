"""The rounds: one sync for everybody who wrote before it, in whatever process.

Knows nothing of what is synced. Where a disk takes 4 ms for a sync and does one at a time, eight
processes that sync each for itself wait for eight; here they wait for two at most, the one under
way and the next, whoever makes it.

Rounds are numbered, and a small side file says which was the last to begin, and to be done. One who
has written takes the number of the last that began as a *mark*: every later round began after that
writing, so the first of them that is done covers it. To lead a round is to hold a lock on the byte
of its number. Those who find it locked wait until it is free, all at once, and look again.

* The kernel drops the lock of a leader that dies. Its round is never done; the next, which belongs
  to somebody who waits, covers all that it should have.
* A leader that is stopped keeps its lock, and waiting for a lock has no deadline. So a thread waits
  for it, and we for that thread, but not for ever (`GRACE_S`). Then we sync by ourselves.
* Where a sync takes 0.1 ms, as on a disk with a battery, it costs less than to wait for another's:
  processes that went in rounds there wrote a fifth to a third less. So we time our syncs, and go in
  rounds where they are slow. At 0.5 ms, 8 processes x 4 threads wrote 1.7 times as much with rounds
  as without; at 2 ms, 5 times; at 4 ms, 4 times (on a disk that did one sync at a time).
* Syncing by oneself is always right, and needs nobody. So that is also what is done where the side
  file or its locks cannot be had, or say nothing that makes sense.
"""

from __future__ import annotations

import errno
import logging
import os
import struct
import threading
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

try:
    from fcntl import F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW, F_RDLCK, F_UNLCK, F_WRLCK, fcntl
except ImportError:  # another system: then each process syncs by itself, and that is logged
    fcntl = None  # type: ignore[assignment]

GRACE_S = 0.2
"""How long we wait for the leader of a round, beyond what syncs take here anyway."""

QUICK_S = 0.0003
"""Where the quickest of the last syncs took less, each syncs by itself, and nobody waits."""

_REMEMBERED = 8  # syncs: one that took long may have waited for a processor
_LOOKS = 8  # two suffice, unless leaders die
_READS = 8  # what is being written may be read half old, half new; but not so often in a row
_UNMARKED = 1 << 62  # no round will ever be later

_FLOCK = struct.Struct("@hhqqi")  # `struct flock`: kind, whence, start, length, pid
_NUMBERS = struct.Struct("=qqq")
_CHECKSUM = struct.Struct("=L")
_LOCKS = 1 << 40  # the byte of round 0, which is none

_logger = logging.getLogger(__name__)


class _Numbers(NamedTuple):
    """Of the last round that began, the last that was done, and the last that failed."""

    begun: int = 0
    done: int = 0
    failed: int = 0

    def are_past(self, mark: int) -> bool:
        """Whether a round after this mark is over, well or not."""
        return max(self.done, self.failed) > mark


class SyncRounds:
    """The rounds of the file at `path`. For one thread at a time, but `mark` for another one."""

    def __init__(self, path: str) -> None:
        self._path = f"{path}.rounds"
        self._fd = -1
        self._works = True
        self._took_s: tuple[float, ...] = ()  # the last syncs
        self._given_up = 0  # the round whose leader hangs

    def mark(self) -> int:
        """Take the mark of all that was written before this call. Opens the side file."""
        if self._works and self._fd < 0 and not self._syncs_are_quick():
            try:
                self._fd = _open(self._path)
            except OSError as error:
                self._do_without(error)
        numbers = self._read()
        return _UNMARKED if numbers is None else numbers.begun

    def cover(self, mark: int) -> bool:
        """Look whether a round after this mark is done. Raises OSError if one failed.

        The one that failed need not be the one that mattered: there is no telling afterwards, and
        a doubt too many is better than one too few.
        """
        numbers = self._read() or _Numbers()
        if numbers.failed > mark:
            raise OSError(errno.EIO, f"round {numbers.failed} of syncs failed", self._path)
        return numbers.done > mark

    def join(self, mark: int, sync: Callable[[], None]) -> bool:
        """Return when a round after this mark is over, whoever led it.

        Returns whether `sync` was called here, and so covers all that was written before the call.
        Raises what it raised. If it was not, `cover` tells what became of the round.
        """
        try:
            number = None if self._syncs_are_quick() else self._find_round(mark)
        except OSError as error:
            self._do_without(error)
            number = None
        if number == 0:
            return False
        if number is None:
            self._time(sync)
        else:
            self._lead(number, sync)
        return True

    def close(self) -> None:
        """Let go of the side file. The next mark opens it again."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    # -----------------------------------------------------------------------------------------

    def _find_round(self, mark: int) -> int | None:
        """Wait for a round, or for one to lead: its number; 0 if one is over, None if none is."""
        for _ in range(_LOOKS if self._fd >= 0 else 0):
            numbers = self._read() or _Numbers()
            if numbers.are_past(mark):
                return 0
            number = numbers.begun
            if self._is_free(number):
                number += 1
                if self._try_to_lock(number):
                    now = self._read() or _Numbers()
                    if now.begun < number and not now.are_past(mark):
                        return number
                    self._unlock(number)  # somebody led it, or ours ended, in the meantime
                    continue
            if not self._wait_for(number):
                break
        return None

    def _lead(self, number: int, sync: Callable[[], None]) -> None:
        """Sync in round `number`, which we have locked."""
        before = self._read() or _Numbers()
        try:
            # Who could not be told that it began must not be told that it is done.
            is_told = self._write(before._replace(begun=number))
            try:
                self._time(sync)
            except OSError:
                self._write(before._replace(begun=number, failed=number))
                raise
            if is_told:
                self._write(before._replace(begun=number, done=number))
        finally:
            with suppress(OSError):
                self._unlock(number)

    def _time(self, sync: Callable[[], None]) -> None:
        began_s = time.monotonic()
        sync()
        self._took_s = (*self._took_s[1 - _REMEMBERED :], time.monotonic() - began_s)

    def _syncs_are_quick(self) -> bool:
        return bool(self._took_s) and min(self._took_s) < QUICK_S

    def _wait_for(self, number: int) -> bool:
        """Wait until nobody leads that round; False if its leader hangs."""
        if number == self._given_up:
            return False
        over = threading.Event()
        fd = self._fd

        def wait() -> None:
            with suppress(OSError):
                fcntl(fd, F_OFD_SETLKW, _flock(F_RDLCK, number))
                fcntl(fd, F_OFD_SETLK, _flock(F_UNLCK, number))
            over.set()

        try:
            threading.Thread(target=wait, name="state.db round", daemon=True).start()
        except RuntimeError:  # no more threads, as at exit
            return False
        if not over.wait(GRACE_S + 2 * min(self._took_s, default=0.0)):
            self._given_up = number
            return False
        return True

    def _is_free(self, number: int) -> bool:
        asked = fcntl(self._fd, F_OFD_GETLK, _flock(F_RDLCK, number))
        return bool(_FLOCK.unpack_from(asked)[0] == F_UNLCK)

    def _try_to_lock(self, number: int) -> bool:
        try:
            fcntl(self._fd, F_OFD_SETLK, _flock(F_WRLCK, number))
        except BlockingIOError:
            return False
        return True

    def _unlock(self, number: int) -> None:
        fcntl(self._fd, F_OFD_SETLK, _flock(F_UNLCK, number))

    def _read(self) -> _Numbers | None:
        """Read the numbers; None if they cannot be had, or are damaged."""
        with suppress(OSError):
            for _ in range(_READS if self._fd >= 0 else 0):
                data = os.pread(self._fd, _NUMBERS.size + _CHECKSUM.size, 0)
                if not data:
                    return _Numbers()  # of a new file
                numbers, checksum = data[: _NUMBERS.size], data[_NUMBERS.size :]
                if checksum == _checksum(numbers):
                    return _Numbers(*_NUMBERS.unpack(numbers))
        return None

    def _write(self, numbers: _Numbers) -> bool:
        data = _NUMBERS.pack(*numbers)
        with suppress(OSError):  # a full disk
            return os.pwrite(self._fd, data + _checksum(data), 0) > len(data)
        return False

    def _do_without(self, error: OSError) -> None:
        self._works = False
        self.close()
        said = "no rounds can be kept here, so each process syncs by itself"
        _logger.warning("%s: %s: %s", self._path, said, error)


def _open(path: str) -> int:
    if fcntl is None:
        raise OSError(errno.ENOSYS, "this system has no open file description locks")
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)


def _checksum(numbers: bytes) -> bytes:
    return _CHECKSUM.pack(zlib.crc32(numbers))


def _flock(kind: int, number: int) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, _LOCKS + number, 1, 0)
