"""Start-up recovery: restores accidentally lost messages, and leaves removed ones removed.

One function examines each session and decides; the audit reports the decision, recovery carries it
out. Both can be repeated safely, and one bad file never stops either. Recovery is maintenance: it
changes neither time nor order of activity.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from enum import StrEnum

from reference_impl.sessions.index_files import Row
from reference_impl.sessions.session_files import SessionFiles, UnknownSessionError
from reference_impl.sessions.sidecar import Session, SessionError, SidecarDamagedError
from reference_impl.sessions.store import SessionStore
from reference_impl.storage.files import LockBusyError

log = logging.getLogger(__name__)

_REFUSALS = (OSError, LockBusyError, SessionError, ValueError, RecursionError)
"""Errors of one session: the disk or a lock refused, or its backup cannot be written again."""


class Kind(StrEnum):
    """Defects of a session's files, or of its row in the index."""

    SHRUNKEN_LIVE = "shrunken_live"
    UNREADABLE_LIVE = "unreadable_live"
    ORPHAN_BACKUP = "orphan_backup"
    MALFORMED_ORPHAN_BACKUP = "malformed_orphan_backup"
    INDEX_MISSING_FILE = "index_missing_file"
    INDEX_MISSING_ENTRY = "index_missing_entry"
    NOT_EXAMINED = "not_examined"  # the disk or a lock refused


@dataclass(frozen=True, slots=True)
class Finding:
    """One defect, and whether recovery repairs it or a person has to look.

    Message counts are -1 for a file that cannot be read, and None for a missing one.
    """

    session_id: str
    kind: Kind
    is_repairable: bool
    live_messages: int | None = None
    backup_messages: int | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Recovery:
    """The result of a recovery: sessions scanned, findings, and ids of restored sessions."""

    scanned: int
    findings: tuple[Finding, ...]
    restored: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Audit:
    """Defects found without repairing them."""

    findings: tuple[Finding, ...]

    @property
    def status(self) -> str:
        """Summary: "ok", "warn" if recovery repairs everything, or "needs_manual_review"."""
        if not self.findings:
            return "ok"
        repairable = all(finding.is_repairable for finding in self.findings)
        return "warn" if repairable else "needs_manual_review"


def recover_all(store: SessionStore) -> Recovery:
    """Restore sessions that shrank unintentionally or cannot be read, and rebuild the index.

    Parses only sessions that have a backup, so it is quick for many. Also removes leftover files.
    Raises LockBusyError or OSError only where the folder or the index cannot be read at all.
    """
    rows = {row["session_id"]: row for row in store.rows()}
    suspects = store.files.backed_up_ids() | store.files.unfinished_ids()
    findings: list[Finding] = []
    restored: list[str] = []
    for sid in sorted(suspects):
        try:
            with store.files.locked(sid):
                store.files.finish_removal(sid)
                finding, remedy = _diagnose(store.files, sid, rows.get(sid))
                if remedy is not None:
                    _restore(store.files, remedy)
                    restored.append(sid)
                    log.warning("session %s: restored from its backup", sid)
                store.files.sweep(sid)
        except _REFUSALS as error:
            finding = _not_examined(sid, error)
        if finding is not None:
            findings.append(finding)
    store.index.rebuild()
    return Recovery(len(store.files.live_ids()), tuple(findings), tuple(restored))


def audit(store: SessionStore) -> Audit:
    """Examine every session, and change nothing. Raises LockBusyError, OSError as recovery does."""
    ghosts, missing = store.index.differences()
    findings: list[Finding | None] = [
        *(Finding(sid, Kind.INDEX_MISSING_FILE, is_repairable=True) for sid in sorted(ghosts)),
        *(Finding(sid, Kind.INDEX_MISSING_ENTRY, is_repairable=True) for sid in sorted(missing)),
    ]
    for sid in sorted(store.files.live_ids() | store.files.backed_up_ids()):
        try:
            with store.files.locked(sid):
                findings.append(_diagnose(store.files, sid, None)[0])
        except _REFUSALS as error:
            findings.append(_not_examined(sid, error))
    return Audit(tuple(finding for finding in findings if finding is not None))


def _diagnose(
    session_files: SessionFiles, sid: str, row: Row | None
) -> tuple[Finding | None, Session | None]:
    """Decide what is wrong with a session, and what its sidecar should hold instead."""
    backup = session_files.backup(sid)
    backup_messages = -1 if session_files.has(sid, "json.bak") else None
    remedy = None
    if backup is not None:
        backup_messages, remedy = backup.message_count, _salvaged(backup, row)
    live_messages, damage = None, ""
    try:
        live = session_files.live(sid)
    except UnknownSessionError:
        if backup_messages is None:
            return None, None  # its first save never finished, so it was never acknowledged
        kind = Kind.ORPHAN_BACKUP if remedy else Kind.MALFORMED_ORPHAN_BACKUP
    except SidecarDamagedError as error:
        kind, live_messages, damage = Kind.UNREADABLE_LIVE, -1, str(error)
    else:
        whole = live.completed(backup)
        if whole is live:
            return None, None
        kind, live_messages = Kind.SHRUNKEN_LIVE, live.message_count
        remedy = replace(whole, version=live.version + 1)
    is_repairable = remedy is not None
    return Finding(sid, kind, is_repairable, live_messages, backup_messages, damage), remedy


def _salvaged(backup: Session, row: Row | None) -> Session:
    """A backup's content, with a newer title and time if the index still has them."""
    session = backup.salvaged()
    if row is not None:
        session = replace(session, title=row["title"], updated_at=row["updated_at"])
        session = replace(session, version=max(session.version, row["version"]))
    return replace(session, version=session.version + 1)


def _restore(session_files: SessionFiles, session: Session) -> None:
    try:
        session_files.live(session.session_id)
    except UnknownSessionError:
        pass
    except SidecarDamagedError:
        session_files.set_aside(session.session_id)
    session_files.put(session)


def _not_examined(sid: str, error: Exception) -> Finding:
    return Finding(sid, Kind.NOT_EXAMINED, is_repairable=False, error=repr(error))
