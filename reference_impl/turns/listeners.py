"""Listeners of all runs, and the wakeups that a user's turn takes along."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from reference_impl.storage.json_log import Row
from reference_impl.turns.run import Run

log = logging.getLogger(__name__)


class TurnListener:
    """Base class of listeners; each overrides what it needs. No method may be slow."""

    def user_refused(self, run: Run) -> None:
        """A user's turn was refused because of this run."""

    def started(self, run: Run) -> None:
        """The run is registered, and the user's message is on disk."""

    def shown(self, run: Run, row: Row) -> None:
        """The run's next event is in its journal; in order, one at a time."""

    def ended(self, run: Run) -> None:
        """The run has left the registry. It may never have started."""


class Listeners:
    """All listeners; one that fails harms no turn."""

    def __init__(self) -> None:
        self._listeners: list[TurnListener] = []

    def add(self, listener: TurnListener) -> None:
        """Add a listener; before the first run starts."""
        self._listeners.append(listener)

    def notify(self, act: Callable[[TurnListener], object]) -> None:
        """Call each listener, in the order in which they were added."""
        for listener in self._listeners:
            try:
                act(listener)
            except Exception:
                log.exception("%s failed; the turn goes on", type(listener).__name__)


class PendingWakeups(Protocol):
    """The wakeups that a user's turn takes along: their prompts precede its message."""

    def claim(self, session_id: str) -> Sequence[tuple[str, str]]:
        """The ids and texts of the session's pending wakeups; no other path delivers them now."""
        ...

    def release(self, session_id: str, *, are_delivered: bool) -> None:
        """End the claim: they are delivered with a turn, or another path may deliver them."""
        ...


class NoWakeups:
    """A user's turn takes no wakeup along."""

    def claim(self, session_id: str) -> Sequence[tuple[str, str]]:  # noqa: ARG002
        """None is pending."""
        return ()

    def release(self, session_id: str, *, are_delivered: bool) -> None:
        """Do nothing: none was claimed."""
