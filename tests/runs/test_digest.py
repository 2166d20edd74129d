"""Tests of the digest of a night: what is new, and what moved."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from harness.contract import promises
from harness.core.errors import UsageError
from harness.core.verdict import VALID, Anomaly, Verdict
from harness.report import folder
from harness.report.judgement import Record
from harness.runs.digest import STAMP, digest, exit_code, store
from harness.runs.gate import Conclusion
from harness.runs.gate import store as store_gate

NOW_S = time.mktime(time.strptime("20261128T060000", STAMP))
DAY_S = 86_400.0
LOST = Verdict((Anomaly(promises.S2, "a message is <b>lost</b>"),))


def gate(
    reports: Path, stamp: str, verdict: Verdict, operations: int = 100, what: str = "gate"
) -> Path:
    """A run that began at this time."""
    run = reports / "runs" / f"{stamp}-{what}-1"
    run.mkdir(parents=True)
    folder.write_json(run / folder.PLAN, {"what": what, "target": "toy", "scenarios": ["a"]})
    record = Record("a", "model", ("S2",), verdict, 1, operations, "", 0.0)
    store_gate(Conclusion("toy", 1, run, 1.0, [record]))
    return run


def test_night_is_compared_with_the_night_before(tmp_path: Path) -> None:
    """The new finding, and the figure that moved; older runs are no part of the night."""
    gate(tmp_path, "20261126T020000", LOST)
    gate(tmp_path, "20261127T020000", VALID)
    gate(tmp_path, "20261128T020000", LOST, 300)
    (night,) = nights = digest(tmp_path, DAY_S, NOW_S)

    assert night.since is not None
    assert night.since.earlier.name == "20261127T020000-gate-1"
    assert [finding.promise for finding in night.new] == ["S2"]
    assert "operations: 100, now 300" in night.moved
    assert exit_code(nights) == 1


def test_known_finding_is_no_news(tmp_path: Path) -> None:
    """A finding of the night before is still broken, and the digest is green."""
    gate(tmp_path, "20261127T020000", LOST)
    gate(tmp_path, "20261128T020000", LOST)
    (night,) = digest(tmp_path, DAY_S, NOW_S)

    assert night.changes == ["still broken: S2 -: a message is <b>lost</b> (a)"]
    assert night.moved == []
    assert exit_code([night]) == 0


def test_first_night_has_only_news(tmp_path: Path) -> None:
    """Runs of another kind are no predecessor."""
    gate(tmp_path, "20261127T020000", LOST, what="load")
    gate(tmp_path, "20261128T020000", LOST)
    (night,) = digest(tmp_path, DAY_S, NOW_S)

    assert night.since is None
    assert len(night.new) == 1


def test_killed_run_is_unsettled_and_no_predecessor(tmp_path: Path) -> None:
    """The night after is compared with the last run that came to a conclusion."""
    gate(tmp_path, "20261126T020000", LOST)
    killed = gate(tmp_path, "20261127T020000", VALID)
    (killed / folder.VERDICT).unlink()
    assert exit_code(digest(tmp_path, 2 * DAY_S, NOW_S)) == 2

    gate(tmp_path, "20261128T020000", LOST)
    *_, night = digest(tmp_path, DAY_S, NOW_S)
    assert night.new == []


def test_page_escapes_what_a_target_returned(tmp_path: Path) -> None:
    """The page links the run; the text is Markdown with the finding as code."""
    gate(tmp_path, "20261128T020000", LOST)
    page = store(tmp_path, digest(tmp_path, DAY_S, NOW_S)).read_text(encoding="utf-8")

    assert "a message is &lt;b&gt;lost&lt;/b&gt;" in page
    assert 'href="runs/20261128T020000-gate-1/report.html"' in page
    assert "- `NEW: S2" in (tmp_path / "digest.md").read_text(encoding="utf-8")


def test_night_without_runs_is_refused(tmp_path: Path) -> None:
    gate(tmp_path, "20261126T020000", VALID)
    (tmp_path / "runs" / "by-hand").mkdir()
    folder.write_json(tmp_path / "runs" / "by-hand" / folder.PLAN, {"what": "gate"})

    with pytest.raises(UsageError, match="expected a run of the last 24 hours"):
        digest(tmp_path, DAY_S, NOW_S)
