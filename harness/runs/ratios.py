"""Decides from paired log ratios whether a figure of B is slower than that of A.

Each block of a comparison gives one log ratio a figure. The order within a block is drawn, so that
without a difference each sign is as likely as the other: the test that turns signs over (Fisher
1935) is exact whatever the noise. All figures of a block are turned over together, and the largest
of them is compared (maxT, step-down; Westfall and Young 1993): that bounds the chance of any false
row in the whole table, and figures that one load of the machine moves alike cost less than with a
bound for independent ones. The estimate is the median of all pairwise means (Hodges, Lehmann 1963),
which one disturbed block hardly moves, and its interval a bootstrap over the blocks.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

ALPHA = 0.01  # the chance of any false row in the whole table
CONFIDENCE = 0.95  # of the interval that is shown
MARGIN = 0.03
RESAMPLES = 4999
EXACT_BLOCKS_MAX = 14  # above, signs are drawn
DRAWN = 20_000
ROUNDING = 1e-9


class Word(StrEnum):
    """What is known about one figure."""

    SLOWER = "slower"
    FASTER = "faster"
    SAME = "same"
    TOO_NOISY = "too noisy"


@dataclass(frozen=True, slots=True)
class Row:
    """One figure: its medians, the ratio B / A with its interval, and the corrected p-value."""

    figure: str
    a: float
    b: float
    ratio: float
    low: float
    high: float
    p: float
    word: Word

    def to_json(self) -> dict[str, Any]:
        """Render as a JSON object."""
        return {
            "figure": self.figure,
            "a": _rounded(self.a),
            "b": _rounded(self.b),
            "ratio": _rounded(self.ratio),
            "low": _rounded(self.low),
            "high": _rounded(self.high),
            "p_corrected": _rounded(self.p),
            "word": str(self.word),
        }


def judge(
    logs: Mapping[str, Sequence[float]],
    medians: Mapping[str, tuple[float, float]],
    margin: float = MARGIN,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> list[Row]:
    """One row for each figure, from its log ratios (one a block) and its medians of A and B."""
    chances = corrected(list(logs.values()), seed)
    rows = []
    for (name, values), p in zip(logs.items(), chances, strict=True):
        low, high = interval(values, seed, resamples)
        bounds = math.exp(low), math.exp(high)
        ratio = math.exp(centre(values))
        word = _word(ratio, bounds, p, margin)
        rows.append(Row(name, *medians[name], ratio, *bounds, p, word))
    return rows


def exit_code(rows: Sequence[Row], tails: Container[str] = ()) -> int:
    """1 if any figure is slower, 2 if any is too noisy to say, else 0.

    Those of `tails` may be too noisy: a high percentile of few values nearly always is.
    """
    if any(row.word is Word.SLOWER for row in rows):
        return 1
    noisy = [row for row in rows if row.word is Word.TOO_NOISY and row.figure not in tails]
    return 2 if noisy or not rows else 0


def blocks_needed(figures: int) -> int:
    """The fewest blocks with which a figure can be significant among this many."""
    return math.ceil(1 + math.log2(max(figures, 1) / ALPHA))


def centre(values: Sequence[float]) -> float:
    """The median of the means of all pairs, each value with itself too."""
    count = len(values)
    means = sorted((values[i] + values[j]) / 2 for i in range(count) for j in range(i, count))
    middle = len(means) // 2
    return means[middle] if len(means) % 2 else (means[middle - 1] + means[middle]) / 2


def corrected(values: Sequence[Sequence[float]], seed: int = 0) -> list[float]:
    """The two-sided p-value of each figure, corrected over all; in the given order.

    A figure's statistic is the sum of its values over the root of the sum of their squares, which
    no sign changes; it is as good as Student's t.
    """
    import numpy as np  # noqa: PLC0415  slow to import

    if not values:
        return []
    table = np.asarray(values, dtype=float)
    blocks = table.shape[1]
    if blocks <= EXACT_BLOCKS_MAX:
        signs = 1 - 2 * (np.arange(2**blocks)[:, None] >> np.arange(blocks) & 1)
    else:
        signs = np.random.default_rng(seed).choice((1, -1), size=(DRAWN, blocks))
        signs[0] = 1  # as it was measured
    scales = np.sqrt((table**2).sum(axis=1))
    sums = np.abs(signs @ table.T) / np.where(scales > 0, scales, 1)
    order = np.argsort(-sums[0], kind="stable")
    adjusted, worst = [0.0] * len(values), 0.0
    for rank, figure in enumerate(order):
        largest = sums[:, order[rank:]].max(axis=1)
        worst = max(worst, float((largest >= sums[0, figure] - ROUNDING).mean()))
        adjusted[int(figure)] = worst
    return adjusted


def interval(values: Sequence[float], seed: int, resamples: int = RESAMPLES) -> tuple[float, float]:
    """A percentile bootstrap interval of the centre; without resamples the centre alone."""
    if len(set(values)) == 1 or not resamples:
        return centre(values), centre(values)
    import numpy as np  # noqa: PLC0415  slow to import
    from scipy.stats import bootstrap  # noqa: PLC0415  slow to import

    first, second = np.triu_indices(len(values))

    def centres(sample: Any, axis: int) -> Any:
        return np.median((sample[..., first] + sample[..., second]) / 2, axis=axis)

    found = bootstrap(
        (np.asarray(values),),
        centres,
        confidence_level=CONFIDENCE,
        n_resamples=resamples,
        batch=500,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def _word(ratio: float, bounds: tuple[float, float], p: float, margin: float) -> Word:
    if p <= ALPHA and ratio > 1 + margin:
        return Word.SLOWER
    if p <= ALPHA and ratio < 1 / (1 + margin):
        return Word.FASTER
    is_within = 1 / (1 + margin) <= bounds[0] and bounds[1] <= 1 + margin
    return Word.SAME if is_within or (p <= ALPHA and _is_small(ratio, margin)) else Word.TOO_NOISY


def _is_small(ratio: float, margin: float) -> bool:
    return 1 / (1 + margin) <= ratio <= 1 + margin


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
