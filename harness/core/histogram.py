"""A histogram of durations in constant memory, with a relative error below 1/128.

Buckets are as wide as their power of two divided by 128, after Tene's HdrHistogram: below 128 a
value is its own bucket, and above that the relative error of any quantile is less than 1/128.
Counts add, so histograms of several clients, seconds or machines merge without loss, in any order.

Values are whole numbers in the caller's unit, usually microseconds. The module knows no clock.

Coordinated omission (Tene): a client that waits for a slow reply sends no calls meanwhile, and so
hides the latency that those calls would have had. Either the caller measures from the time at
which a call was *due*, or `record_corrected` adds the missing latencies.
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
        """Record these values."""
        self._counts: Counter[int] = Counter()
        self.count = 0
        self.total = 0
        self.maximum = 0
        for value in values:
            self.record(value)

    def record(self, value: int, count: int = 1) -> None:
        """Count a value. A value below zero, from clocks that disagree a little, counts as 0."""
        value = max(value, 0)
        self._counts[_bucket(value)] += count
        self.count += count
        self.total += value * count
        self.maximum = max(self.maximum, value)

    def record_corrected(self, value: int, interval: int) -> None:
        """Count a value, and the latencies of calls that were due every `interval` meanwhile."""
        self.record(value)
        for missed in range(value - interval, interval - 1, -interval):
            self.record(missed)

    def merge(self, other: Histogram) -> None:
        """Add the counts of another histogram."""
        self._counts.update(other._counts)
        self.count += other.count
        self.total += other.total
        self.maximum = max(self.maximum, other.maximum)

    @property
    def mean(self) -> float:
        """The exact mean; 0 if no value was recorded."""
        return self.total / self.count if self.count else 0.0

    def quantile(self, share: float) -> int:
        """The smallest value that a `share` of all values does not exceed, to within 1/128.

        It is never below the true quantile and never above the maximum; 0 if no value was recorded.
        """
        rank = max(1, -int(-share * self.count // 1))  # rounded up
        for bucket in sorted(self._counts):
            rank -= self._counts[bucket]
            if rank <= 0:
                return min(_last(bucket), self.maximum)
        return self.maximum

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Histogram) and self.to_json() == other.to_json()

    __hash__ = None  # type: ignore[assignment]  # a histogram is mutable

    def to_json(self) -> dict[str, object]:
        """Render as a JSON object; `from_json` reads it back."""
        counts = {str(bucket): self._counts[bucket] for bucket in sorted(self._counts)}
        return {"counts": counts, "total": self.total, "maximum": self.maximum}

    @classmethod
    def from_json(cls, document: Mapping[str, object]) -> Self:
        """Read what `to_json` wrote. Raises TypeError or ValueError for anything else."""
        counts, total, maximum = document["counts"], document["total"], document["maximum"]
        if not (isinstance(counts, dict) and isinstance(total, int) and isinstance(maximum, int)):
            raise TypeError(f"not a histogram: {document!r}")
        histogram = cls()
        histogram._counts.update({int(bucket): int(count) for bucket, count in counts.items()})
        histogram.count = histogram._counts.total()
        histogram.total, histogram.maximum = total, maximum
        return histogram


def merged(histograms: Iterable[Histogram]) -> Histogram:
    """The histogram of the values of all these histograms."""
    union = Histogram()
    for histogram in histograms:
        union.merge(histogram)
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
