"""Brings the state database up to a session's sidecar, after each turn and each other change.

The sidecar is authoritative: missing messages are appended, and missing tokens added; if the two
differ, the database's are replaced. So the next sync repairs one that failed or was cut off by a
kill. Not for two threads at once with one session.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from reference_impl.sessions.sidecar import UNTITLED, USAGE, Message, Session, usage_of
from reference_impl.state_db.errors import SessionUnknownError, TitleTakenError
from reference_impl.state_db.state_db import Draft, StateDb, Usage

SOURCE = "webui"
_CUT_OFF = ("cancelled", "interrupted", "error")


class StateSync:
    """A callable that syncs one session into the database."""

    def __init__(self, db: StateDb) -> None:
        self._db = db

    def __call__(self, session: Session) -> None:
        """Raises as the state database does; the next call adds what is missing then."""
        sid = session.session_id
        prompt = _text_or_none(session.extra.get("system_prompt"))
        self._db.create_session(sid, SOURCE, system_prompt=prompt)
        self._sync_messages(sid, [_draft(message) for message in session.messages])
        known = self._db.get_session(sid)
        if known is None:
            raise SessionUnknownError(f"session {sid} was deleted meanwhile")
        title = None if session.title == UNTITLED else _text(session.title)
        if known.title != title:
            self._sync_title(sid, title)
        if prompt is not None and known.system_prompt != prompt:
            self._db.set_system_prompt(sid, prompt)
        self._sync_usage(sid, known.usage, Usage(**usage_of(session)))
        at, reason = end_of(session.extra)
        if (at, reason) != (known.ended_at, known.end_reason):
            if known.ended_at is not None:  # the database keeps the first end
                self._db.reopen_session(sid)
            if at is not None:
                self._db.end_session(sid, str(reason), at)

    def _sync_messages(self, sid: str, wanted: list[Draft]) -> None:
        existing = [message.draft() for message in self._db.get_messages(sid)]
        is_beginning = len(existing) <= len(wanted)
        if is_beginning and all(map(_is_copy, existing, wanted)):
            for draft in wanted[len(existing) :]:
                self._db.append_message(sid, **draft._asdict())
        elif wanted:
            self._db.replace_messages(sid, wanted)
        else:
            self._db.clear_messages(sid)

    def _sync_title(self, sid: str, title: str | None) -> None:
        try:
            self._db.set_title(sid, title)
        except TitleTakenError:  # titles are unique in the database, not in sidecars
            self._db.set_title(sid, None)  # a former title would be wrong

    def _sync_usage(self, sid: str, known: Usage, wanted: Usage) -> None:
        counts = {name: getattr(wanted, name) - getattr(known, name) for name in USAGE}
        if all(count >= 0 for count in counts.values()):
            if any(counts.values()):
                self._db.add_tokens(sid, replace(wanted, **counts))
        else:
            self._db.set_tokens(sid, wanted)


def end_of(about: Mapping[str, Any]) -> tuple[float | None, str | None]:
    """When and why a session ended, by its metadata; None twice for one that goes on."""
    at = about.get("ended_at")
    if isinstance(at, bool) or not isinstance(at, int | float):
        return None, None
    return at, _text(str(about.get("end_reason")))


def _is_copy(stored: Draft, wanted: Draft) -> bool:
    """Whether a row is that of the message; an older row has no details, and needs none."""
    return stored[:3] == wanted[:3] and all(
        value == right or value is None for value, right in zip(stored[3:], wanted[3:], strict=True)
    )


def _draft(message: Message) -> Draft:
    calls, count = message.get("tool_calls", ()), message.get("token_count")
    return Draft(
        str(message.get("role")),
        _text(str(message.get("content", ""))),
        tuple(calls) if isinstance(calls, list) else (),
        token_count=count if isinstance(count, int) else None,
        finish_reason=_finish_reason(message),
        reasoning=_text_or_none(message.get("reasoning")),
    )


def _finish_reason(message: Message) -> str | None:
    """Why a reply ends: at its own end, or by what else became of its turn."""
    if message.get("role") != "assistant":
        return None
    return next((reason for reason in _CUT_OFF if reason in message), "stop")


def _text_or_none(text: Any) -> str | None:
    return _text(text) if isinstance(text, str) else None


def _text(text: str) -> str:
    """The text; a lone surrogate is valid JSON, but not valid text for a database."""
    return text.encode(errors="replace").decode()
