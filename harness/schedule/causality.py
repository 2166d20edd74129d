"""Finds the decisive step of a failing schedule: where the failure became most probable.

The failing schedule is repeated up to a choice and continued at random, many times. The share of
continuations that fail is P(failure | the first t choices). It begins at the share of random
schedules that fail and ends at one; the decisive step is where it rises most. `decided_after` only
looks for the choice after which it is one, which takes few continuations.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random

from harness.schedule.executor import Execution, Executor, Settings
from harness.schedule.finding import Finding
from harness.schedule.locks import LockRules
from harness.schedule.program import Body
from harness.schedule.story import mark
from harness.schedule.strategies import Continued, Strategy, Uniform

_PREFIXES = 64  # the largest number of prefixes that are sampled
_BAR = 40
_CONTINUED = 16  # continuations, all of which fail once the failure is decided
_CONTINUED_STEPS = 100_000  # of all of them


@dataclass(frozen=True, slots=True)
class Odds:
    """The share of random continuations that failed after `choices`; `step` is the next step."""

    choices: int
    step: int
    probability: float


@dataclass(frozen=True, slots=True)
class Causality:
    """The odds along a failing schedule, and the step at which they rise most."""

    odds: tuple[Odds, ...]
    decisive_step: int
    finding: Finding
    samples: int

    def __str__(self) -> str:
        rows = [f"P(failure | first t choices), {self.samples} continuations each"]
        for odds in self.odds:
            bar = "#" * round(odds.probability * _BAR)
            rows.append(f"t={odds.choices:<4} {odds.probability:5.2f} {bar}")
        rows.append(f"decisive: step {self.decisive_step}")
        return "\n".join(rows)


def causality(
    body: Body,
    finding: Finding,
    *,
    samples: int = 100,
    seed: int = 0,
    rules: LockRules | None = None,
) -> Causality:
    """Measure the odds along the finding's schedule; the returned finding has its step marked."""
    setting = Settings(
        finding.level,
        finding.modules,
        rules=rules,
        timers=finding.timers,
        points=finding.points,
        order=finding.order,
        stock=finding.stock,
        adopted=finding.adopted,
    )
    executor = Executor(body, setting)
    length = len(finding.choices)
    stride = max(1, -(-length // _PREFIXES))
    prefixes = [*range(0, length, stride), length]

    def fails(execution: Execution) -> bool:
        return execution.ending is not None and execution.ending.kind == finding.kind

    def measure() -> list[float]:
        shares = []
        for prefix in prefixes:
            then: Strategy = Uniform(Random(f"{seed}/causality/{prefix}"))
            failed = 0
            for _ in range(samples):
                chooser = Continued(finding.choices[:prefix], then)
                chooser.begin()
                failed += fails(executor.execute(chooser))
            shares.append(failed / samples)
        return shares

    shares = executor.supervise(measure)
    odds = tuple(
        Odds(prefix, _step_after(finding, prefix), share)
        for prefix, share in zip(prefixes, shares, strict=True)
    )
    rises = [after - before for before, after in itertools.pairwise(shares)]
    steepest = max(range(len(rises)), key=rises.__getitem__, default=0)
    decisive_step = odds[steepest].step
    marked = replace(finding, steps=mark(finding.steps, decisive_step))
    return Causality(odds, decisive_step, marked, samples)


def decided_after(
    executor: Executor, choices: Sequence[int], steps: int, fails: Callable[[Execution], bool]
) -> int:
    """Return the number of choices after which sampled continuations of a schedule all fail.

    `steps` is the length of the schedule. Called on the executor's thread.
    """
    probes = max(1, len(choices).bit_length())
    samples = max(2, min(_CONTINUED, _CONTINUED_STEPS // max(1, steps * probes)))

    def is_decided(prefix: int) -> bool:
        then: Strategy = Uniform(Random(f"decided/{prefix}"))
        for _ in range(samples):
            chooser = Continued(choices[:prefix], then)
            chooser.begin()
            if executor.scheduler.lost_threads or not fails(executor.execute(chooser)):
                return False
        return True

    return bisect_left(range(len(choices)), True, key=is_decided)  # noqa: FBT003  the sought value


def _step_after(finding: Finding, choices: int) -> int:
    """Return the first step after `choices` and one more choice."""
    numbers = (step.number for step in finding.steps if step.choices > choices)
    return next(numbers, finding.steps[-1].number if finding.steps else 0)
