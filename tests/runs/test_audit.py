"""Tests of the audit: which changed answers a scenario's checker notices, field by field."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.core.errors import UsageError
from harness.core.history import Journal
from harness.engine import runner
from harness.engine.suite import choose
from harness.runs.audit import Audit, Row, Score
from harness.runs.pytest_run import no_progress
from harness.testing import FakeTarget
from tests.support.toy_suites import judging_by, write_suite

NAME = "toy-counter"
ALL_CHANGES = {
    "total": {"number up", "number down"},
    "numbers": {"element dropped", "element doubled", "elements swapped"},
    "numbers[*]": {"number up", "number down"},
    "comment": {"text"},
    "-": {"ok to refusal"},
}


class Counter:
    """Adds numbers; the toy scenario's checker judges all fields but the comment."""

    def __init__(self, _: Path) -> None:
        self.numbers: list[int] = []

    def add(self, number: int) -> dict[str, object]:
        self.numbers.append(number)
        return self.read()

    def read(self) -> dict[str, object]:
        return {"total": sum(self.numbers), "numbers": list(self.numbers), "comment": "fine"}

    def close(self) -> None:
        self.numbers.clear()


class Drifting(Counter):
    """Forgets the first number."""

    def read(self) -> dict[str, object]:
        return {**super().read(), "total": sum(self.numbers[1:])}


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the toy suite."""
    return write_suite(tmp_path_factory.mktemp("audit") / "audited_suite")


@pytest.fixture(scope="module")
def declared_suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy suite with a declaration that the comment is unpredictable."""
    folder = write_suite(tmp_path_factory.mktemp("audit") / "audited_suite_declared")
    (folder / "suite.py").write_text(
        "from harness import Contract, Suite\n"
        "from harness.core.contract import Unpredictable\n"
        "from audited_suite_declared.test_counter import P1, P2\n"
        "REASON = 'the comment is free text'\n"
        "SUITE = Suite(\n"
        "    Contract('counter', (P1, P2)),\n"
        "    unpredictable=(Unpredictable('*', 'comment', REASON),),\n"
        ")\n",
        encoding="utf-8",
    )
    return folder


@pytest.fixture
def chosen(suite: Path) -> Iterator[None]:
    """Judge by the toy suite."""
    with judging_by(suite):
        yield


def run_toy(run_folder: Path, kind: type[Counter] = Counter) -> Path:
    """Run the toy scenario in a run folder, and return the run folder."""
    target = FakeTarget({"counter": kind})
    runner.run(choose([NAME])[NAME], target, 1, 1.0, run_folder / NAME)
    return run_folder


def audit(run_folder: Path, per_field: int = 3, seconds: float = 60.0) -> tuple[Score, list[Row]]:
    """Audit the toy scenario's run."""
    (score,), rows = Audit(run_folder, 1, per_field, 1, seconds).run(no_progress)
    return score, rows


@pytest.mark.usefixtures("chosen")
def test_an_ignored_field_scores_zero(tmp_path: Path) -> None:
    """And each judged field 100 %, for every kind of change that fits it."""
    score, rows = audit(run_toy(tmp_path))

    changes = {field: {row.change for row in rows if row.field == field} for field in ALL_CHANGES}
    assert changes == ALL_CHANGES
    assert {row.field for row in rows} == ALL_CHANGES.keys()
    for row in rows:
        assert row.changed > 0
        assert row.noticed == (0 if row.field == "comment" else row.changed), row
    ignored = sum(row.changed for row in rows if row.field == "comment")
    assert score.noticed == score.changed - ignored
    assert score.fields == 2 * len(ALL_CHANGES)  # of two functions


@pytest.mark.usefixtures("chosen")
def test_per_field_bounds_the_changes(tmp_path: Path) -> None:
    """For each function, field and kind of change."""
    run_folder = run_toy(tmp_path)

    assert max(row.changed for row in audit(run_folder, per_field=1)[1]) == 1
    assert max(row.changed for row in audit(run_folder, per_field=2)[1]) == 2


@pytest.mark.usefixtures("chosen")
def test_the_same_seed_gives_the_same_rows(tmp_path: Path) -> None:
    """The seed decides which changes are judged."""
    run_folder = run_toy(tmp_path)

    assert audit(run_folder)[1] == audit(run_folder)[1]


def test_an_unpredictable_field_is_excused(declared_suite: Path, tmp_path: Path) -> None:
    """It is counted apart, with its reason, and does not lower the score."""
    with judging_by(declared_suite):
        score, rows = audit(run_toy(tmp_path))

    assert {row.field for row in rows if row.excused} == {"comment"}
    assert {row.excused for row in rows if row.excused} == {"the comment is free text"}
    assert score.share == 1.0
    assert score.excused_fields == 2


@pytest.mark.usefixtures("chosen")
def test_an_invalid_history_is_not_audited(tmp_path: Path) -> None:
    """Its verdict cannot change for a changed answer; the score says so."""
    score, rows = audit(run_toy(tmp_path, Drifting))

    assert rows == []
    assert score.unjudged == "no valid history with answers"


@pytest.mark.usefixtures("chosen")
def test_a_run_without_history_is_a_usage_error(tmp_path: Path) -> None:
    """The error names the folder and what it should contain."""
    with pytest.raises(UsageError, match=r"expected SCENARIO/history\.jsonl of a known scenario"):
        audit(tmp_path)


@pytest.mark.usefixtures("chosen")
def test_a_damaged_history_is_reported(tmp_path: Path) -> None:
    """The other scenarios are audited anyway."""
    (tmp_path / NAME).mkdir()
    with Journal(tmp_path / NAME / runner.HISTORY, iter(range(9)).__next__) as journal:
        journal.episode()
    path = tmp_path / NAME / runner.HISTORY
    path.write_bytes(b"damaged\n" + path.read_bytes())

    assert f"{path}:1: " in audit(tmp_path)[0].unjudged
