"""Tests of what changed between two runs: new, mended, still broken, no longer tried."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main as command
from harness.contract import promises
from harness.core.errors import UsageError
from harness.core.verdict import VALID, Anomaly, ExpectationCount, Verdict
from harness.report import folder
from harness.report.judgement import Record
from harness.runs.accepted import Accepted, Sorted
from harness.runs.differences import compare, read_run
from harness.runs.gate import Conclusion, since, store

LOST = Anomaly(promises.S2, "a message is lost after 3 turns")
LOST_AGAIN = Anomaly(promises.S2, "a message is lost after 17 turns")
BACK = Anomaly(promises.S6, "a removed message is back")
UNMET = Verdict(expectations=(ExpectationCount("restarts", 0),))


def conclusion(run: Path, verdicts: Mapping[str, Verdict], **more: Any) -> Conclusion:
    """The conclusion of a gate whose scenarios came to these verdicts."""
    records = [
        Record(n, "model", ("S2",), verdict, 2, 5, "", 0.0) for n, verdict in verdicts.items()
    ]
    return Conclusion("toy", 1, run, 4.0, records, **more)


def gate_run(run: Path, verdicts: Mapping[str, Verdict]) -> Path:
    """The run folder of such a gate, below runs/."""
    path = run.parent / "runs" / run.name
    path.mkdir(parents=True)
    folder.write_json(path / folder.PLAN, {"target": "toy", "seed": 1, "scenarios": list(verdicts)})
    store(conclusion(path, verdicts))
    return path


def anomalies(*found: Anomaly) -> Verdict:
    return Verdict(found)


@pytest.mark.parametrize(
    ("before", "after", "changed", "code"),
    [
        ({"a": VALID}, {"a": VALID}, {}, 0),
        ({"a": VALID}, {"a": anomalies(LOST)}, {"new": 1}, 1),
        ({"a": anomalies(LOST)}, {"a": anomalies(LOST_AGAIN)}, {"still_broken": 1}, 0),
        ({"a": anomalies(LOST)}, {"a": VALID}, {"mended": 1}, 0),
        ({"a": anomalies(LOST)}, {"a": anomalies(BACK)}, {"mended": 1, "new": 1}, 1),
        ({"a": anomalies(LOST)}, {"b": VALID}, {"no_longer_tried": 1, "no_longer_judged": 1}, 2),
        ({"a": anomalies(LOST)}, {"a": UNMET}, {"no_longer_tried": 1, "no_longer_judged": 1}, 2),
        (
            {"a": anomalies(LOST), "b": anomalies(LOST)},
            {"a": VALID, "b": UNMET},
            {"no_longer_tried": 1, "no_longer_judged": 1},
            2,
        ),
        ({"a": VALID, "b": VALID}, {"a": VALID}, {"no_longer_judged": 1}, 2),
        ({"a": VALID}, {"a": Verdict((LOST,), unknowns=("cut short",))}, {"new": 1}, 1),
        ({}, {"b": anomalies(LOST)}, {"new": 1}, 1),
    ],
)
def test_findings_are_sorted_by_signature(
    before: Mapping[str, Verdict],
    after: Mapping[str, Verdict],
    changed: Mapping[str, int],
    code: int,
    tmp_path: Path,
) -> None:
    """Only a scenario that was judged wholly shows that a finding is mended."""
    difference = compare(
        read_run(gate_run(tmp_path / "1", before)), read_run(gate_run(tmp_path / "2", after))
    )

    document = difference.to_json()
    kinds = ("new", "mended", "still_broken", "no_longer_tried", "no_longer_judged")
    assert {kind: len(document[kind]) for kind in kinds if document[kind]} == changed
    assert document["exit_code"] == code


def test_diff_prints_findings_and_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The new finding with its scenario, the counts, and operations side by side."""
    earlier = gate_run(tmp_path / "1", {"a": anomalies(LOST)})
    later = gate_run(tmp_path / "2", {"a": anomalies(BACK), "b": VALID})

    assert command.run_command(["diff", str(earlier), str(later)]) == 1
    out = capsys.readouterr().out
    assert "NEW: S6 -: a removed message is back (a)" in out
    assert "mended: S2 -: a message is lost after turns (a)" in out
    assert "1 new, 1 mended, 0 still broken, 0 no longer tried since 1" in out
    (row,) = [line for line in out.splitlines() if line.startswith("| operations")]
    assert [cell.strip() for cell in row.split("|")[2:5]] == ["5", "10", "2.00"]


def test_killed_run_settles_nothing(tmp_path: Path) -> None:
    """Its finished scenarios are read; exit code 2 says that there is no conclusion."""
    earlier = gate_run(tmp_path / "1", {"a": VALID})
    later = gate_run(tmp_path / "2", {"a": VALID})
    (later / folder.VERDICT).unlink()
    (later / "a").mkdir()
    record = Record("a", "model", ("S2",), VALID, 1, 1, "", 0.0)
    folder.write_json(later / "a" / folder.VERDICT, record.to_json())

    difference = compare(read_run(earlier), read_run(later))
    assert difference.later.judged == {"a": "valid"}
    assert difference.exit_code == 2


def test_surviving_bug_is_a_finding_of_a_proof(tmp_path: Path) -> None:
    """A bug that is no longer detected is new; a gate is no proof."""
    runs = []
    for number, detected in enumerate((True, False)):
        run = tmp_path / f"prove-{number}"
        run.mkdir()
        row = {"bug": "b", "promise": "S2", "detected": detected, "seconds_to_detect": 1.0}
        folder.write_json(run / folder.PLAN, {"target": "known bugs"})
        folder.write_json(run / folder.VERDICT, {"bugs": [row]})
        runs.append(read_run(run))

    assert [finding.signature for finding in compare(*runs).new] == ["b is not detected"]
    with pytest.raises(UsageError, match="a proof compares with a proof only"):
        compare(runs[0], read_run(gate_run(tmp_path / "1", {"a": VALID})))


@pytest.mark.parametrize("text", [None, '{"scenarios": [{}]}'])
def test_folder_without_a_run_is_refused(text: str | None, tmp_path: Path) -> None:
    """The message names the folder."""
    if text is not None:
        (tmp_path / folder.PLAN).write_text("{}", encoding="utf-8")
        (tmp_path / folder.VERDICT).write_text(text, encoding="utf-8")

    with pytest.raises(UsageError, match=str(tmp_path)):
        read_run(tmp_path)


def test_findings_of_the_earlier_run_are_known(tmp_path: Path) -> None:
    """The gate is red for the other one only, and reports the mended one."""
    earlier = read_run(gate_run(tmp_path / "1", {"a": anomalies(LOST), "b": anomalies(BACK)}))

    same = since(conclusion(tmp_path / "2", {"a": anomalies(LOST_AGAIN), "b": VALID}), earlier)
    assert (same.word, same.exit_code) == ("valid", 0)
    assert same.to_json()["since"]["mended"][0]["promise"] == "S6"

    other = Anomaly(promises.S1, "a save is torn")
    worse = since(conclusion(tmp_path / "3", {"a": anomalies(LOST, other), "b": VALID}), earlier)
    assert worse.exit_code == 1
    assert [anomaly.promise.id for anomaly in worse.verdict.anomalies] == ["S1"]


def test_accepted_finding_stays_known_since_a_run(tmp_path: Path) -> None:
    """What a file accepts and the earlier run lacks does not make the gate red."""
    earlier = read_run(gate_run(tmp_path / "1", {"a": VALID}))
    now = conclusion(tmp_path / "2", {"a": anomalies(LOST)})
    known = Sorted(known=[Accepted("toy", "S2", LOST.signature, "its design")])

    assert since(replace(now, findings=known), earlier).exit_code == 0


def test_scenario_skipped_since_a_run_is_unknown(tmp_path: Path) -> None:
    """A target that lost an ability is not green."""
    earlier = read_run(gate_run(tmp_path / "1", {"a": VALID, "b": VALID}))
    now = conclusion(tmp_path / "2", {"a": VALID}, skipped={"b": "the target cannot do it"})

    assert since(now, earlier).exit_code == 2


@pytest.mark.parametrize(
    ("plan", "document", "word", "figure"),
    [
        (
            {"scenarios": ["soak-churn"]},
            {
                "conclusion": "invalid",
                "verdict": Verdict((LOST,)).to_json(),
                "totals": {"operations": 7},
                "costs": {"rss_bytes": 9.0},
            },
            "invalid",
            ("costs: rss_bytes", 9.0),
        ),
        (
            {},
            Record("install-days", "soak", (), Verdict((LOST,)), 1, 7, "", 0.0).to_json(),
            "invalid",
            ("operations", 7.0),
        ),
        ({}, {"score": {"share": 0.5}, "mutants": []}, "measured", ("score: share", 0.5)),
        ({}, {"bugs": [], "missing": ["b"]}, "unknown", ("bugs", 0.0)),
    ],
    ids=["soak", "days", "mutants", "merged proof"],
)
def test_every_kind_of_run_is_read(
    plan: dict[str, Any],
    document: dict[str, Any],
    word: str,
    figure: tuple[str, float],
    tmp_path: Path,
) -> None:
    """Its conclusion, its findings and its figures."""
    folder.write_json(tmp_path / folder.PLAN, plan)
    folder.write_json(tmp_path / folder.VERDICT, document)

    run = read_run(tmp_path)
    assert run.conclusion == word
    assert run.figures[figure[0]] == figure[1]
    assert len(run.findings) == (word == "invalid")


def test_profiles_are_compared_by_figures(tmp_path: Path) -> None:
    """A profile has no verdict, and is a conclusion all the same."""
    folder.write_json(tmp_path / folder.PLAN, {"target": "toy"})
    latency = [{"name": "event", "p50": 1.0, "p99": 2.0, "worst": 3.0}]
    folder.write_json(tmp_path / "profile.json", {"latency": latency, "memory": {"MiB": 4}})

    run = read_run(tmp_path)
    assert run.figures["latency: event p99"] == 2.0
    assert run.figures["memory: MiB"] == 4.0
    assert compare(run, run).exit_code == 0


def test_comparisons_are_compared_by_figures(tmp_path: Path) -> None:
    """Medians, and the least of each count; a run that judges no scenario has no such figures."""
    folder.write_json(tmp_path / folder.PLAN, {"target": "a and b"})
    row = {"figure": "search, ms", "a": 1.0, "b": 2.0}
    count = {"figure": "SQL statements a turn", "a": [20.0, 20.0], "b": [22.0, 23.0]}
    folder.write_json(tmp_path / "compare.json", {"figures": [row], "counts": [count]})

    run = read_run(tmp_path)
    assert run.figures == {
        "search, ms: A": 1.0,
        "search, ms: B": 2.0,
        "SQL statements a turn: A": 20.0,
        "SQL statements a turn: B": 22.0,
    }
    assert compare(run, run).exit_code == 0


def test_diff_says_why_nothing_is_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2 always has a line: what was not judged, another target, a run that was killed."""
    earlier = gate_run(tmp_path / "1", {"a": VALID})
    later = gate_run(tmp_path / "2", {"b": VALID})
    folder.write_json(later / folder.PLAN, {"target": "other", "seed": 1, "scenarios": ["b"]})
    (later / folder.VERDICT).unlink()

    assert command.run_command(["diff", str(earlier), str(later)]) == 2
    out = capsys.readouterr().out
    assert "no longer judged: a (valid, now not tried)" in out
    assert "another target: toy, now other" in out
    assert "no conclusion: 2 (it did not end)" in out
    assert "1 scenarios no longer judged since 1" in out
