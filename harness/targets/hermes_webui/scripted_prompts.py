"""The questions of the scripted agent: approvals that a session's user gives or denies.

A turn that needs an approval waits until one comes, or until its server leaves the turn. The server
imports these names from `tools.approval`, and reads the queues itself. It imports nothing else but
the standard library, because the server's process need not have the harness.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from typing import Any

Notify = Callable[[dict[str, Any]], None]

POLL_S = 0.02

_lock = threading.RLock()
_pending: dict[str, Any] = {}  # what the server shows; it fills and empties this
_gateway_queues: dict[str, list[Approval]] = {}  # what the turns of a session wait for
_notify: dict[str, Notify] = {}  # by session
_approved: dict[str, set[str]] = {}  # patterns, by session
_permanent_approved: set[str] = set()
_free: set[str] = set()  # sessions that need no approval


class Approval:
    """One question, and the thread that waits for its answer."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data
        self.event = threading.Event()
        self.result: str | None = None


def ask(session_key: str, command: str, is_stopped: Callable[[], bool]) -> str:
    """Wait for the answer about a command; `no answer` if the turn is left or stopped before."""
    key = f"pattern of {command}"
    data = {
        "command": command,
        "description": f"about {command}",
        "pattern_key": key,
        "pattern_keys": [key],
        "request_id": uuid.uuid4().hex,
    }
    if session_key in _free or is_approved(session_key, key):
        return "free"
    approval = Approval(data)
    with _lock:
        notify = _notify.get(session_key)
        if notify is None:
            return "no user"
        _gateway_queues.setdefault(session_key, []).append(approval)
    notify(data)
    while not approval.event.wait(POLL_S) and not is_stopped():
        pass
    with _lock:
        waiting = _gateway_queues.get(session_key, [])
        if approval in waiting:
            waiting.remove(approval)
        if not waiting:
            _gateway_queues.pop(session_key, None)
    if approval.result == "session":
        approve_session(session_key, key)
    return approval.result or "no answer"


def register_gateway_notify(session_key: str, notify: Notify) -> None:
    """Call this function for each question of the session."""
    with _lock:
        _notify[session_key] = notify


def unregister_gateway_notify(session_key: str) -> None:
    """Forget the function, and end every wait of the session."""
    with _lock:
        _notify.pop(session_key, None)
        waiting = _gateway_queues.pop(session_key, [])
    for approval in waiting:
        approval.event.set()


def resolve_gateway_approval(
    session_key: str,
    choice: str,
    resolve_all: bool = False,  # noqa: FBT001, FBT002  the server's own call
    **_unused: Any,
) -> int:
    """Answer the oldest question of the session, or all of them; how many."""
    with _lock:
        waiting = _gateway_queues.get(session_key, [])
        answered = waiting[:] if resolve_all else waiting[:1]
        del waiting[: len(answered)]
    for approval in answered:
        approval.result = choice
        approval.event.set()
    return len(answered)


def has_blocking_approval(session_key: str) -> bool:
    """Whether a turn of the session waits."""
    with _lock:
        return bool(_gateway_queues.get(session_key))


def submit_pending(session_key: str, approval: dict[str, Any]) -> None:
    """Show one question."""
    with _lock:
        _pending[session_key] = approval


def has_pending(session_key: str) -> bool:
    """Whether a question is shown."""
    with _lock:
        return bool(_pending.get(session_key))


def pop_pending(session_key: str) -> Any:
    """Show no question any more; the one that was shown."""
    with _lock:
        return _pending.pop(session_key, None)


def approve_session(session_key: str, pattern_key: str) -> None:
    """Ask no more about this in the session."""
    with _lock:
        _approved.setdefault(session_key, set()).add(pattern_key)


def approve_permanent(pattern_key: str) -> None:
    """Ask no more about this at all."""
    with _lock:
        _permanent_approved.add(pattern_key)


def save_permanent_allowlist(patterns: Any) -> None:
    """Keep nothing beyond the process."""


def is_approved(session_key: str, pattern_key: str) -> bool:
    """Whether this needs no question."""
    with _lock:
        return pattern_key in _permanent_approved or pattern_key in _approved.get(
            session_key, set()
        )


def enable_session_yolo(session_key: str) -> None:
    """Ask the session nothing."""
    with _lock:
        _free.add(session_key)


def disable_session_yolo(session_key: str) -> None:
    """Ask the session again."""
    with _lock:
        _free.discard(session_key)


def is_session_yolo_enabled(session_key: str) -> bool:
    """Whether the session is asked nothing."""
    with _lock:
        return session_key in _free
