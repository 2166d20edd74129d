"""The index of sessions: one row of metadata each, newest first, in `_index.json`.

Everything in it can be read from the sidecars' heads, so they win: a row is never computed, only
read again. It is written under a lock that all processes share, but it is not synced; after a
crash, start-up recovery rebuilds it. What could not be written is remembered, and written with the
next row. Messages are never parsed here.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress

from reference_impl.sessions.index_files import IndexFiles, Row
from reference_impl.sessions.session_files import SessionFiles, UnknownSessionError
from reference_impl.sessions.sidecar import SessionError, SidecarDamagedError
from reference_impl.storage import files


class SessionIndex:
    """The rows of one folder's sessions."""

    def __init__(self, session_files: SessionFiles) -> None:
        """Read nothing yet."""
        self._files = session_files
        self._lock = session_files.index_lock
        self._kept = IndexFiles(session_files.folder)
        self._rows: dict[str, Row] = {}
        self._lines: dict[str, bytes] = {}
        self._overdue: set[str] = set()
        self._turn = threading.Lock()  # of our threads that write; taken before the other one
        self.newest_at = 0.0  # the latest `updated_at` that any row ever had

    def __len__(self) -> int:
        return len(self._rows)

    def rows(self) -> tuple[Row, ...]:
        """All rows, newest first; exactly one for each sidecar. Raises LockBusyError, OSError."""
        with self._written():
            on_disk = self._files.live_ids()
            with suppress(OSError):  # a full disk is no reason not to answer
                self._reread(on_disk ^ self._rows.keys())
            return tuple(self._sorted())

    def row(self, session_id: str) -> Row | None:
        """One session's row, as it was last written. Raises LockBusyError, OSError."""
        with self._lock.held():
            self._load()
            return self._rows.get(session_id)

    def refresh(self, session_id: str) -> None:
        """Read one session's head again: it was saved, or deleted, or nobody knows.

        Never raises for want of a disk or a lock: the sidecar is safe, and its row can wait. Who
        comes while another one is at it waits, and then one of those who wait does it for all.
        """
        self._overdue.add(session_id)
        with suppress(OSError, files.LockBusyError), self._in_turn():
            if session_id in self._overdue:
                with self._lock.held():
                    self._load()
                    self._reread()

    def rebuild(self) -> None:
        """Trust no row, and read every head again. Raises LockBusyError, OSError."""
        with self._written():
            for name in files.names(self._files.folder):
                if name.startswith("_index.tmp."):  # we hold the lock, so its writer is dead
                    files.remove(os.path.join(self._files.folder, name))
            self._kept.is_due = True  # even if every row is still right
            self._reread(self._files.live_ids() | self._rows.keys())

    def differences(self) -> tuple[set[str], set[str]]:
        """Ids of rows without a sidecar, and of sidecars without a row, before they are healed."""
        with self._lock.held():
            self._load()
            on_disk = self._files.live_ids()
            return self._rows.keys() - on_disk, on_disk - self._rows.keys()

    @contextmanager
    def _in_turn(self) -> Iterator[None]:
        """Be the one of our threads that writes. Raises LockBusyError."""
        if not self._turn.acquire(timeout=self._lock.patience_s):
            raise files.LockBusyError(f"the index was busy for {self._lock.patience_s} s")
        try:
            yield
        finally:
            self._turn.release()

    @contextmanager
    def _written(self) -> Iterator[None]:
        """Be the only one of all who writes, and know what is there. Raises LockBusyError."""
        with self._in_turn(), self._lock.held():
            self._load()
            yield

    def _load(self) -> None:
        """Make the rows those of the files, where somebody else has written or damaged them."""
        try:
            news = self._kept.read()
        except (FileNotFoundError, SessionError, ValueError, RecursionError):
            self._take({})  # what is not there is missing in `rows`, and read again
            self._overdue |= self._files.live_ids()
            return
        if news.whole is not None:
            self._take(news.whole)
        for sid, row in news.changes:
            self._set(sid, row)

    def _take(self, rows: Mapping[str, Row]) -> None:
        self._rows = dict(rows)
        self._lines = {}
        self.newest_at = max([self.newest_at, *(row["updated_at"] for row in rows.values())])

    def _reread(self, session_ids: Iterable[str] = ()) -> None:
        """Take these rows and the overdue ones from the sidecars, and write what that changed."""
        # Overdue no more before they are read: whoever saves meanwhile makes them so again.
        overdue = [self._overdue.pop() for _ in range(len(self._overdue))]
        before = {sid: self._rows.get(sid) for sid in (*session_ids, *overdue)}
        try:
            for sid in before:
                self._set(sid, self._row_on_disk(sid))
            changes = {sid: row for sid in before if (row := self._rows.get(sid)) != before[sid]}
            if (changes or self._kept.is_due) and not self._kept.note(changes):
                self._kept.replace(self._line(row) for row in self._sorted())
        except BaseException:
            self._overdue.update(before)
            raise

    def _row_on_disk(self, session_id: str) -> Row | None:
        try:
            return self._files.head(session_id).row()
        except UnknownSessionError:
            return None
        except (SidecarDamagedError, OSError):
            return self._rows.get(session_id)  # the last good one is still the best that is known

    def _set(self, session_id: str, row: Row | None) -> None:
        self._rows.pop(session_id, None)
        self._lines.pop(session_id, None)
        if row is not None:
            self._rows[session_id] = row
            self.newest_at = max(self.newest_at, row["updated_at"])

    def _line(self, row: Row) -> bytes:
        sid = row["session_id"]
        if sid not in self._lines:
            self._lines[sid] = json.dumps(row).encode()
        return self._lines[sid]

    def _sorted(self) -> list[Row]:
        return sorted(self._rows.values(), key=_newest_first)


def _newest_first(row: Row) -> tuple[float, str]:
    return -row["updated_at"], row["session_id"]
