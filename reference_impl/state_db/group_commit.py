"""Group commit: one sync covers every write before it, by any thread of any process.

Knows nothing of what is synced. Where a disk takes 4 ms per sync and does one at a time, eight
processes that each sync for themselves wait for eight syncs; here they wait for two at most, the
one in progress and the next, whichever process makes it.

Rounds of syncs are numbered, and a small side file has the numbers of the last round that began and
of the last that is done. After a write, the writer takes the number of the last round that began as
its *mark*: every later round began after the write, so the first later round that is done covers
it. The leader of a round holds a lock on the byte of its number. The others wait until that lock is
free, all at once, and read the side file again.

* The kernel drops the lock of a leader that dies. Its round is never done; the next one, led by a
  waiter, covers everything that it should have covered.
* A leader that is stopped keeps its lock, and waiting for a lock has no deadline. So a thread waits
  for the lock, and the writer waits for that thread, for a limited time (`GRACE_S`). After that the
  writer syncs by itself.
* Where a sync takes 0.1 ms, as on a disk with a battery, it costs less than to wait for another's:
  processes that used rounds there wrote a fifth to a third less. So syncs are timed, and rounds are
  used where they are slow. At 0.5 ms, 8 processes x 4 threads wrote 1.7 times as much with rounds
  as without; at 2 ms, 5 times; at 4 ms, 4 times (on a disk that did one sync at a time).
* Syncing by oneself is always right, and depends on no other process. So each process does that if
  the side file or its locks are not available, or the side file is damaged.
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
"""How long to wait for the leader of a round, beyond the usual duration of syncs here."""

QUICK_S = 0.0003
"""If the quickest of the last syncs took less, each process syncs by itself without waiting."""

UNMARKED = 1 << 62
"""The mark where the side file tells nothing: no round is ever later."""

_REMEMBERED = 8  # durations: a sync that took long may have waited for a processor
_LOOKS = 8  # two suffice, unless leaders die
_READS = 8  # a read during a write may be half old, half new; but not this often in a row

_FLOCK = struct.Struct("@hhqqi")  # `struct flock`: kind, whence, start, length, pid
_NUMBERS = struct.Struct("=qqq")
_CHECKSUM = struct.Struct("=L")
_LOCKS = 1 << 40  # the byte of round 0, which does not exist

_logger = logging.getLogger(__name__)


class _Numbers(NamedTuple):
    """Numbers of the last round that began, the last that was done, and the last that failed."""

    begun: int = 0
    done: int = 0
    failed: int = 0

    def are_past(self, mark: int) -> bool:
        """Whether a round after this mark is over, with or without success."""
        return max(self.done, self.failed) > mark


class GroupCommit:
    """The rounds of the file at `path`. For one thread at a time, except that `mark` is free."""

    def __init__(self, path: str) -> None:
        self._path = f"{path}.rounds"
        self._fd = -1
        self._works = True
        self._took_s: tuple[float, ...] = ()  # durations of the last syncs
        self._given_up = 0  # the round whose leader hangs
        self._has_failed = False  # a sync outside of rounds: those who follow us must learn of it

    def failed(self) -> int:
        """Take the number of the last round that failed, before a write begins: see `cover`."""
        self._open_if_needed()
        numbers = self._read()
        return UNMARKED if numbers is None else numbers.failed

    def mark(self) -> int:
        """Take the mark of all writes before this call. Opens the side file."""
        self._open_if_needed()
        numbers = self._read()
        return UNMARKED if numbers is None else numbers.begun

    def cover(self, mark: int, failed: int | None = None) -> bool:
        """Whether a round after this mark is done. Raises OSError if one failed.

        `failed` is the last failed round before the write began, by default that of the mark: a
        round that began before the mark may have begun after the write, and lost it. The failed
        round need not be the one that mattered, but that is not known afterwards, and a needless
        doubt is better than a missing one.
        """
        numbers = self._read() or _Numbers()
        if numbers.failed > (mark if failed is None else failed):
            raise OSError(errno.EIO, f"round {numbers.failed} of syncs failed", self._path)
        return numbers.done > mark

    def join(self, mark: int, sync: Callable[[], None]) -> bool:
        """Return when a round after this mark is over, whichever process led it.

        Returns whether `sync` was called here, and so covers all writes before the call. Raises
        what `sync` raised. If it was not called, `cover` returns the result of the round.
        """
        try:
            number = None if self._syncs_are_quick() else self._find_round(mark)
        except OSError as error:
            self._disable(error)
            number = None
        if number == 0:
            return False
        if number is None:
            try:
                self._time(sync)
            except OSError:
                self._has_failed = True
                raise
        else:
            self._lead(number, sync)
        return True

    def close(self) -> None:
        """Close the side file. The next mark opens it again."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    # -----------------------------------------------------------------------------------------

    def _open_if_needed(self) -> None:
        if self._works and self._fd < 0 and not self._syncs_are_quick():
            try:
                self._fd = _open(self._path)
            except OSError as error:
                self._disable(error)

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
                    self._unlock(number)  # another led it, or ours ended, in the meantime
                    continue
            if not self._wait_for(number):
                break
        return None

    def _lead(self, number: int, sync: Callable[[], None]) -> None:
        """Sync as the leader of round `number`, which we have locked."""
        before = self._read() or _Numbers()
        try:
            # A round whose begin could not be written must not be written as done.
            is_recorded = self._write(before._replace(begun=number))
            try:
                self._time(sync)
            except OSError:
                self._write(before._replace(begun=number, failed=number))
                raise
            if is_recorded:
                failed = number if self._has_failed else before.failed
                self._write(_Numbers(begun=number, done=number, failed=failed))
                self._has_failed = False
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
        """Wait until the round has no leader; False if its leader hangs."""
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
        reply = fcntl(self._fd, F_OFD_GETLK, _flock(F_RDLCK, number))
        return bool(_FLOCK.unpack_from(reply)[0] == F_UNLCK)

    def _try_to_lock(self, number: int) -> bool:
        try:
            fcntl(self._fd, F_OFD_SETLK, _flock(F_WRLCK, number))
        except BlockingIOError:
            return False
        return True

    def _unlock(self, number: int) -> None:
        fcntl(self._fd, F_OFD_SETLK, _flock(F_UNLCK, number))

    def _read(self) -> _Numbers | None:
        """Read the numbers; None if the side file is not available or damaged."""
        with suppress(OSError):
            for _ in range(_READS if self._fd >= 0 else 0):
                data = os.pread(self._fd, _NUMBERS.size + _CHECKSUM.size, 0)
                if not data:
                    return _Numbers()  # a new file
                numbers, checksum = data[: _NUMBERS.size], data[_NUMBERS.size :]
                if checksum == _checksum(numbers):
                    return _Numbers(*_NUMBERS.unpack(numbers))
        return None

    def _write(self, numbers: _Numbers) -> bool:
        data = _NUMBERS.pack(*numbers)
        with suppress(OSError):  # a full disk
            return os.pwrite(self._fd, data + _checksum(data), 0) > len(data)
        return False

    def _disable(self, error: OSError) -> None:
        self._works = False
        self.close()
        reason = "no rounds can be kept here, so each process syncs by itself"
        _logger.warning("%s: %s: %s", self._path, reason, error)


def _open(path: str) -> int:
    if fcntl is None:
        raise OSError(errno.ENOSYS, "this system has no open file description locks")
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)


def _checksum(numbers: bytes) -> bytes:
    return _CHECKSUM.pack(zlib.crc32(numbers))


def _flock(kind: int, number: int) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, _LOCKS + number, 1, 0)
