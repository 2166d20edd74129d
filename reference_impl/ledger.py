"""A ledger: a mapping that outlives its process. What `put` and `drop` acknowledged stays so.

Knows nothing of what is kept. Each change is one durable row of a log; when most rows are history,
the file is replaced by one that holds only the present. So the file, like the memory, is bounded
by what is kept, and opening it is quick.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reference_impl import files
from reference_impl.json_log import JsonLog, encoded, read_lines

Value = Mapping[str, Any]

HISTORY_ROWS_MAX = 256
"""Rows beyond twice the present ones that may lie in the file before it is replaced."""

log = logging.getLogger(__name__)


class Ledger:
    """Values by key, in the order in which the keys came. Safe for threads, of one process."""

    def __init__(self, path: Path) -> None:
        """Open the file, or make it. A row that cannot be read is told of, and passed over.

        Raises OSError.
        """
        self._path = path
        self._lock = threading.Lock()
        self._values: dict[str, Value] = {}
        self._log: JsonLog | None = JsonLog(path)
        self._rows = 0
        for number, line in enumerate(read_lines(path), start=1):
            self._rows += 1
            try:
                row = json.loads(line)
                self._apply(row["key"], row["value"])
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                log.error("%s:%d: passed over: %r", path, number, error)  # noqa: TRY400 - known

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def copy(self) -> dict[str, Value]:
        """All that is kept now."""
        with self._lock:
            return dict(self._values)

    def get(self, key: str) -> Value | None:
        """What is kept under the key."""
        return self._values.get(key)

    def put(self, key: str, value: Value) -> None:
        """Keep a value; durable when this returns.

        Raises OSError, or TypeError or ValueError for no JSON; then nothing changed.
        """
        self._change(key, dict(value))

    def drop(self, key: str) -> None:
        """Keep it no longer; durable when this returns. Raises OSError; then nothing changed."""
        if key in self._values:
            self._change(key, None)

    def _change(self, key: str, value: Value | None) -> None:
        with self._lock:
            if self._log is None:
                self._log = JsonLog(self._path)
            self._log.append_durably({"key": key, "value": value})
            self._rows += 1
            self._apply(key, value)
            if self._rows > 2 * len(self._values) + HISTORY_ROWS_MAX:
                self._shorten(self._log)

    def _apply(self, key: str, value: Value | None) -> None:
        if value is None:
            self._values.pop(key, None)
        else:
            self._values[key] = value

    def _shorten(self, old: JsonLog) -> None:
        """Replace the file by one that says the same in fewer rows; a full disk may refuse that."""
        rows = ({"key": key, "value": value} for key, value in self._values.items())
        try:
            files.put(self._path, b"".join(encoded(row) for row in rows))
        except OSError as error:
            log.warning("%s: could not be shortened, so it grows: %s", self._path, error)
        # Whichever file bears the name now says the same; the old one may have lost it.
        self._log = None
        old.close()
        self._rows = len(self._values)

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            if self._log is not None:
                self._log.close()
                self._log = None
