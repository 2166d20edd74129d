"""Tests of which release keeps which promise, from stored runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.cli.main import cli
from harness.contract import promises
from harness.core.errors import UsageError
from harness.core.verdict import VALID, Anomaly, ExpectationCount, Verdict
from harness.report import folder
from harness.report.judgement import Record
from harness.runs.gate import Conclusion, store
from harness.runs.releases import (
    BROKEN,
    KEPT,
    NOT_ASKED,
    UNKNOWN,
    finding_rows,
    names,
    promise_rows,
    read_releases,
)

LOST = Anomaly(promises.S2, "a message is lost", also=(promises.S15,))
UNMET = Verdict(expectations=(ExpectationCount("restarts", 0),))


def gate_run(path: Path, target: str, **verdicts: Verdict) -> Path:
    """A run in which each scenario, named by the promise that it states, came to a verdict."""
    path.mkdir(parents=True)
    plan = {"what": "gate", "target": target, "seed": 1, "scenarios": list(verdicts)}
    folder.write_json(path / folder.PLAN, plan)
    rows = [Record(n, "model", (n,), v, 2, 5, "", 0.0) for n, v in verdicts.items()]
    store(Conclusion(target, 1, path, 4.0, rows))
    return path


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Two runs of an old release, and one of a new one."""
    return [
        gate_run(tmp_path / "runs" / "1", "p==1.0", S2=Verdict((LOST,)), W10=VALID),
        gate_run(tmp_path / "runs" / "2", "p==1.0", W2=VALID),
        gate_run(tmp_path / "runs" / "3", "p==2.0", S2=VALID, W10=UNMET),
    ]


def test_promises_of_releases_stand_side_by_side(runs: list[Path]) -> None:
    """A promise that only an anomaly names is a row too, and rows are in the contract's order."""
    assert promise_rows(read_releases(runs)) == [
        ("S2", BROKEN, KEPT),
        ("S15", BROKEN, NOT_ASKED),
        ("W2", KEPT, NOT_ASKED),
        ("W10", KEPT, UNKNOWN),
    ]


def test_findings_of_releases_stand_side_by_side(runs: list[Path]) -> None:
    assert finding_rows(read_releases(runs)) == [(LOST.signature, "x", "")]


def test_command_prints_versions_and_writes_json(runs: list[Path]) -> None:
    arguments = ["releases", *map(str, runs), "--json"]
    result = CliRunner().invoke(cli, arguments, standalone_mode=False)
    document = json.loads(result.stdout)
    assert document["targets"] == ["p==1.0", "p==2.0"]
    assert document["promises"]["S2"] == [BROKEN, KEPT]
    assert document["findings"] == {LOST.signature: [True, False]}


def test_other_targets_keep_their_names() -> None:
    assert names(["p==1.0", "q==1.0"]) == ["p==1.0", "q==1.0"]


@pytest.mark.parametrize("plan", [None, {"what": "soak", "target": "p==1.0"}])
def test_other_folder_is_a_usage_error(tmp_path: Path, plan: dict[str, str] | None) -> None:
    if plan:
        folder.write_json(tmp_path / folder.PLAN, plan)
    with pytest.raises(UsageError, match=r"expected (a run folder|the run of a gate)"):
        read_releases([tmp_path])
