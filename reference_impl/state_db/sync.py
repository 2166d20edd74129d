"""Brings the state database up to a session's sidecar, after each turn.

The sidecar is the truth: what is missing in the database is appended, and where the two differ,
its messages are replaced. So a sync that failed, or was cut off by a kill, is made good by the
next one. Not for two threads at once with one session.
"""

from __future__ import annotations

from contextlib import suppress

from reference_impl.sessions.sidecar import UNTITLED, Message, Session
from reference_impl.state_db.errors import TitleTakenError
from reference_impl.state_db.state_db import Draft, StateDb

SOURCE = "webui"


class StateSync:
    """Call it with a session."""

    def __init__(self, db: StateDb) -> None:
        self._db = db

    def __call__(self, session: Session) -> None:
        """Raises as the state database does; what is missing then comes with the next call."""
        sid = session.session_id
        self._db.create_session(sid, SOURCE)
        stored = [(message.role, message.content) for message in self._db.get_messages(sid)]
        wanted = [_draft(message) for message in session.messages]
        if stored == [(draft.role, draft.content) for draft in wanted[: len(stored)]]:
            for draft in wanted[len(stored) :]:
                self._db.append_message(sid, draft.role, draft.content)
        else:
            self._db.replace_messages(sid, wanted)
        if session.title != UNTITLED:
            with suppress(TitleTakenError):  # titles are unique there, and here they need not be
                self._db.set_title(sid, session.title)


def _draft(message: Message) -> Draft:
    content = str(message.get("content", ""))
    # A lone surrogate is JSON, but no text for a database.
    return Draft(str(message.get("role")), content.encode(errors="replace").decode())
