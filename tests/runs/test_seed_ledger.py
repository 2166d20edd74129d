"""Tests of the ledger of failing seeds: what failed is kept, and asked first."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.contract import promises
from harness.core.errors import UsageError
from harness.core.verdict import VALID, Anomaly, Verdict
from harness.report.judgement import Record
from harness.runs import gate, seed_ledger
from harness.runs.gate import Conclusion, Gate
from harness.runs.pytest_run import Results, Session, no_progress
from harness.runs.seed_ledger import Entry, read_ledger, remember, to_ask

LIFECYCLE = "lifecycle-owners-and-failures"
LOST = Verdict((Anomaly(promises.L12, "a turn committed"),))


def record(name: str = LIFECYCLE, verdict: Verdict = LOST) -> Record:
    reproduce = tuple(f"harness replay {name}/failure.json" for _ in verdict.anomalies)
    return Record(name, "model", ("L12",), verdict, 1, 10, "", 0.0, reproduce)


def entry(seed: int, seen_s: float, name: str = LIFECYCLE, target: str = "reference") -> Entry:
    return Entry(name, seed, 1.0, target, ("L12-0123456789ab",), seen_s)


def test_broken_scenarios_are_remembered_once(tmp_path: Path) -> None:
    """With the ids of their findings; what is valid by now stays."""
    file = tmp_path / "new" / "seeds.jsonl"
    asked = [(7, 1.0, record()), (7, 1.0, record("turns", VALID)), (8, 1.0, record("turns"))]
    remember(file, "reference@/a", asked, 100.0)
    remember(file, "reference@/b", [(7, 1.0, record()), (8, 1.0, record("turns", VALID))], 200.0)

    first, second = read_ledger(file)
    assert (first.scenario, first.seed, first.seen_s, first.target) == (
        *(LIFECYCLE, 7, 200.0),
        "reference@/b",
    )
    assert first.findings[0].startswith("L12-")
    assert (second.scenario, second.seed, second.seen_s) == ("turns", 8, 100.0)


def test_oldest_entries_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seed_ledger, "ENTRIES_MAX", 2)
    for seed in range(4):
        remember(tmp_path / "seeds", "reference", [(seed, 1.0, record())], float(seed))

    assert [entry.seed for entry in read_ledger(tmp_path / "seeds")] == [3, 2]


def test_newest_failing_seeds_are_asked_first() -> None:
    """Of chosen scenarios and this kind of target, and not what the gate asks anyway."""
    entries = [
        entry(1, 10.0),
        entry(2, 30.0, target="reference@/elsewhere"),
        entry(3, 20.0, target="hermes-webui@/a"),
        entry(4, 40.0, name="not-chosen"),
        entry(5, 50.0),
    ]

    asked = to_ask(entries, "reference+a-bug", [LIFECYCLE], (5, 1.0))
    assert list(asked.items()) == [((2, 1.0), [LIFECYCLE]), ((1, 1.0), [LIFECYCLE])]


@pytest.mark.parametrize("line", ["", "{", "[]", '{"scenario": "a"}', '{"seed": "x"}'])
def test_damaged_ledger_is_named_by_line(line: str, tmp_path: Path) -> None:
    file = tmp_path / "seeds.jsonl"
    remember(file, "reference", [(7, 1.0, record())], 1.0)
    file.write_text(file.read_text() + line + "\n", encoding="utf-8")

    with pytest.raises(UsageError, match=r"seeds\.jsonl:2: expected a line of a ledger"):
        read_ledger(file)


# The gate


def judged(
    ledger: Path, monkeypatch: pytest.MonkeyPatch, answers: Mapping[int, Verdict], seed: int
) -> tuple[Conclusion, list[int]]:
    """A gate of one scenario whose verdict depends on the seed, and the seeds it asked in order."""
    asked: list[int] = []

    def session(session: Session, run: Path, *_: Any) -> Results:
        assert run.is_dir()
        asked.append(session.seed)
        records = {name: record(name, answers[session.seed]) for name in session.scenarios}
        return Results(records)

    monkeypatch.setattr(gate, "run_session", session)
    one = Gate(
        *("reference", seed, 180.0, ledger.parent, 1, (LIFECYCLE,)),
        asks_canaries=False,
        ledger=ledger,
    )
    return one.run(no_progress), asked


def test_gate_asks_the_failing_seed_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one seed found, the gate of another seed finds again, until it is mended."""
    ledger = tmp_path / "seeds.jsonl"
    broken = {7: LOST, 8: VALID}

    assert judged(ledger, monkeypatch, broken, 7)[0].word == "invalid"
    conclusion, asked = judged(ledger, monkeypatch, broken, 8)
    assert (conclusion.word, asked) == ("invalid", [7, 8])
    assert conclusion.records[0].reproduce == record().reproduce
    conclusion, asked = judged(ledger, monkeypatch, {7: VALID, 8: VALID}, 8)
    assert (conclusion.word, asked) == ("valid", [7, 8])
    assert [entry.seed for entry in read_ledger(ledger)] == [7]


def test_green_gate_keeps_no_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = tmp_path / "seeds.jsonl"

    assert judged(ledger, monkeypatch, {8: VALID}, 8)[1] == [8]
    assert read_ledger(ledger) == []
