"""A run: a turn while it executes, its origin and end, and why one cannot begin."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from reference_impl.agents.agent import Agent
from reference_impl.sessions.sidecar import UNTITLED, Session
from reference_impl.turns.journal import RunWriter


class TurnConflictError(Exception):
    """The session has a run already. `stream_id` is None if no client may attach to that run."""

    def __init__(self, run: Run) -> None:
        self.stream_id = run.stream_id if run.is_attachable else None
        super().__init__(f"session {run.session_id} already has an active stream")


class AlreadyDeliveredError(Exception):
    """The session has this wakeup already; no turn was started."""


class ShuttingDownError(Exception):
    """No turn can begin any more."""


class Source(StrEnum):
    """The origin of a turn. An ephemeral one leaves nothing in the session."""

    USER = "user"
    WAKEUP = "process_wakeup"
    EPHEMERAL = "ephemeral"


class State(StrEnum):
    """How a run ended."""

    DONE = "done"
    CANCELLED = "cancelled"
    ERROR = "error"


@dataclass(eq=False, slots=True)
class Run:
    """A turn while it executes. `started_at` is in seconds of the epoch.

    `asked` is what its start asked for, and then what it works with, as its session says.
    """

    session_id: str
    message: str
    source: Source
    wakeup_id: str | None
    started_at: float
    asked: Mapping[str, Any] = field(default_factory=dict)
    is_retry: bool = False
    notices: Sequence[tuple[str, str]] = ()  # ids and texts of the wakeups that it takes along
    stream_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    turn_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    cancelled: threading.Event = field(default_factory=threading.Event)
    unwound: threading.Event = field(default_factory=threading.Event)
    concluded: threading.Event = field(default_factory=threading.Event)
    title: str = UNTITLED  # of its session, once it is submitted
    is_submitted: bool = False
    is_concluding: bool = False
    state: State | None = None  # decided, and final
    error: str = ""
    unsynced: Session | None = None
    agent: Agent | None = None
    writer: RunWriter | None = None
    produced: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    calls: list[Mapping[str, Any]] = field(default_factory=list)  # of tools
    spent: list[Mapping[str, float]] = field(default_factory=list)  # by names of USAGE

    @property
    def is_attachable(self) -> bool:
        """Whether a client may attach to its stream."""
        return self.state is None and not self.cancelled.is_set()

    @property
    def phase(self) -> str:
        """What the run is doing, in one word."""
        if self.cancelled.is_set():
            return "cancelling"
        return "running" if self.state is None else "ending"
