"""Tests of the mutation score: which questions a mutant gets, and what decides its status."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from harness.contract import promises
from harness.core.errors import HarnessError
from harness.core.verdict import VALID, Anomaly, ExpectationCount, Verdict
from harness.engine.suite import find_scenarios, suite_with_source
from harness.mutation.known_bugs import copy_source
from harness.mutation.mutants import Mutant, find_mutants, mutated, source_folder
from harness.report.judgement import Record
from harness.runs import mutation_score
from harness.runs.mutation_score import MutationRun, apart, diff, score
from harness.runs.mutation_session import Clean, MutationSession, Status, Stored
from harness.runs.pytest_run import Results, no_progress
from harness.runs.warm_worker import Trial, WarmWorker

FILE = "storage/durable_map.py"
REACHING = ("journal-struck", "catalog-any-sequence")  # the scenarios that reach the mutants
BROKEN = Verdict(anomalies=(Anomaly(promises.T3, "twice"),))
UNMET = Verdict(expectations=(ExpectationCount("a retry", 0, 1),))

Answer: TypeAlias = "Verdict | str | None"  # a verdict, an error of the harness, or a timeout


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the source that is not compiled, for all tests."""
    folder = tmp_path_factory.mktemp("prepared") / "copy"
    copy_source(suite_with_source(), folder)
    return folder


@pytest.fixture(autouse=True)
def _uncompiled(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutation_score, "prepared_copy", lambda _: prepared)


class FakeWorker(WarmWorker):
    """Stands in for the worker: all scenarios are valid but one, whose answers are given.

    That one answers `clean` for the clean source; for a copy that contains `edit` it gives
    `answers` in turn, and VALID after those.
    """

    def __init__(self, *answers: Answer, clean: Answer = VALID, edit: str = "") -> None:
        super().__init__()
        self.asked: list[tuple[str, float]] = []
        self._clean, self._edit = clean, edit
        self._answers: Iterator[Answer] = itertools.chain(answers, itertools.repeat(VALID))

    def judge(self, trial: Trial) -> tuple[Results, float]:
        """Give the next answer of this scenario."""
        results = Results()
        answer = self._answer(trial)
        if answer is None:
            results.unfinished = [trial.scenario]
        elif isinstance(answer, str):
            results.broken[trial.scenario] = answer
        else:
            record = Record(trial.scenario, "model", ("T3",), answer, 1, 1, "", 1.0)
            results.records[trial.scenario] = record
        return results, 1.0

    def _answer(self, trial: Trial) -> Answer:
        _, _, copy = trial.target.partition("@")
        is_sought = trial.scenario == REACHING[0]
        if not copy:
            return self._clean if is_sought else VALID
        self.asked.append((trial.scenario, trial.effort))
        source = (Path(copy) / source_folder().name / FILE).read_text("utf-8")
        return next(self._answers) if is_sought and self._edit in source else VALID


def begun(
    path: Path, mutants: list[Mutant], reaching: tuple[str, ...] = REACHING
) -> MutationSession:
    """A session in which the clean source is measured already."""
    session = MutationSession(path / "session.sqlite")
    session.begin({"seed": 1}, mutants)
    lines = source_folder().joinpath(FILE).read_text("utf-8").count("\n")
    for name in find_scenarios():
        for effort in (0.25, 1.0):
            session.store_clean(name, effort, Clean(1.0, "valid"))
        reached = {(FILE, n + 1) for n in range(lines)} if name in reaching else set()
        session.store_reached(name, reached | {("", 0)})
    session.store_reached("days", {("app.py", n + 1) for n in range(9 * lines)})
    return session


def run(session: MutationSession, worker: FakeWorker, sample: int = 100) -> list[Stored]:
    """Judge the mutants of a session."""
    runner = MutationRun(session, sample, 1, 0.25, 1.0, 1, 4, judge_in=lambda: worker)
    return runner.run(no_progress)


@pytest.mark.parametrize(
    ("answers", "status", "reason"),
    [
        ((), Status.SURVIVED, "2 scenarios are valid"),
        ((BROKEN, BROKEN), Status.DETECTED, "T3"),
        ((BROKEN, VALID), Status.INCONCLUSIVE, "once T3, and then not"),
        ((UNMET, UNMET), Status.INCONCLUSIVE, "unknown: a retry"),
        ((UNMET, BROKEN, BROKEN), Status.DETECTED, "T3"),
        (("OSError: x", "OSError: x"), Status.INCONCLUSIVE, "OSError: x"),
        ((None,), Status.INCONCLUSIVE, "not finished in time"),
        ((VALID, BROKEN, BROKEN), Status.DETECTED, "T3"),
    ],
    ids=["valid", "broken", "once", "unmet", "then-broken", "error", "hangs", "with-more-effort"],
)
def test_the_findings_decide_the_status(
    answers: tuple[Answer, ...], status: Status, reason: str, tmp_path: Path
) -> None:
    """Only what is proven twice is detected; a timeout and a missing verdict prove nothing."""
    session = begun(tmp_path, find_mutants([FILE])[:1])
    (result,) = run(session, FakeWorker(*answers))

    assert (result.status, result.reason) == (status, reason)
    assert bool(result.evidence) == (status is Status.DETECTED)
    assert score([result]).share == (status is Status.DETECTED)


def test_detection_needs_a_valid_clean_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clean source is asked again beside each detection, at the latest after a while."""
    monkeypatch.setattr(mutation_score, "FRESH_S", -1.0)
    session = begun(tmp_path, find_mutants([FILE])[:1])
    (result,) = run(session, FakeWorker(BROKEN, BROKEN, clean=BROKEN))

    assert result.status is Status.INCONCLUSIVE
    assert result.reason == "T3, but the clean source too"


def test_an_invalid_clean_source_stops_the_run(tmp_path: Path) -> None:
    """Each mutant would be detected falsely."""
    session = MutationSession(tmp_path / "session.sqlite")
    session.begin({"seed": 1}, find_mutants([FILE])[:1])
    with pytest.raises(HarnessError, match="the clean source is invalid"):
        run(session, FakeWorker(clean=BROKEN))


def test_only_scenarios_that_reach_the_block_are_asked(tmp_path: Path) -> None:
    """A mutant that none reaches is asked nothing."""
    session = begun(tmp_path, find_mutants([FILE])[:1])
    worker = FakeWorker()
    run(session, worker)
    assert {name for name, _ in worker.asked} == set(REACHING)

    (tmp_path / "none").mkdir()
    worker = FakeWorker()
    (result,) = run(begun(tmp_path / "none", find_mutants([FILE])[:1], ()), worker)
    assert result.reason == mutation_score.UNREACHED
    assert worker.asked == []


def test_a_group_is_halved_to_the_culprit(tmp_path: Path) -> None:
    """The others of the group survive, and the scenario that proves it is named."""
    mutants = find_mutants([FILE])[:4]
    session = begun(tmp_path, mutants)
    for stored in session.claim(Status.OPEN, 4, 4):
        session.decide(Stored(stored.id, stored.mutant, Status.UNDECIDED))
    source = source_folder().joinpath(FILE).read_text("utf-8")
    changed = mutated(source, mutants[2]).splitlines()[mutants[2].line - 1]

    results = run(session, FakeWorker(*[BROKEN] * 9, edit=f"\n{changed}\n"))

    statuses = [result.status for result in results]
    survived = Status.SURVIVED
    assert statuses == [survived, survived, Status.DETECTED, survived]
    assert results[2].scenario == REACHING[0]


def test_edits_that_overlap_are_not_in_one_group() -> None:
    """Both cannot be made in one copy."""
    whole = Mutant("a.py", 1, 0, 10, find_mutants([FILE])[0].operator, "x" * 10, "pass")
    part = Mutant("a.py", 1, 5, 6, whole.operator, "x", "y")
    other = Mutant("b.py", 1, 5, 6, whole.operator, "x", "y")
    group = [Stored(n, mutant, Status.UNDECIDED) for n, mutant in enumerate((whole, part, other))]

    assert [stored.id for stored in apart(group)] == [0, 2]


def test_a_run_out_of_time_keeps_the_rest(tmp_path: Path) -> None:
    """A later run goes on with what is open, and asks nothing twice."""
    session = begun(tmp_path, find_mutants([FILE])[:3])
    worker = FakeWorker(*[BROKEN] * 6)
    late = MutationRun(
        session, 3, 1, 0.25, 1.0, 1, 4, time.monotonic() - 1, judge_in=lambda: worker
    )
    assert [stored.status for stored in late.run(no_progress)] == [Status.OPEN] * 3
    assert [stored.status for stored in run(session, worker)] == [Status.DETECTED] * 3
    asked = len(worker.asked)
    run(session, worker)
    assert len(worker.asked) == asked


def test_a_mutant_is_shown_as_a_diff() -> None:
    """With the file, the line and the lines around it."""
    mutant = find_mutants([FILE])[0]
    shown = diff(mutant)

    assert shown.startswith(f"--- a/reference_impl/{FILE}\n")
    changed = [line for line in shown.splitlines()[2:] if line.startswith(("-", "+"))]
    assert len(changed) >= 2


def test_the_warm_worker_judges_in_forks(tmp_path: Path) -> None:
    """A record for each trial; one that takes too long is unfinished; another copy can follow."""
    worker = WarmWorker()
    try:
        trial = Trial("journal-struck", "reference", 1, 0.25, tmp_path / "a", 60.0)
        results, seconds = worker.judge(trial)
        assert results.records["journal-struck"].verdict.is_valid
        assert 0 < seconds < trial.timeout_s
        late = Trial("journal-struck", "reference", 1, 0.25, tmp_path / "b", 0.0)
        assert worker.judge(late)[0].unfinished == ["journal-struck"]
        wrong = Trial("journal-struck", f"reference@{tmp_path}", 1, 0.25, tmp_path / "c", 60.0)
        assert "contains no package" in worker.judge(wrong)[0].broken["journal-struck"]
    finally:
        worker.close()
