"""Titles of sessions: as the user gave them, or the beginning of the session's first request."""

from __future__ import annotations

import re

from reference_impl.sessions.sidecar import UNTITLED, Session

OWN_CHARS = 64  # of a title that no user gave
_READ_CHARS = 1000  # of a request, which may be long
_WAKEUP = "process_wakeup"  # the source of a turn that no user began

_UNSEEN = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffc]"
)


def sanitized(title: str | None) -> str | None:
    """The title on one line, without characters that nothing shows; None if nothing is left."""
    return " ".join(_UNSEEN.sub("", title or "").split()) or None


def own_title(session: Session) -> str:
    """The title of a session that no user named: the beginning of its first request.

    A request that waits for its turn counts, and the prompt of a wakeup does not.
    """
    for message in session.messages:
        if message.get("role") == "user" and message.get("source") != _WAKEUP:
            return _beginning(message.get("content"))
    if session.extra.get("pending_user_source") != _WAKEUP:
        return _beginning(session.pending_user_message)
    return UNTITLED


def _beginning(text: object) -> str:
    shown = sanitized(text[:_READ_CHARS]) if isinstance(text, str) else None
    return (shown or "")[:OWN_CHARS].rstrip() or UNTITLED
