"""Growth: nothing that lives long grows with what was ever done.

For histories with `sample` operations: each was taken after so many `operations`, and tells
readings by name: sizes of containers and files, memory, threads, descriptors. What was done before
the warm-up, which is declared in operations, fills caches and is not judged.

A reading *grows* if its trend exceeds its limit twice in a row: by what was known an eighth
earlier, and by all that is known. Two *controls* are judged in the same run by the same rules: one
is known to grow, and one to be steady; whoever takes the sample may tell them as arguments of it.
If either is judged wrongly, so may be the rest, and the verdict is unknown. A history that is too
short to judge proves nothing; whoever needs one that is long enough expects `judgeable`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from harness.core.history import History, Operation
from harness.core.promises import Promise
from harness.core.trend import READINGS_MIN, Trend, trend_of
from harness.core.verdict import Anomaly, Verdict

SAMPLE = "sample"
EARLIER = 7 / 8  # of the samples: what the first of two alarms in a row knows
OTHERS_TOLD = 3


@dataclass(frozen=True, slots=True)
class Limit:
    """How fast readings of these names may grow, an operation, and which promise it is.

    `slack` is what they may grow by in all, however fast: what fills late, an allocator's arenas
    say. `readings` is a shell pattern. Of several limits the first that matches counts, and what
    grows by an earlier one is blamed before what grows by a later one.
    """

    readings: str
    promise: Promise
    per_operation: float
    slack: float = 0.0

    def over(self, operations: float) -> float:
        """The slope that is too fast over so many operations."""
        return max(self.per_operation, self.slack / operations)


@dataclass(frozen=True, slots=True)
class Controls:
    """Two readings of which it is known that one grows faster than the limit, and one does not."""

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
        surely = f"at least {self.trend.low:+.3g}"
        return f"{self.reading} {self.trend.slope:+.3g} an operation, {surely}"


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
            return Verdict(anomalies=(_blame(growing, samples),))
        return Verdict(unknowns=tuple(_misjudged(samples, self.controls)))

    def warm(self, history: History) -> list[Operation]:
        """The samples that were taken after the warm-up."""
        return [
            operation
            for operation in history.happened
            if operation.function == SAMPLE and operation.argument["operations"] >= self.warm_up
        ]

    def judgeable(self, history: History) -> int:
        """How often the history can be judged: once, or not at all."""
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
    is_growing = _is_growing(operations, readings, too_fast)
    ends = (readings[0], readings[-1])
    return Growth(reading, limit.promise, trend, too_fast, *ends, is_growing)


def series(samples: Sequence[Operation], reading: str) -> tuple[list[float], list[float]]:
    """Operations, and what was read after them; 0 for what was not there yet."""
    operations = [float(sample.argument["operations"]) for sample in samples]
    told = ({**sample.argument, **sample.result} for sample in samples)
    return operations, [float(readings.get(reading, 0.0)) for readings in told]


def _is_growing(operations: Sequence[float], readings: Sequence[float], too_fast: float) -> bool:
    """Whether there is an alarm, and there was one an eighth earlier."""
    earlier = max(READINGS_MIN, round(len(readings) * EARLIER))
    return all(
        trend_of(operations[:known], readings[:known]).exceeds(too_fast)
        for known in (len(readings), earlier)
    )


def _misjudged(samples: Sequence[Operation], controls: Controls) -> Iterator[str]:
    """What is wrong with the judge itself, by the controls."""
    if not _is_growing(*series(samples, controls.grows), controls.per_operation):
        yield f"{controls.grows} grows, and is not seen to: too little was done"
    if _is_growing(*series(samples, controls.steady), controls.per_operation):
        yield f"{controls.steady} does not grow, and is seen to: the warm-up was too short"


def _blame(growing: Sequence[Growth], samples: Sequence[Operation]) -> Anomaly:
    """The first, with the others as what comes of it."""
    blamed, *others = growing
    told = tuple(_only(samples[at], blamed.reading) for at in (0, len(samples) // 2, -1))
    done = samples[-1].argument["operations"] - samples[0].argument["operations"]
    message = f"{blamed}: from {blamed.first:,g} to {blamed.last:,g} in {done:,} operations"
    if others:
        rest = f", and {len(others) - OTHERS_TOLD} more" if len(others) > OTHERS_TOLD else ""
        message += f"; with it {'; '.join(map(str, others[:OTHERS_TOLD]))}{rest}"
    return Anomaly(blamed.promise, message, told, name="growth")


def _only(sample: Operation, reading: str) -> Operation:
    """The sample, without the other readings."""
    told = {**sample.argument, **sample.result}
    return replace(sample, result={reading: told.get(reading, 0)})
