"""Shrinks a failing schedule: the same failure with fewer switches and fewer choices.

A schedule is a list of turns: a task and a number of choices. The search removes, lengthens and
shortens each turn, and executes the rest as far as possible. A schedule that fails in the same way
replaces the best one if it is simpler: fewer switches that a stock CPython cannot make, then fewer
preemptions, then fewer switches. The search is greedy, so the result is a local minimum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

from harness.schedule.executor import Execution
from harness.schedule.scheduler import TIME
from harness.schedule.strategies import stay
from harness.schedule.tasks import Task

_UNLIMITED = 1 << 30
Turn = tuple[int, int]
Cost = tuple[int, int, int, int]


class Turns:
    """Executes a list of turns and skips impossible ones; then stays with the current task."""

    def __init__(self, turns: Sequence[Turn]) -> None:
        self._turns = list(turns)
        self._index = 0
        self._remaining = turns[0][1] if turns else 0
        self._impossible = 0
        self._preemptions = 0
        self._switches = 0
        self._is_free = False

    def choose(self, enabled: list[Task], current: Task) -> Task:
        """Choose the task of the current turn if it can act; else that of the next turn."""
        chosen = self._next_task(enabled, current)
        was_free, self._is_free = self._is_free, chosen.number == TIME
        if self._is_free:
            self._preemptions += 1
        elif chosen is not current:
            self._switches += 1
            if current in enabled and not was_free:
                self._preemptions += 1
                self._impossible += not getattr(current.target, "feasible", True)
        return chosen

    def _next_task(self, enabled: list[Task], current: Task) -> Task:
        while self._index < len(self._turns):
            number = self._turns[self._index][0]
            if self._remaining > 0:
                for task in enabled:
                    if task.number == number:
                        self._remaining -= 1
                        return task
            self._index += 1
            if self._index < len(self._turns):
                self._remaining = self._turns[self._index][1]
        return stay(enabled, current)

    def cost(self, execution: Execution) -> Cost:
        """Return the cost that shrinking minimizes, most important part first."""
        return (self._impossible, self._preemptions, self._switches, execution.steps)


def shrink(
    choices: Sequence[int],
    execute: Callable[[Turns], Execution],
    fails_alike: Callable[[Execution], bool],
    is_spent: Callable[[], bool],
) -> tuple[int, ...]:
    """Return the choices of a smaller schedule that fails in the same way, or the given choices.

    `is_spent` is called before each attempt; True ends the search.
    """
    first = Turns(_turns(choices))
    execution = execute(first)
    if not fails_alike(execution):
        return tuple(choices)
    best, least = execution.choices, first.cost(execution)
    improved = True
    while improved:
        improved = False
        for candidate in _smaller(_turns(best)):
            if is_spent():
                return best
            chooser = Turns(candidate)
            execution = execute(chooser)
            cost = chooser.cost(execution)
            if fails_alike(execution) and cost < least:
                best, least, improved = execution.choices, cost, True
                break
    return best


def _turns(choices: Sequence[int]) -> list[Turn]:
    return [(number, len(list(group))) for number, group in groupby(choices)]


def _smaller(turns: list[Turn]) -> list[list[Turn]]:
    """Generate smaller schedules: without a half, without a turn, with a turn of another length."""
    without = [turns[:i] + turns[i + 1 :] for i in range(len(turns))]
    resized = [
        [*turns[:i], (number, length), *turns[i + 1 :]]
        for i, (number, current) in enumerate(turns)
        for length in (_UNLIMITED, current + 1, current - 1)
    ]
    return [turns[: len(turns) // 2], *reversed(without), *resized]
