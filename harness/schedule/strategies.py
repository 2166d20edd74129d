"""Strategies: who is next. Chance is handed in, once for each strategy.

A strategy is asked only where more than one task can act; the rest is no choice. `begin` opens a
schedule; afterwards `ended` tells how many choices it had. Same seed, same schedules.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random
from typing import Protocol

from harness.schedule.scheduler import Task


class Strategy(Protocol):
    """Picks the next task."""

    name: str

    def begin(self) -> bool:
        """Open a schedule; False if there is none left to try."""
        ...

    def choose(self, enabled: list[Task], current: Task) -> Task:
        """Pick one of `enabled`; `current` is the one that asks, and may not be among them."""
        ...

    def ended(self, choices: int, tasks: int) -> None:
        """A schedule is over: it had so many choices, among so many tasks."""
        ...


class Uniform:
    """A random walk: every task that can act is as likely as any other."""

    name = "random"

    def __init__(self, rng: Random) -> None:
        self._random = rng.random

    def begin(self) -> bool:
        """Nothing to prepare."""
        return True

    def choose(self, enabled: list[Task], current: Task) -> Task:  # noqa: ARG002 - a strategy's signature
        """Any."""
        return enabled[int(self._random() * len(enabled))]

    def ended(self, choices: int, tasks: int) -> None:
        """Nothing to learn."""


class Sticky:
    """A random walk that mostly stays: it leaves a task that could go on one time in `leaves`."""

    name = "sticky"

    def __init__(self, rng: Random, leaves: float = 6.0) -> None:
        self._random = rng.random
        self._leaving = 1 / leaves

    def begin(self) -> bool:
        """Nothing to prepare."""
        return True

    def choose(self, enabled: list[Task], current: Task) -> Task:
        """The same again, or any."""
        if current in enabled and self._random() > self._leaving:
            return current
        return enabled[int(self._random() * len(enabled))]

    def ended(self, choices: int, tasks: int) -> None:
        """Nothing to learn."""


class PCT:
    """Probabilistic concurrency testing: random priorities, which change at depth - 1 points.

    Burckhardt, Kothari, Musuvathi, Nagarakatte, "A Randomized Scheduler with Probabilistic
    Guarantees of Finding Bugs", ASPLOS 2010: with n tasks and k steps one schedule finds a bug of
    depth d with probability at least 1/(n k^(d-1)). Steps are counted here where there is a choice,
    because no bug needs a task to be suspended where no other one could act. k is what was seen so
    far; a schedule that turns out longer than that is not counted in the bound.
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
        return True

    def choose(self, enabled: list[Task], current: Task) -> Task:
        """The one with the highest priority."""
        priority = self._priority
        if (lowered := self._changes.get(self._step)) is not None:
            priority[current.number] = lowered
        self._step += 1
        best, highest = enabled[0], -math.inf
        for task in enabled:
            own = priority.get(task.number)
            if own is None:
                own = priority[task.number] = self._rng.random()
            if own > highest:
                best, highest = task, own
        return best

    def ended(self, choices: int, tasks: int) -> None:
        """Learn the length, and what this schedule was worth."""
        if choices <= self._longest:
            found = 1 / (max(tasks, 1) * max(self._longest, 1) ** (self.depth - 1))
            self._log_missed += math.log1p(-found) if found < 1 else -math.inf
        self._longest = max(self._longest, choices)

    @property
    def missed(self) -> float:
        """At most this likely is it that a bug of this depth exists and was not met."""
        return math.exp(self._log_missed)


class POS:
    """Partial order sampling: priorities belong to pending operations, and racing ones redraw.

    Yuan, Yang, Gu, "Partial Order Aware Concurrency Sampling", CAV 2018.
    """

    name = "pos"

    def __init__(self, rng: Random) -> None:
        self._random = rng.random

    def begin(self) -> bool:
        """Priorities are drawn as operations become pending."""
        self._priority: dict[int, float] = {}
        return True

    def choose(self, enabled: list[Task], current: Task) -> Task:
        """The pending operation with the highest priority; those on its target draw anew."""
        priority = self._priority
        priority[current.number] = self._random()  # it is at a new operation
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
        """Nothing to learn."""


class Replay:
    """Recorded choices, once more; then whoever acts goes on."""

    name = "replay"

    def __init__(self, choices: Sequence[int]) -> None:
        self._choices = choices
        self.diverged_at: int | None = None

    def begin(self) -> bool:
        """Start over."""
        self._next = 0
        self.diverged_at = None
        return True

    def choose(self, enabled: list[Task], current: Task) -> Task:
        """As recorded; the first choice that cannot be made is noted."""
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
        """Nothing to learn."""


class Continued:
    """Recorded choices up to a point, and then another strategy."""

    def __init__(self, choices: Sequence[int], then: Strategy) -> None:
        self.name = f"{then.name} after {len(choices)}"
        self._choices = choices
        self._then = then

    def begin(self) -> bool:
        """Start over."""
        self._next = 0
        return self._then.begin()

    def choose(self, enabled: list[Task], current: Task) -> Task:
        """As recorded while the record lasts."""
        index = self._next
        self._next = index + 1
        if index < len(self._choices):
            for task in enabled:
                if task.number == self._choices[index]:
                    return task
        return self._then.choose(enabled, current)

    def ended(self, choices: int, tasks: int) -> None:
        """Pass it on."""
        self._then.ended(choices, tasks)


def stay(enabled: list[Task], current: Task) -> Task:
    """The task that acts goes on; if it cannot, the oldest that can."""
    return current if current in enabled else enabled[0]
