"""Search strategies: they choose the next task. Each takes its own random generator.

A strategy chooses only where more than one task can act. `begin` starts a schedule; `ended` reports
its number of choices afterwards. The same seed gives the same schedules.

In every second schedule of a sampling strategy the choice that time passes, although a task could
act, is offered with the tasks: its `early` says so to the scheduler.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random
from typing import Protocol

from harness.schedule.scheduler import TIME
from harness.schedule.tasks import Task


class Strategy(Protocol):
    """Picks the next task."""

    name: str

    def begin(self) -> bool:
        """Start a schedule; False if none is left."""
        ...

    def choose(self, enabled: list[Task], current: Task) -> Task:
        """Pick one of `enabled`; `current` is the calling task, and may not be among them."""
        ...

    def ended(self, choices: int, tasks: int) -> None:
        """End a schedule with this number of choices, among this number of tasks."""
        ...


class _Sampling:
    """A strategy without an end, which lets deadlines pass early in every second schedule."""

    early = True

    def begin(self) -> bool:
        """Return True: there is always another schedule."""
        self.early = not self.early
        return True


class Uniform(_Sampling):
    """A random walk: every task that can act has the same probability."""

    name = "random"

    def __init__(self, rng: Random) -> None:
        self._random = rng.random

    def choose(self, enabled: list[Task], current: Task) -> Task:  # noqa: ARG002 - a strategy's signature
        """Pick any task."""
        return enabled[int(self._random() * len(enabled))]

    def ended(self, choices: int, tasks: int) -> None:
        """Do nothing."""


class Sticky(_Sampling):
    """A random walk that mostly stays: it leaves an enabled task once in `leaves` choices."""

    name = "sticky"

    def __init__(self, rng: Random, leaves: float = 6.0) -> None:
        self._random = rng.random
        self._leaving = 1 / leaves

    def choose(self, enabled: list[Task], current: Task) -> Task:
        """Pick the current task, or any."""
        if current in enabled and self._random() > self._leaving:
            return current
        return enabled[int(self._random() * len(enabled))]

    def ended(self, choices: int, tasks: int) -> None:
        """Do nothing."""


class PCT(_Sampling):
    """Probabilistic concurrency testing: random priorities, which change at depth - 1 points.

    Burckhardt, Kothari, Musuvathi, Nagarakatte, "A Randomized Scheduler with Probabilistic
    Guarantees of Finding Bugs", ASPLOS 2010: with n tasks and k steps one schedule finds a bug of
    depth d with probability at least 1/(n k^(d-1)). Only steps with a choice count here, because no
    bug needs the suspension of a task where no other task can act. k is the largest number so far;
    a schedule that turns out longer does not count in the bound, nor does one in which time could
    pass early: the bound is one for bugs that need no early deadline.
    """

    def __init__(self, rng: Random, depth: int) -> None:
        self.name = f"pct-{depth}"
        self.depth = depth
        self._rng = rng
        self._longest = 1
        self._log_missed = 0.0

    def begin(self) -> bool:
        """Draw the points at which priorities change; priorities are drawn as tasks appear."""
        self._priority: dict[int, float] = {}
        self._step = 0
        count = self.depth - 1
        points = [self._rng.randrange(self._longest) for _ in range(count)]
        self._changes = {point: -1.0 - index for index, point in enumerate(points)}
        self._has_met_time = False
        return super().begin()

    def choose(self, enabled: list[Task], current: Task) -> Task:
        """Pick the task with the highest priority."""
        priority = self._priority
        if (lowered := self._changes.get(self._step)) is not None:
            priority[current.number] = lowered
        self._step += 1
        if enabled[-1].number == TIME:
            self._has_met_time = True
        best, highest = enabled[0], -math.inf
        for task in enabled:
            own = priority.get(task.number)
            if own is None:
                own = priority[task.number] = self._rng.random()
            if own > highest:
                best, highest = task, own
        return best

    def ended(self, choices: int, tasks: int) -> None:
        """Update the largest length, and the bound by this schedule."""
        if choices <= self._longest and not self._has_met_time:
            found = 1 / (max(tasks, 1) * max(self._longest, 1) ** (self.depth - 1))
            self._log_missed += math.log1p(-found) if found < 1 else -math.inf
        self._longest = max(self._longest, choices)

    @property
    def missed(self) -> float:
        """The largest probability that a bug of this depth exists and was not found."""
        return math.exp(self._log_missed)


class POS(_Sampling):
    """Partial order sampling: priorities belong to pending operations, and racing ones redraw.

    Yuan, Yang, Gu, "Partial Order Aware Concurrency Sampling", CAV 2018.
    """

    name = "pos"

    def __init__(self, rng: Random) -> None:
        self._random = rng.random

    def begin(self) -> bool:
        """Priorities are drawn as operations become pending."""
        self._priority: dict[int, float] = {}
        return super().begin()

    def choose(self, enabled: list[Task], current: Task) -> Task:
        """Pick the pending operation of highest priority; others on its target redraw theirs."""
        priority = self._priority
        priority[current.number] = self._random()  # the task is at a new operation
        best, highest = enabled[0], -1.0
        for task in enabled:
            own = priority.get(task.number)
            if own is None:
                own = priority[task.number] = self._random()
            if own > highest:
                best, highest = task, own
        for task in enabled:
            if task is not best and task.target is best.target:
                priority[task.number] = self._random()
        priority.pop(best.number, None)
        return best

    def ended(self, choices: int, tasks: int) -> None:
        """Do nothing."""


class Replay:
    """Repeats recorded choices; then stays with the current task."""

    name = "replay"

    def __init__(self, choices: Sequence[int]) -> None:
        self._choices = choices
        self.diverged_at: int | None = None

    def begin(self) -> bool:
        """Restart from the first choice."""
        self._next = 0
        self.diverged_at = None
        return True

    def choose(self, enabled: list[Task], current: Task) -> Task:
        """Pick the recorded task; record the first choice that is impossible."""
        index = self._next
        self._next = index + 1
        if index < len(self._choices):
            for task in enabled:
                if task.number == self._choices[index]:
                    return task
            if self.diverged_at is None:
                self.diverged_at = index
        return stay(enabled, current)

    def ended(self, choices: int, tasks: int) -> None:
        """Do nothing."""


class Continued:
    """Repeats recorded choices, and then follows another strategy."""

    def __init__(self, choices: Sequence[int], then: Strategy) -> None:
        self.name = f"{then.name} after {len(choices)}"
        self._choices = choices
        self._then = then

    def begin(self) -> bool:
        """Restart from the first choice."""
        self._next = 0
        return self._then.begin()

    def choose(self, enabled: list[Task], current: Task) -> Task:
        """Pick the recorded task, and after the record the strategy's."""
        index = self._next
        self._next = index + 1
        if index < len(self._choices):
            for task in enabled:
                if task.number == self._choices[index]:
                    return task
        return self._then.choose(enabled, current)

    def ended(self, choices: int, tasks: int) -> None:
        """Pass the numbers to the other strategy."""
        self._then.ended(choices, tasks)


def stay(enabled: list[Task], current: Task) -> Task:
    """Return the current task; if it cannot act, the oldest one that can."""
    return current if current in enabled else enabled[0]
