"""Tests of the mutation score: which finding decides the status of a mutant."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TypeAlias

import pytest

from harness.contract import promises
from harness.core.errors import HarnessError
from harness.core.verdict import VALID, Anomaly, ExpectationCount, Verdict
from harness.mutation.mutants import find_mutants
from harness.report.judgement import Record
from harness.runs import mutation_score
from harness.runs.mutation_score import MutantResult, MutationRun, Status, score
from harness.runs.pytest_run import Results, Session, no_progress

FILE = "storage/durable_map.py"
BROKEN = Verdict(anomalies=(Anomaly(promises.T3, "twice"),))
UNMET = Verdict(expectations=(ExpectationCount("a retry", 0, 1),))

Answer: TypeAlias = "Verdict | str | None"  # a verdict, an error of the harness, or a timeout


class FakeSession:
    """Stands in for `run_session`: all scenarios are valid but one, whose answers are given.

    That one answers `clean` for the clean source, and `answers` in turn for a mutant.
    """

    def __init__(self, scenario: str, clean: Answer, *answers: Answer) -> None:
        self.asked: list[str] = []
        self._scenario, self._clean = scenario, clean
        self._answers = itertools.chain(answers, itertools.repeat(VALID))

    def __call__(self, session: Session, *_: object) -> Results:
        """Ask the scenarios in turn."""
        results = Results()
        names = list(session.scenarios)
        while names:
            answer = self._answer(names[0], is_clean="@" not in session.target)
            if answer is None:
                results.unfinished = names
                return results
            name = names.pop(0)
            if isinstance(answer, str):
                results.broken[name] = answer
                continue
            results.records[name] = Record(name, "model", ("T3",), answer, 1, 1, "", 1.0)
            if session.stops_early and not answer.is_valid:
                results.unfinished = names
                return results
        return results

    def _answer(self, name: str, *, is_clean: bool) -> Answer:
        if not is_clean:
            self.asked.append(name)
        if name != self._scenario:
            return VALID
        return self._clean if is_clean else next(self._answers)


def run_mutants(reports: Path, count: int) -> list[MutantResult]:
    """Judge some mutants of one file."""
    mutants = find_mutants([FILE])[:count]
    return MutationRun(mutants, 1, 0.25, reports, 1).run(no_progress)[1]


@pytest.mark.parametrize(
    ("session", "status", "reason"),
    [
        (FakeSession("days", VALID), Status.SURVIVED, ""),
        (FakeSession("days", VALID, BROKEN), Status.DETECTED, "T3"),
        (FakeSession("days", VALID, UNMET, UNMET), Status.INCONCLUSIVE, "unknown: a retry"),
        (FakeSession("days", VALID, UNMET, VALID), Status.SURVIVED, ""),
        (FakeSession("days", VALID, UNMET, BROKEN), Status.DETECTED, "T3"),
        (FakeSession("days", VALID, "OSError: x", "OSError: x"), Status.INCONCLUSIVE, "OSError: x"),
        (FakeSession("days", VALID, None, None), Status.INCONCLUSIVE, "not finished"),
        (FakeSession("days", UNMET, BROKEN), Status.SURVIVED, ""),
    ],
    ids=["valid", "broken", "unmet", "unmet-once", "then-broken", "error", "hangs", "clean-unmet"],
)
def test_the_worst_finding_decides_the_status(
    session: FakeSession,
    status: Status,
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An inconclusive scenario is asked twice; one that is not valid when clean is not asked."""
    monkeypatch.setattr(mutation_score, "run_session", session)
    (result,) = run_mutants(tmp_path, 1)

    assert (result.status, result.finding.reason) == (status, reason)
    assert score([result])[status] == 1.0


def test_an_invalid_clean_source_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each mutant would be detected falsely."""
    monkeypatch.setattr(mutation_score, "run_session", FakeSession("days", BROKEN))
    with pytest.raises(HarnessError, match="the clean source is invalid"):
        run_mutants(tmp_path, 1)


def test_a_scenario_with_detections_is_asked_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next mutant of the same file is detected by the first scenario asked."""
    session = FakeSession("watcher-threads", VALID, BROKEN, BROKEN)
    monkeypatch.setattr(mutation_score, "run_session", session)
    run_mutants(tmp_path, 2)

    assert session.asked[-2:] == ["watcher-threads", "watcher-threads"]
