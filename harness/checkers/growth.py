"""Checks that no resource of a long-lived host grows with the number of operations.

For histories with `sample` operations. The argument of a sample has the number of `operations`
before it, its result the readings by name: sizes of containers and files, memory, threads,
descriptors. The warm-up, declared in operations, fills caches and is not judged.

A reading *grows* if its trend exceeds its limit twice in a row: over the first seven eighths of the
samples, and over all samples. The same rules judge two *controls* of the same run: one is known to
grow, and one to be steady; they may be arguments of the sample. If the rules judge a control
wrongly, the verdict is unknown. A history that is too short proves nothing; a scenario that needs a
long one expects `judgeable`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from harness.core.contract import Promise
from harness.core.history import History, Operation
from harness.core.trend import READINGS_MIN, Trend, trend_of
from harness.core.verdict import Anomaly, Verdict

SAMPLE = "sample"
GROWTH = "growth"  # the name of the anomaly
EARLIER = 7 / 8  # of the samples: those of the first of the two alarms
OTHERS_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Limit:
    """How fast readings of these names may grow per operation, and the promise that says so.

    `slack` is their allowed growth in total at any speed, for memory that fills late, such as an
    allocator's arenas. `readings` is a shell pattern. The first limit that matches a reading
    counts, and a reading of an earlier limit is reported before one of a later limit.
    """

    readings: str
    promise: Promise
    per_operation: float
    slack: float = 0.0

    def over(self, operations: float) -> float:
        """The slope above which a reading grows too fast over this number of operations."""
        return max(self.per_operation, self.slack / operations)


@dataclass(frozen=True, slots=True)
class Controls:
    """Two readings: one is known to grow faster than the limit, the other one to be steady."""

    grows: str
    steady: str
    per_operation: float


@dataclass(frozen=True, slots=True)
class Growth:
    """One reading over the samples after the warm-up, and whether it grows too fast."""

    reading: str
    promise: Promise
    trend: Trend
    too_fast: float
    first: float
    last: float
    is_growing: bool

    def __str__(self) -> str:
        return (
            f"{self.reading} {self.trend.slope:+.3g} (at least {self.trend.low:+.3g}) an operation"
        )


@dataclass(frozen=True, slots=True)
class GrowsWithin:
    """The checker that judges by these limits, after `warm_up` operations."""

    limits: Sequence[Limit]
    warm_up: int
    controls: Controls

    def __call__(self, history: History) -> Verdict:
        """Judge a history."""
        samples = self.warm(history)
        if len(samples) < READINGS_MIN:
            return Verdict()
        growing = [growth for growth in self.growths(samples) if growth.is_growing]
        if growing:
            return Verdict(anomalies=(_anomaly(growing, samples),))
        return Verdict(unknowns=tuple(_misjudged(samples, self.controls)))

    def warm(self, history: History) -> list[Operation]:
        """The samples after the warm-up."""
        return [
            sample
            for sample in history.happened.of(SAMPLE)
            if sample.argument["operations"] >= self.warm_up
        ]

    def judgeable(self, history: History) -> int:
        """The number of times that the history can be judged: 1 or 0."""
        return int(len(self.warm(history)) >= READINGS_MIN)

    def growths(self, samples: Sequence[Operation]) -> Iterator[Growth]:
        """Judge every reading that has a limit, in the order of the limits.

        Raises ValueError for too few samples.
        """
        names = sorted(
            {name for sample in samples for name in {**sample.argument, **sample.result}}
        )
        for limit in self.limits:
            matched = [name for name in names if fnmatchcase(name, limit.readings)]
            names = [name for name in names if name not in matched]
            for name in matched:
                yield growth_of(samples, name, limit)


def growth_of(samples: Sequence[Operation], reading: str, limit: Limit) -> Growth:
    """Judge one reading. Raises ValueError for too few samples."""
    operations, readings = series(samples, reading)
    trend = trend_of(operations, readings)
    too_fast = limit.over(operations[-1] - operations[0])
    ends = (readings[0], readings[-1])
    grows = is_growing(operations, readings, too_fast)
    return Growth(reading, limit.promise, trend, too_fast, *ends, grows)


def series(samples: Sequence[Operation], reading: str) -> tuple[list[float], list[float]]:
    """Numbers of operations, and the reading after them; 0 where a sample lacks it."""
    operations = [float(sample.argument["operations"]) for sample in samples]
    values = ({**sample.argument, **sample.result} for sample in samples)
    return operations, [float(readings.get(reading, 0.0)) for readings in values]


def is_growing(operations: Sequence[float], readings: Sequence[float], too_fast: float) -> bool:
    """Whether all samples raise an alarm, and the first seven eighths raise one too."""
    earlier = max(READINGS_MIN, round(len(readings) * EARLIER))
    return all(
        trend_of(operations[:known], readings[:known]).exceeds(too_fast)
        for known in (len(readings), earlier)
    )


def _misjudged(samples: Sequence[Operation], controls: Controls) -> Iterator[str]:
    """Report the controls that the rules judge wrongly."""
    if not is_growing(*series(samples, controls.grows), controls.per_operation):
        yield f"the control {controls.grows} grows, but shows no growth: too few operations"
    if is_growing(*series(samples, controls.steady), controls.per_operation):
        yield f"the control {controls.steady} is steady, but shows growth: the warm-up is too short"


def _anomaly(growing: Sequence[Growth], samples: Sequence[Operation]) -> Anomaly:
    """Report the first growing reading; the others may be its consequences."""
    first, *others = growing
    evidence = tuple(_only(samples[at], first.reading) for at in (0, len(samples) // 2, -1))
    operations = samples[-1].argument["operations"] - samples[0].argument["operations"]
    message = f"{first}, over {operations:,} operations"
    if others:
        rest = f", and {len(others) - OTHERS_SHOWN} more" if len(others) > OTHERS_SHOWN else ""
        message += f"; with it {'; '.join(map(str, others[:OTHERS_SHOWN]))}{rest}"
    return Anomaly(
        first.promise,
        message,
        evidence,
        name=GROWTH,
        expected=f"{first.reading}: at most {first.too_fast:+.3g} an operation",
        observed=f"{first.reading}: from {first.first:,g} to {first.last:,g}",
    )


def _only(sample: Operation, reading: str) -> Operation:
    """The sample with only this reading."""
    readings = {**sample.argument, **sample.result}
    return replace(sample, result={reading: readings.get(reading, 0)})
