"""The explorer: a portfolio of strategies under one budget, and what it bought.

Strategies take turns, one schedule each, every one with a stream of chance of its own. The first
failure ends the search: it is played again, shrunk, and told. Without a failure the result says
how many schedules were run, how many of them were distinct, what was exhausted, and how likely it
still is that a bug was missed. Code that escapes control leaves the verdict *unknown*.
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
from harness.schedule.arena import Arena, Play, Setting
from harness.schedule.distinct import Distinct
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
_OUTCOMES = 4_096  # distinct ones that are counted; the rest are not kept
_REPLAYS = 10
_SHRINKS = 400
_monotonic = time.monotonic


@dataclass(frozen=True, slots=True)
class Budget:
    """How much to spend: schedules, seconds of the real clock, and steps in one schedule.

    Shrinking a finding may take as many seconds again.
    """

    schedules: int = 10_000
    seconds: float = 10.0
    steps: int = 20_000


@dataclass(frozen=True, slots=True)
class Bought:
    """What one strategy did: schedules it ran, and those of them that nobody had run before."""

    strategy: str
    schedules: int
    fresh: int


@dataclass(frozen=True, slots=True)
class Result:
    """What an exploration found, or what it bought.

    `distinct` is an estimate, exact below some thousands. `bound` is the number of preemptions up
    to which every schedule was run. `missed` gives for each depth the probability that a bug of
    that depth exists and was not met, at most. `outcomes` counts what the body returned, where
    that can be hashed.
    """

    finding: Finding | None
    schedules: int
    distinct: int
    exhausted: bool
    bound: int | None
    missed: dict[int, float]
    bought: tuple[Bought, ...]
    outcomes: Counter[Hashable]
    meetings: Counter[str]
    escapes: tuple[str, ...]
    seconds: float
    steps_max: int

    @property
    def validity(self) -> Validity:
        """Invalid with a finding; unknown if control was escaped, or nothing was run."""
        if self.finding is not None:
            return Validity.INVALID
        return Validity.UNKNOWN if self.escapes or not self.schedules else Validity.VALID

    @property
    def story(self) -> str:
        """The finding's story; what was bought, if there is none."""
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


def explore(  # noqa: PLR0913 - all but the body have defaults that suit
    body: Body,
    *,
    budget: Budget = Budget(),
    seed: int = 0,
    strategies: Sequence[str] = PORTFOLIO,
    level: Level = Level.SYNC,
    modules: Sequence[str] = (),
    rules: LockRules | None = None,
) -> Result:
    """Run `body` under many schedules, and return what was found.

    `body` is called afresh for each schedule with a `Run`; it must not depend on anything else that
    changes. Same seed, same schedules, as far as the budget reaches. `modules` names the modules
    whose lines or opcodes are points, at those levels, and whose existing locks are adopted.
    `rules` are lock rules that hold in every schedule. Raises UsageError for an unknown strategy.
    """
    arena = Arena(body, Setting(Level(level), tuple(modules), budget.steps, rules))
    search = _Search(arena, budget, seed, strategies)
    try:
        arena.perform(search.run)
    except LostError as error:
        search.escapes.append(str(error))
    return search.result()


@dataclass
class _Lane:
    """A strategy in the portfolio, and its account."""

    strategy: Strategy
    schedules: int = 0
    fresh: int = 0


class _Search:
    def __init__(self, arena: Arena, budget: Budget, seed: int, names: Sequence[str]) -> None:
        self._arena = arena
        self._budget = budget
        self._seed = seed
        self._lanes = [
            _Lane(named(name, Random(f"{seed}/{name}"), arena.scheduler)) for name in names
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
        """Search until something is found, nothing is left, or the budget is spent."""
        self._began_s = _monotonic()
        self.escapes += self._arena.audit(_replay(()))
        first, again = (self._arena.play(_replay(())) for _ in range(2))
        if (first.choices, first.tasks) != (again.choices, again.tasks):
            self.escapes.append("the program does not repeat itself: its first schedule differs")
        elif not self._arena.scheduler.parked_for_ever:
            self._rounds()
        for name in dict.fromkeys(self._arena.scheduler.parked_for_ever):
            self.escapes.append(f"{name} caught its own unwinding and went on; its thread is lost")
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
                elif self._one(lane):
                    return
                if getattr(lane.strategy, "exhausted", False):
                    self._exhausted = True
                    return

    def _one(self, lane: _Lane) -> bool:
        """One schedule of one strategy; whether the search is over."""
        play = self._arena.play(lane.strategy)
        lane.strategy.ended(len(play.choices), play.tasks)
        if play.is_pruned:
            return False
        self._schedules += 1
        lane.schedules += 1
        lane.fresh += self._distinct.add(play.choices)
        self._steps_max = max(self._steps_max, play.steps)
        if play.ending is None:
            if play.outcome is not None and len(self._outcomes) < _OUTCOMES:
                self._outcomes[play.outcome] += 1
            return False
        if play.ending.kind == ESCAPED:
            self.escapes.append(play.ending.message)
        elif play.ending.kind == NONDETERMINISTIC:
            self.escapes.append(f"the program does not repeat itself: {play.ending.message}")
        else:
            self._found(lane, play, play.ending)
        return True

    def _found(self, lane: _Lane, play: Play, ending: Ending) -> None:
        self._arena.scheduler.footprint = None
        wanted = signature(ending)

        def alike(other: Play) -> bool:
            return other.ending is not None and signature(other.ending) == wanted

        attempts = count()
        end_s = _monotonic() + self._budget.seconds

        lost = self._arena.scheduler.parked_for_ever

        def is_spent() -> bool:
            return next(attempts) >= _SHRINKS or _monotonic() >= end_s or bool(lost)

        choices = shrink(play.choices, self._arena.play, alike, is_spent)
        replays = 0 if lost else _REPLAYS  # each would lose another thread
        replayed = sum(alike(self._arena.play(_replay(choices))) for _ in range(replays))
        recorder = Recorder(self._arena.scheduler)
        told = self._arena.play(_replay(choices), recorder).ending or ending
        setting = self._arena.setting
        self._finding = Finding(
            kind=told.kind,
            message=told.message,
            task=told.task,
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
            stacks=told.stacks,
            trace=traced(told),
        )

    def result(self) -> Result:
        """What is known now."""
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
            bought=tuple(Bought(x.strategy.name, x.schedules, x.fresh) for x in self._lanes),
            outcomes=self._outcomes,
            meetings=self._arena.meetings,
            escapes=tuple(self.escapes),
            seconds=self._ended_s - self._began_s,
            steps_max=self._steps_max,
        )


def _replay(choices: Sequence[int]) -> Replay:
    chooser = Replay(choices)
    chooser.begin()
    return chooser


def named(name: str, rng: Random, scheduler: Scheduler) -> Strategy:
    """A strategy by its name: random, sticky, pos, pct-D, bounded, bounded-C, reduced, guarded.

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
    raise UsageError(f"no strategy is called {name!r}")
