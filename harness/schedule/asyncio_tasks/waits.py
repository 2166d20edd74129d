"""Says what a suspended task waits for: the lock and its owner, the queue, the task, the line."""

from __future__ import annotations

import asyncio
import linecache
from typing import Any

from harness.schedule.asyncio_tasks.task import frames, name_of, suspended_in

_HOMES = ("asyncio.locks", "asyncio.queues")
HOLDER = "_controlled_holder"  # of an asyncio.Lock: the task that holds it


def sentence(task: Any) -> str:
    """Return a task, what it waits for, and where."""
    where = ""
    own = suspended_in(task)
    if own is not None:
        file, line = own.f_code.co_filename, own.f_lineno
        source = linecache.getline(file, line).strip()
        where = f" at {file.rpartition('/')[2]}:{line} `{source}`"
    return f"{name_of(task)} waits for {_awaited(task, own)}{where}"


def _awaited(task: Any, own: Any) -> str:
    for frame in frames(task):
        subject = frame.f_locals.get("self")
        if type(subject).__module__ in _HOMES:
            return f"{_named(subject, own)}{_held(subject)}"
        if frame.f_code is asyncio.sleep.__code__:
            return "a timer"
    waited = getattr(task, "_fut_waiter", None)
    children = [child for child in getattr(waited, "_children", ()) if not child.done()]
    if children and all(isinstance(child, asyncio.Task) for child in children):
        return " and ".join(name_of(child) for child in children)
    if isinstance(waited, asyncio.Task):
        return name_of(waited)
    return "its next step" if waited is None else "a future"


def _held(subject: Any) -> str:
    lock = getattr(subject, "_lock", subject)
    holder = vars(lock).get(HOLDER) if hasattr(lock, "__dict__") else None
    if holder is None or not lock.locked():
        return ""
    return f", which {name_of(holder)} holds{' though it has ended' if holder.done() else ''}"


def _named(subject: Any, frame: Any) -> str:
    """Name an object by the variable or attribute through which its user reaches it."""
    kind = type(subject).__name__
    if frame is None:
        return f"a {kind}"
    for name, value in frame.f_locals.items():
        if value is subject:
            return f"{kind} {name}"
        for attribute, inner in getattr(value, "__dict__", {}).items():
            if inner is subject:
                return f"{kind} {type(value).__name__}.{attribute}"
    for name, value in frame.f_globals.items():
        if value is subject:
            return f"{kind} {name}"
    return f"a {kind}"
