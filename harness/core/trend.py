"""The trend: does a series of readings grow, and if so, how surely and how fast?

Growth is per *operation*, never per second, so that a slow machine and a fast one conclude alike.
Knows nothing of promises, nor of what is read.

A burst, a sawtooth or a collection not yet run raise some readings; a leak raises the lowest ones
too. So the readings are first cut into blocks, and each block is represented by its *floor*. Over
the floors:

* Theil-Sen's slope, the median of the slopes of all pairs, with its bounds (Sen 1968, "Estimates
  of the regression coefficient based on Kendall's tau");
* Mann-Kendall's test, whether later is higher (Mann 1945; Kendall 1975);
* both with the variance inflated for neighbours that resemble each other, as sizes do (Bayley and
  Hammersley 1946; for this use Hamed and Rao 1998, "A modified Mann-Kendall trend test").
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

BLOCKS = 24
CONFIDENCE = 0.999
RESEMBLANCE_MAX = 0.6  # more, and a count of rare events would hide its own growth
READINGS_MIN = 2 * BLOCKS


@dataclass(frozen=True, slots=True)
class Trend:
    """How a series grows: slopes per operation, with their bounds at `CONFIDENCE`.

    `p` is the chance that a series without a trend looks at least so (one-sided). `late` is the
    slope of the last half alone: whatever only stepped up, or filled, has none there.
    """

    slope: float
    low: float
    high: float
    p: float
    late: float

    def exceeds(self, slope: float) -> bool:
        """Whether the series surely grows faster than `slope`, and still did in its last half."""
        return self.low > slope and self.late > slope and self.p < 1 - CONFIDENCE


def trend_of(operations: Sequence[float], readings: Sequence[float]) -> Trend:
    """The trend of readings that were taken after so many operations each.

    Raises ValueError for fewer than `READINGS_MIN`.
    """
    at, floors = floors_of(operations, readings)
    slope, low, high, z = _slope(at, floors)
    half = len(at) // 2
    late, *_ = _slope(at[half:], floors[half:])
    return Trend(slope, low, high, 0.5 * math.erfc(z / math.sqrt(2)), late)


def floors_of(
    operations: Sequence[float], readings: Sequence[float]
) -> tuple[list[float], list[float]]:
    """The middle of each block, and the lowest reading in it."""
    count = len(readings)
    if count < READINGS_MIN:
        raise ValueError(f"{count} readings are too few, {READINGS_MIN} are needed")
    edges = [round(block * count / BLOCKS) for block in range(BLOCKS + 1)]
    spans = list(pairwise(edges))
    at = [(operations[first] + operations[end - 1]) / 2 for first, end in spans]
    return at, [min(readings[first:end]) for first, end in spans]


def _slope(at: Sequence[float], floors: Sequence[float]) -> tuple[float, float, float, float]:
    """Theil-Sen's slope and its bounds, and Mann-Kendall's z."""
    from scipy.stats import kendalltau, norm, theilslopes  # noqa: PLC0415  slow to import

    if min(floors) == max(floors):
        return 0.0, 0.0, 0.0, 0.0
    plain = theilslopes(floors, at, CONFIDENCE)
    expected = [plain.intercept + plain.slope * x for x in at]
    inflation = _inflation([y - e for y, e in zip(floors, expected, strict=True)])
    # Fewer independent values mean wider bounds; as if we wanted to be that much surer.
    width = norm.isf((1 - CONFIDENCE) / 2) * math.sqrt(inflation)
    wide = theilslopes(floors, at, 2 * norm.sf(width))
    tau = kendalltau(at, floors, alternative="greater")
    z = norm.isf(tau.pvalue) / math.sqrt(inflation)
    return float(plain.slope), float(wide.low_slope), float(wide.high_slope), float(z)


def _inflation(residuals: Sequence[float]) -> float:
    """How much the variance of a mean grows because neighbours resemble each other; at least 1."""
    mean = sum(residuals) / len(residuals)
    centred = [residual - mean for residual in residuals]
    spread = sum(value * value for value in centred)
    if spread == 0.0:
        return 1.0
    resemblance = sum(a * b for a, b in pairwise(centred)) / spread
    resemblance = min(max(resemblance, 0.0), RESEMBLANCE_MAX)
    return (1 + resemblance) / (1 - resemblance)
