"""The list of sessions as clients see it: whoever asks gets the present one, and few pay for it.

Many ask for it often, and it is long. So it is JSON of which only rows that changed are written
anew; and all who ask while it is being made share the next one, which is begun after the last of
them asked, so that nobody is given what was the case before.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from reference_impl.sessions.index_files import Row


def shown(row: Row, stream_id: str | None) -> Mapping[str, Any]:
    """A session's row as clients see it; `stream_id` is that of a run they can attach to."""
    ours = {"model": None, "profile": None, "workspace": None, "personality": None}
    return {**ours, **row, "active_stream_id": stream_id}


class Listed(NamedTuple):
    """A list: how many sessions it has, and their rows as JSON."""

    number: int
    rows: bytes


class SessionList:
    """The rows of all sessions, in JSON. Safe for threads."""

    def __init__(
        self, rows: Callable[[], Iterable[Row]], stream_of: Callable[[str], str | None]
    ) -> None:
        """`rows` gives them in order, and gives a row that has not changed as the same object."""
        self._rows = rows
        self._stream_of = stream_of
        self._lock = threading.Lock()
        self._begun = 0
        self._listed = Listed(0, b"[]")
        self._made = 0  # the number of that list
        self._written: dict[str, _Written] = {}

    def __len__(self) -> int:
        """How many rows are kept as they were written."""
        return len(self._written)

    def now(self) -> Listed:
        """The list as it is now. Raises as `rows` does."""
        wanted = self._begun + 1  # this one will have begun after we asked
        with self._lock:
            if self._made < wanted:
                self._begun += 1
                self._listed = self._made_anew()
                self._made = self._begun
            return self._listed

    def _made_anew(self) -> Listed:
        before, self._written = self._written, {}
        for row in self._rows():
            sid = row["session_id"]
            stream_id = self._stream_of(sid)
            written = before.get(sid)
            if written is None or written.row is not row or written.stream_id != stream_id:
                written = _Written(row, stream_id, json.dumps(shown(row, stream_id)).encode())
            self._written[sid] = written
        rows = b", ".join(written.json for written in self._written.values())
        return Listed(len(self._written), b"[" + rows + b"]")


class _Written(NamedTuple):
    """A row as it was last written, and from what."""

    row: Row
    stream_id: str | None
    json: bytes
