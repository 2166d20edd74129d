"""Makes the rounds of a comparison without a server: machines with drift, bursts and heavy tails.

Each value is a cost times its noise: what a boot draws (a block, a side and a figure each), the
load of the machine (shared by all figures, changing from round to round), and the round's own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from random import Random

from harness.runs.compare import GROUPS, drawn_order
from harness.runs.figures import FIGURES, OFTEN, ONCE

Blocks = list[dict[str, list[dict[str, float]]]]


@dataclass(frozen=True, slots=True)
class Machine:
    """Standard deviations of logarithms; `burst` is the chance that a round costs up to thrice."""

    boot: float = 0.01
    load: float = 0.05
    own: float = 0.03
    drift: float = 0.0  # a round
    burst: float = 0.0
    heavy: bool = False


MACHINES = {
    "quiet": Machine(boot=0.005, load=0.01, own=0.01),
    "shared": Machine(),
    "drifting": Machine(drift=0.01),
    "bursts": Machine(burst=0.1),
    "heavy tails": Machine(own=0.05, heavy=True),
}


def simulated(
    machine: Machine, rng: Random, blocks: int, slower: Mapping[str, float] | None = None
) -> Blocks:
    """Blocks of rounds in which B costs `slower` times as much, by figure; 1 for the others."""
    return [_block(machine, rng, slower or {}, number) for number in range(blocks)]


def _block(
    machine: Machine, rng: Random, slower: Mapping[str, float], number: int
) -> dict[str, list[dict[str, float]]]:
    boots = {
        (side, name): rng.gauss(0, machine.boot)
        + (math.log(slower.get(name, 1)) if side == "b" else 0)
        for side in "ab"
        for name in FIGURES
    }
    measured: dict[str, list[dict[str, float]]] = {"a": [], "b": []}
    rounds = number * (4 * GROUPS + 2)
    for side in drawn_order(rng):
        measured[side].append(_round(machine, rng, boots, side, rounds, ONCE))
    for _ in range(GROUPS):
        first, second = drawn_order(rng)
        for side in (first, second, second, first):
            rounds += 1
            measured[side].append(_round(machine, rng, boots, side, rounds, OFTEN))
    return measured


def _round(  # noqa: PLR0913, PLR0917  one parameter a cause
    machine: Machine,
    rng: Random,
    boots: Mapping[tuple[str, str], float],
    side: str,
    number: int,
    names: Iterable[str],
) -> dict[str, float]:
    load = rng.gauss(0, machine.load) + number * machine.drift
    load += rng.uniform(0, math.log(3)) if rng.random() < machine.burst else 0
    figures = {}
    for name in names:
        own = rng.gauss(0, machine.own)
        own /= math.sqrt(rng.gammavariate(1.0, 1.0)) if machine.heavy else 1
        figures[name] = 5 * math.exp(boots[side, name] + load + own)
    return figures
