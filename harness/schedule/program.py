"""The interface of a program under test: threads, cells, and situations that it reached.

A *body* is called with a fresh `Run` for each schedule. It creates its subject, starts threads,
joins them, and asserts. Its return value is the schedule's *outcome*.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Generic, TypeVar

from harness.schedule.control import scheduler
from harness.schedule.primitives import creation_key
from harness.schedule.scheduler import Scheduler
from harness.schedule.tasks import Task

T = TypeVar("T")
Body = Callable[["Run"], Any]


class Run:
    """One schedule of a body."""

    __slots__ = ("_scheduler", "_tasks", "situations")

    def __init__(self, scheduler: Scheduler, situations: Counter[str]) -> None:
        self._scheduler = scheduler
        self._tasks: list[Task] = []
        self.situations = situations

    def thread(
        self, function: Callable[..., object], *args: Any, name: str = "", **kwargs: Any
    ) -> Task:
        """Start a thread under control. It runs only when the strategy chooses it."""
        label = name or chr(ord("a") + len(self._tasks) % 26)
        task = self._scheduler.spawn(partial(function, *args, **kwargs), label, daemon=False)
        self._tasks.append(task)
        return task

    def join(self, *tasks: Task) -> None:
        """Wait for the end of these threads, or of all that `thread` started."""
        self._scheduler.join(list(tasks) or self._tasks)

    def cancel(self, task: asyncio.Task[Any]) -> Task:
        """Cancel an asyncio task from a client's thread, at any of the places where it waits.

        Called in the loop that runs the task. Whether the task still runs by then is open.
        """
        loop = asyncio.get_running_loop()
        return self.thread(_cancel, loop, task, name=f"the client of {task.get_name()}")

    def cell(self, value: T, name: str = "a cell") -> Cell[T]:
        """Create a shared variable, each access to which is a step."""
        return Cell(value, name)

    def reached(self, situation: str) -> None:
        """Count a situation that the scenario has to reach, as named by the body."""
        self.situations[situation] += 1

    @property
    def now_ns(self) -> int:
        """The virtual nanoseconds since the schedule began."""
        return self._scheduler.clock.now_ns

    @property
    def step(self) -> int:
        """The number of steps so far: a logical clock that differs between any two steps."""
        return self._scheduler.steps


def _cancel(loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> None:
    with suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(task.cancel)


class Cell(Generic[T]):
    """A shared variable, each access to which is a step."""

    __slots__ = ("_value", "key", "label")

    def __init__(self, value: T, label: str) -> None:
        self._value = value
        self.label = label
        self.key = creation_key(self)

    def get(self) -> T:
        """Read the value."""
        if (run := scheduler()) is not None:
            run.point("read", self)
            if run.footprint is not None:
                run.footprint.touch(self, write=False)
        return self._value

    def set(self, value: T) -> None:
        """Write the value."""
        if (run := scheduler()) is not None:
            run.point("write", self)
            if run.footprint is not None:
                run.footprint.touch(self, write=True)
        self._value = value
