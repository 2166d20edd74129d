"""Measures how often `harness trends` is wrong, and how soon it sees a change.

    python benches/bench_trends.py [--runs 200] [--record FILE]

Simulates 40 figures over 60 nights: independent noise, noise that resembles the night before, heavy
tails, whole numbers with ties, and one bad night in ten. The command's own
judgement looks at each fifth night; a *false night* shows a change that is none, new or old.
Then one figure changes by a share, and the nights until that is reported are counted.
"""

# A script, not a package:
# ruff: noqa: INP001

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from statistics import median

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from harness.report.run_history import Series  # noqa: E402  after the path
from harness.runs import baselines  # noqa: E402
from harness.runs.run_trends import ALPHA, shifts_of  # noqa: E402

FIGURES, NIGHTS, QUIET = 40, 60, 30
SPREAD = 0.05
SHARES = (0.1, 0.2, 0.5)


def independent(rng: Random, nights: int) -> list[float]:
    """Normal noise of 5 %."""
    return [100 * math.exp(rng.gauss(0, SPREAD)) for _ in range(nights)]


def resembling(rng: Random, nights: int) -> list[float]:
    """The same, and each night resembles the one before by 0.3."""
    level, values = 0.0, []
    for _ in range(nights):
        level = 0.3 * level + rng.gauss(0, SPREAD)
        values.append(100 * math.exp(level))
    return values


def heavy(rng: Random, nights: int) -> list[float]:
    """A t distribution with two degrees of freedom."""
    return [
        100 * math.exp(rng.gauss(0, SPREAD) / math.sqrt(rng.gammavariate(1, 1)))
        for _ in range(nights)
    ]


def counted(rng: Random, nights: int) -> list[float]:
    """Whole numbers from 20 to 24: many ties."""
    return [float(rng.randint(20, 24)) for _ in range(nights)]


def bursts(rng: Random, nights: int) -> list[float]:
    """One night in ten costs up to thrice as much."""
    return [
        value * (rng.uniform(1, 3) if rng.random() < 0.1 else 1)  # noqa: PLR2004
        for value in independent(rng, nights)
    ]


NOISES: dict[str, Callable[[Random, int], list[float]]] = {
    noise.__name__: noise for noise in (independent, resembling, heavy, counted, bursts)
}


def up_to(rows: list[list[float]], night: int) -> list[Series]:
    """The series as they are after a night."""
    names = [f"{at:03}" for at in range(night)]
    return [Series("gate", str(number), names, row[:night]) for number, row in enumerate(rows)]


def false_nights(noise: str, runs: int) -> tuple[int, int]:
    """The nights that report a change that is none, and all nights."""
    wrong = 0
    for number in range(runs):
        rng = Random(f"{noise}/{number}")
        rows = [NOISES[noise](rng, NIGHTS) for _ in range(FIGURES)]
        for night in range(QUIET, NIGHTS + 1, 5):
            wrong += bool(shifts_of(up_to(rows, night)))
    return wrong, runs * len(range(QUIET, NIGHTS + 1, 5))


def nights_until_seen(noise: str, runs: int, share: float) -> float:
    """The median number of nights after which a change of one of all figures is reported."""
    waits: list[float] = []
    for number in range(runs):
        rng = Random(f"{noise}/{share}/{number}")
        row = NOISES[noise](rng, NIGHTS)
        row[QUIET:] = [value * (1 + share) for value in row[QUIET:]]
        seen = (
            night - QUIET
            for night in range(QUIET + 1, NIGHTS + 1)
            if shifts_of(up_to([row], night), ALPHA / FIGURES)
        )
        waits.append(next(seen, math.inf))
    return median(waits)


def main() -> None:
    """Print one row for each kind of noise, and record the figures where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    few = 2 * options.runs
    table = Table("noise", "false nights", *(f"nights until {share:+.0%}" for share in SHARES))
    rows = []
    for noise in NOISES:
        wrong, nights = false_nights(noise, options.runs)
        waits = {f"{share:g}": nights_until_seen(noise, few, share) for share in SHARES}
        shown = {k: v if math.isfinite(v) else None for k, v in waits.items()}
        rows.append({"noise": noise, "nights": nights, "false_nights": wrong, "waits": shown})
        Console(stderr=True).print(rows[-1])
        cells = [f"{v:g}" if math.isfinite(v) else "> 30" for v in waits.values()]
        table.add_row(noise, f"{wrong} of {nights} ({wrong / nights:.2%})", *cells)
    Console(width=100).print(table)
    if options.record is not None:
        figures = {"figures": FIGURES, "alpha": ALPHA, "noises": rows}
        baselines.record(options.record, 0, figures)


if __name__ == "__main__":
    main()
