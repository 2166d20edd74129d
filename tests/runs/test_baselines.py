"""Tests of the baselines: recorded figures, and scenarios that fall behind them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.engine import runner
from harness.engine.suite import choose
from harness.mutation.known_bugs import find_bugs
from harness.runs import baselines
from harness.runs.audit import Audit, Score
from harness.runs.baselines import ANSWERS, BUGS, MUTANTS, REACH, behind
from harness.runs.pytest_run import no_progress
from harness.targets.reference.target import ReferenceTarget

FOLDER = Path(__file__).parents[2] / "reports" / "baselines"
# In process and cheap: a seed gives the same histories everywhere, so the scores are stable.
CHEAP = {
    "journal-struck": 1.0,
    "catalog-any-sequence": 0.1,
    "sessions-any-sequence": 0.1,
    "state-db-model": 0.1,
    "wakeups-any-sequence": 0.1,
}


def scored(noticed: int, changed: int, name: str = "toy") -> Score:
    """A score of a scenario."""
    return Score(name, changed, noticed, 5, 0, 1.0)


def test_a_record_says_how_it_was_measured(tmp_path: Path) -> None:
    """The commit, the seed and the machine, without its name."""
    file = tmp_path / "baselines" / ANSWERS
    baselines.record(file, 7, {"changed": 3})
    document = json.loads(file.read_text())

    assert (document["seed"], document["changed"]) == (7, 3)
    assert document["machine"].keys() == {"cores", "python", "system"}
    assert document["commit"]


def test_behind_means_more_than_chance(tmp_path: Path) -> None:
    """A small sample needs a large difference; a new scenario has no baseline."""
    file = tmp_path / ANSWERS
    baselines.record(file, 1, {"scenarios": [scored(95, 100).to_json()]})

    assert behind([scored(94, 100), scored(8, 10), scored(0, 9, "new"), scored(0, 0)], file) == []
    (sentence,) = behind([scored(70, 100)], file)
    assert sentence.startswith("toy: 70 of 100 changes noticed (70.0%); expected 95.0%")


def test_whole_score_is_never_behind(tmp_path: Path) -> None:
    """Nor is a sample that misses one change of many behind a record that missed none."""
    file = tmp_path / ANSWERS
    baselines.record(file, 1, {"scenarios": [scored(86, 86).to_json()]})

    assert behind([scored(changed, changed) for changed in range(1, 500)], file) == []
    assert behind([scored(48, 49)], file) == []
    assert len(behind([scored(41, 46)], file)) == 1


def test_many_comparisons_share_one_chance(tmp_path: Path) -> None:
    """What is behind alone may be chance among a hundred, and a large loss is never chance."""
    names = [f"toy-{number}" for number in range(100)]
    file = tmp_path / ANSWERS
    recorded = [scored(95, 100, name).to_json() for name in names]
    baselines.record(file, 1, {"scenarios": recorded})
    others = [scored(95, 100, name) for name in names[1:]]

    assert len(behind([scored(81, 100, names[0])], file)) == 1
    assert behind([scored(81, 100, names[0]), *others], file) == []
    assert len(behind([scored(70, 100, names[0]), *others], file)) == 1


@pytest.mark.parametrize("name", CHEAP)
def test_scenario_keeps_its_answer_score(name: str, tmp_path: Path) -> None:
    """A checker that no longer looks at a field makes it fall behind the recorded share."""
    scenario = choose([name])[name]
    judged = runner.run(scenario, ReferenceTarget(), 1, CHEAP[name], tmp_path / name)
    assert judged.verdict.anomalies == ()
    scores, _ = Audit(tmp_path, 1, 2, 1, 60.0, (name,)).run(no_progress)

    assert scores[0].changed > 0
    assert behind(scores, FOLDER / ANSWERS) == []


@pytest.mark.parametrize("name", [ANSWERS, REACH, MUTANTS])
def test_baseline_names_commit_seed_and_machine(name: str) -> None:
    """And no machine by name."""
    document = json.loads((FOLDER / name).read_text(encoding="utf-8"))

    assert len(document["commit"]) >= 7
    assert isinstance(document["seed"], int)
    assert document["machine"].keys() == {"cores", "python", "system"}


def proof(bug: str, *, detected: bool = True) -> dict[str, object]:
    """A result of a known bug."""
    return {"bug": bug, "detected": detected}


def test_partial_proofs_make_one_record(tmp_path: Path) -> None:
    """A later result of a bug replaces the earlier one, and others stay."""
    file, same = tmp_path / BUGS, {"effort": 1.0, "sources": "a"}
    baselines.record_proof(file, 1, same, [proof("two", detected=False), proof("one")])
    assert baselines.proven(file, 1, same) == {"one"}
    baselines.record_proof(file, 1, same, [proof("two")])

    document = json.loads(file.read_text())
    assert (document["bugs"], document["detected"]) == (2, 2)
    assert [row["bug"] for row in document["results"]] == ["one", "two"]


@pytest.mark.parametrize("other", [(2, "a"), (1, "b")], ids=["seed", "sources"])
def test_other_conditions_begin_a_new_record(other: tuple[int, str], tmp_path: Path) -> None:
    """What was measured otherwise is not mixed with it, nor resumed."""
    file, (seed, sources) = tmp_path / BUGS, other
    baselines.record_proof(file, 1, {"sources": "a"}, [proof("one")])
    assert baselines.proven(file, seed, {"sources": sources}) == set()
    baselines.record_proof(file, seed, {"sources": sources}, [proof("two")])

    assert baselines.proven(file, seed, {"sources": sources}) == {"two"}


def test_recorded_proof_is_complete() -> None:
    """If there is a record; a bug that came later is not in it yet."""
    for file in FOLDER.glob(BUGS):
        document = json.loads(file.read_text(encoding="utf-8"))
        assert document["detected"] == document["bugs"] == len(document["results"])
        assert 0 < document["bugs"] <= len(find_bugs())
