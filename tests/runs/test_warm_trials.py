"""Tests of sessions that are judged in forks of warm workers, by workers that fork nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.contract import promises
from harness.core.verdict import VALID, Anomaly, Verdict
from harness.engine.suite import find_scenarios
from harness.report import folder
from harness.report.judgement import Record
from harness.runs import warm_trials
from harness.runs.pytest_run import Results, Session, collect
from harness.runs.warm_trials import WarmWorkers, judge_warm, quickest_first
from harness.runs.warm_worker import Trial

BROKEN = Verdict((Anomaly(promises.L13, "wrong", (), also=(promises.L12,)),))
LATE, DEAD, FAILED = "late", "dead", "failed"


class Worker:
    """Answers each trial as its verdict says, and notes what was asked."""

    def __init__(self, **answers: Verdict | str) -> None:
        self.answers = answers
        self.asked: list[Trial] = []
        self.is_closed = False

    def judge(self, trial: Trial) -> tuple[Results, float]:
        self.asked.append(trial)
        answer = self.answers[trial.scenario]
        place = trial.run_folder / trial.scenario
        place.mkdir()
        if answer == FAILED:
            (place / folder.BROKEN).write_text("ValueError: why", encoding="utf-8")
        elif isinstance(answer, Verdict):
            record = Record(trial.scenario, "model", (), answer, 1, 1, "digest", 1.0)
            folder.write_json(place / folder.VERDICT, record.to_json())
        seconds = trial.timeout_s if answer == LATE else 0.0
        return collect([trial.scenario], trial.run_folder, None), seconds

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Judge a session of scenarios with these answers: the results, and who was asked."""

    def judge(
        budget_s: float = 60.0, enough: str = "", **answers: Verdict | str
    ) -> tuple[Results, list[str]]:
        worker = Worker(**answers)
        monkeypatch.setattr(warm_trials, "WarmWorker", lambda: worker)
        session = Session(list(answers), "reference", 1, 1.0, goes_on=False, enough=enough)
        with WarmWorkers() as workers:
            results = judge_warm(session, tmp_path, budget_s, workers)
        return results, [trial.scenario for trial in worker.asked]

    return judge


@pytest.mark.parametrize(("enough", "asked"), [("L12", ["a", "b"]), ("L1", ["a", "b", "c"])])
def test_session_ends_once_the_promise_is_broken(
    enough: str, asked: list[str], judged: Any
) -> None:
    """By an anomaly that names it in whatever way; what was not asked is unfinished."""
    results, were_asked = judged(enough=enough, a=VALID, b=BROKEN, c=VALID)

    assert were_asked == asked
    assert list(results.records) == asked
    assert results.unfinished == ["c"][: 3 - len(asked)]
    assert results.broken == {}


def test_every_scenario_is_asked_without_enough(judged: Any) -> None:
    results, asked = judged(a=BROKEN, b=VALID)

    assert asked == list(results.records) == ["a", "b"]


def test_death_without_verdict_breaks_the_session(judged: Any) -> None:
    """A scenario that had time must come to a verdict, or the harness failed."""
    results, _ = judged(a=DEAD, b=FAILED, c=VALID)

    assert "ended without a verdict" in results.broken["a"]
    assert results.broken["b"] == "ValueError: why"
    assert (list(results.records), results.unfinished) == (["c"], [])


def test_late_scenario_is_unfinished(judged: Any) -> None:
    results, _ = judged(a=LATE)

    assert (results.unfinished, results.broken) == (["a"], {})


def test_nothing_is_asked_after_the_budget(judged: Any) -> None:
    results, asked = judged(budget_s=0.0, a=VALID, b=VALID)

    assert (results.unfinished, asked) == (["a", "b"], [])


def test_scenario_has_its_own_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that takes longer is cut, and the others have what is left of the budget."""
    worker = Worker(slow=LATE, other=VALID)
    monkeypatch.setattr(warm_trials, "WarmWorker", lambda: worker)
    session = Session(["slow", "other"], "reference", 1, 1.0, goes_on=False)
    with WarmWorkers() as workers:
        results = judge_warm(session, tmp_path, 60.0, workers, limits_s={"slow": 5.0})

    assert results.unfinished == ["slow"]
    assert list(results.records) == ["other"]
    slow, other = (trial.timeout_s for trial in worker.asked)
    assert slow == 5.0
    assert 5.0 < other <= 60.0


def test_each_thread_has_its_own_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that is given back is lent again; all end with the block."""
    started: list[Worker] = []

    def start() -> Worker:
        started.append(Worker())
        return started[-1]

    monkeypatch.setattr(warm_trials, "WarmWorker", start)
    with WarmWorkers() as workers:
        with workers.one() as first, workers.one() as second:
            assert first is not second
        with workers.one() as again:
            assert again in (first, second)
        assert not any(worker.is_closed for worker in started)

    assert [worker.is_closed for worker in started] == [True, True]


def test_quick_scenario_with_few_promises_is_first() -> None:
    """The time is weighed by the promises; a time that is not known counts as the longest."""
    every = find_scenarios()
    few, many = sorted(every, key=lambda name: len(every[name].promises))[:: len(every) - 1]
    assert len(every[few].promises) < len(every[many].promises)

    assert quickest_first([many, few], {}) == [few, many]
    assert quickest_first([many, few], {many: 1.0, few: 1.0}) == [few, many]
    assert quickest_first([few, many], {many: 0.01, few: 10.0}) == [many, few]
    assert quickest_first([few, many], {many: 0.01}) == [few, many]
