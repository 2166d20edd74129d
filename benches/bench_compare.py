"""Measures how often `harness compare` is wrong: false rows without a difference, and its power.

    python benches/bench_compare.py [--runs 400] [--record FILE] [--rounds COMPARE_JSON]

Rounds are simulated (`tests/support/simulated_rounds.py`): machines that are quiet, shared, that
drift, that have bursts, and heavy tails. With `--rounds`, a comparison of a target with itself that
was really run is drawn from instead: its blocks with replacement, the sides of each at random. The
decisions are those of the command.
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
from harness.report import folder  # noqa: E402
from harness.runs import baselines  # noqa: E402
from harness.runs.compare import BLOCKS, judged  # noqa: E402
from harness.runs.figures import FIGURES, TURN  # noqa: E402
from harness.runs.ratios import MARGIN, Word  # noqa: E402
from tests.support.simulated_rounds import MACHINES, Blocks, simulated  # noqa: E402

EFFECTS = (1.05, 1.10, 1.20)
RECORDED: Blocks = []


def rounds_of(machine: str, rng: Random, slower: float = 1.0) -> Blocks:
    """Blocks of a simulated machine, or some of those that were recorded."""
    if machine in MACHINES:
        return simulated(MACHINES[machine], rng, BLOCKS, {TURN: slower})
    drawn = []
    for block in rng.choices(RECORDED, k=BLOCKS):
        first, second = rng.sample(("a", "b"), 2)
        slowed = [
            {name: value * (slower if name == TURN else 1) for name, value in each.items()}
            for each in block[second]
        ]
        drawn.append({"a": block[first], "b": slowed})
    return drawn


def false_rows(machine: str, runs: int) -> int:
    """How many runs without a difference call any figure slower or faster."""
    wrong = 0
    for number in range(runs):
        rng = Random(f"{machine}/{number}")
        blocks = rounds_of(machine, rng)
        rows = judged(blocks, FIGURES, MARGIN, number, resamples=0)
        wrong += any(row.word in (Word.SLOWER, Word.FASTER) for row in rows)
    return wrong


def detections(machine: str, runs: int, effect: float) -> int:
    """How many runs call one figure slower that is slower by this factor."""
    seen = 0
    for number in range(runs):
        rng = Random(f"{machine}/{effect}/{number}")
        blocks = rounds_of(machine, rng, effect)
        rows = judged(blocks, FIGURES, MARGIN, number, resamples=0)
        seen += any(row.figure == TURN and row.word is Word.SLOWER for row in rows)
    return seen


def main() -> None:
    """Print one row for each machine, and record the figures where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=400)
    parser.add_argument("--record", type=Path)
    parser.add_argument("--rounds", type=Path)
    options = parser.parse_args()
    if options.rounds is not None:
        RECORDED.extend(folder.read_json(options.rounds)["rounds"])
    few = max(1, options.runs // 5)
    table = Table("machine", "false runs", "95 % interval", *(f"power at {e:g}" for e in EFFECTS))
    rows = []
    for machine in (*MACHINES, *(["recorded"] if RECORDED else [])):
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
