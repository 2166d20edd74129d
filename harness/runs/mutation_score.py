"""Judges code mutants of the source, and counts how many are detected.

A mutant is *detected* if a broken promise is proven of it. It is *inconclusive* if it is neither
proven nor valid: it cannot be asked, times out, or does not reach an expectation. It *survives* if
every scenario is valid that is valid for the clean source on the same seed.

Scenarios that detected mutants of the same file before are asked first, then those that detect most
for each second: a detected mutant takes few scenarios, and only a survivor takes all.
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
CLEAN_TIMEOUT_S = 600.0
STARTING_S, SLOWER = 30.0, 4.0  # the timeout of a mutant: to start, and times the clean source's


class Status(StrEnum):
    """The result of a mutant."""

    DETECTED = "detected"
    INCONCLUSIVE = "inconclusive"
    SURVIVED = "survived"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one scenario found in a mutant.

    `reason` is the broken promises of a detection, or why there is no verdict.
    """

    status: Status
    scenario: str
    reason: str


ALL_VALID = Finding(Status.SURVIVED, "", "")


@dataclass(frozen=True, slots=True)
class MutantResult:
    """A mutant, and the finding that decided its status."""

    mutant: Mutant
    finding: Finding
    seconds: float

    @property
    def status(self) -> Status:
        """Detected, inconclusive or survived."""
        return self.finding.status

    def __str__(self) -> str:
        found = f"{self.finding.scenario} {self.finding.reason}"
        return f"{self.status}: {self.mutant}  {found}".rstrip()

    def to_json(self) -> dict[str, Any]:
        """Render as a JSON object."""
        mutant = self.mutant
        return {
            "file": mutant.file,
            "line": mutant.line,
            "operator": str(mutant.operator),
            "before": mutant.before,
            "after": mutant.after,
            "status": str(self.status),
            "scenario": self.finding.scenario,
            "reason": self.finding.reason,
            "seconds": round(self.seconds, 1),
        }


@dataclass
class MutationRun:
    """The mutants to judge, the seed, and how much each scenario asks."""

    mutants: Sequence[Mutant]
    seed: int
    effort: float
    reports: Path
    workers: int
    keep: int = 20

    def run(self, progress: Progress) -> tuple[Path, list[MutantResult]]:
        """Judge the clean source, and then each mutant. Raises HarnessError if it is invalid."""
        plan = {"target": "mutants", "effort": self.effort, "mutants": len(self.mutants)}
        run = folder.create(self.reports, "mutate", self.seed, {**plan, "scenarios": []})
        self._lock = threading.Lock()
        self._detections = Counter[tuple[str, str]]()  # by file and scenario
        self._seconds = self._judge_clean(run, progress)
        with ThreadPoolExecutor(self.workers) as pool:
            results = list(pool.map(lambda mutant: self._judge(mutant, progress), self.mutants))
        document = {"score": score(results), "mutants": [result.to_json() for result in results]}
        folder.write_json(run / folder.VERDICT, document)
        folder.retain(self.reports, self.keep)
        return run, results

    def _judge_clean(self, run: Path, progress: Progress) -> dict[str, float]:
        """The seconds of each scenario that is valid for the clean source."""
        session_folder = run / "clean"
        session_folder.mkdir()
        session = Session(
            list(find_scenarios()), suite_with_source().target, self.seed, self.effort, self.workers
        )
        results = run_session(session, session_folder, CLEAN_TIMEOUT_S, progress)
        for record in results.records.values():
            if record.verdict.anomalies:
                raise HarnessError(f"the clean source is invalid: {record.summary()}")
        return {
            name: record.seconds
            for name, record in results.records.items()
            if record.verdict.is_valid
        }

    def _judge(self, mutant: Mutant, progress: Progress) -> MutantResult:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="harness-mutant-") as copy:
            target = f"{suite_with_source().target}@{breed(mutant, Path(copy))}"
            finding = self._finding(mutant, target)
        if finding.status is Status.DETECTED:
            with self._lock:
                self._detections[mutant.file, finding.scenario] += 1
        result = MutantResult(mutant, finding, time.monotonic() - began)
        progress(str(result))
        return result

    def _finding(self, mutant: Mutant, target: str) -> Finding:
        """Ask scenarios until one is not valid; an inconclusive one is asked a second time."""
        names = self._ordered(mutant.file)
        batches = [names[FIRST:], names[:FIRST]]
        while batches:
            batch = batches.pop()
            results = self._ask(batch, target)
            finding = first = worst_finding(results)
            if first.status is Status.INCONCLUSIVE and first.scenario in batch:
                finding = worst_finding(self._ask([first.scenario], target))
            if finding is not ALL_VALID:
                return finding
            valid = {name for name, record in results.records.items() if record.verdict.is_valid}
            if left := [name for name in batch if name not in {*valid, first.scenario}]:
                batches.append(left)
        return ALL_VALID

    def _ordered(self, file: str) -> list[str]:
        """Scenarios with detections in this file first, then those that detect most a second."""
        with self._lock:
            in_file = {name: self._detections[file, name] for name in self._seconds}
            in_all = Counter[str]()
            for (_, name), detections in self._detections.items():
                in_all[name] += detections
        rate = {name: (1 + in_all[name]) / (0.5 + self._seconds[name]) for name in self._seconds}
        return sorted(self._seconds, key=lambda name: (-in_file[name], -rate[name]))

    def _ask(self, names: Sequence[str], target: str) -> Results:
        with tempfile.TemporaryDirectory(prefix="harness-mutant-") as session_folder:
            session = Session(
                names, target, self.seed, self.effort, stops_early=True, goes_on=False
            )
            budget_s = STARTING_S + SLOWER * sum(self._seconds[name] for name in names)
            return run_session(session, Path(session_folder), budget_s)


def worst_finding(results: Results) -> Finding:
    """The worst finding of any scenario in the results; ALL_VALID where there is none."""
    for name, record in results.records.items():
        if record.verdict.anomalies:
            broken = " ".join(anomaly.promise.id for anomaly in record.verdict.anomalies)
            return Finding(Status.DETECTED, name, broken)
    for name, error in results.broken.items():
        return Finding(Status.INCONCLUSIVE, name, error.splitlines()[0])
    for name, record in results.records.items():
        if not record.verdict.is_valid:
            unmet = (expectation.name for expectation in record.verdict.unmet)
            reasons = (*unmet, *record.verdict.unknowns)
            return Finding(Status.INCONCLUSIVE, name, f"unknown: {reasons[0]}")
    for name in results.unfinished:
        return Finding(Status.INCONCLUSIVE, name, "not finished")
    return ALL_VALID


def score(results: Sequence[MutantResult]) -> dict[str, float]:
    """Shares of all mutants: detected, inconclusive, survived."""
    counts = Counter(result.status for result in results)
    return {str(status): counts[status] / (len(results) or 1) for status in Status}
