"""Measures how often `harness compare` is wrong: false rows without a difference, and its power.

    python benches/bench_compare.py [--runs 400] [--record FILE]

Rounds are simulated (`tests/support/simulated_rounds.py`): machines that are quiet, shared, that
drift, that have bursts, and heavy tails. The decisions are those of the command.
"""

# A script, not a package:
# ruff: noqa: INP001

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from random import Random

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from harness.core.share import wilson  # noqa: E402  after the path
from harness.runs import baselines  # noqa: E402
from harness.runs.compare import BLOCKS, judged  # noqa: E402
from harness.runs.figures import FIGURES, TURN  # noqa: E402
from harness.runs.ratios import MARGIN, Word  # noqa: E402
from tests.support.simulated_rounds import MACHINES, simulated  # noqa: E402

EFFECTS = (1.05, 1.10, 1.20)


def false_rows(machine: str, runs: int) -> int:
    """How many runs without a difference call any figure slower or faster."""
    wrong = 0
    for number in range(runs):
        rng = Random(f"{machine}/{number}")
        blocks = simulated(MACHINES[machine], rng, BLOCKS)
        rows = judged(blocks, FIGURES, MARGIN, number, resamples=0)
        wrong += any(row.word in (Word.SLOWER, Word.FASTER) for row in rows)
    return wrong


def detections(machine: str, runs: int, effect: float) -> int:
    """How many runs call one figure slower that is slower by this factor."""
    seen = 0
    for number in range(runs):
        rng = Random(f"{machine}/{effect}/{number}")
        blocks = simulated(MACHINES[machine], rng, BLOCKS, {TURN: effect})
        rows = judged(blocks, FIGURES, MARGIN, number, resamples=0)
        seen += any(row.figure == TURN and row.word is Word.SLOWER for row in rows)
    return seen


def main() -> None:
    """Print one row for each machine, and record the figures where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=400)
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    few = max(1, options.runs // 5)
    table = Table("machine", "false runs", "95 % interval", *(f"power at {e:g}" for e in EFFECTS))
    rows = []
    for machine in MACHINES:
        wrong = false_rows(machine, options.runs)
        low, high = wilson(wrong, options.runs)
        power = {f"{effect:g}": detections(machine, few, effect) / few for effect in EFFECTS}
        rows.append({"machine": machine, "runs": options.runs, "false_runs": wrong, "power": power})
        shares = [f"{share:.0%}" for share in power.values()]
        Console(stderr=True).print(rows[-1])
        table.add_row(machine, f"{wrong} of {options.runs}", f"{low:.2%} to {high:.2%}", *shares)
    Console(width=120).print(table)
    if options.record is not None:
        figures = {"blocks": BLOCKS, "figures": len(FIGURES), "margin": MARGIN, "machines": rows}
        baselines.record(options.record, 0, figures)


if __name__ == "__main__":
    main()
