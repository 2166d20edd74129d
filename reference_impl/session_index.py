"""The index of sessions: one row of metadata each, newest first, in `_index.json`.

Everything in it can be read from the sidecars' heads, so they win: a row is never computed, only
read again. The file is replaced whole under a lock that all processes share, but it is not synced;
after a crash, start-up recovery rebuilds it. What could not be written is remembered, and written
with the next row. Messages are never parsed here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from reference_impl import files
from reference_impl.session_files import SessionFiles, UnknownSessionError, checked_id
from reference_impl.sidecar import SessionError, SidecarDamagedError

Row = Mapping[str, Any]


class SessionIndex:
    """The rows of one folder's sessions."""

    def __init__(self, session_files: SessionFiles) -> None:
        """Read nothing yet."""
        self._files = session_files
        self._lock = session_files.index_lock
        self._path = session_files.folder / "_index.json"
        self._rows: dict[str, Row] = {}
        self._lines: dict[str, bytes] = {}
        self._signature: tuple[int, int, int] | None = None
        self._overdue: set[str] = set()
        self.newest_at = 0.0  # the latest `updated_at` that any row ever had

    def __len__(self) -> int:
        return len(self._rows)

    def rows(self) -> tuple[Row, ...]:
        """All rows, newest first; exactly one for each sidecar. Raises LockBusyError, OSError."""
        with self._lock.held():
            self._load()
            on_disk = self._files.live_ids()
            doubtful = (on_disk ^ self._rows.keys()) | self._overdue
            with suppress(OSError):  # a full disk is no reason not to answer
                self._reread(doubtful)
            return tuple(self._sorted())

    def row(self, session_id: str) -> Row | None:
        """One session's row, as it was last written. Raises LockBusyError, OSError."""
        with self._lock.held():
            self._load()
            return self._rows.get(session_id)

    def refresh(self, session_id: str) -> None:
        """Read one session's head again: it was saved, or deleted, or nobody knows.

        Never raises for want of a disk or a lock: the sidecar is safe, and its row can wait.
        """
        try:
            with self._lock.held():
                self._load()
                self._reread({session_id, *self._overdue})
        except (OSError, files.LockBusyError):
            self._overdue.add(session_id)

    def rebuild(self) -> None:
        """Trust no row, and read every head again. Raises LockBusyError, OSError."""
        with self._lock.held():
            self._load()
            for name in files.names(self._files.folder):
                if name.startswith("_index.tmp."):  # we hold the lock, so its writer is dead
                    files.remove(self._files.folder / name)
            self._signature = None  # so that it is written even if every row is still right
            self._reread(self._files.live_ids() | self._rows.keys())

    def differences(self) -> tuple[set[str], set[str]]:
        """Ids of rows without a sidecar, and of sidecars without a row, before they are healed."""
        with self._lock.held():
            self._load()
            on_disk = self._files.live_ids()
            return self._rows.keys() - on_disk, on_disk - self._rows.keys()

    def _load(self) -> None:
        """Make the rows those of the file, where somebody else has replaced or damaged it."""
        signature = files.signature(self._path)
        if signature is not None and signature == self._signature:
            return
        try:
            self._take(_parsed(files.read_whole(self._path)))
        except (FileNotFoundError, SessionError, ValueError, RecursionError):
            self._take({})  # what is not there is missing in `rows`, and read again
            self._overdue |= self._files.live_ids()
        self._signature = signature

    def _take(self, rows: Mapping[str, Row]) -> None:
        self._rows = dict(rows)
        self._lines = {}
        self.newest_at = max([self.newest_at, *(row["updated_at"] for row in rows.values())])

    def _reread(self, session_ids: Iterable[str]) -> None:
        """Take these rows from the sidecars, and write the index if that changed anything."""
        session_ids = tuple(session_ids)
        before = {sid: self._rows.get(sid) for sid in session_ids}
        for sid in session_ids:
            try:
                self._set(sid, self._files.head(sid).row())
            except UnknownSessionError:
                self._set(sid, None)
            except (SidecarDamagedError, OSError):
                pass  # the last good row is still the best that is known
        if self._signature is None or any(self._rows.get(sid) != before[sid] for sid in before):
            self._overdue.update(session_ids)
            self._write()
        self._overdue.difference_update(session_ids)

    def _set(self, session_id: str, row: Row | None) -> None:
        self._rows.pop(session_id, None)
        self._lines.pop(session_id, None)
        if row is not None:
            self._rows[session_id] = row
            self.newest_at = max(self.newest_at, row["updated_at"])

    def _write(self) -> None:
        lines = (self._line(row) for row in self._sorted())
        files.put_lightly(self._path, b"[\n" + b",\n".join(lines) + b"\n]\n")
        self._signature = files.signature(self._path)

    def _line(self, row: Row) -> bytes:
        sid = row["session_id"]
        if sid not in self._lines:
            self._lines[sid] = json.dumps(row).encode()
        return self._lines[sid]

    def _sorted(self) -> list[Row]:
        return sorted(self._rows.values(), key=_newest_first)


def _newest_first(row: Row) -> tuple[float, str]:
    return -row["updated_at"], row["session_id"]


def _parsed(data: bytes) -> dict[str, Row]:
    """Read an index's text. Raises SessionError or ValueError for what is not rows of sessions."""
    rows = json.loads(data)
    if not isinstance(rows, list):
        raise SessionError(f"the index is a {type(rows).__name__}, not a list")
    parsed: dict[str, Row] = {}
    for row in rows:
        if not isinstance(row, dict) or not isinstance(row.get("updated_at"), (int, float)):
            raise SessionError(f"no row of the index: {row!r:.80}")
        sid = checked_id(row.get("session_id"))
        if sid in parsed:
            raise SessionError(f"{sid} is in the index twice")
        parsed[sid] = row
    return parsed
