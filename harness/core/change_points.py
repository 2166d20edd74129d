"""Finds where a series of readings changed its level, with a bound on false alarms.

Binary segmentation (Vostrikova 1981): the place where two levels explain the readings best is tried
by the rank test of Mann and Whitney (1947), which asks nothing of the noise but that it is
exchangeable. It counts if its p-value, times the number of all places, is small; then both parts
are searched in the same way. A level that rose and fell again has no such place, so each place is
tried by its neighbours alone too. A change counts only if the level, the median, moved by a share
that matters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Literal

from harness.core.extras import require_extras
from harness.core.trend import inflation

SIDE_MIN = 5  # readings on each side of a change
READINGS_MIN = 12  # below that no change could be significant
NEAR = 20  # readings on each side, where the neighbours alone are asked
MOVED_MIN = 0.05  # of the level before


@dataclass(frozen=True, slots=True)
class Change:
    """A change of level: the index of the first reading after it, and the levels."""

    at: int
    before: float
    after: float
    p: float

    @property
    def share(self) -> float:
        """By what share of the former level it moved; infinite from 0."""
        if self.before == 0:
            return math.copysign(math.inf, self.after)
        return self.after / self.before - 1


def changes(readings: Sequence[float], alpha: float) -> list[Change]:
    """The changes of level, in order; with probability `alpha` or less one that is none."""
    found = sorted(_split(list(readings), 0, alpha))
    edges = [0, *(at for at, _ in found), len(readings)]
    levels = [median(readings[a:b]) for a, b in pairwise(edges)] if found else []
    return [
        Change(at, before, after, p)
        for (at, p), (before, after) in zip(found, pairwise(levels), strict=True)
        if _matters(before, after)
    ]


def _split(readings: list[float], offset: int, alpha: float) -> Iterator[tuple[int, float]]:
    """The most extreme place of a part with its p-value, and those on both sides of it."""
    places = range(SIDE_MIN, len(readings) - SIDE_MIN + 1)
    if len(readings) < READINGS_MIN or min(readings) == max(readings):
        return
    for near in (len(readings), NEAR):
        sides = {at: (readings[max(0, at - near) : at], readings[at : at + near]) for at in places}
        at = max(places, key=lambda place, sides=sides: _gain(*sides[place]))  # type: ignore[misc]
        p = min(1.0, 2 * len(places) * _chance(*sides[at]))
        if p <= alpha:
            yield (offset + at, p)
            yield from _split(readings[:at], offset, alpha)
            yield from _split(readings[at:], offset + at, alpha)
            return


def _gain(before: Sequence[float], after: Sequence[float]) -> float:
    """By how much two levels explain the readings better than one level does."""
    return _spread([*before, *after]) - _spread(before) - _spread(after)


def _spread(readings: Sequence[float]) -> float:
    level = median(readings)
    return sum(abs(reading - level) for reading in readings)


def _chance(before: Sequence[float], after: Sequence[float]) -> float:
    """The p-value of the rank test, exact where no reading is on both sides.

    Equal readings on one side alone make the exact value larger than it is. A night that resembles
    the one before says less than a new one, so the statistic shrinks as that of a trend does.
    """
    require_extras("the judgement of trends", "soak")
    from scipy.stats import mannwhitneyu, norm  # noqa: PLC0415  slow to import

    method: Literal["asymptotic", "exact"]
    method = "asymptotic" if set(before) & set(after) else "exact"
    plain = float(mannwhitneyu(before, after, method=method).pvalue)
    residuals = [reading - median(side) for side in (before, after) for reading in side]
    return float(2 * norm.sf(norm.isf(plain / 2) / math.sqrt(inflation(residuals))))


def _matters(before: float, after: float) -> bool:
    return abs(after - before) > MOVED_MIN * abs(before)
