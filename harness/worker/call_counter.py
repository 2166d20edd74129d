"""The tally: what a process does that nobody can count from outside: SQL statements, locks taken.

It begins before anything of the target is imported, and knows nothing of it. What was counted is
written to a file many times a second, and `read` from there. Each thread counts for itself, so that
nothing is lost and nobody waits. What a trigger does counts as statements, too; what a full-text
index does by itself, now and then, does not.

Nothing but the standard library: it runs inside of the target.
"""

import atexit
import os
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

SETTING = "HARNESS_TALLY"  # the file, in the target's environment
PERIOD_S = 0.05
SETTLED_S = 4 * PERIOD_S
PATIENCE_S = 30.0
_NAMES = ("SQL statements", "locks taken")
_STATEMENTS, _LOCKS = range(len(_NAMES))
_DIGITS = 20

_lock_native = threading.Lock
_rlock_native = threading.RLock
_connect_native = sqlite3.connect
_mine = threading.local()
_counts: list[list[int]] = []  # of each thread there ever was


def begin(path: str) -> None:
    """Count from now on, in this process."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    atexit.register(_write, fd)
    threading.Thread(target=_write_for_ever, args=(fd,), name="tally", daemon=True).start()
    threading.Lock = CountedLock  # type: ignore[assignment]
    threading.RLock = CountedRLock  # type: ignore[assignment]
    sqlite3.connect = _connect


def read(path: Path) -> dict[str, int]:
    """What was counted, once nothing is being counted any more. Raises TimeoutError."""
    ends_at = time.monotonic() + PATIENCE_S
    told = b""
    while not told or told != path.read_bytes():
        if time.monotonic() > ends_at:
            raise TimeoutError(f"it did not rest within {PATIENCE_S:g} s")
        told = path.read_bytes()
        time.sleep(SETTLED_S)
    return dict(zip(_NAMES, map(int, told.split()), strict=True))


def _write_for_ever(fd: int) -> None:
    while True:
        _write(fd)
        time.sleep(PERIOD_S)


def _write(fd: int) -> None:
    totals = [sum(column) for column in zip(*_counts, strict=True)] or [0] * len(_NAMES)
    os.pwrite(fd, b" ".join(b"%0*d" % (_DIGITS, total) for total in totals), 0)


def _count(what: int) -> None:
    mine = getattr(_mine, "counts", None)
    if mine is None:
        mine = _mine.counts = [0] * len(_NAMES)
        _counts.append(mine)
    mine[what] += 1


def _connect(*args: Any, **kwargs: Any) -> Any:
    connection = _connect_native(*args, **kwargs)
    connection.set_trace_callback(_traced)
    return connection


def _traced(statement: str) -> None:
    if not statement.startswith("--"):  # as what a full-text index does by itself is shown
        _count(_STATEMENTS)


class CountedLock:
    """A lock that counts who takes it."""

    def __init__(self) -> None:
        self._native: Any = _lock_native()

    def acquire(self, *args: Any, **kwargs: Any) -> bool:
        """As that of `threading.Lock`."""
        _count(_LOCKS)
        return bool(self._native.acquire(*args, **kwargs))

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self._native.release()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._native, name)


class CountedRLock(CountedLock):
    """The same, for whoever has it already."""

    def __init__(self) -> None:
        self._native = _rlock_native()
