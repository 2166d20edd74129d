"""The explorer: runs a portfolio of search strategies under one budget, and reports the coverage.

Strategies take turns, one schedule each, each with its own random stream. The first failure ends
the search: it is shrunk, replayed, and recorded as a finding. Without a failure the result says how
many schedules ran, how many of them were distinct, what was exhausted, and an upper bound of the
probability that a bug was missed. Code that escapes control leaves the verdict *unknown*.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import count
from random import Random

from harness.core.errors import UsageError
from harness.core.verdict import Validity
from harness.schedule.distinct import Distinct
from harness.schedule.executor import Execution, Executor, Settings
from harness.schedule.exhaustive import Bounded, Reduced
from harness.schedule.finding import Finding, signature, traced
from harness.schedule.locks import LockRules
from harness.schedule.program import Body
from harness.schedule.scheduler import (
    ESCAPED,
    NONDETERMINISTIC,
    Ending,
    LostError,
    Scheduler,
)
from harness.schedule.shrink import shrink
from harness.schedule.story import Recorder
from harness.schedule.strategies import PCT, POS, Replay, Sticky, Strategy, Uniform
from harness.schedule.trace import Level

PORTFOLIO = ("bounded", "pct-2", "sticky", "pct-3", "random", "pos")
_OUTCOMES = 4_096  # the largest number of distinct outcomes that are counted
_REPLAYS = 10
_SHRINKS = 400
_monotonic = time.monotonic


@dataclass(frozen=True, slots=True)
class Budget:
    """The limits of an exploration: schedules, seconds of real time, and steps in one schedule.

    The shrinking of a finding may take the same number of seconds again.
    """

    schedules: int = 10_000
    seconds: float = 10.0
    steps: int = 20_000


@dataclass(frozen=True, slots=True)
class StrategyReport:
    """The schedules that one strategy ran, and how many of them no strategy had run before."""

    strategy: str
    schedules: int
    fresh: int


@dataclass(frozen=True, slots=True)
class Result:
    """The finding of an exploration, or its coverage.

    `distinct` is an estimate, exact below some thousands. `bound` is the number of preemptions up
    to which every schedule ran. `missed` maps a depth to the largest probability that a bug of that
    depth exists and was not found. `outcomes` counts the body's return values, if hashable.
    """

    finding: Finding | None
    schedules: int
    distinct: int
    exhausted: bool
    bound: int | None
    missed: dict[int, float]
    by_strategy: tuple[StrategyReport, ...]
    outcomes: Counter[Hashable]
    situations: Counter[str]
    escapes: tuple[str, ...]
    seconds: float
    steps_max: int

    @property
    def validity(self) -> Validity:
        """Invalid with a finding; unknown if code escaped control, or no schedule ran."""
        if self.finding is not None:
            return Validity.INVALID
        return Validity.UNKNOWN if self.escapes or not self.schedules else Validity.VALID

    @property
    def story(self) -> str:
        """The finding's story, or the coverage if there is no finding."""
        return self.finding.story if self.finding is not None else str(self)

    def __str__(self) -> str:
        found = f"1 in {self.schedules}" if self.finding else f"0 in {self.schedules}"
        parts = [f"{found} schedules ({self.distinct} distinct) in {self.seconds:.2f} s"]
        if self.exhausted:
            parts.append("exhausted")
        elif self.bound is not None:
            parts.append(f"all with at most {self.bound} preemptions")
        if not self.exhausted:
            parts += [f"depth-{d} bugs missed with p <= {p:.2g}" for d, p in self.missed.items()]
        parts += [f"unknown: {escape}" for escape in self.escapes]
        return "; ".join(parts)


def explore(  # noqa: PLR0913 - all but the body have defaults
    body: Body,
    *,
    budget: Budget = Budget(),
    seed: int = 0,
    strategies: Sequence[str] = PORTFOLIO,
    level: Level = Level.SYNC,
    modules: Sequence[str] = (),
    rules: LockRules | None = None,
) -> Result:
    """Run `body` under many schedules, and return the result.

    `body` is called with a fresh `Run` for each schedule; it must not depend on other state that
    changes. The same seed gives the same schedules, up to the budget. `modules` names the modules
    whose lines or opcodes are points, at those levels, and whose existing locks are adopted.
    `rules` are lock rules that hold in every schedule. Raises UsageError for an unknown strategy.
    """
    executor = Executor(body, Settings(Level(level), tuple(modules), budget.steps, rules))
    search = _Search(executor, budget, seed, strategies)
    try:
        executor.supervise(search.run)
    except LostError as error:
        search.escapes.append(str(error))
    return search.result()


@dataclass
class _Lane:
    """A strategy of the portfolio, with its counts."""

    strategy: Strategy
    schedules: int = 0
    fresh: int = 0


class _Search:
    def __init__(self, executor: Executor, budget: Budget, seed: int, names: Sequence[str]) -> None:
        self._executor = executor
        self._budget = budget
        self._seed = seed
        self._lanes = [
            _Lane(named(name, Random(f"{seed}/{name}"), executor.scheduler)) for name in names
        ]
        self._distinct = Distinct()
        self._outcomes: Counter[Hashable] = Counter()
        self._finding: Finding | None = None
        self._schedules = 0
        self._steps_max = 0
        self._exhausted = False
        self._began_s = self._ended_s = _monotonic()
        self.escapes: list[str] = []

    def run(self) -> None:
        """Search until a failure, exhaustion, or the end of the budget."""
        self._began_s = _monotonic()
        self.escapes += self._executor.audit(_replay(()))
        first, again = (self._executor.execute(_replay(())) for _ in range(2))
        if (first.choices, first.tasks) != (again.choices, again.tasks):
            self.escapes.append("the program is not deterministic: its first schedule differs")
        elif not self._executor.scheduler.lost_threads:
            self._rounds()
        for name in dict.fromkeys(self._executor.scheduler.lost_threads):
            self.escapes.append(f"{name} caught Unwound and continued; its thread is lost")
        self._ended_s = _monotonic()

    def _rounds(self) -> None:
        end_s = self._began_s + self._budget.seconds
        lanes = list(self._lanes)
        while lanes:
            for lane in tuple(lanes):
                if self._schedules >= self._budget.schedules or _monotonic() >= end_s:
                    return
                if not lane.strategy.begin():
                    lanes.remove(lane)
                elif self._step(lane):
                    return
                if getattr(lane.strategy, "exhausted", False):
                    self._exhausted = True
                    return

    def _step(self, lane: _Lane) -> bool:
        """Execute one schedule of one strategy; return whether the search is over."""
        execution = self._executor.execute(lane.strategy)
        lane.strategy.ended(len(execution.choices), execution.tasks)
        if execution.is_pruned:
            return False
        self._schedules += 1
        lane.schedules += 1
        lane.fresh += self._distinct.add(execution.choices)
        self._steps_max = max(self._steps_max, execution.steps)
        if execution.ending is None:
            if execution.outcome is not None and len(self._outcomes) < _OUTCOMES:
                self._outcomes[execution.outcome] += 1
            return False
        if execution.ending.kind == ESCAPED:
            self.escapes.append(execution.ending.message)
        elif execution.ending.kind == NONDETERMINISTIC:
            self.escapes.append(f"the program is not deterministic: {execution.ending.message}")
        else:
            self._record_finding(lane, execution, execution.ending)
        return True

    def _record_finding(self, lane: _Lane, execution: Execution, ending: Ending) -> None:
        self._executor.scheduler.footprint = None
        expected = signature(ending)

        def fails_alike(other: Execution) -> bool:
            return other.ending is not None and signature(other.ending) == expected

        attempts = count()
        end_s = _monotonic() + self._budget.seconds

        lost = self._executor.scheduler.lost_threads

        def is_spent() -> bool:
            return next(attempts) >= _SHRINKS or _monotonic() >= end_s or bool(lost)

        choices = shrink(execution.choices, self._executor.execute, fails_alike, is_spent)
        replays = 0 if lost else _REPLAYS  # each replay would lose another thread
        replayed = sum(
            fails_alike(self._executor.execute(_replay(choices))) for _ in range(replays)
        )
        recorder = Recorder(self._executor.scheduler)
        last = self._executor.execute(_replay(choices), recorder).ending or ending
        setting = self._executor.setting
        self._finding = Finding(
            kind=last.kind,
            message=last.message,
            task=last.task,
            choices=choices,
            steps=recorder.steps,
            level=setting.level,
            modules=setting.modules,
            feasible=recorder.feasible,
            strategy=lane.strategy.name,
            schedule=self._schedules,
            seed=self._seed,
            replayed=replayed,
            replays=replays,
            stacks=last.stacks,
            trace=traced(last),
        )

    def result(self) -> Result:
        """Return the result of the search so far."""
        missed = {
            lane.strategy.depth: lane.strategy.missed
            for lane in self._lanes
            if isinstance(lane.strategy, PCT)
        }
        bounded = [lane.strategy for lane in self._lanes if isinstance(lane.strategy, Bounded)]
        return Result(
            finding=self._finding,
            schedules=self._schedules,
            distinct=min(self._distinct.count, self._schedules),
            exhausted=self._exhausted,
            bound=bounded[0].exhausted_bound if bounded else None,
            missed=missed,
            by_strategy=tuple(
                StrategyReport(lane.strategy.name, lane.schedules, lane.fresh)
                for lane in self._lanes
            ),
            outcomes=self._outcomes,
            situations=self._executor.situations,
            escapes=tuple(self.escapes),
            seconds=self._ended_s - self._began_s,
            steps_max=self._steps_max,
        )


def _replay(choices: Sequence[int]) -> Replay:
    chooser = Replay(choices)
    chooser.begin()
    return chooser


def named(name: str, rng: Random, scheduler: Scheduler) -> Strategy:
    """Make a strategy by name: random, sticky, pos, pct-D, bounded, bounded-C, reduced, guarded.

    D is a depth, C a number of preemptions. `guarded` is `reduced` for code whose shared memory is
    touched only under locks and through cells. Raises UsageError for any other name.
    """
    kind, _, number = name.partition("-")
    match kind, number:
        case "random", "":
            return Uniform(rng)
        case "sticky", "":
            return Sticky(rng)
        case "pos", "":
            return POS(rng)
        case "pct", depth if depth.isdecimal():
            return PCT(rng, int(depth))
        case "bounded", bound if not bound or bound.isdecimal():
            return Bounded(int(bound) if bound else None)
        case "reduced" | "guarded", "":
            return Reduced(scheduler, guarded=kind == "guarded")
    known = "random, sticky, pos, pct-D, bounded, bounded-C, reduced, guarded"
    raise UsageError(f"unknown strategy {name!r}; known: {known}")
