"""The tasks of a controlled loop, numbered so that sets of them have one order."""

from __future__ import annotations

import asyncio
from typing import Any

from harness.schedule.accesses import is_under_test

FIRST = 1 << 12  # the number of the first choice among callbacks; those of threads are smaller
_STEPS = frozenset({"", "task_wakeup", "TaskWakeupMethWrapper", "__step", "__wakeup"})


class Task(asyncio.Task[Any]):
    """A stock task with a number: sets of tasks are in order of numbers, not of addresses."""

    number: int

    def __hash__(self) -> int:
        return self.number


def make(number: int, coroutine: Any, loop: Any, options: dict[str, Any]) -> Task:
    """Make a task that has its number before asyncio registers it in its set of all tasks."""
    task = Task.__new__(Task)
    task.number = number
    task.__init__(coroutine, loop=loop, **options)  # type: ignore[misc]
    return task


class JobFuture(asyncio.Future[Any]):
    """The future of an executor's job, with a number as a task has."""

    def __init__(self, number: int, loop: Any) -> None:
        self.number = number
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self.number


class Strand:
    """A choice of the callback that runs next: what a strategy expects of a thread."""

    __slots__ = ("name", "number", "target")

    def __init__(self, number: int, name: str, target: Any) -> None:
        self.number = number
        self.name = name
        self.target = target


def stepped(handle: Any) -> Any:
    """Return the task whose next step this callback is; None for any other callback."""
    callback = handle._callback  # noqa: SLF001 - the attribute of CPython
    owner = getattr(callback, "__self__", None)
    if type(owner) is not Task and not isinstance(owner, asyncio.Task):
        return None
    return owner if getattr(callback, "__name__", "") in _STEPS else None


def name_of(task: Any) -> str:
    """Return a task's name: the one it was given, or its number and its coroutine."""
    name = str(task.get_name())
    coroutine = getattr(task.get_coro(), "__name__", "")
    return f"{name} {coroutine}" if name.startswith("Task-") else name


def frames(task: Any) -> list[Any]:
    """Return the frames of a suspended task, the innermost last."""
    found = []
    awaited = task.get_coro()
    while awaited is not None:
        for kind in ("cr", "gi", "ag"):
            if hasattr(awaited, f"{kind}_frame"):
                found.append(getattr(awaited, f"{kind}_frame"))
                inner = "gi_yieldfrom" if kind == "gi" else f"{kind}_await"
                awaited = getattr(awaited, inner)
                break
        else:
            break
    return [frame for frame in found if frame is not None]


def suspended_in(task: Any) -> Any:
    """Return the innermost frame of the program in which a task is suspended; None if none is."""
    for frame in reversed(frames(task)):
        file = frame.f_code.co_filename
        if is_under_test(file) or "-packages" in file:
            return frame
    return None
