"""Records a schedule as numbered steps, and prints it in a column for each thread and task.

A row is one operation, in the column of its thread or asyncio task. `>` marks a preemption: a
switch away from a thread that could have continued; `*` marks the step after which every sampled
continuation fails. Steps of CPython's library inside one call of the code under test show the line
of that call.
"""

from __future__ import annotations

import linecache
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from types import CodeType, FrameType
from typing import Any

from harness.schedule.accesses import STDLIB
from harness.schedule.scheduler import Scheduler
from harness.schedule.tasks import LIBRARY, Task

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
    choices: int  # the number of choices before the step
    preempted: bool = False
    feasible: bool = True  # whether CPython with its global lock can switch just before
    decisive: bool = False  # whether the failure was decided here, as continuations show

    def to_json(self) -> dict[str, Any]:
        """Render as a JSON object."""
        return asdict(self)


class Recorder:
    """Records the steps of a schedule. Their names are looked up afterwards, by `steps`."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._run = scheduler
        self._last: Task | None = None
        self._suspended: set[Task] = set()
        self._records: list[tuple[Any, ...]] = []
        self.feasible = True

    def observe(self, task: Task, kind: str, target: Any) -> None:
        """Record one operation; called on its thread, just before it."""
        last = self._last
        preempted = last is not None and last is not task and last.gate is None
        preempted = preempted and last is not None and last.kind != "end"
        if preempted and last is not None:
            self._suspended.add(last)
        feasible = getattr(target, "feasible", True)
        if task in self._suspended and task is not last:
            self._suspended.discard(task)
            self.feasible = self.feasible and feasible
        self._last = task
        code, line = getattr(target, "suspended", None) or _under_test()
        when = (self._run.clock.now_ns, len(self._run.choices))
        thread = task.strand or task.name
        self._records.append((thread, kind, target, code, line, *when, preempted, feasible))

    @property
    def steps(self) -> tuple[Step, ...]:
        """The recorded steps."""
        steps: list[Step] = []
        for thread, kind, target, code, line, *rest in self._records:
            act = kind if target is None else f"{kind} {label(target)}".rstrip()
            place = source = ""
            if code is not None:
                file = code.co_filename
                place = f"{file.rpartition('/')[2]}:{line} {code.co_name}"
                source = linecache.getline(file, line).strip()
            steps.append(Step(len(steps) + 1, thread, act, place, source, *rest))
        return tuple(steps)


def label(target: Any) -> str:
    """Return the displayed name of a target."""
    return target if isinstance(target, str) else str(target.label)


def _under_test() -> tuple[CodeType | None, int]:
    """Return the innermost line of code under test, or else of CPython's other modules."""
    frame: FrameType | None = sys._getframe(2)  # noqa: SLF001 - the only way to read a stack
    other = None
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name not in LIBRARY and not name.startswith("harness.schedule"):
            if not frame.f_code.co_filename.startswith(STDLIB) or _is_installed(frame):
                return frame.f_code, frame.f_lineno
            if not name.startswith("asyncio."):
                other = other or frame
        frame = frame.f_back
    return (None, 0) if other is None else (other.f_code, other.f_lineno)


def _is_installed(frame: FrameType) -> bool:
    return "site-packages" in frame.f_code.co_filename


def format_steps(steps: Sequence[Step]) -> str:
    """Format the steps as a table with a column for each thread."""
    threads = list(dict.fromkeys(step.thread for step in steps))
    if not threads:
        return ""
    width = max(_NARROWEST, (_WIDTH - 6) // len(threads))
    rows = ["step  " + "".join(name.ljust(width) for name in threads).rstrip()]
    rows.append("      " + "".join(("-" * (width - 2)).ljust(width) for _ in threads).rstrip())
    for step in steps:
        column = threads.index(step.thread)
        mark = "*" if step.decisive else ">" if step.preempted else " "
        lines = _truncated(step.act, width - 2)
        if step.place:
            where = f"| {step.place.partition(' ')[0]}"
            both = f"{where} {step.source}"
            sources = [both] if len(both) <= width - 2 else [where, f"| {step.source}"]
            lines += [line for source in sources for line in _truncated(source, width - 2)]
        for index, line in enumerate(lines):
            head = f"{step.number:4}{mark} " if not index else "      "
            rows.append(head + " " * (column * width) + line)
    return "\n".join(rows)


def _truncated(text: str, width: int) -> list[str]:
    return [text if len(text) <= width else text[: width - 1] + "…"]


def step_of(steps: Sequence[Step], choices: int) -> int:
    """Return the number of the step that this number of choices led to; 0 if they are none."""
    return next((step.number for step in steps if 0 < choices <= step.choices), 0)


def mark(steps: Sequence[Step], number: int) -> tuple[Step, ...]:
    """Return the steps with the decisive one marked."""
    return tuple(replace(step, decisive=step.number == number) for step in steps)
