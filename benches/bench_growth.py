"""Measures how often a soak is wrong about growth, and how slow a leak it finds.

    python benches/bench_growth.py [--runs 100] [--record FILE]

Simulates one reading of a soak that is judged again and again while it goes on, as the command
does: at a gate's length, and at ten minutes of a busy and of a quiet machine. A leak keeps one
entry in 10, 20, 30 or 50 operations, at random; readings without a leak are noise, noise that
resembles itself, steps, a sawtooth, a cache that is nearly full, and rare events. A cache that
fills for longer than the soak was first judged looks like a leak, so a warm-up must fill it.
"""

# A script, not a package:
# ruff: noqa: INP001

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from harness.checkers.growth import is_growing  # noqa: E402  after the path
from harness.core.share import wilson  # noqa: E402
from harness.core.trend import READINGS_MIN  # noqa: E402
from harness.runs import baselines  # noqa: E402
from harness.runs.soak import MORE  # noqa: E402

ENTRY = 0.01  # an operation: the limit of a container
LENGTHS = {"a gate": 2_000, "ten busy minutes": 20_000, "ten minutes": 100_000}
SAMPLES = 400
RATES = (10, 20, 30, 50)
SAWTOOTH, FILLED = (50, 440), (20, 200)  # operations after the warm-up
Read = Callable[[Random, Sequence[int]], list[float]]


def leak(one_in: int) -> Read:
    """One entry stays behind in that number of operations, at random, beside a busy container."""

    def read(rng: Random, at: Sequence[int]) -> list[float]:
        kept, readings = 0.0, []
        for before, now in zip([0, *at[:-1]], at, strict=True):
            expected = (now - before) / one_in
            kept += max(0, round(rng.gauss(expected, expected**0.5)))
            readings.append(kept + rng.choice((0, 0, 1, 3)))
        return readings

    return read


def noise(rng: Random, at: Sequence[int]) -> list[float]:
    """Independent readings."""
    return [rng.gauss(10, 3) for _ in at]


def resembling(rng: Random, at: Sequence[int]) -> list[float]:
    """Each reading resembles the one before by 0.9."""
    value, readings = 0.0, []
    for _ in at:
        value = 0.9 * value + rng.gauss(0, 1)
        readings.append(value)
    return readings


def steps(rng: Random, at: Sequence[int]) -> list[float]:
    """One to three steps, as pools and arenas take them."""
    places = [rng.uniform(0, at[-1]) for _ in range(rng.randint(1, 3))]
    return [float(sum(20 for place in places if done >= place)) for done in at]


def sawtooth(rng: Random, at: Sequence[int]) -> list[float]:
    """A log that is cut each time it is long enough, at the latest after 256 turns."""
    period, phase = rng.uniform(*SAWTOOTH), rng.uniform(0, at[-1])
    return [50 * ((done + phase) % period) / period for done in at]


def fills(rng: Random, at: Sequence[int]) -> list[float]:
    """A cache that the warm-up has nearly filled."""
    cap = rng.uniform(*FILLED)
    return [min(done, cap) / 20 for done in at]


def rare(rng: Random, at: Sequence[int]) -> list[float]:
    """An entry in 400 operations, a quarter of the limit."""
    return leak(400)(rng, at)


QUIET: tuple[Read, ...] = (noise, resembling, steps, sawtooth, fills, rare)


def is_found(read: Read, rng: Random, operations: int) -> bool:
    """Whether the soak ends with growth, at any of the moments when it is judged."""
    at = [round((number + 1) * operations / SAMPLES) for number in range(SAMPLES)]
    readings, known = read(rng, at), READINGS_MIN
    places = [float(done) for done in at]
    while known <= SAMPLES:
        if is_growing(places[:known], readings[:known], ENTRY):
            return True
        known = round(known * MORE) + 1
    return is_growing(places, readings, ENTRY)


def main() -> None:
    """Print one row for each length, and record the figures where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    table = Table("length", "operations", "false alarms", *(f"one in {rate}" for rate in RATES))
    rows = []
    for length, operations in LENGTHS.items():
        false = {
            read.__name__: sum(
                is_found(read, Random(f"{length}/{read.__name__}/{number}"), operations)
                for number in range(options.runs)
            )
            for read in QUIET
        }
        found = {
            rate: sum(
                is_found(leak(rate), Random(f"{length}/{rate}/{number}"), operations)
                for number in range(options.runs)
            )
            for rate in RATES
        }
        whole = options.runs * len(QUIET)
        row = {"length": length, "operations": operations, "series": options.runs}
        rows.append({**row, "false_alarms": false, "found": {str(k): v for k, v in found.items()}})
        Console(stderr=True).print(rows[-1])
        _, high = wilson(sum(false.values()), whole)
        alarms = f"{sum(false.values())} of {whole} (at most {high:.1%})"
        cells = [f"{count / options.runs:.0%}" for count in found.values()]
        table.add_row(length, f"{operations:,}", alarms, *cells)
    Console(width=110).print(table)
    if options.record is not None:
        baselines.record(options.record, 0, {"limit": ENTRY, "lengths": rows})


if __name__ == "__main__":
    main()
