"""Programs of a few threads on one instance, explored under controlled schedules.

A program is data: the calls of each thread, and the calls before and after them. Every schedule
runs on a fresh instance; the calls, and the events that the instance reports inside them, make one
history. A pure checker judges it, as it judges a stored one.

A run stores one episode for each program: the extent of the exploration and, after a finding, the
history of the failing schedule with the choices that reproduce it.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.core.checker import Checker
from harness.core.contract import Promise
from harness.core.errors import UsageError
from harness.core.history import History
from harness.core.verdict import Anomaly, Verdict
from harness.engine.context import Context
from harness.engine.scenario import Expectation
from harness.schedule import (
    Budget,
    Call,
    Finding,
    LockRules,
    Operations,
    PromiseBrokenError,
    Result,
    Run,
    causality,
    explore,
    replay,
)
from harness.schedule.explorer import PORTFOLIO

SAMPLES = 16  # random continuations at each step of a failure, to find the decisive step
SECONDS_MAX = 60.0  # the time limit of a program, which a gate does not reach
UNJUDGED_MAX = 10  # the recorded reasons why the checker could not judge a history


@dataclass(frozen=True, slots=True)
class Program:
    """The calls of each thread, in order, and the calls before and after the threads.

    `stuck` is the promise that a deadlock, a livelock or an escaped exception breaks; `held` are
    the promises that a lock breaks which is held where none may be.
    """

    name: str
    threads: Sequence[Sequence[Call]]
    stuck: Promise
    first: Sequence[Call] = ()
    last: Sequence[Call] = ()
    held: Sequence[Promise] = ()

    def broken_by(self, kind: str) -> Sequence[Promise]:
        """The promises that a finding of this kind breaks."""
        return self.held if kind in ("held", "nested") and self.held else (self.stuck,)


@dataclass(frozen=True)
class Interleaving:
    """Programs, the checker of each schedule, and the meetings that an exploration must reach.

    A meeting is a predicate over a history: a turn completed during a commit. The episode records
    in how many different histories it held. `strategies` are the explorer's; an exhaustive one
    omits no schedule within its bound. Each program gets `schedules` schedules, or its share of
    `context.examples`.
    """

    programs: Sequence[Program]
    check: Checker
    meetings: Mapping[str, Callable[[History], bool]] = field(default_factory=dict)
    rules: LockRules = field(default_factory=LockRules)
    strategies: Sequence[str] = PORTFOLIO
    schedules: int | None = None

    def explore(self, context: Context) -> None:
        """Explore the programs, one after the other."""
        share = max(1, context.examples // len(self.programs))
        budget = Budget(self.schedules or share, SECONDS_MAX)
        for program in self.programs:
            seed = context.rng(program.name).randrange(1 << 31)
            with self._played(context, program) as played:
                result = explore(
                    played.body,
                    budget=budget,
                    seed=seed,
                    rules=self.rules,
                    strategies=self.strategies,
                )
                finding, failed, story = result.finding, played.failed, ""
                if finding is not None:
                    why = causality(
                        played.body, finding, samples=SAMPLES, seed=seed, rules=self.rules
                    )
                    finding, story = why.finding, f"{why.finding.story}\n\n{why}\n"
            played.write(finding, failed, {**_extent(result), "story": story})

    def replay(self, context: Context, failed: History) -> None:
        """Run the failing schedule again, and record the finding if it fails again."""
        finding = Finding.from_json(failed.notes["finding"])
        with self._played(context, self._program(failed)) as played:
            (play,) = replay(played.body, finding.choices, rules=self.rules)
        fails = play.ending is not None and play.ending.kind == finding.kind
        notes = {"schedules": 1, "story": finding.story}
        played.write(finding if fails else None, played.failed, notes)

    def judge(self, history: History) -> Verdict:
        """Judge an episode by its history; without one, by how its schedule ended."""
        notes = history.notes
        reasons = (*notes.get("escapes", ()), *notes.get("unjudged", ()))
        unknowns = tuple(f"{notes['program']}: {reason}" for reason in reasons)
        finding = notes["finding"]
        if finding is None:
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
            return happened

        return Expectation(meeting, count)

    def _program(self, history: History) -> Program:
        wanted = history.notes["program"]
        return next(program for program in self.programs if program.name == wanted)

    @contextmanager
    def _played(self, context: Context, program: Program) -> Iterator[_Played]:
        """A program to explore. Raises UsageError where the target cannot be scheduled at all."""
        folder = Path(tempfile.mkdtemp(prefix="harness-"))
        try:
            played = _Played(context, program, self, folder)
            yield played
            if played.usage_error is not None:  # the explorer took it for a finding
                raise played.usage_error
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _extent(result: Result) -> dict[str, Any]:
    return {
        "schedules": result.schedules,
        "bound": result.bound,
        "bought": str(result),
        "escapes": list(result.escapes),
    }


class _Played:
    """A program that the explorer runs, one schedule after another."""

    def __init__(
        self, context: Context, program: Program, interleaving: Interleaving, folder: Path
    ) -> None:
        self._context = context
        self._program = program
        self._interleaving = interleaving
        self._folder = folder
        self._meetings: Counter[str] = Counter()
        self.failed = History()
        self.usage_error: UsageError | None = None
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
            program=self._program.name,
            finding=None if finding is None else finding.to_json(),
            meetings=dict(self._meetings),
            unjudged=list(self._unjudged),
            operations=self._operations,
            **notes,
        )
        for operation in failed if finding else ():
            self._context.journal.record(operation)

    def _make(self) -> Any:
        instance = self._context.target.open(self._context.ability, self._folder)
        adapter = getattr(instance, "adapter", None)
        if adapter is None:
            self.usage_error = UsageError(
                f"target {self._context.target.name}, ability {self._context.ability}: a schedule"
                " needs an instance in this process, with an attribute `adapter`"
            )
            raise self.usage_error
        self._adapter: Any = adapter
        return adapter

    def _judge(self, history: History) -> Verdict:
        self._operations += len(history)
        for meeting, happened in self._interleaving.meetings.items():
            self._meetings[meeting] += happened(history)
        verdict = self._interleaving.check(history)
        if len(self._unjudged) < UNJUDGED_MAX:
            self._unjudged |= dict.fromkeys(verdict.unknowns)
        return verdict
