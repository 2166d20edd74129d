"""Tests of the gate and of known bugs: repeatable, careful, and without orphaned processes."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from harness.cli import main as command
from harness.contract import promises
from harness.core.errors import HarnessError, UsageError
from harness.core.history import History
from harness.core.verdict import VALID, Anomaly, Validity, Verdict
from harness.engine import runner
from harness.engine.runner import Judgement
from harness.engine.scenario import Mode, Scenario
from harness.mutation.known_bugs import KnownBug, find_bugs, plant
from harness.report import folder
from harness.report.judgement import Record
from harness.runs import bug_detection, gate
from harness.runs.accepted import Accepted
from harness.runs.bug_detection import Detection, DetectionRun
from harness.runs.gate import Conclusion, Gate
from harness.runs.pytest_run import LOG, Results, collect, no_progress

LIFECYCLE = "lifecycle-owners-and-failures"
BY_PROCESSES = "state-db-fail-the-nth"
TIMEOUT_S = 60.0  # for facts that take a moment on a busy machine


@pytest.fixture(autouse=True)
def _few_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a budget long enough for a busy machine, of which little is needed."""
    monkeypatch.setattr(gate, "EFFORT_SECONDS", 16.0 * TIMEOUT_S)


@pytest.fixture
def no_canary(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts every canary as detected, without judging one: that takes time."""
    monkeypatch.setattr(gate, "is_detected", lambda *_: True)


def run_gate(
    reports: Path, seed: int = 1, budget_s: float = TIMEOUT_S, workers: int = 1
) -> Conclusion:
    """A gate of one scenario."""
    one_scenario = Gate("reference", seed, budget_s, reports, workers, (LIFECYCLE,))
    return one_scenario.run(no_progress)


# Verdicts


@pytest.mark.usefixtures("no_canary")
def test_the_same_seed_gives_the_same_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For any hash seed, number of workers, and pytest settings of the caller."""
    first = run_gate(tmp_path)
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    monkeypatch.setenv("PYTEST_ADDOPTS", "--no-such-option")
    second = run_gate(tmp_path, workers=2)
    other = run_gate(tmp_path, seed=2)

    def gist(conclusion: Conclusion) -> list[tuple[str, Verdict, str]]:
        return [(record.scenario, record.verdict, record.digest) for record in conclusion.records]

    assert first.broken == {}
    assert gist(first) == gist(second)
    assert first.records[0].digest != other.records[0].digest


@pytest.mark.usefixtures("no_canary")
def test_a_short_budget_gives_unknown(tmp_path: Path) -> None:
    """The unfinished scenario is named."""
    conclusion = run_gate(tmp_path, budget_s=0.2)

    assert (conclusion.word, conclusion.exit_code) == ("unknown", 2)
    assert conclusion.unfinished == [LIFECYCLE]


@pytest.mark.usefixtures("no_canary")
def test_a_busy_machine_gets_more_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was asked comes to a verdict, though it took longer than the budget."""
    monkeypatch.setattr(gate, "GRACE", TIMEOUT_S / 0.2)

    assert run_gate(tmp_path, budget_s=0.2).unfinished == []


@pytest.mark.usefixtures("no_canary")
def test_a_missing_ability_skips_the_scenario(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the reason; a run without any verdict is unknown."""
    monkeypatch.setattr(
        "harness.targets.reference.target.ReferenceTarget.abilities", frozenset[str]()
    )
    conclusion = run_gate(tmp_path)

    assert (conclusion.word, conclusion.exit_code) == ("unknown", 2)
    assert conclusion.skipped == {LIFECYCLE: "the target cannot do it"}
    assert conclusion.canaries == {}


@pytest.mark.usefixtures("no_canary")
def test_cut_scenario_shows_no_mended_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it showed before the end of the budget counts, and the rest of it is unknown."""
    seen, gone = Anomaly(promises.L12, "committed"), Anomaly(promises.L12, "called twice")

    def end_early(_session: object, run: Path, *_: object) -> Results:
        (run / LIFECYCLE).mkdir()
        (run / LIFECYCLE / runner.HISTORY).touch()
        return Results(unfinished=[LIFECYCLE])

    def judged(scenario: Scenario, *_: object, **__: object) -> Judgement:
        return Judgement(scenario, Verdict((seen,)), 1, 1, "", (History(()),))

    monkeypatch.setattr(gate, "run_session", end_early)
    monkeypatch.setattr(runner, "judge", judged)
    accepted = tuple(Accepted("*", "L12", a.signature, "its design") for a in (seen, gone))
    cut = Gate(
        *("reference", 1, 1.0, tmp_path, 1, (LIFECYCLE,)), asks_canaries=False, accepted=accepted
    )

    conclusion = cut.run(no_progress)

    assert conclusion.word == "unknown"
    assert conclusion.findings is not None
    assert [finding.signature for finding in conclusion.findings.known] == [seen.signature]
    assert conclusion.findings.mended == []
    assert LIFECYCLE in conclusion.findings.unseen[gone.signature]


def test_json_is_the_whole_standard_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The document agrees with the exit code and with the file in the run folder."""
    arguments = ["gate", "--json", "--seed", "1", "--budget", "1m", "--scenario", LIFECYCLE]
    code = command.run_command([*arguments, "--reports", str(tmp_path)])
    captured = capsys.readouterr()

    document = json.loads(captured.out)
    assert document == folder.read_json(tmp_path / "runs" / "latest" / folder.VERDICT)
    assert document["exit_code"] == code
    assert "seed 1" in captured.err
    for name in (folder.PLAN, "summary.md", "junit.xml", f"{LIFECYCLE}/{runner.HISTORY}"):
        assert (tmp_path / "runs" / "latest" / name).is_file()


LOST = Verdict((Anomaly(promises.L1, "lost"),))
GAP = Verdict(unknowns=("out of steps",))


def concluded(*verdicts: Verdict, **more: Any) -> Conclusion:
    """The conclusion of a gate with these verdicts and a detected canary."""
    records = [Record("x", "model", ("L1",), verdict, 1, 1, "", 0.0) for verdict in verdicts]
    return Conclusion("toy", 1, Path(), 0.0, records, **{"canaries": {"c": True}, **more})


@pytest.mark.parametrize(
    ("conclusion", "word", "code"),
    [
        (concluded(VALID), "valid", 0),
        (concluded(VALID, unfinished=["y"]), "unknown", 2),
        (concluded(VALID, GAP), "unknown", 2),
        (concluded(), "unknown", 2),
        (concluded(VALID, GAP, LOST, unfinished=["y"]), "invalid", 1),
        (concluded(VALID, canaries={"c": True, "d": False}), "untrustworthy", 255),
        (concluded(VALID, broken={"y": "why"}), "untrustworthy", 255),
        (concluded(GAP, canaries={"c": False}), "untrustworthy", 255),
        (concluded(LOST, canaries={"c": False}, broken={"y": "why"}), "invalid", 1),
    ],
)
def test_a_gate_is_valid_with_all_verdicts_only(
    conclusion: Conclusion, word: str, code: int
) -> None:
    """An anomaly stands by itself; else the harness must work, and each scenario be judged."""
    assert (conclusion.word, conclusion.exit_code) == (word, code)


def test_a_missing_verdict_is_broken_unless_cut_short(tmp_path: Path) -> None:
    """A session that ended by itself must leave a verdict on every scenario."""
    (tmp_path / LOG).write_text("ImportError: no module named x", encoding="utf-8")

    cut_short = collect([LIFECYCLE], tmp_path, None)
    assert (cut_short.unfinished, cut_short.broken) == ([LIFECYCLE], {})
    ended = collect([LIFECYCLE], tmp_path, 4)
    assert ended.unfinished == []
    assert ended.broken["pytest"].startswith(f"exit code 4, no verdict on: {LIFECYCLE}")
    assert "ImportError" in ended.broken["pytest"]


# Canaries


def plant_nothing(bug: KnownBug, folder: Path) -> Path:  # noqa: ARG001  any bug
    """The folder of the clean reference, instead of a planted copy."""
    return Path(gate.__file__).parents[2]


def test_a_surviving_canary_makes_the_run_untrustworthy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a planted bug the canary survives, and a valid verdict does not count."""
    monkeypatch.setattr(gate, "plant", plant_nothing)
    conclusion = run_gate(tmp_path)

    assert conclusion.canaries == {"commit-every-turn": False}
    assert (conclusion.word, conclusion.exit_code) == ("untrustworthy", 255)
    assert "SURVIVED" in (conclusion.run / "summary.md").read_text(encoding="utf-8")


def test_a_canary_that_cannot_be_planted_keeps_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is untrustworthy, and its records are written anyway."""

    def fail(*_: object) -> bool:
        raise HarnessError("commit-every-turn.patch does not fit")

    monkeypatch.setattr(gate, "is_detected", fail)
    conclusion = run_gate(tmp_path)

    assert conclusion.exit_code == 255
    assert conclusion.broken == {"canary commit-every-turn": "commit-every-turn.patch does not fit"}
    assert folder.read_json(conclusion.run / folder.VERDICT)["scenarios"]


def test_a_canary_without_patch_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is judged, by the name that the suite has for it."""
    monkeypatch.setattr(gate, "canaries", lambda: {Mode.MODEL: "no-such-bug"})
    with pytest.raises(UsageError, match="unknown bug 'no-such-bug'"):
        run_gate(tmp_path)
    assert not [*tmp_path.iterdir()]


# Known bugs


def test_an_unplanted_bug_is_not_detected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the same seed on which a planted one is."""

    def plant_one(bug: KnownBug, folder: Path) -> Path:
        if bug.name == "commit-every-turn":
            return plant(bug, folder)
        package = "reference_impl"  # a clean copy, which the session takes for the planted one
        shutil.copytree(plant_nothing(bug, folder) / package, folder / package)
        return folder

    monkeypatch.setattr(bug_detection, "plant", plant_one)
    bugs = list(find_bugs(["commit-every-turn", "drain-skips-unregistered"]).values())
    run = DetectionRun(bugs, [1], 0.1, tmp_path, 2)
    _, (planted, clean) = run.run(no_progress)

    assert (planted.own, planted.others) == (1, {})
    assert (clean.own, clean.others) == (0, {})


BUG = find_bugs(["commit-every-turn"])["commit-every-turn"]
DETECTED = Detection(BUG, tries=2, own=2, others={}, clean=Validity.VALID, seconds=1.0)


@pytest.mark.parametrize(
    ("detection", "code"),
    [
        (DETECTED, 0),
        (replace(DETECTED, own=1), 1),
        (replace(DETECTED, others={"L7": 1}), 1),
        (replace(DETECTED, clean=Validity.UNKNOWN), 1),
        (replace(DETECTED, clean=Validity.INVALID), 1),
    ],
)
def test_a_bug_is_detected_by_its_own_promise(
    detection: Detection,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On every try, by no other promise, and with a valid clean source; else prove exits 1."""
    monkeypatch.setattr(DetectionRun, "run", lambda *_: (tmp_path, [DETECTED, detection]))

    assert command.run_command(["prove", "--json", "--seed", "1"]) == code
    captured = capsys.readouterr()
    assert [row["detected"] for row in json.loads(captured.out)["bugs"]] == [True, code == 0]
    assert f"{2 - code} of 2 detected by their own promise" in captured.err


# Processes and files after the end


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """The command in a process of its own, which is killed at the end of the block."""
    with subprocess.Popen(  # noqa: S603  a fixed command
        [sys.executable, "-m", "harness", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_until_asked(reports: Path, scenario: str) -> None:
    """Wait until a run has journalled an operation of the scenario."""
    ends_at = time.monotonic() + TIMEOUT_S
    while not any(path.stat().st_size for path in reports.glob(f"runs/2*/**/{scenario}/*.jsonl")):
        assert time.monotonic() < ends_at, "no operation was journalled"
        time.sleep(0.02)


def lives(process: psutil.Process) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def working_on(folder: Path) -> list[psutil.Process]:
    """Every living process with the folder in its command line."""
    found = psutil.process_iter(["cmdline"])
    return [
        process
        for process in found
        if str(folder) in " ".join(process.info["cmdline"] or []) and lives(process)
    ]


def wait_until_gone(family: list[psutil.Process], folder: Path) -> None:
    """Wait until no process of the family lives, and no other process works on the folder."""
    ends_at = time.monotonic() + TIMEOUT_S
    while orphans := [process for process in family if lives(process)] + working_on(folder):
        assert time.monotonic() < ends_at, orphans
        time.sleep(0.02)


LONG = ("--seed", "1", "--json", "--workers", "2")
GATE = ("gate", "--budget", "600s", "--scenario", LIFECYCLE, "--scenario", BY_PROCESSES, *LONG)
PROVE = ("prove", "--effort", "100", "commit-every-turn", "drain-skips-unregistered", *LONG)


@pytest.mark.parametrize(
    ("arguments", "number", "code"),
    [(GATE, signal.SIGTERM, 143), (GATE, signal.SIGKILL, -9), (PROVE, signal.SIGINT, 130)],
    ids=["gate-terminated", "gate-killed", "prove-interrupted"],
)
def test_no_process_outlives_the_harness(
    arguments: tuple[str, ...], number: signal.Signals, code: int, tmp_path: Path
) -> None:
    """Workers and the processes of targets end with it; its journals can be judged."""
    with started(*arguments, "--reports", str(tmp_path)) as process:
        wait_until_asked(tmp_path, LIFECYCLE)
        if arguments is GATE:
            wait_until_asked(tmp_path, BY_PROCESSES)
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        out, error = process.communicate(timeout=TIMEOUT_S)
        wait_until_gone(family, tmp_path)

    assert process.returncode == code
    assert family
    assert out == b""
    recorded = str(tmp_path / "runs" / "latest")
    if number is not signal.SIGKILL:
        lines = error.decode().splitlines()
        assert f"harness: interrupted by {signal.Signals(number).name}" in lines
        advice, _, recorded = lines[-1].partition(": harness judge ")
        assert advice == "judge what was recorded"
    assert command.run_command(["judge", recorded]) == 2


FULL_DISK = """
import resource, sys
from harness.runs import gate
from harness.__main__ import main

gate.canaries = dict
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
main(sys.argv[1:])
"""


def test_a_full_disk_is_no_anomaly(tmp_path: Path) -> None:
    """The clean reference is not invalid; the message names the file that could not be written."""
    arguments = ["gate", "--seed", "1", "--scenario", LIFECYCLE, "--reports", str(tmp_path)]
    done = subprocess.run(  # noqa: S603  a fixed command
        [sys.executable, "-c", FULL_DISK, *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )

    assert done.returncode == 255
    (message,) = [line for line in done.stdout.splitlines() if "the harness failed" in line]
    assert f"failed in {LIFECYCLE}: OSError: " in message
    assert runner.HISTORY in message
    assert "Traceback" not in done.stderr
    assert command.run_command(["judge", str(tmp_path / "runs" / "latest")]) == 2
