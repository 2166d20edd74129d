"""The program under test, as its author sees it: threads, cells, and meetings.

A *body* is called afresh for each schedule with a `Run`. It makes its subject, starts threads,
joins them, and asserts. What it returns is the schedule's *outcome*.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, Generic, TypeVar

from harness.schedule.control import scheduler
from harness.schedule.primitives import birth_key
from harness.schedule.scheduler import Scheduler, Task

T = TypeVar("T")
Body = Callable[["Run"], Any]


class Run:
    """One schedule of a body."""

    __slots__ = ("_scheduler", "_tasks", "meetings")

    def __init__(self, scheduler: Scheduler, meetings: Counter[str]) -> None:
        self._scheduler = scheduler
        self._tasks: list[Task] = []
        self.meetings = meetings

    def thread(
        self, function: Callable[..., object], *args: Any, name: str = "", **kwargs: Any
    ) -> Task:
        """Start a thread under control. It acts when it is chosen, not before."""
        label = name or chr(ord("a") + len(self._tasks) % 26)
        task = self._scheduler.spawn(partial(function, *args, **kwargs), label, daemon=False)
        self._tasks.append(task)
        return task

    def join(self, *tasks: Task) -> None:
        """Wait until these threads have ended; all that `thread` started, if none are named."""
        self._scheduler.join(list(tasks) or self._tasks)

    def cell(self, value: T, name: str = "a cell") -> Cell[T]:
        """A shared variable, each access to which is a step of its own."""
        return Cell(value, name)

    def met(self, meeting: str) -> None:
        """Note that the interesting meeting happened: a commit finished after a newer turn."""
        self.meetings[meeting] += 1

    @property
    def now_ns(self) -> int:
        """Virtual nanoseconds since the schedule began."""
        return self._scheduler.clock.now_ns

    @property
    def step(self) -> int:
        """How many steps were taken so far: a clock that never stands still between two of them."""
        return self._scheduler.steps


class Cell(Generic[T]):
    """A shared variable, each access to which is a step of its own."""

    __slots__ = ("_value", "key", "label")

    def __init__(self, value: T, label: str) -> None:
        self._value = value
        self.label = label
        self.key = birth_key(self)

    def get(self) -> T:
        """Read it."""
        if (run := scheduler()) is not None:
            run.point("read", self)
            if run.footprint is not None:
                run.footprint.touch(self, write=False)
        return self._value

    def set(self, value: T) -> None:
        """Write it."""
        if (run := scheduler()) is not None:
            run.point("write", self)
            if run.footprint is not None:
                run.footprint.touch(self, write=True)
        self._value = value
