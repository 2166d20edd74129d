"""The two files of the index: the whole list, and a log of the changes since it was written.

Replacing a long list at every save would take longer than the save. So a change of a long list is a
line in the log, until the log is a fair part of the list; then the list is replaced. The log's
first line names the list that it continues, so a log of a replaced list is ignored. Neither file is
synced: both can be read from the sidecars again. Knows no sidecars; the caller holds the index
lock.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from reference_impl.sessions.session_files import checked_id
from reference_impl.sessions.sidecar import Metadata, SessionError, has_fields
from reference_impl.storage import files

Row = Mapping[str, Any]

SHORT_BYTES = 1 << 16  # a list up to this size is replaced as quickly as a change is logged
LOG_SHARE_MAX = 1 / 16  # of the list: so replacing costs little per save, for any length
_EMPTY = Metadata(session_id="").row()


class News(NamedTuple):
    """Changes by other writers: the whole list if it was replaced, then rows (None: deleted)."""

    whole: dict[str, Row] | None
    changes: list[tuple[str, Row | None]]


class IndexFiles:
    """`_index.json` and `_index.log` of one folder, up to the position read so far."""

    def __init__(self, folder: str) -> None:
        """Do not read yet."""
        self._list = os.path.join(folder, "_index.json")
        self._log = os.path.join(folder, "_index.log")
        self._signature: tuple[int, int, int] | None = None
        self._read_to = 0  # position in the log
        self.is_due = True  # to be replaced, because the files on disk cannot be continued

    def read(self) -> News:
        """Read what is new. Raises OSError, and SessionError or ValueError for an invalid index."""
        signature = files.signature(self._list)
        if signature is None:
            self.is_due = True
            raise FileNotFoundError(f"{self._list}: the index is missing")
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
            return []  # it continues a list that was replaced since
        if not news.endswith(b"\n"):
            raise SessionError(f"{self._log}: its last change is cut short")
        lines = news.splitlines()[0 if self._read_to else 1 :]
        self._read_to += len(news)
        return [_change(line) for line in lines]

    def replace(self, lines: Iterable[bytes]) -> None:
        """Replace the whole list. Raises OSError; then nothing has changed, and it is due."""
        self.is_due = True
        files.put_unsynced(self._list, b"[\n" + b",\n".join(lines) + b"\n]\n")
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
                files.append_unsynced(self._log, data)
            else:
                data = self._head() + data
                files.put_unsynced(self._log, data)
        except OSError:
            self.is_due = True  # a part of the data may have been written
            raise
        self._read_to += len(data)
        return True

    def _head(self) -> bytes:
        """The log's first line: the signature of the list that it continues."""
        return json.dumps(self._signature).encode() + b"\n"


def _change(line: bytes) -> tuple[str, Row | None]:
    match json.loads(line):
        case [sid, None]:
            return checked_id(sid), None
        case [sid, row]:
            return checked_id(sid), _checked(row)
    raise SessionError(f"not a change of the index: {line!r:.80}")


def _parsed(data: bytes) -> dict[str, Row]:
    """Parse the list's text. Raises SessionError or ValueError for anything but session rows."""
    rows = json.loads(data)
    if not isinstance(rows, list):
        raise SessionError(f"the index is a {type(rows).__name__}, not a list")
    parsed: dict[str, Row] = {}
    for row in map(_checked, rows):
        sid = row["session_id"]
        if sid in parsed:
            raise SessionError(f"session {sid} is in the index twice")
        parsed[sid] = row
    return parsed


def _checked(row: Any) -> Row:
    """The row with all fields: an older program wrote fewer, and a damaged sidecar gives none."""
    if not isinstance(row, dict) or not has_fields(row, "version", "title", "updated_at"):
        raise SessionError(f"not a row of the index: {row!r:.80}")
    checked_id(row.get("session_id"))
    return row if row.keys() >= _EMPTY.keys() else {**_EMPTY, **row}
