"""The histogram: many durations in little room, each kept to within one part in 128.

Buckets are as wide as their power of two divided by 128, after Tene's HdrHistogram: below 128 a
value is its own bucket, and above that the relative error of any quantile is less than 1/128.
Counts add, so histograms of several clients, seconds or machines merge without loss, in any order.

Values are whole numbers of whatever unit its owner says, microseconds here as a rule.

Coordinated omission (Tene): a client that waits for a slow answer does not ask meanwhile, and so
hides what others would have waited. Either the time is taken from when the question was *due*, or
`record_corrected` adds the waits that were left out. Knows no clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Self

BITS = 7
_WIDTH = 1 << BITS


class Histogram:
    """Counts of values that are zero or more."""

    __slots__ = ("_counts", "count", "maximum", "total")

    def __init__(self, values: Iterable[int] = ()) -> None:
        """Begin with these values."""
        self._counts: Counter[int] = Counter()
        self.count = 0
        self.total = 0
        self.maximum = 0
        for value in values:
            self.record(value)

    def record(self, value: int, count: int = 1) -> None:
        """Count a value. What is below zero, by clocks that disagree a little, is zero."""
        value = max(value, 0)
        self._counts[_bucket(value)] += count
        self.count += count
        self.total += value * count
        self.maximum = max(self.maximum, value)

    def record_corrected(self, value: int, interval: int) -> None:
        """Count a value, and those of the questions that were due every `interval` meanwhile."""
        self.record(value)
        for missed in range(value - interval, interval - 1, -interval):
            self.record(missed)

    def merge(self, other: Histogram) -> None:
        """Count all that the other one counted."""
        self._counts.update(other._counts)
        self.count += other.count
        self.total += other.total
        self.maximum = max(self.maximum, other.maximum)

    @property
    def mean(self) -> float:
        """The mean, exactly; 0 of nothing."""
        return self.total / self.count if self.count else 0.0

    def quantile(self, share: float) -> int:
        """The smallest value that `share` of all do not exceed, to within 1/128; 0 of nothing.

        It is never below the true one, and never above the largest.
        """
        wanted = max(1, -int(-share * self.count // 1))  # the rank, rounded up
        for bucket in sorted(self._counts):
            wanted -= self._counts[bucket]
            if wanted <= 0:
                return min(_last(bucket), self.maximum)
        return self.maximum

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Histogram) and self.to_json() == other.to_json()

    __hash__ = None  # type: ignore[assignment]  # it changes

    def to_json(self) -> dict[str, object]:
        """Render as a JSON object; `from_json` reads it back."""
        counts = {str(bucket): self._counts[bucket] for bucket in sorted(self._counts)}
        return {"counts": counts, "total": self.total, "maximum": self.maximum}

    @classmethod
    def from_json(cls, document: Mapping[str, object]) -> Self:
        """Read what `to_json` wrote. Raises TypeError or ValueError for anything else."""
        counts, total, maximum = document["counts"], document["total"], document["maximum"]
        if not (isinstance(counts, dict) and isinstance(total, int) and isinstance(maximum, int)):
            raise TypeError(f"no histogram: {document!r}")
        read = cls()
        read._counts.update({int(bucket): int(count) for bucket, count in counts.items()})
        read.count, read.total, read.maximum = read._counts.total(), total, maximum
        return read


def merged(histograms: Iterable[Histogram]) -> Histogram:
    """All in one."""
    union = Histogram()
    for each in histograms:
        union.merge(each)
    return union


def _bucket(value: int) -> int:
    """The number of the value's bucket: the power of two, and 128 steps within it."""
    shift = max(0, value.bit_length() - BITS - 1)
    return (shift << BITS) + (value >> shift)


def _last(bucket: int) -> int:
    """The largest value of a bucket."""
    if bucket < _WIDTH:
        return bucket
    shift = (bucket >> BITS) - 1
    return (((bucket - (shift << BITS)) + 1) << shift) - 1
