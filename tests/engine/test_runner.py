"""A run reports the shortest proof of each broken promise, so that no bug hides behind another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.contract import promises
from harness.contract.promises import SESSION_SERVER
from harness.core.contract import Promise
from harness.core.history import History, Journal, Outcome
from harness.core.verdict import VALID, Anomaly, Validity, Verdict
from harness.engine import runner
from harness.engine.context import Context
from harness.engine.scenario import Expectation, Scenario
from harness.report import folder, judgement
from harness.targets.reference.target import ReferenceTarget
from scenarios.lifecycle.test_model import OWNERS_AND_FAILURES

BROKEN = [(promises.D9, 3), (promises.D2, 4), (promises.D9, 2)]  # episode by episode: operations


def every_promise_named(episode: History) -> Verdict:
    """Find what the episode's notes say."""
    named = SESSION_SERVER.promise(episode.notes["breaks"])
    return Verdict((Anomaly(named, "as noted", evidence=episode.operations),))


@pytest.fixture
def scenario(tmp_path: Path) -> Scenario:
    """A scenario that was run: each episode broke a promise."""
    with Journal(tmp_path / runner.HISTORY, iter(range(100)).__next__) as journal:
        for promise, operations in BROKEN:
            journal.episode(breaks=promise.id)
            for _ in range(operations):
                journal.complete(journal.invoke(0, "write", {}), Outcome.OK)
    return replace(OWNERS_AND_FAILURES, checker=every_promise_named, expectations=())


def test_each_broken_promise_has_its_shortest_proof(scenario: Scenario, tmp_path: Path) -> None:
    """The shortest of all comes first; a longer one of the same promise is left out."""
    judged = runner.judge(scenario, tmp_path)

    found = [(one.promise, len(one.evidence)) for one in judged.verdict.anomalies]
    assert found == [(promises.D9, 2), (promises.D2, 4)]
    assert [episode.notes["breaks"] for episode in judged.found_in] == ["D9", "D2"]


def test_each_broken_promise_can_be_seen_again(scenario: Scenario, tmp_path: Path) -> None:
    """Every proof has its file, and its line to run, also when it is judged anew."""
    judged = runner.judge(scenario, tmp_path)
    record = judgement.store(judged, ReferenceTarget(), 1, 0.0, tmp_path)
    files = [tmp_path / folder.FAILURE, tmp_path / "failure-D2.json"]

    assert record.reproduce == tuple(f"harness replay {file}" for file in files)
    assert [folder.read_json(file)["anomaly"]["promise"] for file in files] == ["D9", "D2"]
    assert judgement.record(judged, 0.0, tmp_path).reproduce == record.reproduce
    assert [record.summary().count(line) for line in record.reproduce] == [1, 1]


class ClientHistory:
    """A workload that tells which questions it asked, and meets somebody in some of them."""

    def __init__(self, *met: bool) -> None:
        self.seeds: list[str] = []
        self._met = iter(met)

    def __call__(self, context: Context) -> None:
        """Write an episode."""
        self.seeds.append(context.seed)
        context.journal.episode(met=next(self._met))


@pytest.mark.parametrize(
    ("met", "rounds", "asked", "validity"),
    [
        ([True], 2, 1, Validity.VALID),
        ([False, True], 2, 2, Validity.VALID),
        ([False, False], 2, 2, Validity.UNKNOWN),
        ([False], 1, 1, Validity.UNKNOWN),
    ],
)
def test_a_run_that_met_too_little_goes_on_with_other_questions(
    met: list[bool], rounds: int, asked: int, validity: Validity, tmp_path: Path
) -> None:
    """What it asked before counts as well."""
    visits = ClientHistory(*met)
    somebody = Expectation("somebody was met", lambda episode: int(episode.notes["met"]))
    scenario = replace(
        OWNERS_AND_FAILURES,
        workload=visits,
        checker=lambda _: VALID,
        expectations=(somebody,),
    )
    judged = runner.run(scenario, ReferenceTarget(), 1, 1.0, tmp_path, rounds=rounds)

    assert judged.verdict.validity is validity
    assert judged.episodes == asked
    assert len(set(visits.seeds)) == asked


def test_a_broken_promise_needs_no_second_round(tmp_path: Path) -> None:
    """Nothing that is met later makes it whole."""
    visits = ClientHistory(*[False])
    anomaly = Anomaly(promises.L1, "broken")
    scenario = replace(
        OWNERS_AND_FAILURES,
        workload=visits,
        checker=lambda _: Verdict((anomaly,)),
        expectations=(Expectation("somebody was met", lambda _: 0),),
    )
    judged = runner.run(scenario, ReferenceTarget(), 1, 1.0, tmp_path, rounds=2)

    assert judged.verdict.anomalies == (anomaly,)
    assert len(visits.seeds) == 1
