"""The files of the session folder: which belong to a session, and how they are read and replaced.

Knows nothing of versions, caches or the meaning of a shrink. A writer holds the session's lock;
readers need none, because files are only ever replaced whole.

    <sid>.json              the sidecar
    <sid>.json.bak          the backup: messages that an unintentional shrink removed
    <sid>.json.damaged      a sidecar that could not be read when it was replaced
    <sid>.json.deleted      a session whose removal has begun
    <sid>.tmp.<pid>.<tid>   a file being written; a leftover if its session's lock is free
    _*                      not a session's: the index, the locks, the journals
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from reference_impl.sessions.sidecar import (
    MESSAGES_MARKER,
    Metadata,
    Session,
    SessionError,
    SidecarDamagedError,
    decode,
    decode_head,
    encode,
)
from reference_impl.storage import files

# Names that begin with "_" are the store's own or a journal's; a name must fit a file system.
_SAFE_ID = re.compile(r"[0-9A-Za-z-][0-9A-Za-z_-]{0,127}", re.ASCII)
_LOCKS = 64


class InvalidSessionIdError(SessionError):
    """The given value is not a valid session id; no file was touched."""


class UnknownSessionError(SessionError):
    """The session does not exist."""


def checked_id(session_id: object) -> str:
    """Return the id if it is valid. Raises InvalidSessionIdError."""
    if isinstance(session_id, str) and _SAFE_ID.fullmatch(session_id):
        return session_id
    raise InvalidSessionIdError(f"{str(session_id)[:64]!r} is no session id")


class SessionFiles:
    """The files of one folder of sessions."""

    def __init__(self, folder: files.StrPath, patience_s: float) -> None:
        """Make the folder if it is missing; wait for locks at most `patience_s` seconds."""
        self.folder = files.absolute(folder)
        locks = os.path.join(self.folder, "_locks")
        files.make_folder(locks)
        self.index_lock = files.SharedLock(os.path.join(locks, "index"), patience_s)
        # A fixed number of locks does not grow with the sessions. Two sessions may share one: that
        # costs a little waiting, and no thread ever holds two.
        paths = [os.path.join(locks, f"{number:02x}") for number in range(_LOCKS)]
        self._locks = [files.SharedLock(path, patience_s) for path in paths]

    @contextmanager
    def locked(self, session_id: str) -> Iterator[None]:
        """Hold the session's lock, among all processes. Raises LockBusyError."""
        with self._locks[zlib.crc32(session_id.encode()) % _LOCKS].held():
            yield

    def live_ids(self) -> set[str]:
        """Ids of the sessions that have a sidecar. Raises OSError."""
        return {sid for sid, kind in self._names() if kind == "json"}

    def backed_up_ids(self) -> set[str]:
        """Ids of the sessions that have a backup, with a sidecar or without. Raises OSError."""
        return {sid for sid, kind in self._names() if kind == "json.bak"}

    def unfinished_ids(self) -> set[str]:
        """Ids of sessions being written or removed, now or when their writer died."""
        kinds = ("tmp.", "json.deleted")
        return {sid for sid, kind in self._names() if kind.startswith(kinds)}

    def _names(self) -> Iterator[tuple[str, str]]:
        for name in files.names(self.folder):
            sid, _, kind = name.partition(".")
            if _SAFE_ID.fullmatch(sid):
                yield sid, kind

    def _path(self, session_id: str, kind: str = "json") -> str:
        return os.path.join(self.folder, f"{session_id}.{kind}")

    def live(self, session_id: str) -> Session:
        """Read the sidecar. Raises UnknownSessionError, SidecarDamagedError, OSError."""
        return decode(self._read(session_id), session_id)

    def head(self, session_id: str) -> Metadata:
        """Read the sidecar up to its messages. Raises as `live` does."""
        try:
            head = files.read_until(self._path(session_id), MESSAGES_MARKER)
        except FileNotFoundError:
            raise UnknownSessionError(f"there is no session {session_id}") from None
        try:
            return decode_head(head, session_id)
        except SidecarDamagedError:
            return self.live(session_id).metadata()  # perhaps it only has another layout

    def _read(self, session_id: str) -> bytes:
        try:
            return files.read_whole(self._path(session_id))
        except FileNotFoundError:
            raise UnknownSessionError(f"there is no session {session_id}") from None

    def backup(self, session_id: str) -> Session | None:
        """Read the backup; None if it is missing or unreadable. Raises OSError."""
        try:
            return decode(files.read_whole(self._path(session_id, "json.bak")), session_id)
        except (FileNotFoundError, SidecarDamagedError):
            return None

    def has(self, session_id: str, kind: str) -> bool:
        """Whether the session has such a file: "json.bak", "json.damaged". Raises OSError."""
        return files.signature(self._path(session_id, kind)) is not None

    def signature(self, session_id: str) -> tuple[int, int, int] | None:
        """A value that changes whenever the sidecar does; None if it is missing. Raises OSError."""
        return files.signature(self._path(session_id))

    def put(self, session: Session) -> None:
        """Replace the sidecar. Raises OSError; then it is either the old or the new one."""
        files.put(self._path(session.session_id), encode(session))

    def put_backup(self, session: Session) -> None:
        """Replace the backup. Raises OSError."""
        files.put(self._path(session.session_id, "json.bak"), encode(session))

    def set_aside(self, session_id: str) -> None:
        """Copy an unreadable sidecar aside before it is replaced. Raises OSError."""
        files.put(self._path(session_id, "json.damaged"), self._read(session_id))

    def remove(self, session_id: str) -> bool:
        """Remove all files of a session atomically and durably; returns whether it had any.

        Without its backup the sidecar may lack messages, and without the sidecar the backup would
        be recovered. So the sidecar is renamed first: that is the commit point. Raises OSError.
        """
        for kind in ("json", "json.bak", "json.damaged"):
            if self.has(session_id, kind):
                files.rename(self._path(session_id, kind), self._path(session_id, "json.deleted"))
                break
        return self.finish_removal(session_id)

    def finish_removal(self, session_id: str) -> bool:
        """Finish a removal that began; returns whether there was one. Raises OSError."""
        if not self.has(session_id, "json.deleted"):
            return False
        for kind in ("json.bak", "json.damaged"):
            files.remove(self._path(session_id, kind))
        files.sync_folder(self.folder)
        files.remove(self._path(session_id, "json.deleted"))
        files.sync_folder(self.folder)
        return True

    def sweep(self, session_id: str) -> None:
        """Remove half-written files of dead writers; a live one would hold the lock we hold."""
        for name in files.names(self.folder):
            if name.startswith(f"{session_id}.tmp."):
                files.remove(os.path.join(self.folder, name))
