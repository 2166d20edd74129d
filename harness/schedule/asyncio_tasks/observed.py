"""Reports the callbacks of a loop to the story: a task's steps in its own column, at its line.

Callbacks of asyncio itself are not shown: they only carry a result to the task that waits for it.
"""

from __future__ import annotations

import asyncio
import functools
from inspect import CORO_CREATED, getcoroutinestate, iscoroutine
from types import CodeType
from typing import Any

from harness.schedule.asyncio_tasks.task import name_of, stepped, suspended_in
from harness.schedule.scheduler import Scheduler

_HOUSEKEEPING = ("shutdown_asyncgens", "shutdown_default_executor")


class Suspended:
    """Where a task goes on, or where a callback begins: the target of a step in a story."""

    def __init__(self, label: str, code: CodeType | None, line: int) -> None:
        self.label = label
        self.suspended = (code, line)


def observe(run: Scheduler, handle: Any) -> None:
    """Report one callback just before it runs."""
    thread = run.current
    task = stepped(handle)
    observer = run.observer
    assert observer is not None
    if task is not None and getattr(task.get_coro(), "__name__", "") in _HOUSEKEEPING:
        thread.strand = None
        return
    if task is not None:
        thread.strand = name_of(task)
        observer.observe(thread, _kind(task, handle), _place(task, ""))
        return
    callback = handle._callback  # noqa: SLF001
    while isinstance(callback, functools.partial):
        callback = callback.func
    owner = getattr(callback, "__self__", None)
    if isinstance(owner, asyncio.Timeout):
        timed = owner._task  # type: ignore[attr-defined]  # noqa: SLF001
        thread.strand = name_of(timed)
        observer.observe(thread, "timeout", _place(timed, ""))
        return
    thread.strand = None
    if isinstance(owner, asyncio.Task):
        label = f"{name_of(owner)}.{getattr(callback, '__name__', '')}"
        observer.observe(thread, "callback", _place(owner, label))
    elif not str(getattr(callback, "__module__", "") or "_asyncio").startswith(
        ("asyncio.", "_asyncio", "harness.schedule.")
    ):
        code = getattr(callback, "__code__", None)
        line = code.co_firstlineno if code is not None else 0
        label = getattr(callback, "__name__", type(callback).__name__)
        observer.observe(thread, "callback", Suspended(label, code, line))


def _kind(task: Any, handle: Any) -> str:
    coroutine = task.get_coro()
    if task._must_cancel or any(  # noqa: SLF001 - the attributes of CPython
        isinstance(argument, asyncio.Future) and argument.cancelled()
        for argument in handle._args or ()  # noqa: SLF001
    ):
        return "cancelled"
    is_new = iscoroutine(coroutine) and getcoroutinestate(coroutine) == CORO_CREATED
    return "start" if is_new else "resume"


def _place(task: Any, label: str) -> Suspended:
    frame = suspended_in(task)
    if frame is None:
        return Suspended(label, None, 0)
    return Suspended(label, frame.f_code, frame.f_lineno)
