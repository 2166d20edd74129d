"""Tests of reports: run folders, records, tables, JUnit files and stand-alone tests."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import types
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.contract import promises
from harness.contract.promises import SESSION_SERVER
from harness.core.errors import UsageError
from harness.core.history import History, Operation, Outcome
from harness.core.state_rows import StateRow
from harness.core.verdict import VALID, Anomaly, ExpectationCount, Verdict
from harness.engine.runner import Judgement
from harness.engine.suite import choose
from harness.mutation.known_bugs import find_bugs, plant
from harness.mutation.mutants import source_folder
from harness.report import folder, judgement, junit, standalone, summary
from harness.report.judgement import Record
from harness.runs import replay
from harness.runs.gate import trials_of
from harness.runs.pytest_run import Session, run_session
from harness.targets import planted
from harness.targets.reference.target import ReferenceTarget

APPEND = Operation(0, "append", {"text": "x"}, Outcome.OK, 1, 2, result=[1])
FAMILIES = {promise.prefix: promise.family for promise in SESSION_SERVER}
LOST = Anomaly(
    promises.D1,
    "append lost its message",
    (APPEND,),
    also=(promises.D2,),
    expected="[1, 2]",
    observed="[1]",
)


def a_record(verdict: Verdict = VALID, ids: Sequence[str] = ("D1", "L1")) -> Record:
    """A scenario's result."""
    reproduce = ("harness x",)
    return Record(
        "writes", "model", tuple(ids), verdict, 3, 1200, "digest", 1.5, reproduce, FAMILIES
    )


def a_conclusion(*records: Record, **more: Any) -> dict[str, Any]:
    """A gate's conclusion, as it is stored."""
    return {
        "conclusion": "valid",
        "target": "toy",
        "seed": 7,
        "seconds": 1.0,
        "scenarios": [record.to_json() for record in records],
        "skipped": {},
        "unfinished": [],
        "broken": {},
        "canaries": {},
        **more,
    }


# The run folder


def test_a_new_run_folder_has_its_plan(tmp_path: Path) -> None:
    """From its first moment on, and `latest` points to it."""
    first = folder.create(tmp_path, "gate", 7, {"target": "toy"})
    second = folder.create(tmp_path, "gate", 7, {"target": "toy"})

    assert first != second
    assert (tmp_path / "runs" / "latest").resolve() == second
    plan = folder.read_json(second / folder.PLAN)
    assert plan == {"what": "gate", "seed": 7, "target": "toy"}


def test_retain_deletes_the_oldest_runs_only(tmp_path: Path) -> None:
    """Whatever their names; a folder without a plan stays."""
    runs = [folder.create(tmp_path, "gate", seed, {}) for seed in (10, 9, 8, 7)]
    for age, run in enumerate(reversed(runs)):
        os.utime(run / folder.PLAN, ns=(0, 10**18 - age))
    (tmp_path / "runs" / "00-no-run").mkdir()
    folder.retain(tmp_path, 2)

    left = {path.name for path in (tmp_path / "runs").iterdir()}
    assert left == {runs[2].name, runs[3].name, "latest", "00-no-run"}
    assert (tmp_path / "runs" / "latest" / folder.PLAN).exists()


def test_retain_leaves_living_and_failed_runs(tmp_path: Path) -> None:
    """A run that another process writes, and the newest with anomalies, are older than the rest."""
    runs = [folder.create(tmp_path, "gate", seed, {}) for seed in range(5)]
    for age, run in enumerate(reversed(runs)):
        os.utime(run / folder.PLAN, ns=(0, 10**18 - age))
    for run in runs[1:3]:
        folder.write_json(run / folder.VERDICT, {"conclusion": "invalid"})
    with (runs[0] / folder.LOCK).open() as another:
        fcntl.flock(another, fcntl.LOCK_EX)
        folder.retain(tmp_path, 1)
    left = {path.name for path in (tmp_path / "runs").iterdir()}
    assert left == {runs[0].name, runs[2].name, runs[4].name, "latest"}

    folder.retain(tmp_path, 1)
    assert not runs[0].exists()


def test_run_is_held_by_one_process(tmp_path: Path) -> None:
    run = folder.create(tmp_path, "soak", 7, {})
    folder.create(tmp_path, "gate", 7, {})  # releases the first
    with (run / folder.LOCK).open() as another:
        fcntl.flock(another, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="another process is writing this run"):
            folder.hold(run)
    folder.hold(run)


def test_kept_run_survives_the_runs_in_its_block(tmp_path: Path) -> None:
    """A search holds its folder while it makes the runs of its gates."""
    run = folder.create(tmp_path, "bisect", 7, {})
    with folder.kept(run):
        folder.create(tmp_path, "gate", 7, {})
        folder.create(tmp_path, "gate", 8, {})
        folder.retain(tmp_path, 1)
        assert run.exists()
        with pytest.raises(UsageError, match="another process is writing this run"):
            folder.hold(run)

    folder.retain(tmp_path, 1)
    assert not run.exists()


@pytest.mark.parametrize("path", ["file", "file/below"])
def test_unwritable_reports_are_a_usage_error(path: str, tmp_path: Path) -> None:
    """The error names the folder and the reason."""
    (tmp_path / "file").touch()

    with pytest.raises(UsageError, match=f"{path}: cannot write reports there: .+"):
        folder.create(tmp_path / path, "gate", 7, {})


def test_a_file_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk leaves the old version."""
    path = tmp_path / "verdict.json"
    folder.write_json(path, {"validity": "unknown"})

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(OSError, match="No space left"):
        folder.write_json(path, {"validity": "valid"})

    assert folder.read_json(path) == {"validity": "unknown"}


def test_a_lone_surrogate_is_escaped(tmp_path: Path) -> None:
    """A target may return one, and the report is written anyway."""
    folder.write_text(tmp_path / "summary.md", "é \ud800")

    assert (tmp_path / "summary.md").read_text(encoding="utf-8") == "é \\ud800"


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"a": "\xff'])
def test_a_damaged_document_is_named(text: str, tmp_path: Path) -> None:
    """The error names the file."""
    path = tmp_path / "run.json"
    path.write_text(text, encoding="latin-1")

    with pytest.raises(UsageError, match=r"run\.json: damaged: "):
        folder.read_json(path)
    with pytest.raises(UsageError, match="nowhere: No such file"):
        folder.read_json(tmp_path / "nowhere")


# A scenario's record


@pytest.mark.parametrize("anomalies", [(), (LOST,)])
def test_a_record_survives_json(anomalies: tuple[Anomaly, ...]) -> None:
    """The gate reads what a worker stored."""
    record = a_record(Verdict(anomalies, (ExpectationCount("kills", 0),), ("why",)))

    assert Record.from_json(record.to_json()) == record


def test_a_record_of_the_first_version_is_read() -> None:
    """It stored expectations as "assumptions"."""
    record = a_record(Verdict(expectations=(ExpectationCount("kills", 0),)))
    document = record.to_json()
    document["assumptions"] = document.pop("expectations")

    assert Record.from_json(document) == record


def test_a_summary_names_expected_and_observed() -> None:
    """The promises, the operation, expected, observed, the evidence, and the command to replay."""
    verdict = Verdict((LOST,), (ExpectationCount("a kill", 0),), ("why",))

    assert a_record(verdict).summary().splitlines() == [
        "writes: invalid · 1200 operations",
        f"D1: {promises.D1.sentence}",
        f"  also D2: {promises.D2.sentence}",
        "  append lost its message",
        "  expected: [1, 2]",
        "  observed: [1]",
        "    1. append(text='x') -> [1]",
        "  reproduce: harness x",
        "  expectation not met: a kill",
        "  unknown: why",
    ]


def test_summary_shows_a_short_state_only() -> None:
    """The page and the failure file have a long one."""
    short = replace(LOST, state=(StateRow("messages", "()", "('x')"), StateRow("clock", "3", "3")))
    long = replace(LOST, state=(StateRow("messages", "x" * 100, None),))
    many = replace(LOST, state=(StateRow("clock", "3", None),) * 4)

    lines = a_record(Verdict((short,))).summary().splitlines()

    assert lines[6:8] == ["  state: messages: () -> ('x')", "  state: clock: 3"]
    for anomaly in (long, many):
        assert "state:" not in a_record(Verdict((anomaly,))).summary()


# The table


def test_the_table_has_a_row_for_each_family() -> None:
    """With its operations and expectations; families that no record tries are absent."""
    met = Verdict(expectations=(ExpectationCount("a kill", 2), ExpectationCount("a wait", 0)))
    rows = summary.rows([a_record(ids=("D1",)), a_record(met, ids=("S1", "D2"))])

    assert [row[0] for row in rows] == ["D · state.db", "S · session store"]
    assert [row[1:] for row in rows] == [
        ("2 of 2", "2 of 2", "2,400", "6", "1 of 2", "unknown"),
        ("1 of 1", "1 of 1", "1,200", "3", "1 of 2", "unknown"),
    ]


def test_a_row_is_unknown_without_all_its_scenarios() -> None:
    """A promise that only an unfinished scenario puts on trial is counted as not tried."""
    late = {"promises": ["D1", "D2", "S1"], "families": FAMILIES}

    rows = summary.rows([a_record(ids=("D1",))], {"late-one": late})

    assert [(row[0][0], row[1], row[2], row[-1]) for row in rows] == [
        ("D", "1 of 2", "1 of 2", "unknown"),
        ("S", "0 of 1", "0 of 1", "unknown"),
    ]


def test_an_anomaly_counts_in_every_family_it_breaks() -> None:
    """C5 also breaks W7: both rows are invalid, although the scenario declares only C5."""
    both = Anomaly(promises.C5, "an event reached a foreign stream", (APPEND,), also=(promises.W7,))

    rows = summary.rows([a_record(Verdict((both,)), ids=("C5",))])

    assert {row[0][0]: row[-1] for row in rows} == {"C": "invalid", "W": "invalid"}


@pytest.mark.parametrize("letter", sorted({promise.prefix for promise in SESSION_SERVER}))
def test_a_record_of_one_family_fills_one_row(letter: str) -> None:
    """Each family of the contract can have a row of its own."""
    (row,) = summary.rows([a_record(ids=(f"{letter}1",))])

    assert row[0].startswith(f"{letter} · ")
    assert row[-1] == "valid"


def test_an_anomaly_counts_in_its_promises_family() -> None:
    """The scenario ended early, so its other families are unknown, neither valid nor invalid."""
    verdicts = {row[0][0]: row[-1] for row in summary.rows([a_record(Verdict((LOST,)))])}

    assert verdicts == {"D": "invalid", "L": "unknown"}


def test_the_markdown_names_everything_without_verdict() -> None:
    """After the table and the failures: skipped, unfinished, broken, and undetected canaries."""
    text = summary.markdown(
        a_conclusion(
            a_record(Verdict((LOST,))),
            skipped={"skipped-one": "the target cannot do it"},
            unfinished=["late-one"],
            broken={"broken-one": "OSError: full"},
            canaries={"canary-one": "SURVIVED"},
        )
    )

    lines = text.splitlines()
    assert "| D · state.db | 1 of 1 | 1 of 1 | 1,200 | 3 | 0 of 0 | invalid |" in lines
    assert a_record(Verdict((LOST,))).summary() in text
    for name in ("skipped-one", "late-one", "broken-one", "canary-one"):
        assert any(name in line for line in lines if line.startswith("- "))


# JUnit


@given(st.text(), st.text())
def test_junit_is_well_formed_for_any_text(message: str, error: str) -> None:
    """Targets may return characters that XML cannot contain."""
    lost = Anomaly(promises.D1, message, (APPEND,))
    text = junit.render(a_conclusion(a_record(Verdict((lost,))), broken={"a": error}))

    suite = ET.fromstring(text.encode())  # noqa: S314  a document of this test
    assert suite.get("tests") == "2"


def test_a_junit_failure_names_expected_and_observed() -> None:
    """In its message, which CI systems show in one line."""
    suite = ET.fromstring(junit.render(a_conclusion(a_record(Verdict((LOST,))))))  # noqa: S314  as above

    (failure,) = suite.iter("failure")
    assert failure.get("message") == (
        "D1 broken: append lost its message; expected [1, 2]; observed [1]"
    )


def test_junit_separates_failures_from_errors() -> None:
    """Invalid is a failure; unknown, unfinished and broken are errors; skipped is neither."""
    conclusion = a_conclusion(
        a_record(),
        a_record(Verdict((LOST,))),
        a_record(Verdict(unknowns=("why",))),
        skipped={"a": "the target cannot do it"},
        unfinished=["b"],
        broken={"c": "why"},
    )
    suite = ET.fromstring(junit.render(conclusion))  # noqa: S314  a document of this test

    counts = {name: suite.get(name) for name in ("tests", "failures", "errors")}
    assert counts == {"tests": "6", "failures": "1", "errors": "3"}
    kinds = [[child.tag for child in case] for case in suite]
    assert kinds == [[], ["failure"], ["error"], ["skipped"], ["error"], ["error"]]


# The stand-alone test file

ADAPTER = """
class Adapter:
    def __init__(self, folder):
        self.texts = []
    def append(self, text):
        if text == "bad":
            raise ValueError(text)
        self.texts.append(text)
        return ANSWER
    def close(self):
        self.texts = None

open_adapter = Adapter
"""


def stand_alone(anomaly: Anomaly, answer: str) -> None:
    """Run the test that the file defines, against an adapter with this answer."""
    text = standalone.render(
        anomaly, adapter=ADAPTER, target="toy", scenario="writes", seed=7, file="test_writes_d1.py"
    )
    module = types.ModuleType("test_writes_d1")
    exec(text, module.__dict__)  # noqa: S102  source of this test
    vars(module)["ANSWER"] = eval(answer)  # noqa: S307  as above
    with tempfile.TemporaryDirectory() as scratch:
        module.test_d1(Path(scratch))


@given(st.text())
def test_a_stand_alone_file_accepts_any_message(message: str) -> None:
    """The message is text in it, never code: only the broken promise makes the test fail."""
    anomaly = Anomaly(promises.D1, message, (APPEND,), accepted=([2], [3]))

    with pytest.raises(AssertionError):
        stand_alone(anomaly, "[1]")
    stand_alone(anomaly, "[3]")


def test_the_observed_answer_is_refused_without_accepted() -> None:
    """Where the checker names no accepted answers, any answer but the observed one passes."""
    with pytest.raises(AssertionError):
        stand_alone(LOST, "[1]")
    stand_alone(LOST, "[2]")


def test_the_file_names_expected_and_observed() -> None:
    """In its docstring, where a reader begins."""
    text = standalone.render(
        LOST, adapter=ADAPTER, target="toy", scenario="writes", seed=7, file="test_writes_d1.py"
    )

    assert "append lost its message\nexpected: [1, 2]\nobserved: [1]\n" in text


def test_other_earlier_answers_skip_the_test() -> None:
    """The last answer was judged by those before it; after others it may be correct."""
    before = Operation(0, "append", {"text": "y"}, Outcome.OK, 0, 1, result=[0])
    unknown = replace(before, outcome=Outcome.INFO, result=None)

    with pytest.raises(pytest.skip.Exception):
        stand_alone(replace(LOST, evidence=(before, APPEND)), "[1]")
    with pytest.raises(AssertionError):
        stand_alone(replace(LOST, evidence=(unknown, APPEND)), "[1]")


def test_a_refusal_can_break_the_promise() -> None:
    """An exception is compared by its type."""
    refused = Operation(
        0, "append", {"text": "bad"}, Outcome.FAIL, 1, 2, error="ValueError: bad: really"
    )

    with pytest.raises(AssertionError):
        stand_alone(Anomaly(promises.D1, "raised", (refused,)), "[1]")


def test_the_file_of_a_race_needs_the_harness(tmp_path: Path) -> None:
    """It contains the schedule as comments, and says that it needs the harness."""
    race = choose(["lifecycle-threads"])["lifecycle-threads"]
    notes = {"story": "a takes the lock\nb does not wait", "finding": {}}
    judged = Judgement(race, Verdict((LOST,)), 1, 1, "digest", (History(notes=notes),))
    record = judgement.store(judged, ReferenceTarget(), 7, 1.0, tmp_path)

    text = (tmp_path / "test_lifecycle_threads_d1.py").read_text(encoding="utf-8")
    assert "It needs hermes-harness" in text
    assert "# a takes the lock\n# b does not wait\n" in text
    assert record.reproduce == (f"harness replay {tmp_path / 'failure.json'}",)
    assert replay.read_failure(tmp_path).anomaly == LOST


def run_pytest(file: Path) -> int:
    """Run the file by pytest; its exit code."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file)]
    done = subprocess.run(  # noqa: S603  a fixed command
        command, cwd=file.parent, check=False, capture_output=True
    )
    return done.returncode


def test_the_file_fails_on_the_planted_copy_only(tmp_path: Path) -> None:
    """The file of a planted bug fails on that copy, and passes on the clean source."""
    (bug,) = find_bugs(["counter-outside-transaction"]).values()
    copy = plant(bug, tmp_path / "planted")
    run = tmp_path / "run"
    run.mkdir()
    scenario = trials_of(bug)[0]
    run_session(Session([scenario], f"reference@{copy}", 1, 0.25), run, 120.0)
    (file,) = run.glob("*/test_*.py")
    text = file.read_text(encoding="utf-8")
    clean = tmp_path / f"test_clean_{file.name}"
    clean.write_text(text.replace(str(copy), str(source_folder().parent)), encoding="utf-8")

    assert run_pytest(file) == 1
    assert run_pytest(clean) == 0


def test_file_of_known_bug_plants_it_again(tmp_path: Path) -> None:
    """The copy that was judged is gone by then."""
    (bug,) = find_bugs(["commit-every-turn"]).values()
    run, copies = tmp_path / "run", tmp_path / "copies"
    run.mkdir()
    copies.mkdir()
    session = Session(trials_of(bug)[:1], planted.named(bug), 1, 0.25)
    run_session(session, run, 120.0, settings={planted.FOLDER: str(copies)})
    assert [copy.name for copy in copies.iterdir()] == [bug.name]
    shutil.rmtree(copies)

    (file,) = run.glob("*/test_*.py")
    assert run_pytest(file) == 1
