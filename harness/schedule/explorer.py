"""The explorer: runs a portfolio of search strategies under one budget, and reports the coverage.

Strategies take turns, one schedule each, each with its own random stream. The first failure ends
the search: it is shrunk, replayed, and recorded as a finding. Without a failure the result says how
many schedules ran, how many of them were distinct, what was exhausted, and an upper bound of the
probability that a bug was missed. Code that escapes control leaves the verdict *unknown*, and so
does a program that does not repeat itself under the same choices.

At the sync level the first schedules, and later some, are followed: accesses of the modules under
test that nothing orders become points, and the strategies begin anew with them.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from random import Random
from typing import Any

from harness.core.errors import UsageError
from harness.core.verdict import Validity
from harness.schedule import canary
from harness.schedule.accesses import modules_of
from harness.schedule.asyncio_tasks.order import LoopOrder
from harness.schedule.causality import decided_after
from harness.schedule.distinct import Distinct
from harness.schedule.executor import Execution, Executor, Settings, known_modules
from harness.schedule.exhaustive import Bounded, Reduced
from harness.schedule.finding import Finding, raised_at, signature, traced
from harness.schedule.locks import LockRules
from harness.schedule.program import Body
from harness.schedule.scheduler import TIMERS, Scheduler
from harness.schedule.shrink import shrink
from harness.schedule.story import Recorder, mark, step_of
from harness.schedule.strategies import PCT, POS, Replay, Sticky, Strategy, Uniform
from harness.schedule.tasks import ESCAPED, NONDETERMINISTIC, Ending, LostError
from harness.schedule.trace import Level

PORTFOLIO = ("bounded", "pct-2", "sticky", "pct-3", "random", "pos")
_FOLLOWED_AT_FIRST = 8  # schedules at most, since the last new point
_FOLLOWED_AT_FIRST_MIN = 2  # in a search of few schedules
_FOLLOWED_SOON = 48  # schedules, of which those after the first are one of 16
_FOLLOWED_SOON_EVERY = 16
_FOLLOWED_EVERY = 128
_REPEATED_EVERY = 64  # schedules of which one is executed again, to see whether it repeats itself
_REPEATED_EVERY_UNSEEDED = 4  # in the first schedules, if the program draws without a seed
_REPEATED_UNSEEDED = 32  # the first schedules
_SETTLES = 8  # attempts to begin, each with new points
_OUTCOMES = 4_096  # the largest number of distinct outcomes that are counted
_PLAIN = (bool, int, float, str, bytes)  # outcomes that are equal if they were equal before
_CONFIRMATIONS = 3  # replays of a failing schedule before it is shrunk
_REPLAYS = 10
_CANARY_SCHEDULES = 1_000
_SHRINKS = 400
_SHRINKS_MIN = 40
_SHRINK_STEPS = 100_000  # of all attempts to shrink, so that a long program does not take minutes
_monotonic = time.monotonic


@dataclass(frozen=True, slots=True)
class Budget:
    """The limits of an exploration: schedules, seconds of real time, and steps in one schedule.

    `timers` is the number of deadlines in one schedule that pass although another thread could act.
    The shrinking of a finding may take the same number of seconds again.
    """

    schedules: int = 10_000
    seconds: float = 10.0
    steps: int = 20_000
    timers: int = TIMERS


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
    to which every schedule ran; `timers` the number of deadlines in one schedule that passed early,
    None if no thread waited with a timeout while another one could act. `order` is that of the
    callbacks of event loops, None without one. `lines` is the number of
    lines of `modules` that were points, `accesses` are the unsynchronised accesses among them,
    `points` their keys, `chance` the uses of random numbers without a seed, `finalizers` those of
    objects in use, which the garbage collector can run at other moments, `left_out` the racing
    accesses that are no points with `stock`. `missed` maps a depth
    to the largest probability that a bug of that depth exists and was not found. `outcomes` counts
    the body's return values, if hashable.
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
    level: Level = Level.SYNC
    modules: tuple[str, ...] = ()
    lines: int = 0
    accesses: tuple[str, ...] = ()
    timers: int | None = None
    chance: tuple[str, ...] = ()
    points: tuple[str, ...] = ()
    finalizers: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    order: LoopOrder | None = None

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
        early = "" if self.timers is None else f" and at most {self.timers} early deadline"
        if self.exhausted:
            parts.append(f"exhausted{early.replace(' and', ' with', 1)}")
        elif self.bound is not None:
            parts.append(f"all with at most {self.bound} preemptions{early}")
        if not self.exhausted:
            parts += [f"depth-{d} bugs missed with p <= {p:.2g}" for d, p in self.missed.items()]
        parts.append(self._extent)
        parts += [f"unsynchronised: {access}" for access in self.accesses]
        if self.left_out:
            parts.append(
                f"not exhausted: no points, as a stock CPython does not switch just before, but may"
                f" nearby (see the line level): {', '.join(self.left_out)}"
            )
        parts += [f"draws without a seed: {draw}" for draw in self.chance]
        if self.finalizers:
            parts.append(
                f"finalizers run where the last reference goes, those of cycles between schedules:"
                f" {', '.join(self.finalizers)}"
            )
        parts += [f"unknown: {escape}" for escape in self.escapes]
        return "; ".join(parts)

    @property
    def _extent(self) -> str:
        """The level, and the lines of which modules are points."""
        lines = f"{self.lines} line{'' if self.lines == 1 else 's'}"
        modules = ", ".join(self.modules) or "no module"
        queue = "" if self.order is None else f", event loops in {self.order} order"
        return f"{self.level} level, {lines} of {modules} are points{queue}"


def explore(  # noqa: PLR0913 - all but the body have defaults
    body: Body,
    *,
    budget: Budget = Budget(),
    seed: int = 0,
    strategies: Sequence[str] = PORTFOLIO,
    level: Level = Level.SYNC,
    modules: Sequence[str] = (),
    rules: LockRules | None = None,
    points: Sequence[str] = (),
    order: LoopOrder | str = LoopOrder.DRIFT,
    stock: bool = False,
    progress: Callable[[int], object] | None = None,
) -> Result:
    """Run `body` under many schedules, and return the result.

    `body` is called with a fresh `Run` for each schedule; it must not depend on other state that
    changes. The same seed gives the same schedules, up to the budget. `modules` names the modules
    whose lines or opcodes are points, at those levels, whose existing locks are adopted, and whose
    accesses are followed at the sync level, beside those of the modules of which code runs and that
    are neither CPython's nor installed. `rules` are lock rules that hold in every schedule.
    `points` are accesses that are points from the first schedule on, as `Result.points` of a search
    of the same modules names them. `order` is that of the callbacks of asyncio's event loops: fifo,
    drift or relaxed (see `LoopOrder`). With `stock` lines and accesses are points only where a
    CPython with its global lock can switch. `progress` is called with the number of schedules after
    each.
    Raises UsageError for an unknown strategy or module.
    """
    setting = Settings(
        Level(level),
        known_modules(modules),
        budget.steps,
        rules,
        budget.timers,
        tuple(points),
        LoopOrder(order),
        stock=stock,
    )
    result = _searched(body, setting, budget, seed, strategies, progress)
    if result.validity is Validity.VALID:
        result = replace(result, escapes=canary.missed(setting.level, _finds(setting.level)))
    return result


def _searched(  # noqa: PLR0913, PLR0917 - the parts of a search
    body: Body,
    setting: Settings,
    budget: Budget,
    seed: int,
    strategies: Sequence[str],
    progress: Callable[[int], object] | None = None,
) -> Result:
    executor = Executor(body, setting)
    search = _Search(executor, budget, seed, strategies)
    search.progress = progress
    try:
        executor.supervise(search.run, budget.seconds)
    except LostError as error:
        search.escapes.append(str(error))
    return search.result()


def _finds(level: Level) -> Callable[[Body], bool]:
    """Return whether a search at this level finds the race of a canary."""
    setting = Settings(level, (canary.__name__,), timers=TIMERS)

    def is_found(body: Body) -> bool:
        budget = Budget(schedules=_CANARY_SCHEDULES)
        return _searched(body, setting, budget, 0, PORTFOLIO).finding is not None

    return is_found


@dataclass
class _Lane:
    """A strategy of the portfolio, since the points are what they are."""

    strategy: Strategy
    schedules: int = 0


class _Search:
    def __init__(self, executor: Executor, budget: Budget, seed: int, names: Sequence[str]) -> None:
        self._executor = executor
        self._budget = budget
        self._seed = seed
        self._names = names
        self._rounds = 0
        self._by_strategy: Counter[str] = Counter()
        self._fresh: Counter[str] = Counter()
        self._begin_lanes()
        self._distinct = Distinct()
        self._outcomes: Counter[Hashable] = Counter()
        self._finding: Finding | None = None
        self._schedules = 0
        self._followed = 0  # schedules since the last new point
        self._steps_max = 0
        self._exhausted = False
        self._chance: tuple[str, ...] = ()
        self._finalizers: tuple[str, ...] = ()
        self._began_s = self._ended_s = _monotonic()
        self.escapes: list[str] = []
        self.progress: Callable[[int], object] | None = None

    def _begin_lanes(self) -> None:
        """Make the strategies, anew when there are new points: their choices are others now."""
        suffix = f"/{self._rounds}" if self._rounds else ""
        self._rounds += 1
        self._lanes = [
            _Lane(named(name, Random(f"{self._seed}/{name}{suffix}"), self._executor.scheduler))
            for name in self._names
        ]

    def run(self) -> None:
        """Search until a failure, exhaustion, or the end of the budget."""
        self._began_s = _monotonic()
        lost = self._executor.scheduler.lost_threads
        if self._settle() and not lost:
            self._take_turns()
            if self._finding is None and not self.escapes and not lost:
                self._check_first_again()
        self._report_escapes()
        self._ended_s = _monotonic()

    def _settle(self) -> bool:
        """Audit the first schedule, and repeat it; return whether it is under control."""
        executor = self._executor
        accesses = executor.accesses
        if accesses is not None:
            accesses.follow(modules_of(executor.body, executor.setting.modules))
        audit, execution = executor.audit(_replay(()))
        if not _is_escaped(execution) and executor.adopt(audit.modules):
            # The locks of these modules are under control only from here on.
            audit, execution = executor.audit(_replay(()))
        self.escapes += audit.found
        self._chance = tuple(audit.chance)
        self._finalizers = tuple(audit.finalizers)
        if _is_escaped(execution):
            return self._escape(execution)
        if accesses is not None:
            accesses.follow(audit.modules)
        for _ in range(_SETTLES):
            first, again = (executor.execute(_replay(()), followed=True) for _ in range(2))
            self._steps_max = first.steps
            for execution in (first, again):
                if _is_escaped(execution):
                    return self._escape(execution)
            if accesses is None or not accesses.commit():
                break
        if _trace(first) != _trace(again):
            self.escapes.append("the program is not deterministic: its first schedule differs")
            return False
        self._first = _trace(first)
        return True

    def _check_first_again(self) -> None:
        """Compare the first schedule with a repetition at the end of the search."""
        if _trace(self._executor.execute(_replay(()))) != self._first:
            self.escapes.append(
                "the program is not deterministic: its first schedule differs at the end"
            )

    def _escape(self, execution: Execution) -> bool:
        assert execution.ending is not None
        self.escapes.append(execution.ending.message)
        return False

    def _report_escapes(self) -> None:
        executor = self._executor
        for name in dict.fromkeys(executor.scheduler.lost_threads):
            self.escapes.append(f"{name} caught Unwound and continued; its thread is lost")
        accesses = executor.accesses
        if accesses is not None:
            self.escapes += [
                f"accesses of {name} are not followed: it has no source"
                for name in accesses.unfollowed
            ]
        elif not executor.lines:
            modules = ", ".join(executor.setting.modules) or "none is named"
            self.escapes.append(
                f"no line is a point at {executor.setting.level} level; modules: {modules}"
            )
        if self._schedules and not self._steps_max:
            self.escapes.append("no point was reached, so nothing was interleaved")

    def _take_turns(self) -> None:
        end_s = self._began_s + self._budget.seconds
        lanes = list(self._lanes)
        while lanes:
            for lane in tuple(lanes):
                if self._is_spent(lane, end_s):
                    return
                is_left = lane.strategy.begin()
                if is_left:
                    is_over, is_anew = self._step(lane)
                    if is_over:
                        return
                    if self.progress is not None:
                        self.progress(self._schedules)
                    if is_anew:
                        self._first = _trace(self._executor.execute(_replay(())))
                        self._begin_lanes()
                        lanes = list(self._lanes)
                        break
                is_exhausted = getattr(lane.strategy, "exhausted", False)
                has_input = self._executor.scheduler.has_input  # comes in one order only
                if is_exhausted and not (self._chance or has_input):
                    self._exhausted = True
                    return
                if is_exhausted or not is_left:
                    lanes.remove(lane)

    def _is_spent(self, lane: _Lane, end_s: float) -> bool:
        """Whether the budget is spent; one schedule runs late, and proves nothing if it passes."""
        if self._schedules >= self._budget.schedules:
            return True
        if _monotonic() < end_s:
            return False
        if not self._schedules:
            lane.strategy.begin()
            self._step(lane)
            if self._finding is None:
                self.escapes.append(
                    f"the budget of {self._budget.seconds:g} s was over before the first schedule"
                )
        return True

    def _step(self, lane: _Lane) -> tuple[bool, bool]:
        """Execute one schedule of one strategy.

        Returns whether the search is over, and whether the strategies must begin anew.
        """
        executor = self._executor
        accesses = executor.accesses
        is_followed = accesses is not None and self._is_next_followed
        execution = executor.execute(lane.strategy, followed=is_followed)
        self._followed += is_followed
        lane.strategy.ended(len(execution.choices), execution.tasks)
        if execution.is_pruned:
            return False, self._has_new_points()
        self._schedules += 1
        lane.schedules += 1
        self._by_strategy[lane.strategy.name] += 1
        self._fresh[lane.strategy.name] += self._distinct.add(execution.choices)
        self._steps_max = max(self._steps_max, execution.steps)
        if execution.ending is None:
            if execution.outcome is not None and len(self._outcomes) < _OUTCOMES:
                self._outcomes[execution.outcome] += 1
        elif self._ends(lane, execution, execution.ending):
            return True, False
        draws = self._chance and self._schedules < _REPEATED_UNSEEDED
        every = _REPEATED_EVERY_UNSEEDED if draws else _REPEATED_EVERY
        is_repeated = self._schedules % every == every - 1 and not self._is_disturbed
        if is_repeated and not self._repeats(execution):
            return True, False
        return False, self._has_new_points()

    @property
    def _is_next_followed(self) -> bool:
        """Whether the accesses of the next schedule are followed: often at first, then seldom."""
        share = self._budget.schedules // _FOLLOWED_SOON_EVERY
        if self._followed < max(_FOLLOWED_AT_FIRST_MIN, min(_FOLLOWED_AT_FIRST, share)):
            return True
        is_early = self._followed < _FOLLOWED_SOON
        return self._schedules % (_FOLLOWED_SOON_EVERY if is_early else _FOLLOWED_EVERY) == 0

    def _ends(self, lane: _Lane, execution: Execution, ending: Ending) -> bool:
        """Report what ended a schedule early; return whether that ends the search."""
        accesses = self._executor.accesses
        if ending.kind == ESCAPED:
            self.escapes.append(ending.message)
        elif ending.kind == NONDETERMINISTIC:
            self.escapes.append(f"the program is not deterministic: {ending.message}")
        elif self._is_disturbed:
            return False  # its choices are not those of other schedules
        elif ending.kind == "livelock" and accesses is not None and accesses.endless():
            self.escapes += accesses.endless()
        else:
            self._record_finding(lane, execution, ending)
        return True

    @property
    def _is_disturbed(self) -> bool:
        """Whether the last schedule got a new point on its way."""
        accesses = self._executor.accesses
        return accesses is not None and accesses.disturbed

    def _has_new_points(self) -> bool:
        accesses = self._executor.accesses
        if accesses is None or not accesses.commit():
            return False
        self._followed = 0
        return True

    def _repeats(self, execution: Execution) -> bool:
        """Execute the same choices again; report it if something else happens."""
        footprint, self._executor.scheduler.footprint = self._executor.scheduler.footprint, None
        again = self._executor.execute(_replay(execution.choices))
        self._executor.scheduler.footprint = footprint
        if _trace(again) == _trace(execution):
            return True
        self.escapes.append(
            f"the program is not deterministic: schedule {self._schedules} differs when repeated"
        )
        return False

    def _record_finding(self, lane: _Lane, execution: Execution, ending: Ending) -> None:
        self._executor.scheduler.footprint = None
        expected = signature(ending)

        def fails_alike(other: Execution) -> bool:
            return other.ending is not None and signature(other.ending) == expected

        attempts = count()
        most = max(_SHRINKS_MIN, min(_SHRINKS, _SHRINK_STEPS // max(1, execution.steps)))
        end_s = _monotonic() + self._budget.seconds

        lost = self._executor.scheduler.lost_threads
        if not lost:
            alike = 1 + sum(
                fails_alike(self._executor.execute(_replay(execution.choices)))
                for _ in range(_CONFIRMATIONS)
            )
            if alike <= _CONFIRMATIONS:
                self._report_chance(ending, alike, 1 + _CONFIRMATIONS)
                return

        def is_spent() -> bool:
            return next(attempts) >= most or _monotonic() >= end_s or bool(lost)

        choices = shrink(execution.choices, self._executor.execute, fails_alike, is_spent)
        replays = 0 if lost else _REPLAYS  # each replay would lose another thread
        replayed = sum(
            fails_alike(self._executor.execute(_replay(choices))) for _ in range(replays)
        )
        if replayed < replays and not lost:
            self._report_chance(ending, replayed, replays)
            return
        decided = 0
        if not lost:
            decided = decided_after(self._executor, choices, execution.steps, fails_alike)
        recorder = Recorder(self._executor.scheduler)
        # The last execution is the finding's: a body may have kept what it saw.
        shown = self._executor.execute(_replay(choices), recorder)
        last = shown.ending or ending
        accesses = self._executor.accesses
        setting = self._executor.setting
        steps = recorder.steps
        steps = mark(steps, step_of(steps, decided))
        self._finding = Finding(
            kind=last.kind,
            message=last.message,
            task=last.task,
            choices=choices,
            steps=steps,
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
            error="" if last.error is None else type(last.error).__name__,
            place=raised_at(last),
            timers=setting.timers,
            points=() if accesses is None else tuple(sorted(accesses.points)),
            accesses=() if accesses is None else accesses.conflicts,
            stock=setting.stock,
            order=setting.order,
            out_of_turn=shown.out_of_turn,
            adopted=tuple(self._executor.adopted),
        )

    def _report_chance(self, ending: Ending, alike: int, times: int) -> None:
        """Report a failure that does not come again: the schedule does not decide it."""
        where = raised_at(ending)
        self.escapes.append(
            f"the program is not deterministic: {ending.kind} in {ending.task}, {ending.message}"
            f"{f' at {where}' if where else ''}, in schedule {self._schedules} came"
            f" {alike} of {times} times under the same choices"
        )

    def result(self) -> Result:
        """Return the result of the search so far."""
        missed = {
            lane.strategy.depth: lane.strategy.missed
            for lane in self._lanes
            if isinstance(lane.strategy, PCT)
        }
        executor = self._executor
        accesses = executor.accesses
        bounded = [lane.strategy for lane in self._lanes if isinstance(lane.strategy, Bounded)]
        return Result(
            finding=self._finding,
            schedules=self._schedules,
            distinct=min(self._distinct.count, self._schedules),
            exhausted=self._exhausted and not (accesses is not None and accesses.left_out),
            bound=bounded[0].exhausted_bound if bounded else None,
            missed=missed,
            by_strategy=tuple(
                StrategyReport(name, self._by_strategy[name], self._fresh[name])
                for name in (lane.strategy.name for lane in self._lanes)
            ),
            outcomes=self._outcomes,
            situations=self._executor.situations,
            escapes=tuple(self.escapes),
            seconds=self._ended_s - self._began_s,
            steps_max=self._steps_max,
            level=executor.setting.level,
            modules=executor.setting.modules if accesses is None else tuple(accesses.modules),
            lines=executor.lines,
            points=() if accesses is None else tuple(sorted(accesses.points)),
            accesses=() if accesses is None else accesses.conflicts,
            timers=executor.setting.timers if executor.scheduler.has_offered_time else None,
            chance=self._chance,
            finalizers=self._finalizers,
            left_out=() if accesses is None else accesses.left_out,
            order=executor.setting.order if executor.scheduler.has_loops else None,
        )


def _is_escaped(execution: Execution) -> bool:
    return execution.ending is not None and execution.ending.kind == ESCAPED


def _trace(execution: Execution) -> tuple[Any, ...]:
    """Return what must be equal if the same choices are made again."""
    ending = () if execution.ending is None else signature(execution.ending)
    outcome = execution.outcome if isinstance(execution.outcome, _PLAIN) else None
    return (execution.choices, execution.steps, execution.tasks, ending, outcome)


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
