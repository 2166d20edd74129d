"""Shrinking: the same failure with fewer switches, and then as few choices as it needs.

A schedule is a list of turns: this task for so many choices, then that one. Each turn is left out
in turn, made longer and made shorter, and the rest played as far as it can be. What still fails
alike is kept if it is simpler: fewer switches that a stock CPython cannot make, then fewer
preemptions, then fewer switches. Greedy, and so only locally minimal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

from harness.schedule.arena import Play
from harness.schedule.scheduler import Task
from harness.schedule.strategies import stay
from harness.schedule.trace import Place

_FOR_EVER = 1 << 30
Turn = tuple[int, int]
Cost = tuple[int, int, int, int]


class Turns:
    """Plays a list of turns, skipping what cannot be; then stays with whoever acts."""

    def __init__(self, turns: Sequence[Turn]) -> None:
        self._turns = list(turns)
        self._index = 0
        self._left = turns[0][1] if turns else 0
        self._impossible = 0
        self._preemptions = 0
        self._switches = 0

    def choose(self, enabled: list[Task], current: Task) -> Task:
        """The task whose turn it is, if it can act; else the next one's."""
        chosen = self._wanted(enabled, current)
        if chosen is not current:
            self._switches += 1
            if current in enabled:
                self._preemptions += 1
                place = current.target
                self._impossible += isinstance(place, Place) and not place.feasible
        return chosen

    def _wanted(self, enabled: list[Task], current: Task) -> Task:
        while self._index < len(self._turns):
            number = self._turns[self._index][0]
            if self._left > 0:
                for task in enabled:
                    if task.number == number:
                        self._left -= 1
                        return task
            self._index += 1
            if self._index < len(self._turns):
                self._left = self._turns[self._index][1]
        return stay(enabled, current)

    def cost(self, play: Play) -> Cost:
        """What is to be made small."""
        return (self._impossible, self._preemptions, self._switches, play.steps)


def shrink(
    choices: Sequence[int],
    play: Callable[[Turns], Play],
    fails_alike: Callable[[Play], bool],
    is_spent: Callable[[], bool],
) -> tuple[int, ...]:
    """The choices of a smaller schedule that fails alike; the given ones if there is none.

    `is_spent` is asked before each attempt.
    """
    first = Turns(_turns(choices))
    played = play(first)
    if not fails_alike(played):
        return tuple(choices)
    best, least = played.choices, first.cost(played)
    improved = True
    while improved:
        improved = False
        for candidate in _smaller(_turns(best)):
            if is_spent():
                return best
            chooser = Turns(candidate)
            played = play(chooser)
            cost = chooser.cost(played)
            if fails_alike(played) and cost < least:
                best, least, improved = played.choices, cost, True
                break
    return best


def _turns(choices: Sequence[int]) -> list[Turn]:
    return [(number, len(list(group))) for number, group in groupby(choices)]


def _smaller(turns: list[Turn]) -> list[list[Turn]]:
    """Without the second half; without each turn; with each turn longer, or shorter, than it is."""
    without = [turns[:i] + turns[i + 1 :] for i in range(len(turns))]
    other = [
        [*turns[:i], (number, length), *turns[i + 1 :]]
        for i, (number, now) in enumerate(turns)
        for length in (_FOR_EVER, now + 1, now - 1)
    ]
    return [turns[: len(turns) // 2], *reversed(without), *other]
