"""Tests of shares of mutation scores and of audits that are put together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.cli import main as command
from harness.core.errors import UsageError
from harness.report import folder
from harness.runs.merging_counts import merge_audits, merge_mutants


def mutants(tmp_path: Path, share: tuple[int, int], *statuses: str, **more: Any) -> Path:
    """The run of a share with mutants of these results."""
    run = folder.create(tmp_path, "mutate", 7, {"target": "mutants"})
    rows = [{"file": "a.py", "line": n, "status": s, "seconds": 2} for n, s in enumerate(statuses)]
    plan = {"seed": 7, "source": "x", "effort": 1.0, "deep_effort": 1.0, "files": "all", "all": 9}
    document = {**plan, "share": list(share), "mutants": rows, "score": {}, **more}
    folder.write_json(run / folder.VERDICT, document)
    return run


def audit(tmp_path: Path, share: tuple[int, int], scenario: str, **more: Any) -> Path:
    """The record of a share that audited one scenario."""
    file = tmp_path / f"{share[0]}-{scenario}.json"
    row = {"scenario": scenario, "changed": 10, "noticed": 9, "share": 0.9}
    document = {"seed": 7, "per_field": 3, "scenarios": [row], "share": list(share), **more}
    folder.write_json(file, document)
    return file


def test_shares_of_mutants_become_one_score(tmp_path: Path) -> None:
    one = mutants(tmp_path, (1, 2), "detected", "survived")
    two = mutants(tmp_path, (2, 2), "detected", "detected")
    document, run = merge_mutants([one, two], tmp_path / "merged", 20)

    assert document["score"]["share"] == 0.75
    assert document["missing"] == []
    assert len(folder.read_json(run / folder.VERDICT)["mutants"]) == 4


def test_shares_of_an_audit_become_one_score(tmp_path: Path) -> None:
    parts = [audit(tmp_path, (1, 3), "turns"), audit(tmp_path, (3, 3), "days")]
    document = merge_audits(parts)

    assert (document["noticed"], document["changed"]) == (18, 20)
    assert [row["scenario"] for row in document["scenarios"]] == ["days", "turns"]
    assert document["missing"] == ["2/3"]


def test_what_is_not_of_one_whole_is_refused(tmp_path: Path) -> None:
    """Another seed, another number of shares, the same share twice, another kind of run."""
    one = mutants(tmp_path, (1, 2), "detected")
    for wrong, reason in (
        (mutants(tmp_path, (2, 2), "detected", seed=8), "seed 8; expected 7"),
        (mutants(tmp_path, (2, 3), "detected"), "a share of 3; expected one of 2"),
        (mutants(tmp_path, (1, 2), "detected"), "both are share 1/2"),
    ):
        with pytest.raises(UsageError, match=reason):
            merge_mutants([one, wrong], tmp_path / "merged", 20)
    first = audit(tmp_path, (1, 2), "turns")
    with pytest.raises(UsageError, match="per_field 1; expected 3"):
        merge_audits([first, audit(tmp_path, (2, 2), "days", per_field=1)])
    other = tmp_path / "other.json"
    folder.write_json(other, {"scenarios": []})
    with pytest.raises(UsageError, match="expected a file of `harness audit --record`"):
        merge_audits([other])


@pytest.mark.parametrize(
    ("statuses", "shares", "code"),
    [(["detected"], (1, 1), 0), (["survived"], (1, 1), 1), (["detected"], (1, 2), 2)],
)
def test_merge_exits_by_score_and_gaps(
    statuses: list[str], shares: tuple[int, int], code: int, tmp_path: Path
) -> None:
    run = mutants(tmp_path, shares, *statuses)

    merged = ["merge", str(run), "--reports", str(tmp_path / "merged")]
    assert command.run_command(merged) == code


def test_merge_prints_audits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [audit(tmp_path, (1, 2), "turns"), audit(tmp_path, (2, 2), "days")]

    assert command.run_command(["merge", *map(str, files)]) == 0
    assert "18 of 20 changes noticed" in capsys.readouterr().out
