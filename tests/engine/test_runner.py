"""Tests of the runner: the shortest evidence of each promise, and further rounds of questions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.contract import promises
from harness.contract.promises import SESSION_SERVER
from harness.core.history import History, Journal, Outcome
from harness.core.verdict import VALID, Anomaly, Validity, Verdict
from harness.engine import runner
from harness.engine.context import Context
from harness.engine.scenario import Expectation, Scenario
from harness.report import folder, judgement
from harness.targets.reference.target import ReferenceTarget
from scenarios.lifecycle.test_model import OWNERS_AND_FAILURES

BROKEN = [(promises.D9, 3), (promises.D2, 4), (promises.D9, 2)]  # episode by episode: operations


def break_noted_promise(episode: History) -> Verdict:
    """Find the anomaly that the episode's notes name."""
    named = SESSION_SERVER.promise(episode.notes["breaks"])
    return Verdict((Anomaly(named, "as noted", evidence=episode.operations),))


@pytest.fixture
def scenario(tmp_path: Path) -> Scenario:
    """A scenario with a journal in which each episode breaks a promise."""
    with Journal(tmp_path / runner.HISTORY, iter(range(100)).__next__) as journal:
        for promise, operations in BROKEN:
            journal.episode(breaks=promise.id)
            for _ in range(operations):
                journal.complete(journal.invoke(0, "write", {}), Outcome.OK)
    return replace(OWNERS_AND_FAILURES, checker=break_noted_promise, expectations=())


def test_each_promise_has_its_shortest_evidence(scenario: Scenario, tmp_path: Path) -> None:
    """The shortest of all comes first; a longer one of the same promise is left out."""
    judged = runner.judge(scenario, tmp_path)

    found = [(anomaly.promise, len(anomaly.evidence)) for anomaly in judged.verdict.anomalies]
    assert found == [(promises.D9, 2), (promises.D2, 4)]
    assert [episode.notes["breaks"] for episode in judged.found_in] == ["D9", "D2"]


def test_each_anomaly_has_a_failure_file(scenario: Scenario, tmp_path: Path) -> None:
    """And a command that replays it, also when the run is judged again."""
    judged = runner.judge(scenario, tmp_path)
    record = judgement.store(judged, ReferenceTarget(), 1, 0.0, tmp_path)
    files = [tmp_path / folder.FAILURE, tmp_path / "failure-D2.json"]

    assert record.reproduce == tuple(f"harness replay {file}" for file in files)
    assert [folder.read_json(file)["anomaly"]["promise"] for file in files] == ["D9", "D2"]
    assert judgement.record(judged, 0.0, tmp_path).reproduce == record.reproduce
    assert [record.summary().count(line) for line in record.reproduce] == [1, 1]


def test_pending_call_of_a_cut_run_proves_nothing(scenario: Scenario, tmp_path: Path) -> None:
    """The same history is a proof if the run ended by itself, and none if it was cut short."""

    def hung(history: History) -> Verdict:
        pending = tuple(operation for operation in history if operation.is_unanswered)
        found = Anomaly(promises.H6, "a call hung", pending, expected="a reply", observed="none")
        return Verdict((found,) if pending else ())

    hanging = replace(scenario, checker=hung, expectations=())
    cut = tmp_path / "cut"
    cut.mkdir()
    with Journal(cut / runner.HISTORY, iter(range(100)).__next__) as journal:
        journal.episode()
        journal.invoke(0, "write", {})

    assert runner.judge(hanging, cut).verdict.anomalies
    assert not runner.judge(hanging, cut, is_whole=False).verdict.anomalies


class OneEpisode:
    """A workload that writes one episode, and notes whether it meets the expectation."""

    def __init__(self, *met: bool) -> None:
        self.seeds: list[str] = []
        self._met = iter(met)

    def __call__(self, context: Context) -> None:
        """Write an episode."""
        self.seeds.append(context.seed)
        context.journal.episode(met=next(self._met))


@pytest.mark.parametrize(
    ("met", "rounds", "episodes", "validity"),
    [
        ([True], 2, 1, Validity.VALID),
        ([False, True], 2, 2, Validity.VALID),
        ([False, False], 2, 2, Validity.UNKNOWN),
        ([False], 1, 1, Validity.UNKNOWN),
    ],
)
def test_an_unmet_expectation_adds_another_round(
    met: list[bool], rounds: int, episodes: int, validity: Validity, tmp_path: Path
) -> None:
    """With other questions; those of the round before count as well."""
    workload = OneEpisode(*met)
    expectation = Expectation("a meeting", lambda episode: int(episode.notes["met"]))
    scenario = replace(
        OWNERS_AND_FAILURES,
        workload=workload,
        checker=lambda _: VALID,
        expectations=(expectation,),
    )
    judged = runner.run(scenario, ReferenceTarget(), 1, 1.0, tmp_path, rounds=rounds)

    assert judged.verdict.validity is validity
    assert judged.episodes == episodes
    assert len(set(workload.seeds)) == episodes


def test_an_anomaly_ends_the_rounds(tmp_path: Path) -> None:
    """It is a proof, whatever a second round meets."""
    workload = OneEpisode(*[False])
    anomaly = Anomaly(promises.L1, "broken")
    scenario = replace(
        OWNERS_AND_FAILURES,
        workload=workload,
        checker=lambda _: Verdict((anomaly,)),
        expectations=(Expectation("a meeting", lambda _: 0),),
    )
    judged = runner.run(scenario, ReferenceTarget(), 1, 1.0, tmp_path, rounds=2)

    assert judged.verdict.anomalies == (anomaly,)
    assert len(workload.seeds) == 1
