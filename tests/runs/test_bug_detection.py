"""Tests of the verdicts on the clean source that a finished gate lends to `harness prove`."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.contract import promises
from harness.core.errors import UsageError
from harness.core.verdict import VALID, Anomaly, Validity, Verdict
from harness.mutation.known_bugs import KnownBug, find_bugs
from harness.report import folder
from harness.report.judgement import Record
from harness.runs import baselines, bug_detection, pytest_run
from harness.runs.bug_detection import DetectionRun, read_clean_run
from harness.runs.gate import trials_of
from harness.runs.pytest_run import Results, Session, no_progress
from harness.runs.warm_trials import quickest_first

BUG = "commit-every-turn"
NAME = trials_of(find_bugs([BUG])[BUG])[0]


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a gate with seed 3, of sources whose digest is "today"."""
    monkeypatch.setattr(bug_detection, "digest_of", lambda _: "today")
    run = tmp_path / "run"
    run.mkdir()
    write(run)
    return run


def write(run: Path, **plan: Any) -> None:
    whole = {"what": "gate", "target": "reference", "seed": 3, "effort": 0.8, "sources": "today"}
    folder.write_json(run / folder.PLAN, {**whole, **plan})
    folder.write_json(
        run / folder.VERDICT,
        {"scenarios": [{"scenario": NAME, "validity": "unknown", "seconds": 2.5}]},
    )


def test_verdicts_of_a_gate_are_read(gate: Path) -> None:
    """With its seed, its effort, and the seconds of each scenario."""
    clean = read_clean_run(gate, "reference")

    assert (clean.seed, clean.effort, clean.verdicts) == (3, 0.8, {NAME: Validity.UNKNOWN})
    assert clean.seconds == {NAME: 2.5}


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"what": "prove"}, "expected a gate of reference; found prove"),
        ({"target": "hermes-webui@/x"}, "found gate of hermes-webui@/x"),
        ({"sources": "yesterday"}, "the sources have changed since"),
    ],
)
def test_another_run_is_refused(gate: Path, plan: dict[str, Any], message: str) -> None:
    write(gate, **plan)

    with pytest.raises(UsageError, match=message):
        read_clean_run(gate, "reference")


def test_an_unfinished_gate_is_refused(gate: Path) -> None:
    (gate / folder.VERDICT).unlink()

    with pytest.raises(UsageError, match=r"it has no verdict\.json"):
        read_clean_run(gate, "reference")


def test_known_verdicts_are_not_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scenarios that the gate did not judge are asked, and are unknown without a verdict."""
    asked: list[tuple[str, int]] = []

    def session(_: DetectionRun, names: list[str], target: str, seed: int, __: Path) -> Any:
        assert target == "reference"
        asked.extend((name, seed) for name in names)
        return Results()

    monkeypatch.setattr(DetectionRun, "_session", session)
    known = {(NAME, 3): Validity.VALID}
    proof = DetectionRun([find_bugs([BUG])[BUG]], [3, 4], 0.8, tmp_path, 1, clean=known)
    with ThreadPoolExecutor(1) as pool:
        worst = proof._judge_clean(tmp_path, pool, no_progress)

    assert (NAME, 3) not in asked
    assert (NAME, 4) in asked
    assert worst[NAME] is Validity.UNKNOWN


def test_an_earlier_proof_decides_what_is_asked_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All others are still asked, in the order of their time."""
    bug = next(bug for bug in find_bugs().values() if len(trials_of(bug)) > 1)
    usual = quickest_first(trials_of(bug), {})
    asked: list[list[str]] = []

    def judge_planted(
        _: DetectionRun, __: KnownBug, names: list[str], *___: object
    ) -> tuple[dict[str, tuple[Anomaly, ...]], dict[str, tuple[Anomaly, ...]]]:
        asked.append([*names])
        return {usual[-1]: (Anomaly(bug.promise, "wrong", ()),)}, {}

    monkeypatch.setattr(DetectionRun, "_judge_planted", judge_planted)
    clean = dict.fromkeys(usual, Validity.VALID)
    proof = DetectionRun([bug], [1], 1.0, tmp_path, 1, is_brief=True)
    detected = proof._judge(bug, tmp_path, clean, no_progress)
    file = tmp_path / "record.json"
    baselines.record_proof(file, 1, {}, [detected.to_json()])
    ordered = replace(proof, detected_in=baselines.detecting_scenarios(file))
    ordered._judge(bug, tmp_path, clean, no_progress)

    assert asked == [usual, [usual[-1], *usual[:-1]]]


class Events:
    """A session whose scenarios end one after another; remembers which were waited for."""

    def __init__(self, names: list[str], exit_code: int = 1) -> None:
        self.left, self.exit_code = names, exit_code

    def events(self, _: float) -> Iterator[dict[str, str]]:
        while self.left:
            yield {"outcome": "failed", "test": "t", "scenario": self.left.pop(0), "verdict": "x"}

    def wait(self) -> int:
        return self.exit_code


@pytest.mark.parametrize(("enough", "left"), [("L12", ["c"]), ("L1", []), ("", [])])
def test_session_ends_once_the_promise_is_broken(
    enough: str, left: list[str], tmp_path: Path
) -> None:
    """A verdict without an anomaly, or with one of another promise, does not end it."""
    broken = Verdict((Anomaly(promises.L13, "wrong", (), also=(promises.L12,)),))
    for name, verdict in (("a", VALID), ("b", broken), ("c", VALID)):
        (tmp_path / name).mkdir()
        record = Record(name, "model", ("L12",), verdict, 1, 1, "digest", 1.0, ("x",), {})
        folder.write_json(tmp_path / name / folder.VERDICT, record.to_json())
    session = Session(["a", "b", "c"], "reference", 1, 1.0, enough=enough)
    events: Any = Events(["a", "b", "c"])
    code = pytest_run._follow(events, 0.0, session, tmp_path, no_progress)

    assert (events.left, code) == (left, None if left else 1)


@pytest.mark.parametrize(
    ("exit_code", "stops_early", "expected"),
    [(1, True, None), (2, True, None), (3, True, 3), (2, False, 2), (0, True, 0)],
)
def test_a_session_that_stops_early_has_not_failed(
    exit_code: int, *, stops_early: bool, expected: int | None, tmp_path: Path
) -> None:
    """One worker of pytest then ends with 1, several with 2."""
    session = Session(["a"], "reference", 1, 1.0, stops_early=stops_early)
    events: Any = Events(["a"], exit_code)

    assert pytest_run._follow(events, 0.0, session, tmp_path, no_progress) == expected
