"""The mutation score: how many small mistakes in the reference the judge does not put up with.

A mutant is *killed* if a broken promise is proven of it. It is *noticed* if the judge comes to no
verdict, which no gate lets pass either: it cannot be asked, hangs, or does not meet what a run must
have met. It *survives* if every scenario is valid that is so for the clean reference, with the same
seed.

Scenarios that killed in the same file before are asked first, then those that kill most in a
second: most mutants die soon, and only those that survive cost a whole gate.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from harness.core.errors import HarnessError
from harness.engine.suite import find_scenarios, suite_with_source
from harness.mutation.mutants import Mutant, breed
from harness.report import folder
from harness.runs.pytest_run import Progress, Results, Session, run_session

FIRST = 12  # scenarios that are asked before all others
CLEAN_S = 600.0  # at most, for the clean reference
STARTING_S, SLOWER = 30.0, 4.0  # a mutant may take so many times as long, and that to begin with


class Fate(StrEnum):
    """What became of a mutant."""

    KILLED = "killed"
    NOTICED = "noticed"
    SURVIVED = "survived"


@dataclass(frozen=True, slots=True)
class Word:
    """What a scenario said of a mutant: the broken promises, or why there is no verdict."""

    fate: Fate
    scenario: str
    reason: str


NOBODY = Word(Fate.SURVIVED, "", "")


@dataclass(frozen=True, slots=True)
class Ending:
    """What became of a mutant, and who had the last word."""

    mutant: Mutant
    word: Word
    seconds: float

    @property
    def fate(self) -> Fate:
        """Killed, noticed or survived."""
        return self.word.fate

    def __str__(self) -> str:
        return f"{self.fate}: {self.mutant}  {self.word.scenario} {self.word.reason}".rstrip()

    def to_json(self) -> dict[str, Any]:
        """Render as a JSON object."""
        mutant = self.mutant
        return {
            "file": mutant.file,
            "line": mutant.line,
            "operator": str(mutant.operator),
            "before": mutant.before,
            "after": mutant.after,
            "fate": str(self.fate),
            "scenario": self.word.scenario,
            "reason": self.word.reason,
            "seconds": round(self.seconds, 1),
        }


@dataclass
class Mutation:
    """What is asked of a mutation run."""

    mutants: Sequence[Mutant]
    seed: int
    effort: float
    reports: Path
    workers: int
    keep: int = 20

    def run(self, progress: Progress) -> tuple[Path, list[Ending]]:
        """Judge the clean reference, and then each mutant. Raises HarnessError if it is invalid."""
        plan = {"target": "mutants", "effort": self.effort, "mutants": len(self.mutants)}
        run = folder.create(self.reports, "mutate", self.seed, {**plan, "scenarios": []})
        self._lock = threading.Lock()
        self._killers = Counter[tuple[str, str]]()  # by file and scenario
        self._seconds = self._judge_clean(run, progress)
        with ThreadPoolExecutor(self.workers) as pool:
            endings = list(pool.map(lambda mutant: self._judge(mutant, progress), self.mutants))
        told = {"score": score(endings), "mutants": [ending.to_json() for ending in endings]}
        folder.write_json(run / folder.VERDICT, told)
        folder.retain(self.reports, self.keep)
        return run, endings

    def _judge_clean(self, run: Path, progress: Progress) -> dict[str, float]:
        """How long each scenario takes that is valid for the clean reference."""
        where = run / "clean"
        where.mkdir()
        session = Session(
            list(find_scenarios()), suite_with_source().target, self.seed, self.effort, self.workers
        )
        results = run_session(session, where, CLEAN_S, lambda test: progress(f"clean {test}"))
        for record in results.records.values():
            if record.verdict.anomalies:
                raise HarnessError(f"the clean reference is invalid: {record.summary()}")
        valid = {name: one for name, one in results.records.items() if one.verdict.is_valid}
        return {name: record.seconds for name, record in valid.items()}

    def _judge(self, mutant: Mutant, progress: Progress) -> Ending:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="harness-mutant-") as place:
            word = self._word(mutant, f"{suite_with_source().target}@{breed(mutant, Path(place))}")
        if word.fate is Fate.KILLED:
            with self._lock:
                self._killers[mutant.file, word.scenario] += 1
        ending = Ending(mutant, word, time.monotonic() - began)
        progress(str(ending))
        return ending

    def _word(self, mutant: Mutant, target: str) -> Word:
        """Ask until somebody has something to say. Where that proves nothing, ask him again."""
        names = self._ordered(mutant.file)
        batches = [names[FIRST:], names[:FIRST]]
        while batches:
            asked = batches.pop()
            results = self._asked(asked, target)
            word = first = last_word(results)
            if first.fate is Fate.NOTICED and first.scenario in asked:  # perhaps by the machine
                word = last_word(self._asked([first.scenario], target))
            if word is not NOBODY:
                return word
            valid = {name for name, one in results.records.items() if one.verdict.is_valid}
            if left := [name for name in asked if name not in {*valid, first.scenario}]:
                batches.append(left)
        return NOBODY

    def _ordered(self, file: str) -> list[str]:
        """Who has killed in this file first, and then who kills most in a second."""
        with self._lock:
            here = {name: self._killers[file, name] for name in self._seconds}
            all_told = Counter[str]()
            for (_, name), kills in self._killers.items():
                all_told[name] += kills
        rate = {name: (1 + all_told[name]) / (0.5 + self._seconds[name]) for name in self._seconds}
        return sorted(self._seconds, key=lambda name: (-here[name], -rate[name]))

    def _asked(self, names: Sequence[str], target: str) -> Results:
        with tempfile.TemporaryDirectory(prefix="harness-mutant-") as place:
            session = Session(names, target, self.seed, self.effort, stops_early=True)
            budget_s = STARTING_S + SLOWER * sum(self._seconds[name] for name in names)
            return run_session(session, Path(place), budget_s)


def last_word(results: Results) -> Word:
    """The worst that any of the scenarios said."""
    for name, record in results.records.items():
        if record.verdict.anomalies:
            broken = " ".join(anomaly.promise.id for anomaly in record.verdict.anomalies)
            return Word(Fate.KILLED, name, broken)
    for name, error in results.broken.items():
        return Word(Fate.NOTICED, name, error.splitlines()[0])
    for name, record in results.records.items():
        if not record.verdict.is_valid:
            reasons = (*(met.name for met in record.verdict.unmet), *record.verdict.unknowns)
            return Word(Fate.NOTICED, name, f"unknown: {reasons[0]}")
    for name in results.unfinished:
        return Word(Fate.NOTICED, name, "not finished")
    return NOBODY


def score(endings: Sequence[Ending]) -> dict[str, float]:
    """Shares of all mutants: killed, noticed, survived."""
    fates = Counter(ending.fate for ending in endings)
    return {str(fate): fates[fate] / (len(endings) or 1) for fate in Fate}
