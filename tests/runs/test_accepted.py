"""Tests of accepted findings: known, new and mended ones, and the proposed file."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from harness.contract import promises
from harness.core.contract import Promise
from harness.core.errors import UsageError
from harness.core.verdict import Anomaly, ExpectationCount, Verdict
from harness.report.judgement import Record
from harness.runs.accepted import Accepted, Sorted, proposed, read_accepted
from harness.runs.accepted import sort as sort_by_trials

TODAY = date(2026, 11, 28)
TARGET = "toy@/some/folder"


def record(*anomalies: Anomaly, tried: tuple[Promise, ...] = (promises.S2, promises.S6)) -> Record:
    ids = tuple(promise.id for promise in tried)
    return Record("toy", "model", ids, Verdict(anomalies), 1, 1, "", 0.0, ())


TRIALS = {"S2": ["toy", "other"], "S6": ["toy"]}
LOST = Anomaly(promises.S2, "a message is lost")
BACK = Anomaly(promises.S6, "a removed message is back")


def sort(records: list[Record], accepted: list[Accepted], target: str, today: date) -> Sorted:
    """Sort where `toy` and `other` put S2 on trial, and `toy` alone S6."""
    return sort_by_trials(records, accepted, target, today, TRIALS)


def accepted_file(folder: Path, *anomalies: Anomaly, more: str = "") -> Path:
    path = folder / "accepted.toml"
    entries = [
        f"[[finding]]\ntarget = 'toy@*'\npromise = '{anomaly.promise.id}'\n"
        f"signature = '{anomaly.signature}'\nreason = 'its design'\n{more}"
        for anomaly in anomalies
    ]
    path.write_text("\n".join(entries), encoding="utf-8")
    return path


def test_known_new_and_mended_findings_are_distinguished(tmp_path: Path) -> None:
    """One is accepted and seen, one is accepted and gone, one is seen only."""
    accepted = read_accepted(accepted_file(tmp_path, LOST, Anomaly(promises.S6, "gone")))

    findings = sort([record(LOST, BACK)], accepted, TARGET, TODAY)

    assert [known.signature for known in findings.known] == [LOST.signature]
    assert [anomaly.signature for anomaly in findings.new] == [BACK.signature]
    assert [mended.promise for mended in findings.mended] == ["S6"]


def test_finding_of_an_unasked_promise_is_not_mended(tmp_path: Path) -> None:
    """Nothing is known about it."""
    accepted = read_accepted(accepted_file(tmp_path, LOST))

    findings = sort([record(tried=(promises.S6,))], accepted, TARGET, TODAY)

    assert not findings.mended
    assert findings.unseen == {LOST.signature: ["other"]}


def test_finding_is_mended_by_all_scenarios_only(tmp_path: Path) -> None:
    """Those of its promise on this target, each with a whole verdict."""
    accepted = read_accepted(accepted_file(tmp_path, LOST))
    toy, other = record(), replace(record(), scenario="other")
    unmet = Verdict(expectations=(ExpectationCount("a restart", 0),))
    unknown = Verdict(unknowns=("why",))

    def mended(*records: Record) -> list[str]:
        findings = sort(list(records), accepted, TARGET, TODAY)
        return [finding.signature for finding in findings.mended]

    assert mended(toy, other) == [LOST.signature]
    assert not mended(toy)
    assert not mended(other)
    assert not mended(toy, replace(other, verdict=unmet))
    assert not mended(toy, replace(other, verdict=unknown))


def test_finding_without_trials_is_not_mended(tmp_path: Path) -> None:
    """No scenario can say that it is gone."""
    accepted = read_accepted(accepted_file(tmp_path, Anomaly(promises.S9, "gone")))

    assert not sort([record()], accepted, TARGET, TODAY).mended


@pytest.mark.parametrize("more", ["until = 2026-11-27\n", "since = 2026-11-29\n"])
def test_finding_outside_its_dates_is_new(tmp_path: Path, more: str) -> None:
    """Behind `until`, and before `since`."""
    accepted = read_accepted(accepted_file(tmp_path, LOST, more=more))

    findings = sort([record(LOST)], accepted, TARGET, TODAY)

    assert [anomaly.signature for anomaly in findings.new] == [LOST.signature]


def test_proposed_file_accepts_all_and_keeps_reasons(tmp_path: Path) -> None:
    """It is read again, and then nothing is new."""
    accepted = read_accepted(accepted_file(tmp_path, LOST))
    path = tmp_path / "proposed.toml"
    path.write_text(proposed([record(LOST, BACK)], accepted, TARGET, TODAY), encoding="utf-8")

    again = read_accepted(path)

    assert not sort([record(LOST, BACK)], again, "toy@/another", TODAY).new
    assert {"its design"} < {finding.reason for finding in again}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[[finding]]\ntarget = 'toy'\n", "promise"),
        ("[[finding]\n", "expected a TOML file"),
        ("[[findings]]\n", "unknown key 'findings'"),
        ("finding = 5\n", "expected tables"),
        ("finding = ['x']\n", "expected a table"),
        (
            "[[finding]]\ntarget='t'\npromise='S2'\nsignature='s'\nreason='r'\nuntil='soon'\n",
            "until",
        ),
    ],
)
def test_malformed_file_names_what_is_wrong(tmp_path: Path, text: str, named: str) -> None:
    """The entry and its key."""
    path = tmp_path / "accepted.toml"
    path.write_text(text, encoding="utf-8")

    with pytest.raises(UsageError, match=named):
        read_accepted(path)
