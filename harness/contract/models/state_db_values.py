"""What the state database holds, as values: sessions, messages, removed items and the day."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

Message = tuple[str, str]  # role and text
ABOUT = ("model", "model_config", "user_id", "parent_session_id")
USAGE = ("cache_read_tokens", "cache_write_tokens", "reasoning_tokens", "cost_usd")
DETAILS = ("tool_call_id", "tool_name", "token_count", "finish_reason", "reasoning")
NO_DETAILS = "{}"  # of a message: its columns with a value, as JSON


@dataclass(frozen=True, slots=True)
class Session:
    """One session. Days count from the beginning of the episode."""

    source: str
    began_day: float
    ended_day: float | None = None
    title: str | None = None
    tool_calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    messages: tuple[Message, ...] = ()
    calls: tuple[int, ...] = ()  # tool calls by message
    system_prompt: str | None = None
    end_reason: str | None = None
    about: tuple[str | None, ...] = (None,) * len(ABOUT)  # its configuration as JSON
    usage: tuple[float, ...] = (0,) * len(USAGE)
    billing_mode: str | None = None
    details: tuple[str, ...] = ()  # by message, as JSON
    drift: int = 0  # by which a target was seen to count too many messages


@dataclass(frozen=True, slots=True)
class State:
    """All sessions by id, in order of id; removed items; and the present day.

    The removed items decide which promise a stray item breaks.
    """

    sessions: tuple[tuple[str, Session], ...] = ()
    removed: frozenset[tuple[str, ...]] = frozenset()  # (session,) or (session, role, text)
    day: float = 0.0

    def get(self, name: str) -> Session | None:
        """The session, if it exists."""
        return dict(self.sessions).get(name)

    def put(self, name: str, session: Session) -> State:
        """This state with one session new or changed."""
        before = self.get(name)
        present = Counter(session.messages)
        gone = Counter(before.messages if before else ()) - present
        back = {(name,), *((name, *message) for message in present)}
        removed = self.removed.union((name, *message) for message in gone) - back
        sessions = dict(self.sessions) | {name: session}
        return replace(self, sessions=tuple(sorted(sessions.items())), removed=removed)

    def drop(self, names: Iterable[str]) -> State:
        """This state without some sessions."""
        names = set(names)
        gone = {(name,) for name in names} | {
            (name, *message)
            for name, session in self.sessions
            if name in names
            for message in session.messages
        }
        left = tuple(
            (name, _orphaned(session, names))
            for name, session in self.sessions
            if name not in names
        )
        return replace(self, sessions=left, removed=self.removed | gone)


def _orphaned(session: Session, gone: set[str]) -> Session:
    *about, parent = session.about
    return replace(session, about=(*about, None)) if parent in gone else session


def as_json(value: Any) -> str:
    """JSON in which equal values have equal texts."""
    return json.dumps(value, sort_keys=True)


def owner_of(state: State, title: str) -> str | None:
    """The session that has a title."""
    return next((name for name, session in state.sessions if session.title == title), None)
