"""A failing schedule as a value, which can be printed, serialized and replayed."""

from __future__ import annotations

import json
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from harness.schedule.asyncio_tasks.order import LoopOrder
from harness.schedule.story import Step, format_steps
from harness.schedule.tasks import Ending
from harness.schedule.trace import Level

RULES = ("held", "nested", "lock-order", "unawaited")  # known by their messages


@dataclass(frozen=True, slots=True)
class Finding:
    """One failing schedule, shrunk.

    `kind` is assertion, exception, deadlock, livelock, lock-order, held, nested, unawaited or
    pending. `choices` are the numbers of the tasks chosen wherever there was a choice.
    `out_of_turn` counts the callbacks that asyncio's queue would not have run next. `feasible` is
    whether a stock CPython, with its global lock, can switch where this schedule does. `replayed`
    counts the replays, out of `replays`, that failed in the same way.
    """

    kind: str
    message: str
    task: str
    choices: tuple[int, ...]
    steps: tuple[Step, ...]
    level: Level
    modules: tuple[str, ...]
    feasible: bool
    strategy: str
    schedule: int  # the schedule's number in the exploration, from 1
    seed: int
    replayed: int
    replays: int
    stacks: tuple[tuple[str, str], ...] = ()
    trace: str = ""
    error: str = ""  # the type of the exception
    place: str = ""  # where it was raised, as file:line
    timers: int = 0  # the early deadlines that a schedule of the search may have
    points: tuple[str, ...] = ()  # the accesses that were points, by `Site.key`
    accesses: tuple[str, ...] = ()  # the unsynchronised accesses that the search had found
    stock: bool = False
    order: LoopOrder = LoopOrder.DRIFT  # of the callbacks of event loops
    out_of_turn: int = 0  # callbacks that asyncio's queue would not have run next
    adopted: tuple[str, ...] = ()  # the modules whose existing locks were controlled

    @property
    def signature(self) -> tuple[str, str, str]:
        """What identifies the failure: kind, exception type, and the line that raised.

        A message may contain an address or a time, and so does not; of a broken lock rule, which
        raises nothing, it is the rule.
        """
        if self.error:
            return (self.kind, self.error, self.place)
        return (self.kind, "", self.message if self.kind in RULES else "")

    @property
    def story(self) -> str:
        """The failure and its schedule, in one column for each thread."""
        where = "any stock CPython" if self.feasible else "a free-threaded CPython as it stands"
        if self.out_of_turn:
            where = "another order than that of asyncio's queue only"
        found = f"found by {self.strategy} as schedule {self.schedule} (seed {self.seed})"
        replayed = f"replayed {self.replayed} of {self.replays}"
        lines = [
            f"{self.kind} in {self.task}: {self.message}",
            f"{found}, at {self.level} level; can happen on {where}; {replayed}",
            *(_decision(step) for step in self.steps if step.decisive),
            *(f"unsynchronised: {access}" for access in self.accesses),
            "",
            format_steps(self.steps),
        ]
        for name, stack in self.stacks:
            lines += ["", f"{name} is at", *(f"    {line}" for line in stack.splitlines())]
        if self.trace:
            lines += ["", self.trace.rstrip()]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Render as a JSON object, which `from_json` reads."""
        return {
            "kind": self.kind,
            "message": self.message,
            "task": self.task,
            "choices": list(self.choices),
            "steps": [step.to_json() for step in self.steps],
            "level": str(self.level),
            "modules": list(self.modules),
            "feasible": self.feasible,
            "strategy": self.strategy,
            "schedule": self.schedule,
            "seed": self.seed,
            "replayed": self.replayed,
            "replays": self.replays,
            "stacks": [list(stack) for stack in self.stacks],
            "trace": self.trace,
            "error": self.error,
            "place": self.place,
            "timers": self.timers,
            "points": list(self.points),
            "accesses": list(self.accesses),
            "stock": self.stock,
            "order": str(self.order),
            "out_of_turn": self.out_of_turn,
            "adopted": list(self.adopted),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read the result of `to_json`."""
        return cls(
            **{
                **data,
                "choices": tuple(data["choices"]),
                "steps": tuple(Step(**row) for row in data["steps"]),
                "level": Level(data["level"]),
                "modules": tuple(data["modules"]),
                "stacks": tuple((name, stack) for name, stack in data["stacks"]),
                "points": tuple(data.get("points", ())),
                "accesses": tuple(data.get("accesses", ())),
                "adopted": tuple(data.get("adopted", ())),
                "order": LoopOrder(data.get("order", LoopOrder.DRIFT)),
            }
        )

    def __str__(self) -> str:
        return self.story


def _decision(step: Step) -> str:
    where = f" at {step.place}" if step.place else ""
    return f"decided at step {step.number}: {step.thread}, {step.act}{where}"


def signature(ending: Ending) -> tuple[str, str, str]:
    """Return what identifies a failure, as `Finding.signature`."""
    if ending.error is None:
        return (ending.kind, "", ending.message if ending.kind in RULES else "")
    return (ending.kind, type(ending.error).__name__, raised_at(ending))


def raised_at(ending: Ending) -> str:
    """Return the innermost line outside the explorer that raised, as file:line; empty if none."""
    if ending.error is None:
        return ""
    frames = traceback.extract_tb(ending.error.__traceback__)
    user_frames = [frame for frame in frames if "/harness/schedule/" not in frame.filename]
    return f"{user_frames[-1].filename}:{user_frames[-1].lineno}" if user_frames else ""


def traced(ending: Ending) -> str:
    """Return the traceback of the escaped exception, without frames of the explorer."""
    if ending.error is None:
        return ""
    trace = traceback.TracebackException.from_exception(ending.error)
    trace.stack = traceback.StackSummary.from_list(
        [frame for frame in trace.stack if "/harness/schedule/" not in frame.filename]
    )
    return "".join(trace.format())


def as_json(finding: Finding) -> str:
    """Render a finding as one line of JSON."""
    return json.dumps(finding.to_json())
