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
from reference_impl.sessions.titles import sanitized
from reference_impl.state_db.changes import Changes
from reference_impl.state_db.errors import TitleTakenError
from reference_impl.state_db.records import Draft, Usage
from reference_impl.state_db.records import Session as Row
from reference_impl.state_db.state_db import StateDb

SOURCE = "webui"
_CUT_OFF = ("cancelled", "interrupted", "error")


class StateSync:
    """A callable that syncs one session into the database."""

    def __init__(self, db: StateDb) -> None:
        self._db = db

    def __call__(self, session: Session) -> None:
        """Write what is missing in one transaction, which needs one sync of the disk.

        Raises as the state database does; then nothing was written, and the next call does it.
        """
        try:
            self._write(session, _title(session))
        except TitleTakenError:  # titles are unique in the database, not in sidecars
            self._write(session, None)  # a former title would be wrong

    def _write(self, session: Session, title: str | None) -> None:
        sid = session.session_id
        known = self._db.get_session(sid)
        changes = self._db.changes(sid)
        prompt = _text_or_none(session.extra.get("system_prompt"))
        if known is None:
            changes.create_session(SOURCE, system_prompt=prompt)
        elif prompt is not None and known.system_prompt != prompt:
            changes.set_system_prompt(prompt)
        self._add_messages(changes, sid, [_draft(message) for message in session.messages])
        if title != (known.title if known is not None else None):
            changes.set_title(title)
        _add_usage(changes, known.usage if known is not None else Usage(), usage_of(session))
        _add_end(changes, known, *end_of(session.extra))
        if changes:
            self._db.write(changes)

    def _add_messages(self, changes: Changes, sid: str, wanted: list[Draft]) -> None:
        existing = [message.draft() for message in self._db.get_messages(sid)]
        is_beginning = len(existing) <= len(wanted)
        if is_beginning and all(map(_is_copy, existing, wanted)):
            for draft in wanted[len(existing) :]:
                changes.append_message(draft)
        elif wanted:
            changes.replace_messages(wanted)
        else:
            changes.clear_messages()


def _add_usage(changes: Changes, known: Usage, totals: Mapping[str, Any]) -> None:
    wanted = Usage(**totals)
    counts = {name: getattr(wanted, name) - getattr(known, name) for name in USAGE}
    if any(count < 0 for count in counts.values()):
        changes.set_tokens(wanted)
    elif any(counts.values()):
        changes.add_tokens(replace(wanted, **counts))


def _add_end(changes: Changes, known: Row | None, at: float | None, reason: str | None) -> None:
    former = (None, None) if known is None else (known.ended_at, known.end_reason)
    if (at, reason) == former:
        return
    if known is not None and known.ended_at is not None:  # the database keeps the first end
        changes.reopen_session()
    if at is not None:
        changes.end_session(str(reason), at)


def _title(session: Session) -> str | None:
    return None if session.title == UNTITLED else sanitized(_text(session.title))


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
