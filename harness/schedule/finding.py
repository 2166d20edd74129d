"""The finding: one schedule that fails, as a value. It can be told, stored, and played again."""

from __future__ import annotations

import json
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from harness.schedule.scheduler import Ending
from harness.schedule.story import Step, tell
from harness.schedule.trace import Level


@dataclass(frozen=True, slots=True)
class Finding:
    """One failing schedule, shrunk.

    `kind` is assertion, exception, deadlock, livelock, lock-order, held or nested. `choices` are
    the numbers of the tasks that acted wherever there was a choice. `feasible` tells whether a
    stock CPython, with its global lock, can switch where this schedule does. `replayed` counts how
    often it failed alike when it was played again, out of `replays`.
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
    schedule: int  # which schedule of the exploration it was, from 1
    seed: int
    replayed: int
    replays: int
    stacks: tuple[tuple[str, str], ...] = ()
    trace: str = ""

    @property
    def story(self) -> str:
        """The schedule in columns, one a thread, and what came of it."""
        where = "any stock CPython" if self.feasible else "a free-threaded CPython only"
        found = f"found by {self.strategy} as schedule {self.schedule} (seed {self.seed})"
        replayed = f"replayed {self.replayed} of {self.replays}"
        lines = [
            f"{self.kind} in {self.task}: {self.message}",
            f"{found}, at {self.level} level; can happen on {where}; {replayed}",
            "",
            tell(self.steps),
        ]
        for name, stack in self.stacks:
            lines += ["", f"{name} is at", *(f"    {line}" for line in stack.splitlines())]
        if self.trace:
            lines += ["", self.trace.rstrip()]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Render as a JSON object; `from_json` reads it back."""
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
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        return cls(
            **{
                **data,
                "choices": tuple(data["choices"]),
                "steps": tuple(Step(**row) for row in data["steps"]),
                "level": Level(data["level"]),
                "modules": tuple(data["modules"]),
                "stacks": tuple((name, stack) for name, stack in data["stacks"]),
            }
        )

    def __str__(self) -> str:
        return self.story


def signature(ending: Ending) -> tuple[str, str, str]:
    """What makes two failures the same one: kind, type, and the line that raised."""
    if ending.error is None:
        return (ending.kind, "", "")
    frames = traceback.extract_tb(ending.error.__traceback__)
    ours = [frame for frame in frames if "/harness/schedule/" not in frame.filename]
    place = f"{ours[-1].filename}:{ours[-1].lineno}" if ours else ""
    return (ending.kind, type(ending.error).__name__, place)


def traced(ending: Ending) -> str:
    """The traceback of what escaped, without our own frames."""
    if ending.error is None:
        return ""
    told = traceback.TracebackException.from_exception(ending.error)
    told.stack = traceback.StackSummary.from_list(
        [frame for frame in told.stack if "/harness/schedule/" not in frame.filename]
    )
    return "".join(told.format())


def as_json(finding: Finding) -> str:
    """One line of JSON."""
    return json.dumps(finding.to_json())
