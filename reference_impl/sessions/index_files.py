"""The index's two files: the whole list, for anybody to read, and a log of what changed since.

To replace a long list for every save would take longer than the save. So a change of a long list is
a line in the log, until the log is a fair part of the list; then the list is replaced, and the log
counts no more, because it names the very list that it goes on from. Neither is synced: both can be
read from the sidecars again. Knows no sidecars; its caller holds the index's lock.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from reference_impl.sessions.session_files import checked_id
from reference_impl.sessions.sidecar import SessionError
from reference_impl.storage import files

Row = Mapping[str, Any]

SHORT_BYTES = 1 << 16  # a list up to here is replaced as quickly as it is logged
LOG_SHARE_MAX = 1 / 16  # of the list: so replacing costs little a save, however long it is


class News(NamedTuple):
    """What somebody else wrote: the whole list, if it was replaced, and then rows, None if gone."""

    whole: dict[str, Row] | None
    changes: list[tuple[str, Row | None]]


class IndexFiles:
    """`_index.json` and `_index.log` of one folder, as far as we have read them."""

    def __init__(self, folder: str) -> None:
        """Read nothing yet."""
        self._list = os.path.join(folder, "_index.json")
        self._log = os.path.join(folder, "_index.log")
        self._signature: tuple[int, int, int] | None = None
        self._read_to = 0  # in the log
        self.is_due = True  # for being replaced, because what there is cannot be gone on from

    def read(self) -> News:
        """What is new. Raises OSError, and SessionError or ValueError for what is no index."""
        signature = files.signature(self._list)
        if signature is None:
            self.is_due = True
            raise FileNotFoundError(f"{self._list}: there is none")
        whole = None
        if signature != self._signature:
            self._signature, self._read_to, self.is_due = signature, 0, True
            whole = _parsed(files.read_whole(self._list))
            self.is_due = False
        try:
            return News(whole, self._logged())
        except (SessionError, ValueError, RecursionError):
            self.is_due = True
            raise

    def _logged(self) -> list[tuple[str, Row | None]]:
        logged = files.signature(self._log)
        if logged is None or logged[1] == self._read_to:
            return []
        news = files.read_from(self._log, self._read_to)
        if not self._read_to and not news.startswith(self._head()):
            return []  # of a list that was replaced since
        if not news.endswith(b"\n"):
            raise SessionError(f"{self._log}: its last change is cut short")
        lines = news.splitlines()[0 if self._read_to else 1 :]
        self._read_to += len(news)
        return [_change(line) for line in lines]

    def replace(self, lines: Iterable[bytes]) -> None:
        """Make this the whole list. Raises OSError; then nothing has changed."""
        files.put_lightly(self._list, b"[\n" + b",\n".join(lines) + b"\n]\n")
        self._signature = files.signature(self._list)
        self._read_to, self.is_due = 0, False
        with suppress(OSError):
            files.remove(self._log)

    def note(self, changes: Mapping[str, Row | None]) -> bool:
        """Log the changes; False if the list should be replaced instead. Raises OSError."""
        size = self._signature[1] if self._signature is not None else 0
        if self.is_due or size < SHORT_BYTES:
            return False
        data = b"".join(json.dumps(change).encode() + b"\n" for change in changes.items())
        if self._read_to + len(data) > size * LOG_SHARE_MAX:
            return False
        try:
            if self._read_to:
                files.append_lightly(self._log, data)
            else:
                data = self._head() + data
                files.put_lightly(self._log, data)
        except OSError:
            self.is_due = True  # nobody knows how much of it is there
            raise
        self._read_to += len(data)
        return True

    def _head(self) -> bytes:
        """The log's first line: the list that it goes on from."""
        return json.dumps(self._signature).encode() + b"\n"


def _change(line: bytes) -> tuple[str, Row | None]:
    match json.loads(line):
        case [sid, None]:
            return checked_id(sid), None
        case [sid, row]:
            return checked_id(sid), _checked(row)
    raise SessionError(f"no change of the index: {line!r:.80}")


def _parsed(data: bytes) -> dict[str, Row]:
    """Read a list's text. Raises SessionError or ValueError for what is not rows of sessions."""
    rows = json.loads(data)
    if not isinstance(rows, list):
        raise SessionError(f"the index is a {type(rows).__name__}, not a list")
    parsed: dict[str, Row] = {}
    for row in rows:
        sid = _checked(row)["session_id"]
        if sid in parsed:
            raise SessionError(f"{sid} is in the index twice")
        parsed[sid] = row
    return parsed


def _checked(row: Any) -> Row:
    if not isinstance(row, dict) or not isinstance(row.get("updated_at"), (int, float)):
        raise SessionError(f"no row of the index: {row!r:.80}")
    checked_id(row.get("session_id"))
    return row
