"""A durable mapping: what `put` and `drop` acknowledged survives the process and a power loss.

Knows nothing of the values. Each change is a durable row of a log; when most rows are history, the
file is replaced by one that holds only the current values. So the file, like the memory, is bounded
by the number of values, and opening it is quick. Changes that arrive during a sync wait, and then
one sync covers all of them (group commit: DeWitt et al., "Implementation Techniques for Main Memory
Database Systems", SIGMOD 1984).
"""

from __future__ import annotations

import errno
import json
import logging
import threading
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from reference_impl.storage import files
from reference_impl.storage.json_log import JsonLog, encoded, read_lines

Value = Mapping[str, Any]

HISTORY_ROWS_MAX = 256
"""Rows beyond twice the current ones that the file may hold before it is replaced."""

log = logging.getLogger(__name__)


class DurableMap:
    """Values by key, in insertion order. Thread-safe, for one process."""

    def __init__(self, path: str) -> None:
        """Open or create the file. A row that cannot be read is logged and skipped.

        Raises OSError.
        """
        self._path = path
        self._lock = threading.Lock()
        self._values: dict[str, Value] = {}
        self._waiting: deque[_Change] = deque()
        self._log: JsonLog | None = JsonLog(path)
        self._rows = 0
        for number, line in enumerate(read_lines(path), start=1):
            self._rows += 1
            try:
                row = json.loads(line)
                self._apply(row["key"], row["value"])
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                log.error("%s:%d: row skipped: %r", path, number, error)  # noqa: TRY400 - known

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def copy(self) -> dict[str, Value]:
        """All current values."""
        with self._lock:
            return dict(self._values)

    def get(self, key: str) -> Value | None:
        """The current value of the key."""
        return self._values.get(key)

    def put(self, key: str, value: Value) -> None:
        """Set a value; durable when this returns.

        Raises OSError, or TypeError or ValueError for a value that is not JSON; then nothing
        changed.
        """
        self.change({key: dict(value)})

    def drop(self, key: str) -> None:
        """Remove a value; durable when this returns. Raises OSError; then nothing changed."""
        if key in self._values:
            self.change({key: None})

    def change(self, values: Mapping[str, Value | None], *, sync: bool = True) -> None:
        """Set these values, and remove those that are None; durable when this returns.

        Without `sync` it survives a kill, and a power loss only once a later change does. Raises
        as `put` does.
        """
        change = _Change(values, [_line(key, value) for key, value in values.items()], sync)
        self._waiting.append(change)
        with self._lock:
            if not change.is_settled:
                self._settle()
        if change.failure is not None:
            raise OSError(*change.failure.args) from change.failure

    def _settle(self) -> None:
        """Write all waiting changes, ours among them, with one sync at most. Under the lock."""
        changes = [self._waiting.popleft() for _ in range(len(self._waiting))]
        lines = [line for change in changes for line in change.lines]
        try:
            if self._log is None:
                self._log = JsonLog(self._path)
            if any(change.needs_sync for change in changes):
                self._log.append_durably(*lines)
            else:
                self._log.append_encoded(*lines)
        except OSError as failure:
            _settle(changes, failure)
            return
        except BaseException:
            _settle(changes, OSError(errno.EIO, "the thread that wrote it was interrupted"))
            raise
        self._rows += len(lines)
        for change in changes:
            for key, value in change.values.items():
                self._apply(key, value)
        _settle(changes, None)
        if self._rows > 2 * len(self._values) + HISTORY_ROWS_MAX:
            self._shorten(self._log)

    def _apply(self, key: str, value: Value | None) -> None:
        if value is None:
            self._values.pop(key, None)
        else:
            self._values[key] = value

    def _shorten(self, old: JsonLog) -> None:
        """Replace the file by an equal one with fewer rows; a full disk may refuse that."""
        lines = (_line(key, value) for key, value in self._values.items())
        try:
            files.put(self._path, b"".join(lines))
        except OSError as error:
            log.warning("%s: could not be shortened, so it grows: %s", self._path, error)
        # Either file has the same content now; the old one may have lost its name.
        self._log = None
        old.close()
        self._rows = len(self._values)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._log is not None:
                self._log.close()
                self._log = None


@dataclass(slots=True)
class _Change:
    """A requested change, and its result."""

    values: Mapping[str, Value | None]
    lines: list[bytes]
    needs_sync: bool
    is_settled: bool = False
    failure: OSError | None = None


def _settle(changes: Iterable[_Change], failure: OSError | None) -> None:
    for change in changes:
        change.failure = failure
        change.is_settled = True


def _line(key: str, value: Value | None) -> bytes:
    return encoded({"key": key, "value": value})
