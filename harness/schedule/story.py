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

from harness.schedule.scheduler import LIBRARY, Scheduler, Task
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
    choices: int  # how many were made before it happened
    preempted: bool = False
    feasible: bool = True  # whether CPython with its global lock can switch just before
    baked: bool = False  # whether causality found that the failure was decided here

    def to_json(self) -> dict[str, Any]:
        """Render as a JSON object."""
        return asdict(self)


class Recorder:
    """Notes the steps as they happen. What they are called is looked up afterwards, by `steps`."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._run = scheduler
        self._last: Task | None = None
        self._suspended: set[Task] = set()
        self._noted: list[tuple[Any, ...]] = []
        self.feasible = True

    def sees(self, task: Task, kind: str, target: Any) -> None:
        """Note one operation; called on the thread that is about to do it."""
        last = self._last
        preempted = last is not None and last is not task and last.gate is None
        preempted = preempted and last is not None and last.kind != "end"
        if preempted and last is not None:
            self._suspended.add(last)
        feasible = not isinstance(target, Place) or target.feasible
        if task in self._suspended and task is not last:
            self._suspended.discard(task)
            self.feasible = self.feasible and feasible
        self._last = task
        frame = _under_test()
        line = frame.f_lineno if frame is not None else 0
        when = (self._run.clock.now_ns, len(self._run.choices))
        self._noted.append((task, kind, target, frame, line, *when, preempted, feasible))

    @property
    def steps(self) -> tuple[Step, ...]:
        """What was noted, in words."""
        steps: list[Step] = []
        for task, kind, target, frame, line, *rest in self._noted:
            act = kind if target is None else f"{kind} {label(target)}"
            place = source = ""
            if frame is not None:
                file = frame.f_code.co_filename
                place = f"{file.rpartition('/')[2]}:{line} {frame.f_code.co_name}"
                source = linecache.getline(file, line).strip()
            steps.append(Step(len(steps) + 1, task.name, act, place, source, *rest))
        return tuple(steps)


def label(target: Any) -> str:
    """What people call it."""
    return target if isinstance(target, str) else str(target.label)


def _under_test() -> FrameType | None:
    """The innermost frame of code under test."""
    frame: FrameType | None = sys._getframe(2)  # noqa: SLF001 - there is no other way to see a stack
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name not in LIBRARY and not name.startswith("harness.schedule"):
            return frame
        frame = frame.f_back
    return None


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
