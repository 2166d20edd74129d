"""Programs of a few threads on one instance, explored under controlled schedules.

A program is data: the calls of each thread, and the calls before and after them. Every schedule
runs on a fresh instance; the calls, and the events that the instance reports inside them, make one
history. A pure checker judges it, as it judges a stored one.

A run stores one episode for each program: the extent of the exploration and, after a finding, the
history of the failing schedule with the choices that reproduce it. It also stores the histories of
some schedules without a finding, which are judged again like any other.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

from harness.core.checker import Checker
from harness.core.contract import Promise
from harness.core.errors import UsageError
from harness.core.history import History
from harness.core.verdict import Anomaly, Validity, Verdict
from harness.engine.context import Context
from harness.engine.scenario import Expectation, Mode, Scenario
from harness.engine.target import Target
from harness.schedule import (
    Budget,
    Call,
    Finding,
    Level,
    LockRules,
    Operations,
    PromiseBrokenError,
    Result,
    Run,
    causality,
    explore,
)
from harness.schedule.explorer import PORTFOLIO
from harness.schedule.patches import Patches
from harness.schedule.replay import replay_finding

SAMPLES = 16  # random continuations at each step of a failure, to find the decisive step
SAMPLES_MIN = 2
SAMPLED_STEPS = 2_000  # of the continuations at each step: those of a long program are fewer
SECONDS_MAX = 60.0  # the time limit of a program, which a gate does not reach
LINES_SHARE = 4  # one of these schedules has points at the lines of the modules on trial
UNJUDGED_MAX = 10  # the recorded reasons why the checker could not judge a history


@dataclass(frozen=True, slots=True)
class Program:
    """The calls of each thread, in order, and the calls before and after the threads.

    `stuck` is the promise that a deadlock, a livelock or an escaped exception breaks, and `also`
    are those that it breaks as well; `held` are the promises that a lock breaks which is held where
    none may be. `strategies` are those of the interleaving by default.
    """

    name: str
    threads: Sequence[Sequence[Call]]
    stuck: Promise
    first: Sequence[Call] = ()
    last: Sequence[Call] = ()
    held: Sequence[Promise] = ()
    nested: Sequence[
        Promise
    ] = ()  # a lock that is taken inside another; those of `held` by default
    also: Sequence[Promise] = ()
    strategies: Sequence[str] = ()

    def broken_by(self, kind: str) -> Sequence[Promise]:
        """The promises that a finding of this kind breaks."""
        if kind == "nested" and self.nested:
            return self.nested
        is_held = kind in ("held", "nested") and self.held
        return self.held if is_held else (self.stuck, *self.also)


@dataclass(frozen=True)
class Interleaving:
    """Programs, the checker of each schedule, and the meetings that an exploration must reach.

    A meeting is a predicate over a history: a turn completed during a commit. The episode records
    in how many different histories it held. `strategies` are the explorer's; an exhaustive one
    omits no schedule within its bound. Each program gets `schedules` schedules, or its share of
    `context.examples`. `modules` are those on trial: in one of `LINES_SHARE` schedules each of
    their lines is a point too, if the target has loaded them. Lines and unsynchronised accesses are
    points only where a CPython with its global lock can switch. A target whose `lacks(ability)`
    names a function, or a `function.argument`, is not asked the programs that call it with that,
    nor the meetings for which `needs` names such a function; one whose `cost(ability)` is N gets
    one schedule in N. `timers` is the number of deadlines in one schedule that pass early: none by
    default, because a checker of what a call may wait
    counts on a timeout that passes only when no other thread can act. Of each program at most
    `samples` histories without an anomaly are stored, first those with a meeting.
    """

    programs: Sequence[Program]
    check: Checker
    meetings: Mapping[str, Callable[[History], bool]] = field(default_factory=dict)
    rules: LockRules = field(default_factory=LockRules)
    strategies: Sequence[str] = PORTFOLIO
    schedules: int | None = None
    modules: Sequence[str] = ()
    timers: int = 0
    samples: int = 3
    needs: Mapping[str, Collection[str]] = field(default_factory=dict)

    def scenario(
        self, name: str, *, ability: str, promises: Sequence[Promise], examples: int
    ) -> Scenario:
        """The scenario that explores the programs, and expects each of the meetings."""
        return Scenario(
            name=name,
            mode=Mode.SCHEDULE,
            ability=ability,
            promises=tuple(promises),
            workload=self.explore,
            checker=self.judge,
            expectations=tuple(self.met(meeting) for meeting in self.meetings),
            examples=examples,
            replay=self.replay,
        )

    def explore(self, context: Context) -> None:
        """Explore the programs, one after the other."""
        lacks = _lacks(context)
        asked = [program for program in self.programs if not lacks & _functions(program)]
        share = max(1, context.examples // len(self.programs) // _cost(context))
        if lacks:
            self._write_unasked(context, asked, lacks)
        with Patches():  # once for all programs
            self._explore(context, asked, share)

    def _write_unasked(
        self, context: Context, asked: Sequence[Program], lacks: frozenset[str]
    ) -> None:
        """Write an episode that says what the target is not asked, and which meetings that ends."""
        context.journal.episode(
            program="",
            finding=None,
            schedules=0,
            operations=0,
            unasked=[program.name for program in self.programs if program not in asked],
            excused=[
                name for name, functions in self.needs.items() if not lacks.isdisjoint(functions)
            ],
        )

    def _explore(self, context: Context, asked: Sequence[Program], share: int) -> None:
        points: dict[str, None] = {}  # accesses that raced in an earlier program
        explained: set[str] = set()  # how earlier programs failed
        for program in asked:
            seed = context.rng(program.name).randrange(1 << 31)
            with self._played(context, program) as played:
                schedules = self.schedules or share
                results = self._results(context.target, played, schedules, seed, points)
                points |= dict.fromkeys(results[0].points)
                finding, failed = results[-1].finding, played.failed
                story = finding.story if finding else ""
                if finding and context.minimizes and self._is_new(played, finding, explained):
                    few = SAMPLED_STEPS // max(1, *(result.steps_max for result in results))
                    samples = max(SAMPLES_MIN, min(SAMPLES, few))
                    why = causality(
                        played.body, finding, samples=samples, seed=seed, rules=self.rules
                    )
                    finding, story = why.finding, f"{why.finding.story}\n\n{why}\n"
            played.write(finding, failed, {**_extent(results), "story": story})

    def _is_new(self, played: _Played, finding: Finding, explained: set[str]) -> bool:
        """Whether no earlier program failed in this way, which takes long to explain."""
        anomalies = self.check(played.failed).anomalies if played.failed.operations else ()
        ways = {f"{finding.kind} {finding.error}", *(anomaly.signature for anomaly in anomalies)}
        is_new = not ways <= explained
        explained |= ways
        return is_new

    def _results(
        self,
        target: Target,
        played: _Played,
        schedules: int,
        seed: int,
        points: Collection[str],
    ) -> list[Result]:
        """Explore a program, and then at the lines of the modules on trial, until a finding."""
        by_line = max(1, schedules // LINES_SHARE) if self.modules else 0
        budget = Budget(max(1, schedules - by_line), SECONDS_MAX, timers=self.timers)
        body, strategies = played.body, played.program.strategies or self.strategies
        result = explore(
            body,
            budget=budget,
            seed=seed,
            rules=self.rules,
            strategies=strategies,
            points=tuple(points),
            stock=True,
        )
        loaded = [name for name in self.modules if _is_on_trial(name, target)]
        if result.finding is not None or not loaded:
            return [result]
        lines = explore(
            body,
            budget=replace(budget, schedules=by_line),
            seed=seed,
            rules=self.rules,
            level=Level.LINE,
            modules=loaded,
            stock=True,
        )
        return [result, lines]

    def replay(self, context: Context, failed: History) -> None:
        """Run the failing schedule again, and record the finding if it fails again."""
        try:
            finding = Finding.from_json(failed.notes["finding"])
            story = finding.story
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise UsageError(f"expected a stored schedule; it is damaged: {reason}") from error
        with self._played(context, self._program(failed)) as played:
            (play,) = replay_finding(played.body, finding, rules=self.rules)
        ending = play.ending
        fails = ending is not None and ending.kind == finding.kind
        if finding.error and ending is not None:
            fails = fails and type(ending.error).__name__ == finding.error
        notes = {"schedules": 1, "story": story}
        played.write(finding if fails else None, played.failed, notes)

    def judge(self, history: History) -> Verdict:
        """Judge an episode by its history; without one, by how its schedule ended."""
        notes = history.notes
        reasons = (*notes.get("escapes", ()), *notes.get("unjudged", ()))
        unknowns = tuple(f"{notes['program']}: {reason}" for reason in reasons)
        finding = notes["finding"]
        if finding is None and not history.operations:
            return Verdict(unknowns=unknowns)
        if history.operations:  # the schedule came to its end, so only the checker judges it
            return self.check(history)
        broken, *also = self._program(history).broken_by(finding["kind"])
        message = f"{finding['kind']}: {finding['message']}"
        return Verdict((Anomaly(broken, message, name=finding["kind"], also=tuple(also)),))

    def met(self, meeting: str) -> Expectation:
        """The expectation that the run reached this meeting."""

        def count(history: History) -> int:
            happened: int = history.notes.get("meetings", {}).get(meeting, 0)
            return happened + (meeting in history.notes.get("excused", ()))

        return Expectation(meeting, count)

    def _program(self, history: History) -> Program:
        wanted = history.notes["program"]
        for program in self.programs:
            if program.name == wanted:
                return program
        known = ", ".join(program.name for program in self.programs)
        raise UsageError(f"unknown program {wanted!r}; known: {known}")

    @contextmanager
    def _played(self, context: Context, program: Program) -> Iterator[_Played]:
        """A program to explore. Raises UsageError where the target cannot be scheduled at all."""
        parent = Path(tempfile.mkdtemp(prefix="harness-"))
        folder = parent / "target"  # a name that every story can have
        folder.mkdir()
        try:
            yield _Played(context, program, self, folder)
        finally:
            shutil.rmtree(parent, ignore_errors=True)


def _lacks(context: Context) -> frozenset[str]:
    """What the target does not offer of its ability."""
    lacks = getattr(context.target, "lacks", None)
    return frozenset() if lacks is None else frozenset(lacks(context.ability))


def _cost(context: Context) -> int:
    """How many schedules of the reference one of the target is worth in time."""
    cost = getattr(context.target, "cost", None)
    return 1 if cost is None else int(cost(context.ability))


def _is_on_trial(module: str, target: Target) -> bool:
    """Whether the module is loaded, and from the target's source where that is known."""
    loaded, source = sys.modules.get(module), getattr(target, "source", None)
    if loaded is None or source is None:
        return loaded is not None
    return Path(loaded.__file__ or "").is_relative_to(source)


def _functions(program: Program) -> set[str]:
    """The functions that a program calls, alone and with each of the arguments that they get."""
    calls = [*program.first, *chain.from_iterable(program.threads), *program.last]
    with_arguments = {f"{call.function}.{name}" for call in calls for name in call.argument or ()}
    return with_arguments | {call.function for call in calls}


def _extent(results: Sequence[Result]) -> dict[str, Any]:
    escapes = dict.fromkeys(escape for result in results for escape in result.escapes)
    return {
        "schedules": sum(result.schedules for result in results),
        "bound": results[0].bound,
        "bought": "; then ".join(map(str, results)),
        "escapes": list(escapes),
    }


class _Played:
    """A program that the explorer runs, one schedule after another."""

    def __init__(
        self, context: Context, program: Program, interleaving: Interleaving, folder: Path
    ) -> None:
        self._context = context
        self.program = program
        self._interleaving = interleaving
        self._folder = folder
        self._meetings: Counter[str] = Counter(dict.fromkeys(interleaving.meetings, 0))
        self._met: dict[str, History] = {}  # by a meeting that no earlier one had
        self._others: list[History] = []
        self.failed = History()
        self._unjudged: dict[str, None] = {}
        self._operations = 0
        self._calls = Operations(
            make=self._make,
            threads=program.threads,
            check=self._judge,
            before=program.first,
            after=program.last,
            refusals=(Exception,),
        )

    def body(self, run: Run) -> None:
        """Run one schedule. The type of a failure names its promise, so that shrinking keeps it."""
        self.failed = History()
        try:
            self._calls(run)
            self._adapter.close()  # its threads are scheduled too
        except PromiseBrokenError as broken:
            self.failed = broken.history
            anomaly = broken.verdict.anomalies[0]
            kind = type(f"{anomaly.promise.id}Broken", (AssertionError,), {})
            raise kind(anomaly.message) from None

    def write(self, finding: Finding | None, failed: History, notes: Mapping[str, Any]) -> None:
        """Write the episode: the extent of the exploration, and the failing history, if any."""
        self._context.journal.episode(
            program=self.program.name,
            finding=None if finding is None else finding.to_json(),
            meetings=dict(self._meetings),
            unjudged=list(self._unjudged),
            operations=self._operations,
            **notes,
        )
        for operation in failed if finding else ():
            self._context.journal.record(operation)
        if finding is None:
            self._write_samples(notes)

    def _write_samples(self, notes: Mapping[str, Any]) -> None:
        """Write some histories without an anomaly; the program's episode has counted them."""
        samples = [*self._met.values(), *self._others]
        for sample in samples[: self._interleaving.samples]:
            self._context.journal.episode(
                program=self.program.name,
                finding=None,
                bound=notes.get("bound"),
                schedules=0,
                operations=0,
            )
            for operation in sample:
                self._context.journal.record(operation)

    def _make(self) -> Any:
        instance = self._context.target.open(self._context.ability, self._folder)
        self._adapter: Any = getattr(instance, "adapter", None)
        if self._adapter is None:
            raise UsageError(
                f"target {self._context.target.name}, ability {self._context.ability}: a schedule"
                " needs an instance in this process, with an attribute `adapter`"
            )
        return self._adapter

    def _judge(self, history: History) -> Verdict:
        self._operations += len(history)
        met = [name for name, happened in self._interleaving.meetings.items() if happened(history)]
        self._meetings.update(met)
        verdict = self._interleaving.check(history)
        if isinstance(verdict, Verdict) and verdict.validity is Validity.VALID:
            self._keep_sample(history, met)
        if len(self._unjudged) < UNJUDGED_MAX:
            self._unjudged |= dict.fromkeys(verdict.unknowns)
        return verdict

    def _keep_sample(self, history: History, met: Sequence[str]) -> None:
        """Keep the first history of each meeting, and some of the others."""
        new = [name for name in met if name not in self._met]
        if new:
            self._met |= dict.fromkeys(new[:1], history)
        elif len(self._others) < self._interleaving.samples:
            self._others.append(history)
