"""The trend of a series of readings: its slope for each operation, with confidence bounds.

The slope is per *operation*, never per second, so that a slow and a fast machine get the same
result. The module knows neither promises nor the meaning of a reading.

A burst, a sawtooth or a pending garbage collection raises some readings; a leak raises the lowest
ones too. So the readings are cut into blocks, and the *floor* (minimum) represents each block.
Three methods work on the floors:

* Theil-Sen's slope, the median of the slopes of all pairs, with its bounds (Sen 1968, "Estimates
  of the regression coefficient based on Kendall's tau");
* Mann-Kendall's test for a monotonic trend (Mann 1945; Kendall 1975);
* an inflation of the variance of both for autocorrelated readings, as sizes are (Bayley and
  Hammersley 1946; for this use Hamed and Rao 1998, "A modified Mann-Kendall trend test").
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from harness.core.extras import require_extras

BLOCKS = 24
CONFIDENCE = 0.999
RESEMBLANCE_MAX = 0.6  # with a higher cap, a count of rare events would hide its own growth
READINGS_MIN = 2 * BLOCKS


@dataclass(frozen=True, slots=True)
class Trend:
    """The slope of a series per operation, with its bounds at `CONFIDENCE`.

    `p` is the one-sided p-value of the test for a trend. `late` is the slope of the last half
    alone: a series that only stepped up once, or a cache that filled, has none there.
    """

    slope: float
    low: float
    high: float
    p: float
    late: float

    def exceeds(self, slope: float) -> bool:
        """Whether the series grows faster than `slope` for certain, in its last half too."""
        return self.low > slope and self.late > slope and self.p < 1 - CONFIDENCE


def trend_of(operations: Sequence[float], readings: Sequence[float]) -> Trend:
    """The trend of readings, each taken after that number of operations.

    Raises ValueError for fewer than `READINGS_MIN`.
    """
    middles, floors = floors_of(operations, readings)
    slope, low, high, z = _slope(middles, floors)
    half = len(middles) // 2
    late, *_ = _slope(middles[half:], floors[half:])
    return Trend(slope, low, high, 0.5 * math.erfc(z / math.sqrt(2)), late)


def floors_of(
    operations: Sequence[float], readings: Sequence[float]
) -> tuple[list[float], list[float]]:
    """The middle of each block, and the lowest reading of the block."""
    count = len(readings)
    if count < READINGS_MIN:
        raise ValueError(f"{count} readings are too few, {READINGS_MIN} are needed")
    edges = [round(block * count / BLOCKS) for block in range(BLOCKS + 1)]
    spans = list(pairwise(edges))
    middles = [(operations[first] + operations[end - 1]) / 2 for first, end in spans]
    return middles, [min(readings[first:end]) for first, end in spans]


def _slope(middles: Sequence[float], floors: Sequence[float]) -> tuple[float, float, float, float]:
    """Theil-Sen's slope and its bounds, and Mann-Kendall's z."""
    require_extras("the judgement of growth", "soak")
    from scipy.stats import kendalltau, norm, theilslopes  # noqa: PLC0415  slow to import

    if min(floors) == max(floors):
        return 0.0, 0.0, 0.0, 0.0
    plain = theilslopes(floors, middles, CONFIDENCE)
    expected = [plain.intercept + plain.slope * x for x in middles]
    factor = inflation([y - e for y, e in zip(floors, expected, strict=True)])
    # Fewer independent values widen the bounds, as a higher confidence would.
    width = norm.isf((1 - CONFIDENCE) / 2) * math.sqrt(factor)
    wide = theilslopes(floors, middles, 2 * norm.sf(width))
    tau = kendalltau(middles, floors, alternative="greater")
    z = norm.isf(tau.pvalue) / math.sqrt(factor)
    return float(plain.slope), float(wide.low_slope), float(wide.high_slope), float(z)


def inflation(residuals: Sequence[float]) -> float:
    """The factor by which autocorrelation inflates the variance of a mean; at least 1."""
    mean = sum(residuals) / len(residuals)
    centred = [residual - mean for residual in residuals]
    spread = sum(value * value for value in centred)
    if spread == 0.0:
        return 1.0
    resemblance = sum(a * b for a, b in pairwise(centred)) / spread
    resemblance = min(max(resemblance, 0.0), RESEMBLANCE_MAX)
    return (1 + resemblance) / (1 - resemblance)
