"""Tests of the command: one document for machines, sentences for people, and exit codes."""

from __future__ import annotations

import errno
import functools
import json
import operator
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest

from harness.cli import main as command
from harness.cli import mutate
from harness.cli.listing import LISTINGS
from harness.contract import promises
from harness.contract.promises import SESSION_SERVER
from harness.core.history import History, Journal, Operation, Outcome
from harness.core.verdict import Anomaly, Verdict
from harness.engine import runner
from harness.engine.runner import Judgement
from harness.engine.suite import use_folders
from harness.engine.target import AdapterInstance, Instance
from harness.report import folder, judgement
from harness.runs import mutation_session
from harness.runs.mutation_session import MutationSession, Status, Stored
from harness.runs.pytest_run import Progress, Results
from harness.targets.reference.target import ReferenceTarget
from scenarios.lifecycle.test_model import OWNERS_AND_FAILURES

LIFECYCLE = OWNERS_AND_FAILURES.name
TURN = {"session": "s1", "agent": "a"}
RIGHT = {"generation": 1, "called": []}
WRONG = {"generation": 1, "called": [["s1", "a"]]}
EXAMPLE = Path(__file__).parents[2] / "examples" / "key_value"

Printed = Callable[[], tuple[str, str]]


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Printed:
    """Returns standard output and standard error since the last call."""

    def read() -> tuple[str, str]:
        captured = capsys.readouterr()
        return captured.out, captured.err

    return read


def run(*arguments: object) -> int:
    """Run the command in this process; its exit code."""
    return command.run_command([str(argument) for argument in arguments])


def write_history(scenario_folder: Path, *answers: Mapping[str, Any] | None) -> Path:
    """A scenario's folder with a turn for each answer; None is a lost reply."""
    scenario_folder.mkdir(parents=True)
    with Journal(scenario_folder / runner.HISTORY, iter(range(100)).__next__) as journal:
        journal.episode()
        for answer in answers:
            number = journal.invoke(0, "complete_turn", TURN)
            if answer is not None:
                journal.complete(number, Outcome.OK, answer)
    return scenario_folder


def write_failure(scenario_folder: Path) -> Path:
    """A scenario's folder with a stored failure; returns the failure file."""
    write_history(scenario_folder, WRONG)
    operation = Operation(0, "complete_turn", TURN, Outcome.OK, 1, 2, result=WRONG)
    anomaly = Anomaly(promises.L12, "committed at once", (operation,), accepted=(RIGHT,))
    judged = Judgement(OWNERS_AND_FAILURES, Verdict((anomaly,)), 1, 1, "digest", (History(),))
    judgement.store(judged, ReferenceTarget(), 7, 1.0, scenario_folder)
    return scenario_folder / folder.FAILURE


# Usage errors


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["frob"], "No such command 'frob'"),
        (["--frob"], "No such option '--frob'"),
        (["gate", "--frob"], "No such option '--frob'"),
        (["gate", "more"], "Got unexpected extra argument"),
        (["gate", "--seed", "x"], "'--seed': 'x' is not a valid seed"),
        (["gate", "--seed", "-1"], "-1 is not in the range"),
        (["gate", "--seed", str(1 << 40)], "is not in the range"),
        (["gate", "--budget", "soon"], "'--budget': expected a time such as 90s, 5m or 1h"),
        (["gate", "--budget", "0"], "got '0'"),
        (["gate", "--budget", "-3s"], "got '-3s'"),
        (["gate", "--budget", "nan"], "got 'nan'"),
        (["gate", "--budget", "inf"], "got 'inf'"),
        (["gate", "--budget", ""], "got ''"),
        (["gate", "--keep", "0"], "0 is not in the range"),
        (["gate", "--workers", "0"], "0 is not in the range"),
        (["gate", "--target", "refrence"], "unknown target 'refrence'; did you mean 'reference'?"),
        (["gate", "--target", "reference@/nope"], "/nope contains no package reference_impl"),
        (["gate", "--target", "hermes-agent==x y"], "'x y' is no version"),
        (
            ["gate", "--target", "no_such:Target"],
            "'--target': --target 'no_such:Target': No module",
        ),
        (["gate", "--target", "json:Nope"], "module 'json' has no attribute 'Nope'"),
        (
            ["gate", "--scenario", "nope"],
            "'--scenario': unknown scenario 'nope'; known: agent-cache",
        ),
        (["gate", "--scenario", "lifecycle-thread"], "did you mean 'lifecycle-threads'"),
        (["gate", "--scenario", "nope-*"], "unknown scenario 'nope-*'"),
        (["gate", "--scenarios", "nowhere"], "nowhere: no such folder of scenarios"),
        (["gate", "--promise", "L99"], "'--promise': unknown promise 'L99'; did you mean 'L9'"),
        (["gate", "--mode", "modle"], "'--mode': unknown mode 'modle'; did you mean 'model'?"),
        (
            ["gate", "--promise", "L1", "--mode", "load"],
            "no scenario fits all of --promise L1, --mode load",
        ),
        (["prove", "commit-every-trun"], "unknown bug 'commit-every-trun'; did you mean 'commit-"),
        (["prove", "--by", "guess"], "'--by': unknown mode 'guess'; known: model"),
        (["prove", "commit-every-turn", "--by", "load"], "--by load: of commit-every-turn none"),
        (["prove", "--tries", "0"], "0 is not in the range"),
        (["mutate", "turns/turn.py"], "unknown source file 'turns/turn.py'; did you mean 'turns/"),
        (["mutate", "--at-least", "2"], "2.0 is not in the range"),
        (["mutate", "--shard", "3/2"], "expected a share such as 2/4; got '3/2'"),
        (["load", "--master", "h:1:2"], "'--master': expected HOST:PORT, such as 10.0.0.5:5557"),
        (["load", "--master", "127.0.0.1:99999"], "'--master': expected HOST:PORT"),
        (["load", "--worker", "h:port"], "'--worker': expected HOST or HOST:PORT"),
        (["gate", "--target", ":"], "--target ':': say module:Class"),
        (["gate", "--target", ":Class"], "--target ':Class': say module:Class"),
        (["gate", "--target", "json:dumps@x"], "expected a class of targets; what it makes has no"),
        (["gate", "--write-accepted", "/dev/null/x.toml"], "/dev/null is no folder"),
        (["ci", ".", "--comment", "/dev/null/x.md"], "/dev/null is no folder"),
        (["trends"], "or a history"),
        (["night", "--reports", "/dev/null/x"], "/dev/null/x: cannot write reports there"),
        (["load", "--shape", "rampe"], "unknown shape 'rampe'; did you mean 'ramp'?"),
        (["load", "--master", "h:1", "--kill-every", "9s"], "--kill-every cannot be combined with"),
        (["gate", "--source", "."], "--source needs --reach"),
        (["prove", "--clean", ".", "--effort", "1"], "--clean cannot be combined with --effort"),
        (["mutate", "--survivors"], "--survivors needs --session"),
        (["gate", "--accept", "nope.toml"], "--accept nope.toml: cannot be read: No such file"),
        (["prove", "--resume"], "--resume needs --record"),
        (["prove", "--order-by", "nowhere"], "--order-by needs --brief"),
        (["prove", "--brief", "--order-by", "nowhere"], "nowhere: No such file"),
        (["load", "--worker", "h", "--users", "10"], "--worker cannot be combined with --users"),
        (["load", "--deadline", "-1"], "-1.0 is not in the range"),
        (["soak", "--days", "9", "--ops", "9"], "--days cannot be combined with --ops"),
        (["soak", "--days", "9", "--http"], "--days cannot be combined with --http"),
        (["soak", "--days", "9", "--for", "9s"], "--days cannot be combined with --for"),
        (["soak", "--resume", ".", "--ops", "9"], "--resume cannot be combined with --ops"),
        (["soak", "--resume", ".", "--days", "9"], "--days cannot be combined with --resume"),
        (["soak", "--days", "2"], "--days 2: expected at least 5"),
        (["soak"], "expected a length: --for 30m, --ops 100000 or --days 30"),
        (["soak", "--resume", "nowhere"], "run.json: No such file"),
        (["audit", "."], ".: expected SCENARIO/history.jsonl of a known scenario; found none"),
        (["judge"], "Missing argument 'RUN'"),
        (["judge", "nowhere"], "nowhere: no such run folder"),
        (["judge", "."], "expected history.jsonl in it or in a folder below; found none"),
        (["replay", "nowhere"], "nowhere: No such file or directory"),
        (["replay", "."], "failure.json: No such file or directory"),
        (["replay", ".", "--target", "refrence"], "'--target': unknown target 'refrence'"),
        (["list", "target"], "unknown listing 'target'; did you mean 'targets'?"),
    ],
)
def test_a_usage_error_is_one_sentence_and_254(
    arguments: list[str],
    sentence: str,
    printed: Printed,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It names option, value and what is accepted; nothing is written or printed besides."""
    monkeypatch.chdir(tmp_path)

    assert run(*arguments) == 254
    out, error = printed()
    *_, last = error.splitlines()
    assert out == ""
    assert last.startswith("harness: ")
    assert sentence in last
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["gate", "prove"])
def test_unwritable_reports_are_a_usage_error(name: str, printed: Printed, tmp_path: Path) -> None:
    """The folder is named, before anything is asked of a target."""
    (tmp_path / "file").touch()

    assert run(name, "--reports", tmp_path / "file" / "below", "--json") == 254
    out, error = printed()
    assert out == ""
    assert f"{tmp_path}/file/below: cannot write reports there" in error


def test_a_damaged_history_is_named_by_line(printed: Printed, tmp_path: Path) -> None:
    """A history that cannot be read gives no verdict."""
    path = write_history(tmp_path / LIFECYCLE, RIGHT, RIGHT) / runner.HISTORY
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:1], b"damaged\n", *lines[2:]]))

    assert run("judge", tmp_path, "--json") == 254
    out, error = printed()
    assert out == ""
    assert f"harness: {path}:2: " in error


@pytest.mark.parametrize("name", [folder.PLAN, folder.FAILURE])
@pytest.mark.parametrize("text", ["", "[]", '{"scenario":', '{"scenarios": 5, "seed": "x"}'])
def test_a_damaged_document_is_named(
    name: str, text: str, printed: Printed, tmp_path: Path
) -> None:
    """The error names the damaged file of a run."""
    failure = write_failure(tmp_path / LIFECYCLE)
    path = failure if name == folder.FAILURE else tmp_path / name
    path.write_text(text, encoding="utf-8")

    assert run("replay" if name == folder.FAILURE else "judge", path.parent) == 254
    assert f"harness: {path}: damaged: " in printed()[1]


# Failures of the harness


def test_a_full_disk_is_a_sentence_and_255(
    printed: Printed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the result cannot be written, the plan stays, and the run is not valid."""

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "verdict.json")

    monkeypatch.setattr("harness.runs.gate.run_session", lambda *_: Results())
    monkeypatch.setattr("harness.runs.gate.is_detected", lambda *_: True)
    monkeypatch.setattr("harness.runs.gate.store", fail)
    assert run("gate", "--reports", tmp_path, "--json") == 255
    out, error = printed()
    assert out == ""
    assert "harness: [Errno 28] No space left on device: 'verdict.json'" in error
    assert folder.read_json(tmp_path / "runs" / "latest" / folder.PLAN)["what"] == "gate"


def test_an_internal_error_shows_its_traceback(
    printed: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unforeseen exception is printed in full, and gives no verdict."""

    def fail() -> list[dict[str, Any]]:
        raise ZeroDivisionError("unforeseen")

    monkeypatch.setitem(LISTINGS, "bugs", fail)
    assert run("list", "bugs") == 255
    error = printed()[1]
    assert "harness: internal error" in error
    assert "ZeroDivisionError: unforeseen" in error


def test_an_interrupt_gives_no_verdict(printed: Printed, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command says that it was interrupted."""

    def interrupt() -> list[dict[str, Any]]:
        raise KeyboardInterrupt

    monkeypatch.setitem(LISTINGS, "bugs", interrupt)
    assert run("list", "bugs") == 130
    assert "harness: interrupted by SIGINT" in printed()[1]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_names_what_is_known(
    name: str, printed: Printed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The scenarios that finished, their findings, the folder, and how to judge the rest."""
    number = signal.Signals[name]

    def interrupt() -> list[dict[str, Any]]:
        plan = {"scenarios": [LIFECYCLE, "days"], "skipped": {}}
        write_failure(folder.create(tmp_path, "gate", 7, plan) / LIFECYCLE)
        raise command.Interrupted(number)

    monkeypatch.setitem(LISTINGS, "bugs", interrupt)

    assert run("list", "bugs") == 128 + number
    out, error = printed()
    assert out == ""
    assert "1 of 2 scenarios finished, 0 of them valid" in error
    assert f"{LIFECYCLE}: L12: committed at once" in error
    assert f"harness judge {tmp_path / 'runs'}" in error


def test_interrupted_mutants_name_their_session(
    printed: Printed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """There is nothing to judge in it; the same session goes on."""

    def interrupt() -> list[dict[str, Any]]:
        made = folder.create(tmp_path, "mutate", 7, {"scenarios": []})
        MutationSession(made / mutation_session.FILE).close()
        raise command.Interrupted(signal.SIGINT)

    monkeypatch.setitem(LISTINGS, "bugs", interrupt)

    assert run("list", "bugs") == 128 + signal.SIGINT
    error = printed()[1]
    assert f"harness mutate --session {tmp_path / 'runs'}" in error
    assert "harness judge" not in error


def test_interrupted_run_without_records_names_its_folder(
    printed: Printed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A gate may have none yet, and a proof no operation in the folders of its tries."""

    def interrupt() -> list[dict[str, Any]]:
        (folder.create(tmp_path, "prove", 7, {"scenarios": [LIFECYCLE]}) / "try").mkdir()
        raise command.Interrupted(signal.SIGINT)

    monkeypatch.setitem(LISTINGS, "bugs", interrupt)

    assert run("list", "bugs") == 128 + signal.SIGINT
    error = printed()[1]
    assert f"the run's folder: {tmp_path / 'runs'}" in error
    assert "harness judge" not in error


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_during_the_imports_ends_quietly(number: int) -> None:
    """A module that is imported for the first time sends the signal."""
    program = (
        "import os, sys\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == 'click': os.kill(os.getpid(), {int(number)})\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "from harness.__main__ import main\n"
        "main(['list'])\n"
    )

    ended = subprocess.run(  # noqa: S603  our own program
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )

    assert ended.returncode == 128 + number
    assert ended.stderr == f"harness: interrupted by {signal.Signals(number).name}\n"


# Mutants


class EveryOtherSurvives:
    """Stands in for a mutation run."""

    def __init__(self, session: MutationSession, sample: int, *_: object) -> None:
        self._session, self._sample = session, sample

    def run(self, progress: Progress) -> list[Stored]:
        """Let every other mutant survive."""
        progress("judged")
        for number, stored in enumerate(self._session.claim(Status.OPEN, self._sample, 100)):
            status = Status.SURVIVED if number % 2 else Status.DETECTED
            self._session.decide(replace(stored, status=status, scenario="days", reason="T6"))
        return self._session.results(self._sample)


@pytest.mark.parametrize(("at_least", "exit_code"), [(0.5, 0), (0.51, 1)])
def test_mutate_lists_survivors_and_exits_by_share(
    at_least: float,
    exit_code: int,
    tmp_path: Path,
    printed: Printed,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The document has all mutants; the terminal lists those that were not detected."""
    monkeypatch.setattr(mutate, "MutationRun", EveryOtherSurvives)
    file = "storage/durable_map.py"
    sample = ("--sample", 4, "--seed", 1, "--at-least", at_least, "--reports", tmp_path)

    assert run("mutate", file, *sample, "--json") == exit_code
    out, error = printed()
    document = json.loads(out)
    counts = {status: document["score"][status] for status in ("detected", "survived", "open")}
    assert counts == {"detected": 2, "survived": 2, "open": 0}
    survivors = [row["line"] for row in document["mutants"] if row["status"] == "survived"]
    assert len(survivors) == 2
    assert all(f"survived: {file}:{line} " in error for line in survivors)
    assert "50% detected (15% to 85%)" in error


def test_mutate_goes_on_with_a_session(
    tmp_path: Path, printed: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--survivors` asks nothing, and shows each survivor as a diff."""
    monkeypatch.setattr(mutate, "MutationRun", EveryOtherSurvives)
    reports = ("--reports", tmp_path, "--session", tmp_path / "session.sqlite", "--seed", 1)
    file = "storage/durable_map.py"
    run("mutate", file, *reports, "--sample", 2)
    printed()
    assert run("mutate", file, *reports, "--sample", 4, "--survivors") == 1
    out = printed()[0]
    assert "2 open" in out
    assert f"--- a/reference_impl/{file}" in out
    assert run("mutate", *reports, "--sample", 4) == 254
    assert "was made with files storage/durable_map.py" in printed()[1]


# Help


@pytest.mark.parametrize("name", ["", *command.cli.commands])
def test_help_explains_every_option(name: str, printed: Printed) -> None:
    """Each option has a line that says more than its type."""
    assert run(*name.split(), "--help") == 0
    out, error = printed()
    assert error == ""
    assert "\b" not in out
    shown = command.cli if not name else command.cli.commands[name]
    assert all(option.help for option in shown.params if isinstance(option, click.Option))


@pytest.mark.parametrize("name", command.cli.commands)
def test_help_shows_two_examples_and_results(name: str, printed: Printed) -> None:
    """Two examples, each on a line of its own, and where results go."""
    assert run(name, "--help") == 0
    lines = printed()[0].splitlines()

    assert sum(line.startswith(f"  harness {name}") for line in lines) == 2
    assert any(line.startswith("  Results go to ") for line in lines)


@pytest.mark.parametrize(
    ("words", "word", "wanted"),
    [("harness pr", 1, "prove"), ("harness gate --bud", 2, "--budget"), ("harness x", 1, "")],
)
def test_shell_completes_commands_and_options(
    words: str, word: int, wanted: str, printed: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the script for the shell asks, which the documentation names."""
    monkeypatch.setenv("_HARNESS_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(word))
    with pytest.raises(SystemExit):
        command.run_command(None)

    offered = [line.removeprefix("plain,") for line in printed()[0].split()]
    assert wanted in offered if wanted else offered == []


def test_no_command_shows_the_examples(printed: Printed) -> None:
    """Each example is on a line of its own."""
    assert run() == 254
    assert "\n  harness gate " in printed()[1]


# Listings


def test_a_promise_without_scenario_is_listed(printed: Printed) -> None:
    """Each promise with the scenarios that put it on trial; the others show `nothing`."""
    assert run("list", "promises", "--json") == 0
    rows = {row["promise"]: row for row in json.loads(printed()[0])["promises"]}
    assert run("list", "promises") == 0
    table = printed()[0].splitlines()

    assert list(rows) == [promise.id for promise in SESSION_SERVER]
    assert LIFECYCLE in rows["L12"]["tried by"]
    untried = [name for name, row in rows.items() if not row["tried by"]]
    cells = [[cell.strip() for cell in line.split("|")] for line in table if line.count("|") == 4]
    assert [row[1] for row in cells if row[1] and row[3] == "nothing"] == untried


def test_list_prints_every_name_whole(printed: Printed) -> None:
    """Scenarios, promises, targets and bugs, in one document or as tables."""
    assert run("list", "--json") == 0
    document = json.loads(printed()[0])
    assert run("list") == 0
    text = printed()[0]

    assert list(document) == ["scenarios", "promises", "targets", "bugs"]
    for rows in document.values():
        assert rows
        for row in rows:
            assert next(iter(row.values())) in text


# Suites and targets from outside


@pytest.fixture
def installed_suites() -> Iterator[None]:
    """Judges by the installed suites again afterwards."""
    yield
    use_folders([])


@pytest.mark.usefixtures("installed_suites")
def test_scenarios_of_a_folder_replace_installed(printed: Printed) -> None:
    """`list --scenarios FOLDER` shows that suite's scenarios, promises and bugs alone."""
    assert run("list", "--scenarios", EXAMPLE / "scenarios", "--json") == 0
    document = json.loads(printed()[0])

    assert [row["scenario"] for row in document["scenarios"]] == [
        "store-any-sequence",
        "store-threads",
    ]
    assert [row["promise"] for row in document["promises"]] == ["K1", "K2"]
    assert [row["bug"] for row in document["bugs"]] == ["add-outside-lock"]


@pytest.mark.usefixtures("installed_suites")
@pytest.mark.parametrize("target", [(), ("--target", "key_value_target:KeyValueTarget")])
def test_a_gate_judges_a_foreign_target(
    target: tuple[str, ...], printed: Printed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its suite's own target, or by `module:Class` of the current folder."""
    monkeypatch.chdir(EXAMPLE)
    selection = ("--scenarios", EXAMPLE / "scenarios", "--scenario", "store-any-*")
    options = ("--seed", 1, "--reports", tmp_path, "--budget", "60s", "--workers", 1, "--json")
    monkeypatch.setattr("harness.runs.gate.EFFORT_SECONDS", 600.0)

    assert run("gate", *target, *selection, *options) == 0
    document = json.loads(printed()[0])
    assert document["target"].startswith("key_value_target:KeyValueTarget@")
    assert [row["scenario"] for row in document["scenarios"]] == ["store-any-sequence"]
    plan = folder.read_json(tmp_path / "runs" / "latest" / folder.PLAN)
    assert plan["suites"] == [str(EXAMPLE / "scenarios")]


# Judging again


@pytest.fixture(scope="module")
def valid_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the clean reference."""
    run_folder = tmp_path_factory.mktemp("run")
    scenario_folder = run_folder / LIFECYCLE
    judged = runner.run(OWNERS_AND_FAILURES, ReferenceTarget(), 1, 1.0, scenario_folder)
    judgement.store(judged, ReferenceTarget(), 1, 1.0, scenario_folder)
    folder.write_json(run_folder / folder.PLAN, {"scenarios": [LIFECYCLE]})
    return run_folder


def test_judge_of_a_finished_run_agrees(valid_run: Path, printed: Printed) -> None:
    """The same verdict and digest; one document for machines, a table for people."""
    stored = folder.read_json(valid_run / LIFECYCLE / folder.VERDICT)

    assert run("judge", valid_run, "--json") == 0
    out, error = printed()
    document = json.loads(out)
    assert document["conclusion"] == "valid"
    (row,) = document["scenarios"]
    same = ("scenario", "validity", "digest", "operations", "episodes", "expectations")
    assert {key: row[key] for key in same} == {key: stored[key] for key in same}
    assert "| L · lifecycle |" in error


def test_a_result_row_is_one_line(
    valid_run: Path, printed: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However narrow the terminal: it may wrap the row, the command does not."""
    monkeypatch.setenv("COLUMNS", "40")
    run("judge", valid_run)

    (row,) = [line for line in printed()[0].splitlines() if line.startswith("| L · lifecycle")]
    *_, expectations, verdict, end = [cell.strip() for cell in row.split("|")]
    met, needed = expectations.split(" of ")
    assert (verdict, end) == ("valid", "")
    assert met == needed


def test_judge_accepts_the_folder_of_one_scenario(valid_run: Path) -> None:
    """A scenario's folder needs no plan."""
    assert run("judge", valid_run / LIFECYCLE) == 0


def test_judge_names_the_parts_of_a_proof(printed: Printed, tmp_path: Path) -> None:
    """Each part has the histories of a bug, or of the clean source."""
    history = tmp_path / "clean-toy-1" / "toy" / "history.jsonl"
    history.parent.mkdir(parents=True)
    history.touch()

    assert run("judge", tmp_path) == 254
    assert f"name one of them, such as {tmp_path}/clean-toy-1" in printed()[1]


def test_judge_finds_a_broken_promise_again(printed: Printed, tmp_path: Path) -> None:
    """Exit code 1, and the command that reproduces it."""
    failure = write_failure(tmp_path / LIFECYCLE)

    assert run("judge", tmp_path) == 1
    assert f"reproduce: harness replay {failure}" in printed()[0]


def test_a_killed_run_is_unknown(valid_run: Path, printed: Printed, tmp_path: Path) -> None:
    """Without a stored verdict the scenario was cut short, whatever its history shows."""
    scenario_folder = tmp_path / LIFECYCLE
    scenario_folder.mkdir()
    whole = (valid_run / LIFECYCLE / runner.HISTORY).read_bytes()
    (scenario_folder / runner.HISTORY).write_bytes(whole[:-5])

    assert run("judge", tmp_path) == 2
    assert "unknown: the run ended before this scenario did" in printed()[0]


def test_an_anomaly_of_a_killed_run_counts(tmp_path: Path) -> None:
    """A history without a stored verdict can prove a broken promise."""
    write_history(tmp_path / LIFECYCLE, WRONG)

    assert run("judge", tmp_path) == 1


def test_a_lost_reply_proves_nothing(tmp_path: Path) -> None:
    """A call without an answer is no anomaly."""
    write_history(tmp_path / LIFECYCLE, RIGHT, None)

    assert run("judge", tmp_path) == 2


def test_a_scenario_that_never_began_is_unknown(printed: Printed, tmp_path: Path) -> None:
    """A run that was killed at its start can be judged: the plan names the scenario."""
    folder.write_json(tmp_path / folder.PLAN, {"scenarios": [LIFECYCLE]})

    assert run("judge", tmp_path) == 2
    assert f"{LIFECYCLE}: unknown" in printed()[0]
    assert run("judge", tmp_path, "--json") == 2
    assert json.loads(printed()[0])["conclusion"] == "unknown"


# Replaying


class WrongAdapter:
    """A lifecycle that commits at once."""

    def complete_turn(self, session: str, agent: str) -> dict[str, Any]:
        """Call the agent, against the promise."""
        return {"generation": 1, "called": [[session, agent]]}

    def close(self) -> None:
        """Release nothing."""


class WrongTarget(ReferenceTarget):
    """Offers it."""

    def open(self, ability: str, folder: Path) -> Instance:  # noqa: ARG002  as in the protocol
        """A fresh one."""
        return AdapterInstance(WrongAdapter())


def test_replay_exits_by_the_verdict(
    printed: Printed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 1 where the promise is still broken, 0 where it is kept by now."""
    failure = write_failure(tmp_path / LIFECYCLE)

    assert run("replay", failure) == 0
    assert "valid" in printed()[0]
    monkeypatch.setattr("harness.runs.replay.find_target", lambda _: WrongTarget())
    assert run("replay", failure.parent, "--json") == 1
    out, error = printed()
    assert json.loads(out)["anomalies"][0]["promise"] == "L12"
    assert f"L12: {promises.L12.sentence}\n" in error


def test_replay_needs_the_ability(printed: Printed, tmp_path: Path) -> None:
    """A target that cannot do it has neither kept nor broken the promise."""
    failure = write_failure(tmp_path / LIFECYCLE)

    assert run("replay", failure, "--target", "hermes-agent==0.19.0") == 254
    assert "has no ability 'lifecycle'" in printed()[1]


OLD = "stored by version 0.1.0 or earlier; replay it with that version"


OPERATION = ("anomaly", "evidence", 0)  # the path of the operation in a failure file


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (("scenario",), "lifecycle-of-old", "unknown scenario 'lifecycle-of-old'"),
        (("anomaly",), {"promise": "L12"}, "field 'message' is missing"),
        ((*OPERATION, "client"), 3, "unexpected keyword argument 'client'"),
        ((*OPERATION, "function"), "finish_turn", "has no function 'finish_turn'"),
        ((*OPERATION, "argument"), {"session": "s1", "owner": "a"}, "complete_turn: TypeError: "),
    ],
)
def test_replay_of_an_old_failure_names_the_version(
    path: tuple[Any, ...], value: object, reason: str, printed: Printed, tmp_path: Path
) -> None:
    """It says what this version does not know: a scenario, a field, a function or an argument."""
    failure = write_failure(tmp_path / LIFECYCLE)
    document: Any = folder.read_json(failure)
    del document["version"]
    *parents, key = path
    functools.reduce(operator.getitem, parents, document)[key] = value
    folder.write_json(failure, document)

    assert run("replay", failure, "--json") == 254
    out, error = printed()
    assert out == ""
    assert "cannot be replayed by version " in error
    assert reason in error
    assert OLD in error
