"""Brings the state database up to a session's sidecar, after each turn and each other change.

The sidecar is authoritative: missing messages are appended, and if the two differ, the database's
messages are replaced. So the next sync repairs one that failed or was cut off by a kill. Not for
two threads at once with one session.
"""

from __future__ import annotations

from reference_impl.sessions.sidecar import UNTITLED, Message, Session
from reference_impl.state_db.errors import TitleTakenError
from reference_impl.state_db.state_db import Draft, StateDb

SOURCE = "webui"


class StateSync:
    """A callable that syncs one session into the database."""

    def __init__(self, db: StateDb) -> None:
        self._db = db

    def __call__(self, session: Session) -> None:
        """Raises as the state database does; the next call adds what is missing then."""
        sid = session.session_id
        self._db.create_session(sid, SOURCE)
        existing = [
            Draft(message.role, message.content, message.tool_calls)
            for message in self._db.get_messages(sid)
        ]
        wanted = [_draft(message) for message in session.messages]
        if existing == wanted[: len(existing)]:
            for draft in wanted[len(existing) :]:
                self._db.append_message(sid, draft.role, draft.content, draft.tool_calls)
        else:
            self._db.replace_messages(sid, wanted)
        title = None if session.title == UNTITLED else _text(session.title)
        try:
            self._db.set_title(sid, title)
        except TitleTakenError:  # titles are unique in the database, not in sidecars
            self._db.set_title(sid, None)  # a former title would be wrong


def _draft(message: Message) -> Draft:
    calls = message.get("tool_calls", ())
    content = _text(str(message.get("content", "")))
    return Draft(str(message.get("role")), content, tuple(calls) if isinstance(calls, list) else ())


def _text(text: str) -> str:
    """The text; a lone surrogate is valid JSON, but not valid text for a database."""
    return text.encode(errors="replace").decode()
