"""A run's folder can be read at any moment, and its failures can be seen again by anybody."""

from __future__ import annotations

import errno
import os
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

from harness.core.errors import UsageError
from harness.core.history import History, Operation, Outcome
from harness.core.promises import FAMILIES, Promise
from harness.core.verdict import VALID, Anomaly, Assumption, Verdict
from harness.engine.discovery import choose, scenarios_folder
from harness.engine.runner import Judgement
from harness.mutation.known_bugs import find_bugs, plant
from harness.report import folder, judgement, junit, standalone, summary
from harness.report.judgement import Record
from harness.runs import replay
from harness.runs.gate import trials_of
from harness.runs.pytest_run import Session, run_session
from harness.targets.reference.target import ReferenceTarget

APPEND = Operation(0, "append", {"text": "x"}, Outcome.OK, 1, 2, result=[1])
LOST = Anomaly(Promise.D1, "gone", (APPEND,), also=(Promise.D2,))


def a_record(verdict: Verdict = VALID, promises: Sequence[str] = ("D1", "L1")) -> Record:
    """A scenario's result."""
    return Record(
        "writes", "model", tuple(promises), verdict, 3, 1200, "digest", 1.5, ("harness x",)
    )


def a_conclusion(*records: Record, **more: Any) -> dict[str, Any]:
    """A gate's conclusion, as it is stored."""
    return {
        "conclusion": "valid",
        "target": "toy",
        "seed": 7,
        "seconds": 1.0,
        "scenarios": [record.to_json() for record in records],
        "skipped": [],
        "unfinished": [],
        "broken": {},
        "canaries": {},
        **more,
    }


# The run folder


def test_a_run_says_what_was_planned_and_is_the_latest(tmp_path: Path) -> None:
    """From its first moment the folder has its plan, and `latest` leads to it."""
    first = folder.create(tmp_path, "gate", 7, {"target": "toy"})
    second = folder.create(tmp_path, "gate", 7, {"target": "toy"})

    assert first != second
    assert (tmp_path / "runs" / "latest").resolve() == second
    plan = folder.read_json(second / folder.PLAN)
    assert plan == {"what": "gate", "seed": 7, "target": "toy"}


def test_retention_keeps_the_newest_and_nothing_that_is_no_run_goes(tmp_path: Path) -> None:
    """The oldest runs go, whatever their names; a folder of somebody else's stays."""
    runs = [folder.create(tmp_path, "gate", seed, {}) for seed in (10, 9, 8, 7)]
    for age, run in enumerate(reversed(runs)):
        os.utime(run / folder.PLAN, ns=(0, 10**18 - age))
    (tmp_path / "runs" / "00-not-ours").mkdir()
    folder.retain(tmp_path, 2)

    left = {path.name for path in (tmp_path / "runs").iterdir()}
    assert left == {runs[2].name, runs[3].name, "latest", "00-not-ours"}
    assert (tmp_path / "runs" / "latest" / folder.PLAN).exists()


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_reports_that_cannot_be_written_are_a_wrong_question(place: str, tmp_path: Path) -> None:
    """One sentence names the folder, and why."""
    (tmp_path / "file").touch()

    with pytest.raises(UsageError, match=f"{place}: reports cannot be written there: .+"):
        folder.create(tmp_path / place, "gate", 7, {})


def test_a_file_is_replaced_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full leaves the old version."""
    path = tmp_path / "verdict.json"
    folder.write_json(path, {"validity": "unknown"})

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(OSError, match="No space left"):
        folder.write_json(path, {"validity": "valid"})

    assert folder.read_json(path) == {"validity": "unknown"}


def test_any_text_can_be_written(tmp_path: Path) -> None:
    """A target may answer with half a surrogate pair; the report is written all the same."""
    folder.write_text(tmp_path / "summary.md", "é \ud800")

    assert (tmp_path / "summary.md").read_text(encoding="utf-8") == "é \\ud800"


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"a": "\xff'])
def test_a_damaged_document_is_named(text: str, tmp_path: Path) -> None:
    """The error says which file, not only what is wrong with it."""
    path = tmp_path / "run.json"
    path.write_text(text, encoding="latin-1")

    with pytest.raises(UsageError, match=r"run\.json: damaged: "):
        folder.read_json(path)
    with pytest.raises(UsageError, match="nowhere: No such file"):
        folder.read_json(tmp_path / "nowhere")


# A scenario's record


@pytest.mark.parametrize("anomalies", [(), (LOST,)])
def test_a_record_is_read_back_as_it_was(anomalies: tuple[Anomaly, ...]) -> None:
    """What a worker stored is what the gate reads."""
    record = a_record(Verdict(anomalies, (Assumption("kills", 0),), ("why",)))

    assert Record.from_json(record.to_json()) == record


def test_a_summary_tells_what_broke_and_how_to_see_it_again() -> None:
    """The promise's sentence, what else it breaks, the operations, and the one line to run."""
    told = a_record(Verdict((LOST,), (Assumption("a kill", 0),), ("why",))).summary().splitlines()

    assert told == [
        "writes: invalid · 1200 operations",
        f"D1: {Promise.D1.value}",
        f"  also D2: {Promise.D2.value}",
        "  gone",
        "    1. append(text='x') -> [1]",
        "  see it again: harness x",
        "  assumption not met: a kill",
        "  unknown: why",
    ]


# The table


def test_the_table_has_a_row_for_each_family_that_was_tried() -> None:
    """In the contract's order, with what was asked of it; families that nobody tried are absent."""
    met = Verdict(assumptions=(Assumption("a kill", 2), Assumption("a wait", 0)))
    rows = summary.rows([a_record(promises=("D1",)), a_record(met, promises=("S1", "D2"))])

    assert [row[0] for row in rows] == ["S · session store", "D · state.db"]
    assert [row[1:] for row in rows] == [
        ("1,200", "3", "1 of 2", "unknown"),
        ("2,400", "6", "1 of 2", "unknown"),
    ]


@pytest.mark.parametrize("letter", FAMILIES)
def test_every_family_can_have_a_row(letter: str) -> None:
    """A scenario that tries only this family fills only its row."""
    (row,) = summary.rows([a_record(promises=(f"{letter}1",))])

    assert row[0].startswith(f"{letter} · ")
    assert row[-1] == "valid"


def test_an_anomaly_counts_where_its_promise_belongs() -> None:
    """What cut the scenario short leaves its other families unknown, neither valid nor invalid."""
    verdicts = {row[0][0]: row[-1] for row in summary.rows([a_record(Verdict((LOST,)))])}

    assert verdicts == {"D": "invalid", "L": "unknown"}


def test_the_markdown_says_everything_that_is_missing() -> None:
    """A table to paste, what failed, and what was skipped, late, broken or not to be trusted."""
    text = summary.markdown(
        a_conclusion(
            a_record(Verdict((LOST,))),
            skipped=["skipped-one"],
            unfinished=["late-one"],
            broken={"broken-one": "OSError: full"},
            canaries={"canary-one": "SURVIVED"},
        )
    )

    lines = text.splitlines()
    assert "| D · state.db | 1,200 | 3 | 0 of 0 | invalid |" in lines
    assert a_record(Verdict((LOST,))).summary() in text
    for name in ("skipped-one", "late-one", "broken-one", "canary-one"):
        assert any(name in line for line in lines if line.startswith("- "))


# JUnit


@given(st.text(), st.text())
def test_junit_is_well_formed_whatever_a_target_says(message: str, error: str) -> None:
    """Not every character can stand in XML, and targets may say any."""
    lost = Anomaly(Promise.D1, message, (APPEND,))
    text = junit.render(a_conclusion(a_record(Verdict((lost,))), broken={"a": error}))

    suite = ET.fromstring(text.encode())  # noqa: S314  it is our own
    assert suite.get("tests") == "2"


def test_junit_tells_failures_from_errors() -> None:
    """Invalid is a failure; unknown, unfinished and broken are errors; skipped is neither."""
    conclusion = a_conclusion(
        a_record(),
        a_record(Verdict((LOST,))),
        a_record(Verdict(unknowns=("why",))),
        skipped=["a"],
        unfinished=["b"],
        broken={"c": "why"},
    )
    suite = ET.fromstring(junit.render(conclusion))  # noqa: S314  it is our own

    counts = {name: suite.get(name) for name in ("tests", "failures", "errors")}
    assert counts == {"tests": "6", "failures": "1", "errors": "3"}
    kinds = [[child.tag for child in case] for case in suite]
    assert kinds == [[], ["failure"], ["error"], ["skipped"], ["error"], ["error"]]


# The file that stands alone

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
    """Run the test that the file defines, against an adapter that answers so."""
    text = standalone.render(
        anomaly, adapter=ADAPTER, target="toy", scenario="writes", seed=7, file="test_writes_d1.py"
    )
    module = types.ModuleType("test_writes_d1")
    exec(text, module.__dict__)  # noqa: S102  it is our own
    vars(module)["ANSWER"] = eval(answer)  # noqa: S307  so is this
    with tempfile.TemporaryDirectory() as place:
        module.test_d1(Path(place))


@given(st.text())
def test_a_file_stands_alone_whatever_the_message(message: str) -> None:
    """The message is prose in it, and never code: the file fails for its promise's sake alone."""
    anomaly = Anomaly(Promise.D1, message, (APPEND,), accepted=([2], [3]))

    with pytest.raises(AssertionError):
        stand_alone(anomaly, "[1]")
    stand_alone(anomaly, "[3]")


def test_without_accepted_answers_the_seen_one_is_refused() -> None:
    """Where the checker does not know what would have been right, it knows what was wrong."""
    with pytest.raises(AssertionError):
        stand_alone(LOST, "[1]")
    stand_alone(LOST, "[2]")


def test_where_earlier_answers_lead_elsewhere_nothing_is_claimed() -> None:
    """The last answer was judged by those before it; after others it may be right."""
    before = Operation(0, "append", {"text": "y"}, Outcome.OK, 0, 1, result=[0])
    unknown = replace(before, outcome=Outcome.INFO, result=None)

    with pytest.raises(pytest.skip.Exception):
        stand_alone(replace(LOST, evidence=(before, APPEND)), "[1]")
    with pytest.raises(AssertionError):
        stand_alone(replace(LOST, evidence=(unknown, APPEND)), "[1]")


def test_a_refusal_can_be_what_is_wrong() -> None:
    """An exception is an answer as well, by its type."""
    refused = Operation(
        0, "append", {"text": "bad"}, Outcome.FAIL, 1, 2, error="ValueError: bad: really"
    )

    with pytest.raises(AssertionError):
        stand_alone(Anomaly(Promise.D1, "raised", (refused,)), "[1]")


def test_what_asking_again_cannot_show_is_played_again_by_the_harness(tmp_path: Path) -> None:
    """A race has no script; its file says how it went, and that it needs the harness."""
    race = choose(["lifecycle-threads"])["lifecycle-threads"]
    notes = {"story": "a takes the lock\nb does not wait", "finding": {}}
    judged = Judgement(race, Verdict((LOST,)), 1, 1, "digest", (History(notes=notes),))
    record = judgement.store(judged, ReferenceTarget(), 7, 1.0, tmp_path)

    text = (tmp_path / "test_lifecycle_threads_d1.py").read_text(encoding="utf-8")
    assert "It needs hermes-harness" in text
    assert "# a takes the lock\n# b does not wait\n" in text
    assert record.reproduce == (f"harness replay {tmp_path / 'failure.json'}",)
    assert replay.read(tmp_path).anomaly == LOST


def run_pytest(file: Path) -> int:
    """Run the file as anybody would."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file)]
    done = subprocess.run(  # noqa: S603  the command is our own
        command, cwd=file.parent, check=False, capture_output=True
    )
    return done.returncode


@pytest.mark.parametrize("name", ["commit-every-turn", "counter-outside-transaction"])
def test_the_file_fails_on_its_first_run_and_passes_where_nothing_is_wrong(
    name: str, tmp_path: Path
) -> None:
    """What a planted copy leaves fails against that copy, and passes against the clean one."""
    (bug,) = find_bugs([name]).values()
    planted = plant(bug, tmp_path / "planted")
    run = tmp_path / "run"
    run.mkdir()
    scenario = trials_of(bug)[0]
    run_session(Session([scenario], f"reference@{planted}", 1, 0.25), run, 120.0)
    (file,) = run.glob("*/test_*.py")
    text = file.read_text(encoding="utf-8")
    clean = tmp_path / f"test_clean_{file.name}"
    clean.write_text(text.replace(str(planted), str(scenarios_folder().parent)), encoding="utf-8")

    assert run_pytest(file) == 1
    assert run_pytest(clean) == 0
