"""How a turn changes its session: a message is pending, and then it is concluded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from reference_impl.sessions.sidecar import USAGE, Message, Metadata, Session, usage_of
from reference_impl.sessions.store import SaveRefusedError
from reference_impl.turns.run import Run, Source

_PENDING = (
    *("pending_turn_id", "pending_user_source", "pending_wakeup_id"),
    *("pending_attachments", "pending_notices"),
)
ENDED = ("ended_at", "end_reason")  # of a session that a client ended
KEPT = ("model", "model_provider", "workspace", "profile", "enabled_toolsets")
NOTHING: Mapping[str, Any] = {}


def with_pending(session: Session, run: Run) -> Session:
    """The session with the message of a run that begins, not yet among its messages."""
    attachments = run.asked.get("attachments") or None
    new = [
        {"wakeup_id": wakeup_id, "content": text}
        for wakeup_id, text in run.notices
        if not has_wakeup(session, wakeup_id)
    ]
    values = (run.turn_id, str(run.source), run.wakeup_id, attachments, new or None)
    pending = zip(_PENDING, values, strict=True)
    return replace(
        session,
        active_stream_id=run.stream_id,
        pending_user_message=run.message,
        pending_started_at=run.started_at,
        extra={
            **{name: value for name, value in session.extra.items() if name not in ENDED},
            **{name: run.asked[name] for name in KEPT if name in run.asked},
            **{name: value for name, value in pending if value is not None},
        },
    )


def taken_back(session: Session, run: Run) -> Session:
    """The session without its last turn, whose message the run sends again."""
    at = request_of(session)
    request = session.messages[at]
    run.message = request["content"]
    run.asked = {"attachments": request.get("attachments", [])}
    return session.cut(at)


def request_of(session: Session) -> int:
    """Index of the message that asked for the last turn. Raises SaveRefusedError if none did."""
    at = session.last_request()
    if at is None:
        raise SaveRefusedError(f"{session.session_id}: there is no turn")
    return at


def is_request(message: Message) -> bool:
    """Whether a user sent the message."""
    return message.get("role") == "user"


def asked_of(session: Metadata) -> Mapping[str, Any]:
    """What the session's pending turn works with."""
    kept = {name: session.extra[name] for name in KEPT if name in session.extra}
    return {**kept, "attachments": session.extra.get("pending_attachments", [])}


def without_pending(session: Session) -> Session:
    """The session as if its pending turn had never begun."""
    return replace(
        session,
        active_stream_id=None,
        pending_user_message=None,
        pending_started_at=None,
        extra={name: value for name, value in session.extra.items() if name not in _PENDING},
    )


def concluded(
    session: Session,
    text: str,
    mark: Message,
    at: float | None,
    about: Message = NOTHING,
) -> Session:
    """The session with the pending turn among its messages: the request, and the reply."""
    extra = session.extra
    turn_id = {"turn_id": extra["pending_turn_id"]} if "pending_turn_id" in extra else {}
    sent = NOTHING if "error" in mark else mark
    messages: list[Message] = [*notices_of(session, sent)]
    if session.pending_user_message is not None:
        request: dict[str, Any] = {
            "role": "user",
            "content": session.pending_user_message,
            "timestamp": session.pending_started_at,
            **turn_id,
            "source": extra.get("pending_user_source", Source.USER),
        }
        if "pending_wakeup_id" in extra:
            request["wakeup_id"] = extra["pending_wakeup_id"]
        if "pending_attachments" in extra:
            request["attachments"] = extra["pending_attachments"]
        messages.append({**request, **sent})
    if text or "error" in mark or not mark:
        reply = {"role": "assistant", "content": text, "timestamp": at, **turn_id, **about}
        messages.append({**reply, **mark})
    return without_pending(session).appended(*messages)


def about_reply(run: Run) -> Message:
    """What the session keeps of a reply besides its text."""
    found = {
        "tool_calls": [*run.calls],
        "reasoning": "".join(run.thoughts),
        "token_count": _sum(run, "output_tokens"),
    }
    return {name: value for name, value in found.items() if value}


def with_usage(session: Session, run: Run) -> Session:
    """The session with what its run cost; a run that was cancelled or failed cost something too."""
    if run.agent is None:
        return session
    before = usage_of(session)
    usage = {name: before.get(name, 0) + _sum(run, name) for name in USAGE}
    model = before.get("model") or run.asked.get("effective_model")
    prompt = session.extra.get("system_prompt") or run.agent.system_prompt
    extra = {"usage": {**usage, "model": model}, "system_prompt": prompt}
    return replace(session, extra={**session.extra, **extra})


def _sum(run: Run, name: str) -> float:
    return sum(counts.get(name, 0) for counts in tuple(run.spent))


def notices_of(session: Session, mark: Message) -> tuple[Message, ...]:
    """The messages of the wakeups that the session's pending turn takes along."""
    extra = session.extra
    about = {
        "timestamp": session.pending_started_at,
        **({"turn_id": extra["pending_turn_id"]} if "pending_turn_id" in extra else {}),
        "source": str(Source.WAKEUP),
    }
    return tuple(
        {"role": "user", "content": notice["content"], **about, "wakeup_id": notice["wakeup_id"]}
        | dict(mark)
        for notice in extra.get("pending_notices", ())
    )


def has_wakeup(session: Session, wakeup_id: str) -> bool:
    """Whether a turn has delivered the wakeup."""
    return any(message.get("wakeup_id") == wakeup_id for message in session.messages)


def is_of(message: Message, turn_id: str) -> bool:
    """Whether the message is one of the turn."""
    return message.get("turn_id") == turn_id


def is_marked(message: Message) -> bool:
    """Whether the turn of the message did not end by itself."""
    return bool(message.keys() & {"interrupted", "cancelled", "error"})
