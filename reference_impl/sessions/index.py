"""The session index: one row of metadata per session, newest first, in `_index.json`.

Everything in it comes from the heads of the sidecars, so the sidecars win: a row is never computed,
only read again. The index is written under a lock that all processes share, but it is not synced;
start-up recovery rebuilds it after a crash. A row that could not be written is remembered and
written with the next one. Messages are never parsed here.
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
        """Do not read yet."""
        self._files = session_files
        self._lock = session_files.index_lock
        self._index_files = IndexFiles(session_files.folder)
        self._rows: dict[str, Row] = {}
        self._lines: dict[str, bytes] = {}
        self._overdue: set[str] = set()
        self._turn = threading.Lock()  # for this store's writing threads; taken before `_lock`
        self.newest_at = 0.0  # the latest `updated_at` that any row ever had

    def __len__(self) -> int:
        return len(self._rows)

    def rows(self) -> tuple[Row, ...]:
        """All rows, newest first; exactly one for each sidecar. Raises LockBusyError, OSError."""
        with self._written():
            on_disk = self._files.live_ids()
            with suppress(OSError):  # reading works on a full disk too
                self._reread(on_disk ^ self._rows.keys())
            return tuple(self._sorted())

    def row(self, session_id: str) -> Row | None:
        """One session's row, read again if that is overdue. Raises LockBusyError, OSError."""
        with self._in_turn(), self._lock.held():
            self._load()
            if session_id in self._overdue:
                with suppress(OSError):  # reading works on a full disk too
                    self._reread()
            return self._rows.get(session_id)

    def refresh(self, session_id: str) -> None:
        """Read one session's head again after a save, a deletion or a failed write.

        Never raises because of the disk or the lock: the sidecar is safe, and its row can wait.
        Concurrent callers wait for each other, and the next one writes the rows of all of them.
        """
        self._overdue.add(session_id)
        with suppress(OSError, files.LockBusyError), self._in_turn():
            if session_id in self._overdue:
                with self._lock.held():
                    self._load()
                    self._reread()

    def rebuild(self) -> None:
        """Read every head again, whatever the rows are. Raises LockBusyError, OSError."""
        with self._written():
            for name in files.names(self._files.folder):
                if name.startswith("_index.tmp."):  # we hold the lock, so its writer is dead
                    files.remove(os.path.join(self._files.folder, name))
            self._index_files.is_due = True  # even if every row is still right
            self._reread(self._files.live_ids() | self._rows.keys())

    def differences(self) -> tuple[set[str], set[str]]:
        """Ids of rows without a sidecar, and of sidecars without a row, before any repair."""
        with self._lock.held():
            self._load()
            on_disk = self._files.live_ids()
            return self._rows.keys() - on_disk, on_disk - self._rows.keys()

    @contextmanager
    def _in_turn(self) -> Iterator[None]:
        """Hold the lock among this store's writing threads. Raises LockBusyError."""
        if not self._turn.acquire(timeout=self._lock.patience_s):
            raise files.LockBusyError(f"the index was busy for {self._lock.patience_s} s")
        try:
            yield
        finally:
            self._turn.release()

    @contextmanager
    def _written(self) -> Iterator[None]:
        """Hold both locks, with the current rows loaded. Raises LockBusyError."""
        with self._in_turn(), self._lock.held():
            self._load()
            yield

    def _load(self) -> None:
        """Load the rows from the files, if another writer changed or damaged them."""
        try:
            news = self._index_files.read()
        except (FileNotFoundError, SessionError, ValueError, RecursionError):
            self._take({})  # `rows` finds the missing ones and reads them again
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
        """Read these and the overdue rows from the sidecars, and write the changes."""
        # Cleared before they are read: a concurrent save makes its row overdue again.
        overdue = [self._overdue.pop() for _ in range(len(self._overdue))]
        before = {sid: self._rows.get(sid) for sid in (*session_ids, *overdue)}
        try:
            for sid in before:
                self._set(sid, self._row_on_disk(sid))
            changes = {sid: row for sid in before if (row := self._rows.get(sid)) != before[sid]}
            if (changes or self._index_files.is_due) and not self._index_files.note(changes):
                self._index_files.replace(self._line(row) for row in self._sorted())
        except BaseException:
            self._overdue.update(before)
            raise

    def _row_on_disk(self, session_id: str) -> Row | None:
        try:
            return self._files.head(session_id).row()
        except UnknownSessionError:
            return None
        except SidecarDamagedError:
            return self._rows.get(session_id)  # the last valid row is the best one known
        except OSError:
            self._overdue.add(session_id)  # the next caller reads it again
            return self._rows.get(session_id)

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
