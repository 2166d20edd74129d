"""Programs of a few threads on one instance, explored under controlled schedules.

A program is data: what each thread calls, and what is asked before and after. In every schedule a
fresh instance meets the threads; the calls, and what the instance saw happen inside them, make one
history. A pure checker judges it, as it judges a stored one.

A run keeps one episode a program: what the exploration bought, and, where it found something, the
history of the failing schedule with the choices that bring it back.
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
from harness.core.history import History
from harness.core.promises import Promise
from harness.core.verdict import Anomaly, Verdict
from harness.engine.context import Stage
from harness.engine.scenario import Expectation
from harness.engine.target import AdapterInstance
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

SAMPLES = 16  # random continuations at each step of a failure, to see where it was decided
SECONDS_MAX = 60.0  # a program stops here whatever its budget; a gate ends long before
UNJUDGED_MAX = 10  # reasons why a schedule's history could not be judged that are kept


@dataclass(frozen=True, slots=True)
class Program:
    """What each thread calls, in order; what is asked first and last, when all is quiet.

    `stuck` is the promise that a deadlock, a livelock or an escaped exception breaks; `held` those
    that a lock breaks which is held where none may be.
    """

    name: str
    threads: Sequence[Sequence[Call]]
    stuck: Promise
    first: Sequence[Call] = ()
    last: Sequence[Call] = ()
    held: Sequence[Promise] = ()

    def broken_by(self, kind: str) -> Sequence[Promise]:
        """Whose promise a finding of this kind breaks."""
        return self.held if kind in ("held", "nested") and self.held else (self.stuck,)


@dataclass(frozen=True)
class Interleaving:
    """Programs, the checker that judges each schedule, and the meetings that make it telling.

    A meeting is a fact of a history that is interesting in itself: a turn completed during a
    commit. In how many different histories it happened is noted with the episode. `strategies` are
    the explorer's; an exhaustive one alone leaves nothing out within its bound. Each program gets
    so many `schedules`, or else its share of the stage's examples.
    """

    programs: Sequence[Program]
    check: Checker
    meetings: Mapping[str, Callable[[History], bool]] = field(default_factory=dict)
    rules: LockRules = field(default_factory=LockRules)
    strategies: Sequence[str] = PORTFOLIO
    schedules: int | None = None

    def explore(self, stage: Stage) -> None:
        """Explore the programs, one after the other."""
        share = max(1, stage.examples // len(self.programs))
        budget = Budget(self.schedules or share, SECONDS_MAX)
        for program in self.programs:
            seed = stage.rng(program.name).randrange(1 << 31)
            with self._played(stage, program) as played:
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
            played.write(finding, failed, {**_bought(result), "story": story})

    def replay(self, stage: Stage, failed: History) -> None:
        """Play the failing schedule again, and keep the finding if it fails again."""
        finding = Finding.from_json(failed.notes["finding"])
        with self._played(stage, self._program(failed)) as played:
            (play,) = replay(played.body, finding.choices, rules=self.rules)
        fails = play.ending is not None and play.ending.kind == finding.kind
        told = {"schedules": 1, "story": finding.story}
        played.write(finding if fails else None, played.failed, told)

    def judge(self, history: History) -> Verdict:
        """Judge an episode: by its history, and where that is fine by how its schedule ended."""
        notes = history.notes
        reasons = (*notes.get("escapes", ()), *notes.get("unjudged", ()))
        unknowns = tuple(f"{notes['program']}: {reason}" for reason in reasons)
        finding = notes["finding"]
        if finding is None:
            return Verdict(unknowns=unknowns)
        if history.operations:  # a schedule that came to its end, so only the checker may blame it
            return self.check(history)
        broken, *also = self._program(history).broken_by(finding["kind"])
        message = f"{finding['kind']}: {finding['message']}"
        return Verdict((Anomaly(broken, message, name=finding["kind"], also=tuple(also)),))

    def met(self, meeting: str) -> Expectation:
        """The expectation that this meeting happened."""

        def count(history: History) -> int:
            happened: int = history.notes.get("meetings", {}).get(meeting, 0)
            return happened

        return Expectation(meeting, count)

    def _program(self, history: History) -> Program:
        wanted = history.notes["program"]
        return next(program for program in self.programs if program.name == wanted)

    @contextmanager
    def _played(self, stage: Stage, program: Program) -> Iterator[_Played]:
        folder = Path(tempfile.mkdtemp(prefix="harness-"))
        try:
            yield _Played(stage, program, self, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _bought(result: Result) -> dict[str, Any]:
    return {
        "schedules": result.schedules,
        "bound": result.bound,
        "bought": str(result),
        "escapes": list(result.escapes),
    }


class _Played:
    """A program as the explorer plays it, one schedule after another."""

    def __init__(
        self, stage: Stage, program: Program, interleaving: Interleaving, folder: Path
    ) -> None:
        self._stage = stage
        self._program = program
        self._interleaving = interleaving
        self._folder = folder
        self._meetings: Counter[str] = Counter()
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
        """One schedule. A failure's type tells its promise, so that shrinking keeps to it."""
        self.failed = History()
        try:
            self._calls(run)
            self._adapter.close()  # under control, as all that it does
        except PromiseBrokenError as broken:
            self.failed = broken.history
            anomaly = broken.verdict.anomalies[0]
            kind = type(f"{anomaly.promise.name}Broken", (AssertionError,), {})
            raise kind(anomaly.message) from None

    def write(self, finding: Finding | None, failed: History, notes: Mapping[str, Any]) -> None:
        """Write the episode: what was bought, and the failing history if there is one."""
        self._stage.journal.episode(
            program=self._program.name,
            finding=None if finding is None else finding.to_json(),
            meetings=dict(self._meetings),
            unjudged=list(self._unjudged),
            operations=self._operations,
            **notes,
        )
        for operation in failed if finding else ():
            self._stage.journal.record(operation)

    def _make(self) -> Any:
        instance = self._stage.target.open(self._stage.ability, self._folder)
        assert isinstance(instance, AdapterInstance), "threads meet in this process"
        self._adapter = instance.adapter
        return self._adapter

    def _judge(self, history: History) -> Verdict:
        self._operations += len(history)
        for meeting, happened in self._interleaving.meetings.items():
            self._meetings[meeting] += happened(history)
        verdict = self._interleaving.check(history)
        if len(self._unjudged) < UNJUDGED_MAX:
            self._unjudged |= dict.fromkeys(verdict.unknowns)
        return verdict
