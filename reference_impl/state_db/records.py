"""What the state database stores: sessions, what they cost, and messages; to rows and from them.

Knows the names of the columns, and nothing of how they are read or written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple


@dataclass(frozen=True, slots=True)
class Usage:
    """What calls of models cost; `model` and `billing_mode` say whose tokens these are."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    cost_usd: float = 0.0
    model: str | None = None
    billing_mode: str | None = None


@dataclass(frozen=True, slots=True)
class Session:
    """A session without its messages. Times are seconds of the epoch."""

    id: str
    source: str
    title: str | None
    system_prompt: str | None
    started_at: float
    ended_at: float | None
    end_reason: str | None
    message_count: int
    tool_call_count: int
    user_id: str | None
    parent_session_id: str | None
    model_config: Mapping[str, Any] | None
    usage: Usage


class Draft(NamedTuple):
    """A message that is not stored yet."""

    role: str
    content: str | None
    tool_calls: tuple[Any, ...] = ()
    tool_call_id: str | None = None  # of the call that this message answers
    tool_name: str | None = None
    token_count: int | None = None
    finish_reason: str | None = None
    reasoning: str | None = None
    reasoning_details: tuple[Any, ...] = ()


class Message(NamedTuple):
    """One stored message; `id` grows within the file. The time is seconds of the epoch."""

    id: int
    session: str
    timestamp: float
    role: str
    content: str | None
    tool_calls: tuple[Any, ...]
    tool_call_id: str | None
    tool_name: str | None
    token_count: int | None
    finish_reason: str | None
    reasoning: str | None
    reasoning_details: tuple[Any, ...]

    def draft(self) -> Draft:
        """What was stored."""
        return Draft(*self[3:])


_DRAFT = Draft._fields
_USAGE = tuple(
    "estimated_cost_usd" if field.name == "cost_usd" else field.name for field in fields(Usage)
)
COUNTED, NAMED = _USAGE[:6], _USAGE[6:]
SELECT_SESSIONS = (
    "SELECT id, source, title, system_prompt, started_at, ended_at, end_reason,"  # noqa: S608  our own names
    " message_count, tool_call_count, user_id, parent_session_id, model_config,"
    f" {', '.join(_USAGE)} FROM sessions "
)
SELECT_MESSAGES = f"SELECT id, session_id, timestamp, {', '.join(_DRAFT)} FROM messages "  # noqa: S608  likewise
INSERT_MESSAGE = (
    f"INSERT INTO messages(session_id, timestamp, {', '.join(_DRAFT)})"  # noqa: S608  likewise
    f" VALUES ({', '.join('?' * (2 + len(_DRAFT)))})"
)


def session_of(row: tuple[Any, ...]) -> Session:
    """The session of a row that SELECT_SESSIONS gives."""
    *columns, config = row[:12]
    usage: tuple[Any, ...] = (*(count or 0 for count in row[12:18]), *row[18:])
    model_config = None if config is None else json.loads(config)
    values: tuple[Any, ...] = (*columns, model_config, Usage(*usage))
    return Session(*values)


def message_of(row: tuple[Any, ...]) -> Message:
    """The message of a row that SELECT_MESSAGES gives."""
    calls, details = row[5], row[-1]
    parsed_calls = calls_of(json.loads(calls)) if calls else ()
    parsed_details = tuple(json.loads(details)) if details else ()
    return Message._make((*row[:5], parsed_calls, *row[6:-1], parsed_details))


def _json(values: tuple[Any, ...]) -> str | None:
    return json.dumps(values) if values else None


def calls_of(calls: Sequence[Any] | Mapping[str, Any]) -> tuple[Any, ...]:
    """The tool calls of a message; a single one may be given as a mapping."""
    return (calls,) if isinstance(calls, Mapping) else tuple(calls)


def row_of(session: str, draft: Draft, at: float) -> tuple[Any, ...]:
    """The values that INSERT_MESSAGE needs."""
    role, content, calls, *details, reasoning_details = draft
    return (session, at, role, content, _json(calls), *details, _json(reasoning_details))
