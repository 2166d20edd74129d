"""Scenarios: the promises on trial, the workload, the checker, and the expectations, as data.

A scenario holds everything but the target and the seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from harness.core.checker import Checker
from harness.core.contract import Promise
from harness.core.history import History
from harness.engine.context import Replay, Workload, ask_again


class Mode(StrEnum):
    """How a scenario looks for broken promises, from the cheapest to the most expensive."""

    MODEL = "model"
    SCHEDULE = "schedule"
    CONTENTION = "contention"
    CRASH = "crash"
    HTTP = "http"
    SOAK = "soak"
    LOAD = "load"


@dataclass(frozen=True, slots=True)
class Expectation:
    """A situation that a run must reach for its verdict to mean something.

    `count` returns how often an episode reached it; a run needs at least `needed` in all.
    """

    name: str
    count: Callable[[History], int]
    needed: int = 1


@dataclass(frozen=True, slots=True)
class Scenario:
    """A group of promises on trial.

    `ability` is what the target must offer. `examples` is the number of episodes that the workload
    explores at effort 1, as in a gate of 190 s; `replay` asks a stored failure again.
    `extras` names the optional packages that it needs: `pip install 'hermes-harness[EXTRA]'`.
    """

    name: str
    mode: Mode
    ability: str
    promises: tuple[Promise, ...]
    workload: Workload
    checker: Checker
    expectations: tuple[Expectation, ...] = ()
    examples: int = 100
    replay: Replay = ask_again
    extras: tuple[str, ...] = ()
