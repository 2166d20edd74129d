"""Tests of damaged documents: each is a sentence that names the run, and never a traceback."""

from __future__ import annotations

import copy
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main as command
from harness.contract import promises
from harness.core.errors import UsageError
from harness.core.history import History
from harness.core.verdict import VALID, Anomaly, Verdict
from harness.engine.runner import Judgement
from harness.report import folder, judgement, page
from harness.report.judgement import Record
from harness.runs import gate
from harness.runs.gate import Conclusion, NotStoredError, store
from harness.runs.pytest_run import collect
from harness.targets.reference.target import ReferenceTarget
from scenarios.lifecycle.test_threads import LIFECYCLE_THREADS, MEETINGS

LOST = Anomaly(promises.S2, "a message is lost")
WRONG: tuple[Any, ...] = (None, [5])
DEPTH = 3


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a gate with one finding, one valid scenario and one that is unfinished."""
    made = tmp_path / "reports" / "runs" / "20260101T000000-gate-1"
    made.mkdir(parents=True)
    names = ["a", "b", "c"]
    plan = {"what": "gate", "target": "reference", "effort": 1, "seed": 1, "scenarios": names}
    untried = {"promises": ["S2"], "families": {"S": "session store"}}
    declared = {"declared": {"c": untried}, "began_s": 1.0, "chosen": names}
    versions = {"version": "0.2.0", "commit": "", "python": "3"}
    origin = {"origin": {**versions, "machine": {"system": "Linux"}}}
    folder.write_json(made / folder.PLAN, {**plan, **declared, **origin})
    records = [
        Record(name, "model", ("S2",), verdict, 2, 5, "digest", 1.0, families={"S": "sessions"})
        for name, verdict in {"a": Verdict((LOST,)), "b": VALID}.items()
    ]
    store(
        Conclusion("reference", 1, made, 3.0, records, {}, ["c"], {}, {"k": True}, {"c": untried})
    )
    return made


def damaged(document: Any, depth: int = DEPTH) -> Iterator[Any]:
    """The document with each value of it, in turn, missing or of another type."""
    keys: list[Any] = []
    if depth and isinstance(document, dict):
        keys = list(document)
    elif depth and isinstance(document, list):
        keys = list(range(min(1, len(document))))
    for key in keys:
        lacking = copy.copy(document)
        del lacking[key]
        yield lacking
        for value in (*WRONG, *damaged(document[key], depth - 1)):
            other = copy.copy(document)
            other[key] = value
            yield other


@pytest.mark.parametrize("name", [folder.PLAN, folder.VERDICT])
@pytest.mark.parametrize("what", ["ci", "diff", "merge", "index"])
def test_wrong_shape_is_no_internal_error(
    name: str, what: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever value of a run's document is wrong: the exit code is no failure of the harness."""
    arguments = {
        "ci": ["ci", run, "--comment", tmp_path / "comment.md"],
        "diff": ["diff", run, run],
        "merge": ["merge", run, "--reports", tmp_path / "merged", "--keep", "1"],
        "index": [],
    }[what]
    document = folder.read_json(run / name)
    tries = list(damaged(document))
    for number, other in enumerate(tries):
        (run / name).write_text(json.dumps(other), encoding="utf-8")
        if arguments:
            code = command.run_command([str(argument) for argument in arguments])
            assert code in (0, 1, 2, 254), (number, other, capsys.readouterr().err)
        else:
            assert run.name in page.render_index(run.parents[1])
    assert len(tries) > 30


@pytest.mark.parametrize(
    ("notes", "named"),
    [
        ({}, "KeyError"),
        ({"finding": {}}, "KeyError"),
        ({"finding": 5}, "TypeError"),
        ({"finding": {"choices": 5}}, "TypeError"),
    ],
)
def test_damaged_schedule_is_a_usage_error(
    notes: dict[str, Any], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A stored schedule that cannot be read names its file, and what is wrong with it."""
    place = tmp_path / LIFECYCLE_THREADS.name
    place.mkdir()
    judged = Judgement(LIFECYCLE_THREADS, Verdict((LOST,)), 1, 1, "digest", (History(),))
    judgement.store(judged, ReferenceTarget(), 7, 1.0, place)
    document = folder.read_json(place / folder.FAILURE)
    folder.write_json(place / folder.FAILURE, {**document, "notes": notes})

    assert command.run_command(["replay", str(place)]) == 254
    said = capsys.readouterr().err
    assert f"{place / folder.FAILURE}: expected a stored schedule; it is damaged: {named}" in said


def test_unknown_program_names_the_known_ones() -> None:
    """A stored failure may name a program that is gone."""
    finding = {"kind": "LockCycle", "message": "a cycle"}
    failed = History((), notes={"program": "gone", "finding": finding})

    with pytest.raises(UsageError, match="unknown program 'gone'; known: "):
        MEETINGS.judge(failed)


def test_full_disk_prints_the_verdict_it_has(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The proof stands, the path is named, and nothing half written is left or pointed to."""
    (run / page.PAGE).unlink()
    record = Record("a", "model", ("S2",), Verdict((LOST,)), 2, 5, "digest", 1.0)
    conclusion = Conclusion("reference", 1, run, 3.0, [record])

    def full(path: Path, *_: object, **__: object) -> None:
        path.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(NotStoredError, match=f"{run}/verdict.json") as raised:
        gate.store(conclusion)

    def fail(*_: object, **__: object) -> None:
        raise raised.value

    monkeypatch.setattr(command.cli, "main", fail)
    assert command.run_command(["gate"]) == 1
    printed = capsys.readouterr()
    assert "a message is lost" in printed.out
    assert "invalid · 3 s" in printed.out
    assert "page:" not in printed.out  # it was not written
    assert f"No space left on device: '{run}/verdict.json'" in printed.err
    assert not list(run.glob(".verdict*"))


def test_empty_reason_of_a_failure_is_said(run: Path) -> None:
    """A full disk leaves a file without its text."""
    (run / "c").mkdir()
    (run / "c" / folder.BROKEN).touch()

    broken = collect(["c"], run, None).broken

    assert broken == {"c": "the reason could not be written; the disk may be full"}
