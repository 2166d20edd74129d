"""The story: a schedule as numbered steps, one column a thread.

A row is one operation, in the thread that did it; an arrow marks where another thread took over
though the first could have gone on. Steps that CPython's own library takes inside one call of the
code under test are told by that call's line.
"""

from __future__ import annotations

import linecache
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from types import FrameType
from typing import Any

from harness.schedule.exhaustive import LIBRARY
from harness.schedule.scheduler import Scheduler, Task
from harness.schedule.trace import Place

_WIDTH = 110
_NARROWEST = 18


@dataclass(frozen=True, slots=True)
class Step:
    """One operation of one thread. `preempted` is whether the thread before it could have acted."""

    number: int
    thread: str
    act: str
    place: str  # file:line function, of the code under test
    source: str
    at_ns: int
    preempted: bool = False
    feasible: bool = True  # whether CPython with its global lock can switch just before
    baked: bool = False  # whether causality found that the failure was decided here

    def to_json(self) -> dict[str, Any]:
        """Render as a JSON object."""
        return asdict(self)


class Recorder:
    """Writes the steps down as they happen."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._last: Task | None = None
        self._suspended: set[Task] = set()
        self.steps: list[Step] = []
        self.feasible = True

    def sees(self, task: Task, kind: str, target: Any) -> None:
        """Note one operation; called on the thread that is about to do it."""
        last = self._last
        switched = last is not None and last is not task
        preempted = switched and last is not None and last.gate is None and last.kind != "end"
        if preempted and last is not None:
            self._suspended.add(last)
        feasible = not isinstance(target, Place) or target.feasible
        if task in self._suspended and task is not last:
            self._suspended.discard(task)
            self.feasible = self.feasible and feasible
        self._last = task
        place, source = _where()
        act = kind if target is None else f"{kind} {label(target)}"
        number = len(self.steps) + 1
        now_ns = self._scheduler.clock.now_ns
        self.steps.append(Step(number, task.name, act, place, source, now_ns, preempted, feasible))


def label(target: Any) -> str:
    """What people call it."""
    return target if isinstance(target, str) else str(target.label)


def _where() -> tuple[str, str]:
    """The nearest line of code under test, and its text."""
    frame: FrameType | None = sys._getframe(2)  # noqa: SLF001 - there is no other way to see a stack
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name not in LIBRARY and not name.startswith("harness.schedule"):
            code = frame.f_code
            file = code.co_filename
            text = linecache.getline(file, frame.f_lineno).strip()
            return f"{file.rpartition('/')[2]}:{frame.f_lineno} {code.co_name}", text
        frame = frame.f_back
    return "", ""


def tell(steps: Sequence[Step]) -> str:
    """The steps in columns."""
    threads = list(dict.fromkeys(step.thread for step in steps))
    if not threads:
        return ""
    width = max(_NARROWEST, (_WIDTH - 6) // len(threads))
    rows = ["step  " + "".join(name.ljust(width) for name in threads).rstrip()]
    rows.append("      " + "".join(("-" * (width - 2)).ljust(width) for _ in threads).rstrip())
    for step in steps:
        column = threads.index(step.thread)
        mark = ">" if step.preempted else "*" if step.baked else " "
        lines = _folded(f"{step.act}", width - 2)
        if step.source and step.source not in step.act:
            lines += _folded(f"| {step.source}", width - 2)
        for index, line in enumerate(lines):
            head = f"{step.number:4}{mark} " if not index else "      "
            rows.append(head + " " * (column * width) + line)
    return "\n".join(rows)


def _folded(text: str, width: int) -> list[str]:
    return [text if len(text) <= width else text[: width - 1] + "…"]


def mark(steps: Sequence[Step], number: int) -> tuple[Step, ...]:
    """The same steps, with the one where the failure was decided marked."""
    return tuple(replace(step, baked=step.number == number) for step in steps)
