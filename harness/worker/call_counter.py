"""Counts the SQL statements and the lock acquisitions of a process from inside it.

Counting begins before any module of the target is imported, and knows no target. A thread writes
the totals to a file every PERIOD_S; `read` reads them. Each thread has counters of its own, so no
count is lost and no thread waits. Statements of triggers count; statements that a full-text index
runs for its own maintenance do not.

This module imports the standard library only, because it runs inside the target.
"""

import atexit
import mmap
import os
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

SETTING = "HARNESS_CALL_COUNTS"  # environment variable of the target: the path of the file
PERIOD_S = 0.05
SETTLED_S = 4 * PERIOD_S  # between two looks: that nothing comes shows only after a time
PATIENCE_S = 30.0
_NAMES = ("SQL statements", "locks taken")
_STATEMENTS, _LOCKS = range(len(_NAMES))
_DIGITS = 20

_lock_native = threading.Lock
_rlock_native = threading.RLock
_connect_native = sqlite3.connect
_mine = threading.local()
_counts: list[list[int]] = []  # of each thread that ever counted


def begin(path: str) -> None:
    """Start counting in this process."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.write(fd, _content())
    totals = mmap.mmap(fd, 0)  # so that the process makes no write of its own
    os.close(fd)
    atexit.register(_write, totals)
    writer = threading.Thread(
        target=_write_periodically, args=(totals,), name="call-counter", daemon=True
    )
    writer.start()
    threading.Lock = CountedLock  # type: ignore[assignment]
    threading.RLock = CountedRLock  # type: ignore[assignment]
    sqlite3.connect = _connect


def read(path: Path) -> dict[str, int]:
    """Read the totals once they no longer change. Raises TimeoutError after PATIENCE_S."""
    ends_at = time.monotonic() + PATIENCE_S
    content = b""
    while not content or content != path.read_bytes():
        if time.monotonic() > ends_at:
            raise TimeoutError(f"{path.name}: counts still change after {PATIENCE_S:g} s")
        content = path.read_bytes()
        time.sleep(SETTLED_S)
    return dict(zip(_NAMES, map(int, content.split()), strict=True))


def _write_periodically(totals: mmap.mmap) -> None:
    while True:
        _write(totals)
        time.sleep(PERIOD_S)


def _write(totals: mmap.mmap) -> None:
    totals[:] = _content()


def _content() -> bytes:
    totals = [sum(column) for column in zip(*_counts, strict=True)] or [0] * len(_NAMES)
    return b" ".join(b"%0*d" % (_DIGITS, total) for total in totals)


def _count(kind: int) -> None:
    mine = getattr(_mine, "counts", None)
    if mine is None:
        mine = _mine.counts = [0] * len(_NAMES)
        _counts.append(mine)
    mine[kind] += 1


def _connect(*args: Any, **kwargs: Any) -> Any:
    connection = _connect_native(*args, **kwargs)
    connection.set_trace_callback(_count_statement)
    return connection


def _count_statement(statement: str) -> None:
    if not statement.startswith("--"):  # comments: maintenance of a full-text index
        _count(_STATEMENTS)


class CountedLock:
    """A lock that counts its acquisitions."""

    def __init__(self) -> None:
        self._native: Any = _lock_native()

    def acquire(self, *args: Any, **kwargs: Any) -> bool:
        """See `threading.Lock.acquire`."""
        _count(_LOCKS)
        return bool(self._native.acquire(*args, **kwargs))

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self._native.release()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._native, name)


class CountedRLock(CountedLock):
    """A reentrant lock that counts its acquisitions."""

    def __init__(self) -> None:
        self._native = _rlock_native()
