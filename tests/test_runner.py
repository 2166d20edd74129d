"""A run reports the shortest proof of each broken promise, so that no bug hides behind another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness import runner
from harness.history import History, Journal, Outcome
from harness.promises import Promise
from harness.report import folder, judgement
from harness.scenario import Scenario
from harness.targets.reference import ReferenceTarget
from harness.verdict import Anomaly, Verdict
from scenarios.test_lifecycle import OWNERS_AND_FAILURES

BROKEN = [(Promise.D9, 3), (Promise.D2, 4), (Promise.D9, 2)]  # episode by episode: operations


def every_promise_named(episode: History) -> Verdict:
    """Find what the episode's notes say."""
    named = Promise[episode.notes["breaks"]]
    return Verdict((Anomaly(named, "as noted", evidence=episode.operations),))


@pytest.fixture
def scenario(tmp_path: Path) -> Scenario:
    """A scenario that was run: each episode broke a promise."""
    with Journal(tmp_path / runner.HISTORY, iter(range(100)).__next__) as journal:
        for promise, operations in BROKEN:
            journal.episode(breaks=promise.name)
            for _ in range(operations):
                journal.complete(journal.invoke(0, "write", {}), Outcome.OK)
    return replace(OWNERS_AND_FAILURES, checker=every_promise_named, expectations=())


def test_each_broken_promise_has_its_shortest_proof(scenario: Scenario, tmp_path: Path) -> None:
    """The shortest of all comes first; a longer one of the same promise is left out."""
    judged = runner.judge(scenario, tmp_path)

    found = [(one.promise, len(one.evidence)) for one in judged.verdict.anomalies]
    assert found == [(Promise.D9, 2), (Promise.D2, 4)]
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
