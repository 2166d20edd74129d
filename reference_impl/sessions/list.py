"""The session list that clients read: always current, and cheap for many readers.

Many clients request it often, and it is long. So it is cached as JSON of which only changed rows
are encoded again. Concurrent requests share the next list, which begins after the last of them
arrived, so that no response is older than its request.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from reference_impl.sessions.index_files import Row


def shown(row: Row, stream_id: str | None) -> Mapping[str, Any]:
    """A session's row as clients see it; `stream_id` is the run that a client can attach to."""
    ours = {"model": None, "profile": None, "workspace": None, "personality": None}
    return {**ours, **row, "active_stream_id": stream_id}


class Listed(NamedTuple):
    """A list: the number of sessions, and their rows as JSON."""

    number: int
    rows: bytes


class SessionList:
    """The rows of all sessions, in JSON. Thread-safe."""

    def __init__(
        self, rows: Callable[[], Iterable[Row]], stream_of: Callable[[str], str | None]
    ) -> None:
        """`rows` returns them in order, and an unchanged row as the same object."""
        self._rows = rows
        self._stream_of = stream_of
        self._lock = threading.Lock()
        self._begun = 0  # lists begun so far
        self._listed = Listed(0, b"[]")
        self._made = 0  # the number of `_listed`
        self._cached: dict[str, _CachedRow] = {}

    def __len__(self) -> int:
        """Number of encoded rows."""
        return len(self._cached)

    def now(self) -> Listed:
        """The current list. Raises as `rows` does."""
        wanted = self._begun + 1  # a list that begins after this request
        with self._lock:
            if self._made < wanted:
                self._begun += 1
                self._listed = self._rebuilt()
                self._made = self._begun
            return self._listed

    def _rebuilt(self) -> Listed:
        before, self._cached = self._cached, {}
        for row in self._rows():
            sid = row["session_id"]
            stream_id = self._stream_of(sid)
            cached = before.get(sid)
            if cached is None or cached.row is not row or cached.stream_id != stream_id:
                cached = _CachedRow(row, stream_id, json.dumps(shown(row, stream_id)).encode())
            self._cached[sid] = cached
        rows = b", ".join(cached.json for cached in self._cached.values())
        return Listed(len(self._cached), b"[" + rows + b"]")


class _CachedRow(NamedTuple):
    """An encoded row, and what it was encoded from."""

    row: Row
    stream_id: str | None
    json: bytes
