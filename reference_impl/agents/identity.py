"""Turn identity: which session's turn the current code works for.

The identity is bound to the execution context, never to the process, so turns run concurrently and
everything that a turn spawns belongs to its own session. A plain thread starts without identity: a
turn's threads are started with `spawn`, and a function for a pool is wrapped with `carried`.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Identity:
    """A turn: the session that it belongs to, and the stream of its events."""

    session_id: str
    stream_id: str


_identity: contextvars.ContextVar[Identity | None] = contextvars.ContextVar(
    "turn identity", default=None
)


def current() -> Identity | None:
    """The turn that this code works for; None outside any turn."""
    return _identity.get()


@contextmanager
def bound(identity: Identity) -> Iterator[None]:
    """Work for that turn; restore the previous identity on every way out."""
    token = _identity.set(identity)
    try:
        yield
    finally:
        _identity.reset(token)


def carried(act: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Wrap `act` so that it works for the current turn, on any thread that calls it.

    Each call gets its own copy of the context, so several threads may call it at once.
    """
    context = contextvars.copy_context()

    def act_here(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        return context.copy().run(act, *args, **kwargs)

    return act_here


def spawn(act: Callable[[], object], *, name: str | None = None) -> threading.Thread:
    """Start a thread that works for the current turn. It is a daemon: no turn delays an exit."""
    thread = threading.Thread(target=carried(act), name=name, daemon=True)
    thread.start()
    return thread
