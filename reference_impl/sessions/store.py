"""The session store: acknowledged changes are on disk, whole, and no stale copy overwrites them.

Every change of a session follows one rule: under its lock, read the sidecar from disk, make a new
value of it, and write that whole. A value carries the version that it was made from, so `save`
detects a stale one. Memory only makes reads faster. Knows no HTTP, no runs and no streams: the
caller answers whether a stream is alive.
"""

from __future__ import annotations

import itertools
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from reference_impl.config import env_int
from reference_impl.sessions.index import SessionIndex
from reference_impl.sessions.index_files import Row
from reference_impl.sessions.session_files import SessionFiles, UnknownSessionError, checked_id
from reference_impl.sessions.sidecar import (
    UNTITLED,
    Message,
    Metadata,
    Session,
    SessionError,
    SidecarDamagedError,
)
from reference_impl.storage.files import StrPath

PATIENCE_S = 5.0
CAP_DEFAULT = 100
_TICK_S = 1e-6  # no two activities have the same time, whatever the clock returns


class MetadataOnlyError(SessionError):
    """A save was given a session of which only the metadata was loaded."""


class StaleCopyError(SessionError):
    """The session was saved, deleted or made anew since this copy of it was loaded."""


class SaveRefusedError(SessionError):
    """The save would lose a live turn's messages; nothing was written."""


class SessionStore:
    """The sessions of one folder. Safe for threads, and for processes that share the folder.

    Every call may raise LockBusyError if another one holds a lock for longer than the patience,
    and OSError where the disk refuses; after an OSError the change either happened or it did not,
    and `load` shows which.
    """

    def __init__(
        self,
        folder: StrPath,
        *,
        clock: Callable[[], float] = time.time,
        cap: int | None = None,
        patience_s: float = PATIENCE_S,
        own_title: Callable[[Session], str] = lambda _session: UNTITLED,
    ) -> None:
        """Open or create the folder; hold at most `cap` idle sessions in memory.

        `cap` defaults to HERMES_WEBUI_SESSIONS_MAX, and that to 100. `own_title` is the title of a
        session that the user did not name; it follows the session's messages.
        """
        self.files = SessionFiles(folder, patience_s)
        self.index = SessionIndex(self.files)
        self._clock = clock
        self._own_title = own_title
        self.cap = env_int("HERMES_WEBUI_SESSIONS_MAX", CAP_DEFAULT) if cap is None else cap
        self._held: OrderedDict[str, _Held] = OrderedDict()
        self._held_lock = threading.Lock()

    # Reading

    def load(self, session_id: str) -> Session:
        """The whole session, as it is on disk now.

        Raises UnknownSessionError, and SidecarDamagedError if no readable copy is left.
        """
        checked_id(session_id)
        held = self._held.get(session_id)
        try:
            if held is not None and self.files.head(session_id) == held.session.metadata():
                session = held.session
            else:
                session = self.files.live(session_id)
        except SidecarDamagedError as damage:
            return self._survivor(session_id, damage)
        self._hold(session)
        return session

    def load_metadata_only(self, session_id: str) -> Metadata:
        """A session's metadata, without reading its messages. Raises as `load` does."""
        try:
            return self.files.head(checked_id(session_id))
        except SidecarDamagedError as damage:
            return self._survivor(session_id, damage).metadata()

    def rows(self) -> tuple[Row, ...]:
        """Every session's metadata, newest activity first, from the index."""
        return self.index.rows()

    def gauges(self) -> dict[str, int]:
        """Sizes of the long-lived containers."""
        return {"sessions_held": len(self._held), "session_index_rows": len(self.index)}

    # Writing: every call counts as activity, except where it says maintenance

    def new(self, session_id: str | None = None, **fields: Any) -> Session:
        """Make a session; on disk when this returns. Raises StaleCopyError if the id is taken."""
        session_id = uuid.uuid4().hex[:12] if session_id is None else session_id
        return self.save(Session(session_id=session_id, created_at=self._now(), **fields))

    def save(self, session: Metadata) -> Session:
        """Save a value that was made from a loaded one; returns it as saved.

        Raises MetadataOnlyError, StaleCopyError, SaveRefusedError, or TypeError or ValueError for
        values that are not JSON; then nothing was written.
        """
        checked_id(session.session_id)
        if not isinstance(session, Session):
            raise MetadataOnlyError(f"{session.session_id}: its messages were never loaded")
        with self.files.locked(session.session_id):
            previous = self._previous(session.session_id)
            _check_is_fresh(session, previous)
            return self._write(previous, replace(session, updated_at=self._now()))

    def change(self, session_id: str, act: Callable[[Session], Session]) -> Session:
        """Make a new value of the current one and save it, under the session's lock.

        Raises UnknownSessionError, and what `save` raises; `act` must not call the store.
        """
        with self.files.locked(checked_id(session_id)):
            previous = self._existing(session_id)
            return self._write(previous, replace(act(previous), updated_at=self._now()))

    def maintain(self, session_id: str, act: Callable[[Session], Session]) -> Session:
        """Like `change`, as maintenance: neither time nor order of activity changes.

        If the new value equals the old one, nothing is written.
        """
        with self.files.locked(checked_id(session_id)):
            previous = self._existing(session_id)
            session = replace(act(previous), updated_at=previous.updated_at)
            return session if session == previous else self._write(previous, session)

    def append(self, session_id: str, *messages: Message) -> Session:
        """Add messages at the end; on disk when this returns. Raises as `change` does."""
        return self.change(session_id, lambda session: session.appended(*messages))

    def rename(self, session_id: str, title: str) -> Session:
        """Give it a title. Raises as `change` does."""
        return self.change(session_id, lambda session: replace(session, title=title))

    def clear(self, session_id: str) -> Session:
        """Remove all messages, as the user asked. Raises as `change` does."""
        return self.change(session_id, lambda session: session.cut(0))

    def truncate(self, session_id: str, keep: int) -> Session:
        """Keep the first `keep` messages, as the user asked; no change if there are no more.

        Raises ValueError for a negative number, and as `change` does.
        """
        if keep < 0:
            raise ValueError(f"cannot keep {keep} messages")
        return self.change(
            session_id,
            lambda session: session.cut(keep) if keep < session.message_count else session,
        )

    def undo(self, session_id: str) -> Session:
        """Remove the user's last message and those after it, as the user asked.

        Raises SaveRefusedError if there is none, and as `change` does.
        """
        return self.change(session_id, _undone)

    def delete(self, session_id: str, is_meant: Callable[[Session], bool] | None = None) -> bool:
        """Remove a session with all its files; returns whether it existed.

        With a condition only if that holds for what is on disk; returns whether it was removed.
        Then it raises as `change` does.
        """
        with self.files.locked(checked_id(session_id)):
            try:
                if is_meant is not None and not is_meant(self._existing(session_id)):
                    return False
                return self.files.remove(session_id)
            finally:
                with self._held_lock:
                    self._held.pop(session_id, None)
                self.index.refresh(session_id)

    def clean_stale_stream(
        self,
        session_id: str,
        is_live: Callable[[str], bool],
        settle: Callable[[Session], Session] | None = None,
    ) -> bool:
        """Maintenance: settle a busy session whose stream no run has; returns whether it did.

        `is_live(stream_id)` is called under the session's lock, with what is on disk at that
        moment: a run that registered meanwhile is left alone. `settle` gives the session without
        its turn; by default a pending message joins the others, marked as interrupted, because the
        user was shown it. Raises as `change` does.
        """
        cleaned = False

        def clean(session: Session) -> Session:
            nonlocal cleaned
            stream_id = session.active_stream_id
            cleaned = session.is_busy and (stream_id is None or not is_live(stream_id))
            return (settle or _interrupted)(session) if cleaned else session

        self.maintain(session_id, clean)
        return cleaned

    # Implementation

    def _write(self, previous: Session | None, session: Session) -> Session:
        """Replace the sidecar. The caller holds the session's lock and has checked freshness."""
        session = self._titled(previous, session)
        if previous is None:
            self.files.finish_removal(session.session_id)  # of an earlier session with this id
            saved = replace(session, version=1)
        else:
            _check_is_no_accident(session, previous)
            saved = replace(self._backed_up(previous, session), version=previous.version + 1)
        try:
            self.files.put(saved)
        finally:
            self.index.refresh(saved.session_id)
        self._hold(saved)
        return saved

    def _titled(self, previous: Session | None, session: Session) -> Session:
        """Let a title that the user did not give follow the messages, such as removed ones."""
        is_own = session.title == UNTITLED or (
            previous is not None and session.title == previous.title == self._own_title(previous)
        )
        return replace(session, title=self._own_title(session)) if is_own else session

    def _backed_up(self, previous: Session, session: Session) -> Session:
        """Back up what a shrink would lose, and record where the new value's own messages begin."""
        intended = _is_intentional(session, previous)
        shrinks = session.message_count < previous.message_count
        if not intended and not shrinks and previous.shrunk_at is None:
            return session
        backup = self.files.backup(session.session_id)
        whole = previous.completed(backup)
        if intended:
            if backup is not None and backup.message_count > whole.message_count:
                whole = backup
            common = _common_prefix(whole.messages, session.messages)
            is_cut = session.messages == previous.messages[: session.message_count]
            # A summary is in no older version, so its backup is the new one.
            title = self._titled(whole, replace(session, title=whole.title)).title
            kept = replace(whole, truncation_watermark=common, title=title)
            backup = kept if is_cut else session
            self.files.put_backup(backup)
            return session
        if shrinks:
            self.files.put_backup(replace(whole, truncation_watermark=None))
            return replace(session, shrunk_at=session.message_count)
        return replace(session, shrunk_at=previous.unknown_from(backup))

    def _existing(self, session_id: str) -> Session:
        previous = self._previous(session_id)
        if previous is None:
            raise UnknownSessionError(f"there is no session {session_id}")
        return previous

    def _previous(self, session_id: str) -> Session | None:
        """The value that is about to be replaced; None for none.

        A damaged sidecar is replaced only if memory has its latest version, and is copied aside.
        """
        try:
            return self.files.live(session_id)
        except UnknownSessionError:
            return None
        except SidecarDamagedError as damage:
            survivor = self._survivor(session_id, damage)
            self.files.set_aside(session_id)
            return survivor

    def _survivor(self, session_id: str, damage: SidecarDamagedError) -> Session:
        """The copy in memory of a damaged sidecar; raises the damage if it is not the latest."""
        held = self._held.get(session_id)
        row = self.index.row(session_id)
        if held is None or row is None or row.get("version") != held.session.version:
            raise damage
        return held.session

    def _now(self) -> float:
        return max(self._clock(), self.index.newest_at + _TICK_S)

    # Sessions held in memory

    def _hold(self, session: Session) -> None:
        held = _Held(session, self.files.signature(session.session_id))
        with self._held_lock:
            self._held[session.session_id] = held
            self._held.move_to_end(session.session_id)
            surplus = len(self._held) - self.cap
            idle = [held for held in self._held.values() if not held.session.is_busy]
        proven = (held for held in idle if self._is_proven(held))
        for held in itertools.islice(proven, max(0, surplus)):
            with self._held_lock:
                if self._held.get(held.session.session_id) is held:
                    del self._held[held.session.session_id]

    def _is_proven(self, held: _Held) -> bool:
        """Whether the disk has everything that memory has; a deleted session counts as such."""
        sid = held.session.session_id
        try:
            if self.files.signature(sid) != held.signature:
                self.files.live(sid)
        except UnknownSessionError:
            return True
        except (SidecarDamagedError, OSError):
            return False
        return True


@dataclass(frozen=True, slots=True)
class _Held:
    """A session in memory, and the signature of its sidecar."""

    session: Session
    signature: tuple[int, int, int] | None


def _check_is_fresh(session: Session, previous: Session | None) -> None:
    sid = session.session_id
    if previous is None:
        if session.version:
            raise StaleCopyError(f"{sid}: was deleted since version {session.version} was loaded")
    elif (session.version, session.created_at) != (previous.version, previous.created_at):
        loaded = f"version {session.version}" if session.version else "nothing"
        raise StaleCopyError(
            f"{sid}: is at version {previous.version}, this was made from {loaded}"
        )


def _is_intentional(session: Session, previous: Session) -> bool:
    """Whether the user asked for the messages that this removes."""
    return session.intentional_shrink_generation > previous.intentional_shrink_generation


def _check_is_no_accident(session: Session, previous: Session) -> None:
    empties = previous.messages and not session.messages and not _is_intentional(session, previous)
    if empties and (session.is_busy or previous.is_busy):
        lost = f"{previous.message_count} messages"
        raise SaveRefusedError(f"{session.session_id}: would lose {lost} during a turn")


def _common_prefix(some: tuple[Message, ...], others: tuple[Message, ...]) -> int:
    pairs = enumerate(zip(some, others, strict=False))
    return next((at for at, (left, right) in pairs if left != right), min(len(some), len(others)))


def _undone(session: Session) -> Session:
    at = session.last_request()
    if at is not None:
        return session.cut(at)
    raise SaveRefusedError(f"{session.session_id}: there is no message of the user to undo")


def _interrupted(session: Session) -> Session:
    if session.pending_user_message is not None:
        session = session.appended(
            {
                "role": "user",
                "content": session.pending_user_message,
                "timestamp": session.pending_started_at,
                "interrupted": True,
            }
        )
    return replace(
        session, active_stream_id=None, pending_user_message=None, pending_started_at=None
    )
