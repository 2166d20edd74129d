"""A scenario: which promises are on trial, by which questions, judged by whom. Pure data.

Everything but the target and the seed is in it.
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
    """How a scenario looks for trouble, from the cheapest to the dearest."""

    MODEL = "model"
    SCHEDULE = "schedule"
    CONTENTION = "contention"
    CRASH = "crash"
    HTTP = "http"
    SOAK = "soak"
    LOAD = "load"


@dataclass(frozen=True, slots=True)
class Expectation:
    """What a run must have met for its verdict to mean something; counted in each episode."""

    name: str
    count: Callable[[History], int]
    needed: int = 1


@dataclass(frozen=True, slots=True)
class Scenario:
    """A family of promises on trial.

    `examples` is how many episodes the workload explores at effort 1, about a minute's gate;
    `replay` is how a failure that it found is seen again.
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
