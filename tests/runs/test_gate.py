"""A gate says the same thing twice, never more than it knows, and leaves nothing running."""

from __future__ import annotations

import json
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

from harness import __main__ as command
from harness.core.errors import HarnessError
from harness.core.promises import Promise
from harness.core.verdict import VALID, Anomaly, Validity, Verdict
from harness.engine import runner
from harness.mutation.known_bugs import KnownBug, find_bugs, plant
from harness.report import folder
from harness.report.judgement import Record
from harness.runs import bug_detection as prove
from harness.runs import gate
from harness.runs.gate import Conclusion, Gate
from harness.runs.pytest_run import LOG, collect

LIFECYCLE = "lifecycle-owners-and-failures"
BY_PROCESSES = "state-db-fail-the-nth"
PATIENCE_S = 60.0  # for a fact that takes a moment, on a machine that does much else


@pytest.fixture(autouse=True)
def _few_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a budget can be long enough for a busy machine, and is seldom needed."""
    monkeypatch.setattr(gate, "EFFORT_SECONDS", 16.0 * PATIENCE_S)


@pytest.fixture
def no_canary(monkeypatch: pytest.MonkeyPatch) -> None:
    """The canary's own tests release it; here it would only take time."""
    monkeypatch.setattr(gate, "is_caught", lambda *_: True)


def run_gate(
    reports: Path, seed: int = 1, budget_s: float = PATIENCE_S, workers: int = 1
) -> Conclusion:
    """A gate of one scenario."""
    asked = Gate("reference", seed, budget_s, reports, workers, (LIFECYCLE,))
    return asked.run(lambda _: None)


# What a gate says


@pytest.mark.usefixtures("no_canary")
def test_the_same_seed_asks_the_same_and_comes_to_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the hash seed, the number of workers, and what the caller's pytest is told."""
    first = run_gate(tmp_path)
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    monkeypatch.setenv("PYTEST_ADDOPTS", "--no-such-option")
    second = run_gate(tmp_path, workers=2)
    other = run_gate(tmp_path, seed=2)

    def gist(conclusion: Conclusion) -> list[tuple[str, Verdict, str]]:
        return [(one.scenario, one.verdict, one.digest) for one in conclusion.records]

    assert first.broken == {}
    assert gist(first) == gist(second)
    assert first.records[0].digest != other.records[0].digest


@pytest.mark.usefixtures("no_canary")
def test_a_budget_that_is_too_short_gives_unknown(tmp_path: Path) -> None:
    """What is not finished is not valid, and says so."""
    conclusion = run_gate(tmp_path, budget_s=0.2)

    assert (conclusion.word, conclusion.exit_code) == ("unknown", 2)
    assert conclusion.unfinished == [LIFECYCLE]


@pytest.mark.usefixtures("no_canary")
def test_a_target_that_cannot_do_it_is_skipped_and_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run in which nothing was tried says nothing, and what was skipped is named."""
    monkeypatch.setattr(
        "harness.targets.reference.target.ReferenceTarget.abilities", frozenset[str]()
    )
    conclusion = run_gate(tmp_path)

    assert (conclusion.word, conclusion.exit_code) == ("unknown", 2)
    assert conclusion.skipped == [LIFECYCLE]
    assert conclusion.canaries == {}


@pytest.mark.usefixtures("no_canary")
def test_for_machines_there_is_one_document_on_standard_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole of standard output is JSON, and agrees with the exit code and with the file."""
    asked = ["gate", "--json", "--seed", "1", "--budget", "1m", "--scenario", LIFECYCLE]
    code = command._run([*asked, "--reports", str(tmp_path)])
    captured = capsys.readouterr()

    document = json.loads(captured.out)
    assert document == folder.read_json(tmp_path / "runs" / "latest" / folder.VERDICT)
    assert document["exit_code"] == code
    assert "seed 1" in captured.err
    for name in (folder.PLAN, "summary.md", "junit.xml", f"{LIFECYCLE}/{runner.HISTORY}"):
        assert (tmp_path / "runs" / "latest" / name).is_file()


LOST = Verdict((Anomaly(Promise.L1, "lost"),))
GAP = Verdict(unknowns=("out of steps",))


def concluded(*verdicts: Verdict, **more: Any) -> Conclusion:
    """What a gate with these verdicts, and a canary that was caught, comes to."""
    tried = [Record("x", "model", ("L1",), verdict, 1, 1, "", 0.0) for verdict in verdicts]
    return Conclusion("toy", 1, Path(), 0.0, tried, **{"canaries": {"c": True}, **more})


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
def test_a_gate_never_says_more_than_it_knows(conclusion: Conclusion, word: str, code: int) -> None:
    """A proof stands by itself; anything else needs a judge that works, and all of its verdicts."""
    assert (conclusion.word, conclusion.exit_code) == (word, code)


def test_what_pytest_never_came_to_is_broken_unless_time_was_up(tmp_path: Path) -> None:
    """A session that ended by itself owes a verdict on every scenario."""
    (tmp_path / LOG).write_text("ImportError: no module named x", encoding="utf-8")

    cut_short = collect([LIFECYCLE], tmp_path, None)
    assert (cut_short.unfinished, cut_short.broken) == ([LIFECYCLE], {})
    ended = collect([LIFECYCLE], tmp_path, 4)
    assert ended.unfinished == []
    assert ended.broken["pytest"].startswith(f"it ended with 4, without a verdict: {LIFECYCLE}")
    assert "ImportError" in ended.broken["pytest"]


# The canary


def plant_nothing(bug: KnownBug, place: Path) -> Path:  # noqa: ARG001  whichever it is
    """Where the planted copy would be, the clean reference."""
    return Path(gate.__file__).parents[2]


def test_a_canary_that_survives_makes_the_run_untrustworthy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If nothing is planted nothing is caught, and whatever else was found does not count."""
    monkeypatch.setattr(gate, "plant", plant_nothing)
    conclusion = run_gate(tmp_path)

    assert conclusion.canaries == {"commit-every-turn": False}
    assert (conclusion.word, conclusion.exit_code) == ("untrustworthy", 255)
    assert "SURVIVED" in (conclusion.run / "summary.md").read_text(encoding="utf-8")


def test_a_canary_that_cannot_be_released_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is untrustworthy, and what it found is written down all the same."""

    def fail(*_: object) -> bool:
        raise HarnessError("commit-every-turn.patch does not fit")

    monkeypatch.setattr(gate, "is_caught", fail)
    conclusion = run_gate(tmp_path)

    assert conclusion.exit_code == 255
    assert conclusion.broken == {"canary commit-every-turn": "commit-every-turn.patch does not fit"}
    assert folder.read_json(conclusion.run / folder.VERDICT)["scenarios"]


# The proof


def test_what_is_not_planted_is_not_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the very seed on which what is planted is."""

    def plant_one(bug: KnownBug, place: Path) -> Path:
        return plant(bug, place) if bug.name == "commit-every-turn" else plant_nothing(bug, place)

    monkeypatch.setattr(prove, "plant", plant_one)
    bugs = list(find_bugs(["commit-every-turn", "drain-skips-unregistered"]).values())
    _, (planted, clean) = prove.Proof(bugs, [1], 0.1, tmp_path, 2).run(lambda _: None)

    assert (planted.own, planted.others) == (1, {})
    assert (clean.own, clean.others) == (0, {})


BUG = find_bugs(["commit-every-turn"])["commit-every-turn"]
KILLED = prove.Kill(BUG, tries=2, own=2, others={}, clean=Validity.VALID, seconds=1.0)


@pytest.mark.parametrize(
    ("kill", "code"),
    [
        (KILLED, 0),
        (replace(KILLED, own=1), 1),
        (replace(KILLED, others={"L7": 1}), 1),
        (replace(KILLED, clean=Validity.UNKNOWN), 1),
        (replace(KILLED, clean=Validity.INVALID), 1),
    ],
)
def test_a_bug_is_killed_by_its_own_promise_while_the_clean_reference_is_valid(
    kill: prove.Kill,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On every try, by no other promise, and the command exits 0 only then."""
    monkeypatch.setattr(prove.Proof, "run", lambda *_: (tmp_path, [KILLED, kill]))

    assert command._run(["prove", "--json", "--seed", "1"]) == code
    captured = capsys.readouterr()
    assert [row["killed"] for row in json.loads(captured.out)["kills"]] == [True, code == 0]
    assert f"{2 - code} of 2 killed by their own promise" in captured.err


# What a gate leaves behind


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """The command in a process of its own, which ends with the block if not before."""
    with subprocess.Popen(  # noqa: S603  the command is our own
        [sys.executable, "-m", "harness", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_until_asked(reports: Path, scenario: str) -> None:
    """Wait until a run has journalled a question of the scenario."""
    ends_at = time.monotonic() + PATIENCE_S
    while not any(path.stat().st_size for path in reports.glob(f"runs/2*/**/{scenario}/*.jsonl")):
        assert time.monotonic() < ends_at, "nothing was asked"
        time.sleep(0.02)


def lives(process: psutil.Process) -> bool:
    """Whether it still does anything; one that nobody has reaped does not."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def about(place: Path) -> list[psutil.Process]:
    """Every living process that has the folder in its command line."""
    found = psutil.process_iter(["cmdline"])
    return [
        one for one in found if str(place) in " ".join(one.info["cmdline"] or []) and lives(one)
    ]


def wait_until_gone(family: list[psutil.Process], place: Path) -> None:
    """Wait until none of the family lives, nor anybody else who works on the folder."""
    ends_at = time.monotonic() + PATIENCE_S
    while orphans := [one for one in family if lives(one)] + about(place):
        assert time.monotonic() < ends_at, orphans
        time.sleep(0.02)


LONG = ("--seed", "1", "--json", "--workers", "2")
GATE = ("gate", "--budget", "600s", "--scenario", LIFECYCLE, "--scenario", BY_PROCESSES, *LONG)
PROVE = ("prove", "--effort", "100", "commit-every-turn", "drain-skips-unregistered", *LONG)


@pytest.mark.parametrize(
    ("question", "number", "code"),
    [(GATE, signal.SIGTERM, 255), (GATE, signal.SIGKILL, -9), (PROVE, signal.SIGINT, 255)],
    ids=["gate-terminated", "gate-killed", "prove-interrupted"],
)
def test_whatever_ends_the_harness_no_process_outlives_it(
    question: tuple[str, ...], number: signal.Signals, code: int, tmp_path: Path
) -> None:
    """Workers, and the processes of targets, end with it; what it had asked can be judged."""
    with started(*question, "--reports", str(tmp_path)) as process:
        wait_until_asked(tmp_path, LIFECYCLE)
        if question is GATE:
            wait_until_asked(tmp_path, BY_PROCESSES)
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        out, error = process.communicate(timeout=PATIENCE_S)
        wait_until_gone(family, tmp_path)

    assert process.returncode == code
    assert family
    assert out == b""
    if number is not signal.SIGKILL:
        assert error.decode().splitlines()[-1] == "harness: interrupted"
    if question is GATE:
        assert command._run(["judge", str(tmp_path / "runs" / "latest")]) == 2


FULL_DISK = """
import resource, sys
from harness.runs import gate
from harness.__main__ import main

gate.CANARIES.clear()
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
main(sys.argv[1:])
"""


def test_a_full_disk_blames_nobody(tmp_path: Path) -> None:
    """The clean reference is not invalid for it; the sentence says what was full, and where."""
    asked = ["gate", "--seed", "1", "--scenario", LIFECYCLE, "--reports", str(tmp_path)]
    done = subprocess.run(  # noqa: S603  the command is our own
        [sys.executable, "-c", FULL_DISK, *asked],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )

    assert done.returncode == 255
    (told,) = [line for line in done.stderr.splitlines() if "the harness broke" in line]
    assert f"broke in {LIFECYCLE}: OSError: " in told
    assert runner.HISTORY in told
    assert "Traceback" not in done.stderr
    assert command._run(["judge", str(tmp_path / "runs" / "latest")]) == 2
