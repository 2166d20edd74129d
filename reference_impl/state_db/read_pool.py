"""A pool of connections for reading one database, each lent to one thread at a time.

Knows nothing of what is read. If all connections are lent, a thread gets a new one, so a long
search delays no short read. A few idle ones stay open, so that an idle pool has few descriptors.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from reference_impl.state_db.errors import ClosedError

_IDLE_MAX = 4


class ReadPool:
    """Lends connections to the database at `path`, which `connect` opens."""

    def __init__(self, path: str, connect: Callable[[], sqlite3.Connection]) -> None:
        self._path = path
        self._connect = connect
        self._idle: list[sqlite3.Connection] = []
        self._closed = False
        self._reset()

    def _reset(self) -> None:
        self._changed = threading.Condition()
        self._lent = 0

    @contextmanager
    def lend(self) -> Iterator[sqlite3.Connection]:
        """Lend a connection for the length of the block. Raises ClosedError after `close`."""
        with self._changed:
            if self._closed:
                raise ClosedError(f"{self._path}: the handle is closed")
            self._lent += 1
            connection = self._idle.pop() if self._idle else None
        try:
            if connection is None:
                connection = self._connect()
            yield connection
        finally:
            self._take_back(connection)

    def _take_back(self, connection: sqlite3.Connection | None) -> None:
        with self._changed:
            keep = len(self._idle) < _IDLE_MAX and not self._closed
            if connection is not None and keep:
                self._idle.append(connection)
            elif connection is not None:
                connection.close()
            self._lent -= 1
            self._changed.notify_all()

    def close(self) -> None:
        """Close idle connections now, and lent ones when they come back."""
        with self._changed:
            self._closed = True
            self._close_idle()

    def pause(self) -> None:
        """Have no connection open until `resume`, and lend none: the process forks."""
        self._changed.acquire()
        self._changed.wait_for(lambda: self._lent == 0)
        self._close_idle()

    def resume(self) -> None:
        """Continue, in the process that forked."""
        self._changed.release()

    def restart(self) -> None:
        """Start anew in the child of a fork."""
        self._reset()

    def _close_idle(self) -> None:
        while self._idle:
            self._idle.pop().close()
