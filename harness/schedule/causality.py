"""Causality: at which step was the failure decided?

The failing schedule is played up to a choice and continued by chance, many times over. The share
of continuations that fail is P(failure | the first t choices). It begins at what chance alone
finds and ends at one; where it rises most, the failure was baked in.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from random import Random

from harness.schedule.arena import Arena, Play, Setting
from harness.schedule.finding import Finding
from harness.schedule.locks import LockRules
from harness.schedule.program import Body
from harness.schedule.story import mark
from harness.schedule.strategies import Continued, Strategy, Uniform

_PLACES = 64  # prefixes that are tried at most
_BAR = 40


@dataclass(frozen=True, slots=True)
class Odds:
    """The share of random continuations that failed, after so many choices; `step` is the next."""

    choices: int
    step: int
    probability: float


@dataclass(frozen=True, slots=True)
class Causality:
    """The odds along a failing schedule, and the step at which they rose most."""

    odds: tuple[Odds, ...]
    baked_at: int
    finding: Finding
    samples: int

    def __str__(self) -> str:
        rows = [f"P(failure | first t choices), {self.samples} continuations each"]
        for odds in self.odds:
            bar = "#" * round(odds.probability * _BAR)
            rows.append(f"t={odds.choices:<4} {odds.probability:5.2f} {bar}")
        rows.append(f"baked in at step {self.baked_at}")
        return "\n".join(rows)


def causality(
    body: Body,
    finding: Finding,
    *,
    samples: int = 100,
    seed: int = 0,
    rules: LockRules | None = None,
) -> Causality:
    """Measure the odds along the finding's schedule; the finding returned has its step marked."""
    arena = Arena(body, Setting(finding.level, finding.modules, rules=rules))
    length = len(finding.choices)
    stride = max(1, -(-length // _PLACES))
    places = [*range(0, length, stride), length]

    def fails(play: Play) -> bool:
        return play.ending is not None and play.ending.kind == finding.kind

    def measure() -> list[float]:
        shares = []
        for place in places:
            then: Strategy = Uniform(Random(f"{seed}/causality/{place}"))
            failed = 0
            for _ in range(samples):
                chooser = Continued(finding.choices[:place], then)
                chooser.begin()
                failed += fails(arena.play(chooser))
            shares.append(failed / samples)
        return shares

    shares = arena.perform(measure)
    odds = tuple(
        Odds(place, _step_after(finding, place), share)
        for place, share in zip(places, shares, strict=True)
    )
    rises = [later - sooner for sooner, later in itertools.pairwise(shares)]
    decisive = max(range(len(rises)), key=rises.__getitem__, default=0)
    baked_at = odds[decisive].step
    marked = replace(finding, steps=mark(finding.steps, baked_at))
    return Causality(odds, baked_at, marked, samples)


def _step_after(finding: Finding, choices: int) -> int:
    """The first step that was taken after so many choices and one more."""
    later = (step.number for step in finding.steps if step.choices > choices)
    return next(later, finding.steps[-1].number if finding.steps else 0)
