"""The command answers people in sentences, machines in one document, and callers by exit code."""

from __future__ import annotations

import errno
import itertools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import pytest

from harness import __main__ as command
from harness.cli import mutate
from harness.cli.listing import LISTINGS
from harness.core.history import History, Journal, Operation, Outcome
from harness.core.promises import Promise
from harness.core.verdict import Anomaly, Verdict
from harness.engine import runner
from harness.engine.runner import Judgement
from harness.engine.target import AdapterInstance, Instance
from harness.mutation.mutants import Mutant
from harness.report import folder, judgement
from harness.runs.mutation_score import NOBODY, Ending, Fate, Word
from harness.runs.pytest_run import Progress, Results
from harness.targets.reference.target import ReferenceTarget
from scenarios.lifecycle.test_model import OWNERS_AND_FAILURES

LIFECYCLE = OWNERS_AND_FAILURES.name
TURN = {"session": "s1", "agent": "a"}
RIGHT = {"generation": 1, "called": []}
WRONG = {"generation": 1, "called": [["s1", "a"]]}

Told = Callable[[], tuple[str, str]]


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Told:
    """What was printed since the last look: on standard output, and on standard error."""

    def look() -> tuple[str, str]:
        captured = capsys.readouterr()
        return captured.out, captured.err

    return look


def run(*arguments: object) -> int:
    """Run the command in this process; its exit code."""
    return command._run([str(argument) for argument in arguments])


def a_history(place: Path, *answers: Mapping[str, Any] | None) -> Path:
    """A scenario's folder whose history completes a turn and is answered so; None is no answer."""
    place.mkdir(parents=True)
    with Journal(place / runner.HISTORY, iter(range(100)).__next__) as journal:
        journal.episode()
        for answer in answers:
            number = journal.invoke(0, "complete_turn", TURN)
            if answer is not None:
                journal.complete(number, Outcome.OK, answer)
    return place


def a_failure(place: Path) -> Path:
    """A scenario's folder with a stored failure."""
    a_history(place, WRONG)
    operation = Operation(0, "complete_turn", TURN, Outcome.OK, 1, 2, result=WRONG)
    anomaly = Anomaly(Promise.L12, "committed at once", (operation,), accepted=(RIGHT,))
    judged = Judgement(OWNERS_AND_FAILURES, Verdict((anomaly,)), 1, 1, "digest", (History(),))
    judgement.store(judged, ReferenceTarget(), 7, 1.0, place)
    return place / folder.FAILURE


# Wrong questions


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["frob"], "No such command 'frob'"),
        (["--frob"], "No such option '--frob'"),
        (["gate", "--frob"], "No such option '--frob'"),
        (["gate", "more"], "Got unexpected extra argument"),
        (["gate", "--seed", "x"], "'x' is not a valid seed"),
        (["gate", "--seed", "-1"], "-1 is not in the range"),
        (["gate", "--seed", str(1 << 40)], "is not in the range"),
        (["gate", "--budget", "soon"], "'soon' is no length of time; say 90s, 5m or 1h"),
        (["gate", "--budget", "0"], "'0' is no length of time"),
        (["gate", "--budget", "-3s"], "'-3s' is no length of time"),
        (["gate", "--budget", "nan"], "'nan' is no length of time"),
        (["gate", "--budget", "inf"], "'inf' is no length of time"),
        (["gate", "--budget", ""], "'' is no length of time"),
        (["gate", "--keep", "0"], "0 is not in the range"),
        (["gate", "--workers", "0"], "0 is not in the range"),
        (["gate", "--target", "nope"], "no target is called 'nope'; there are reference"),
        (["gate", "--target", "reference@/nope"], "/nope: there is no reference_impl in it"),
        (["gate", "--target", "hermes-agent==x y"], "'x y' is no version"),
        (["gate", "--scenario", "nope"], "no scenario is called 'nope'; there are agent-cache"),
        (["prove", "nope"], "no known bug is called 'nope'; there are"),
        (["prove", "--by", "guess"], "'guess' is not one of"),
        (["prove", "commit-every-turn", "--by", "load"], "no known bug is to be caught by load"),
        (["prove", "--tries", "0"], "0 is not in the range"),
        (["mutate", "nope.py"], "the reference has no file 'nope.py'; there are"),
        (["mutate", "--at-least", "2"], "2.0 is not in the range"),
        (["judge"], "Missing argument 'RUN'"),
        (["judge", "nowhere"], "nowhere: there is no such run folder"),
        (["judge", "."], "there is no scenario's history.jsonl in it"),
        (["replay", "nowhere"], "nowhere: No such file or directory"),
        (["replay", "."], "failure.json: No such file or directory"),
        (["list", "frob"], "'frob' is not one of"),
    ],
)
def test_a_wrong_question_is_one_sentence_and_254(
    arguments: list[str],
    sentence: str,
    told: Told,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It says what was wrong with it, writes nothing, and standard output stays empty."""
    monkeypatch.chdir(tmp_path)

    assert run(*arguments) == 254
    out, error = told()
    *_, last = error.splitlines()
    assert out == ""
    assert last.startswith("harness: ")
    assert sentence in last
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("question", ["gate", "prove"])
def test_reports_that_cannot_be_written_are_a_wrong_question(
    question: str, told: Told, tmp_path: Path
) -> None:
    """The folder is named, before anything is asked of a target."""
    (tmp_path / "file").touch()

    assert run(question, "--reports", tmp_path / "file" / "below", "--json") == 254
    out, error = told()
    assert out == ""
    assert f"{tmp_path}/file/below: reports cannot be written there" in error


def test_a_damaged_history_is_named_by_file_and_line(told: Told, tmp_path: Path) -> None:
    """A history that cannot be read is no verdict."""
    place = a_history(tmp_path / LIFECYCLE, RIGHT, RIGHT)
    path = place / runner.HISTORY
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:1], b"damaged\n", *lines[2:]]))

    assert run("judge", tmp_path, "--json") == 254
    out, error = told()
    assert out == ""
    assert f"harness: {path}:2: " in error


@pytest.mark.parametrize("name", [folder.PLAN, folder.FAILURE])
@pytest.mark.parametrize("text", ["", "[]", '{"scenario":', '{"scenarios": 5, "seed": "x"}'])
def test_a_damaged_document_is_named(name: str, text: str, told: Told, tmp_path: Path) -> None:
    """Whichever file of a run is damaged, the sentence says which."""
    failure = a_failure(tmp_path / LIFECYCLE)
    path = failure if name == folder.FAILURE else tmp_path / name
    path.write_text(text, encoding="utf-8")

    assert run("replay" if name == folder.FAILURE else "judge", path.parent) == 254
    assert f"harness: {path}: damaged: " in told()[1]


# What is no question's fault


def test_a_full_disk_is_a_sentence_and_255(
    told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the end of a run cannot be written, what was known stays, and nobody says valid."""

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "verdict.json")

    monkeypatch.setattr("harness.runs.gate.run_session", lambda *_: Results())
    monkeypatch.setattr("harness.runs.gate.is_caught", lambda *_: True)
    monkeypatch.setattr("harness.runs.gate.store", fail)
    assert run("gate", "--reports", tmp_path, "--json") == 255
    out, error = told()
    assert out == ""
    assert "harness: [Errno 28] No space left on device: 'verdict.json'" in error
    assert folder.read_json(tmp_path / "runs" / "latest" / folder.PLAN)["what"] == "gate"


def test_our_own_fault_is_told_as_such(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody foresaw is shown in full, for us, and is no verdict."""

    def fail() -> list[dict[str, Any]]:
        raise ZeroDivisionError("unforeseen")

    monkeypatch.setitem(LISTINGS, "bugs", fail)
    assert run("list", "bugs") == 255
    error = told()[1]
    assert "harness: it broke" in error
    assert "ZeroDivisionError: unforeseen" in error


def test_an_interrupt_is_no_verdict(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody lost patience; nothing was concluded."""

    def interrupt() -> list[dict[str, Any]]:
        raise KeyboardInterrupt

    monkeypatch.setitem(LISTINGS, "bugs", interrupt)
    assert run("list", "bugs") == 255
    assert "harness: interrupted" in told()[1]


# Mutants


class EveryOtherSurvives:
    """Stands in for a mutation run."""

    def __init__(self, mutants: Sequence[Mutant], *_: object) -> None:
        self._mutants = mutants

    def run(self, progress: Progress) -> tuple[Path, list[Ending]]:
        """Let every other mutant live."""
        progress("judged")
        words = itertools.cycle((Word(Fate.KILLED, "days", "T6"), NOBODY))
        return Path("run"), [Ending(one, next(words), 1.0) for one in self._mutants]


@pytest.mark.parametrize(("at_least", "exit_code"), [(0.5, 0), (0.51, 1)])
def test_too_many_survivors_are_an_exit_code_and_each_is_named(
    at_least: float, exit_code: int, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Machines get one document, people those that were not killed."""
    monkeypatch.setattr(mutate, "Mutation", EveryOtherSurvives)
    asked = (
        "mutate",
        "storage/durable_map.py",
        "--sample",
        4,
        "--seed",
        1,
        "--json",
        "--at-least",
        at_least,
    )

    assert run(*asked) == exit_code
    out, error = told()
    document = json.loads(out)
    assert document["score"] == {"killed": 0.5, "noticed": 0.0, "survived": 0.5}
    survivors = [one["line"] for one in document["mutants"] if one["fate"] == "survived"]
    assert len(survivors) == 2
    assert all(f"survived: storage/durable_map.py:{line} " in error for line in survivors)
    assert "50% killed · 0% noticed · 50% survived" in error


# Help


@pytest.mark.parametrize("name", ["", *command.cli.commands])
def test_help_explains_every_option(name: str, told: Told) -> None:
    """Each option has a line of its own that says more than its type."""
    assert run(*name.split(), "--help") == 0
    out, error = told()
    assert error == ""
    assert "\b" not in out
    asked = command.cli if not name else command.cli.commands[name]
    assert all(option.help for option in asked.params if isinstance(option, click.Option))


def test_a_command_without_a_question_shows_what_can_be_asked(told: Told) -> None:
    """A new user sees the examples, each on a line of its own."""
    assert run() == 254
    assert "\n  harness gate " in told()[1]


# Listings


def test_a_promise_that_nothing_tries_is_shown_as_such(told: Told) -> None:
    """Each promise with the scenarios that try it; the others stand out."""
    assert run("list", "promises", "--json") == 0
    rows = {row["promise"]: row for row in json.loads(told()[0])["promises"]}
    assert run("list", "promises") == 0
    table = told()[0].splitlines()

    assert list(rows) == [promise.name for promise in Promise]
    assert LIFECYCLE in rows["L12"]["tried by"]
    untried = [name for name, row in rows.items() if not row["tried by"]]
    cells = [[cell.strip() for cell in line.split("|")] for line in table if line.count("|") == 4]
    assert [row[1] for row in cells if row[1] and row[3] == "nothing"] == untried


def test_everything_can_be_listed(told: Told) -> None:
    """Scenarios, promises, targets and bugs, in one document or as tables, by their whole names."""
    assert run("list", "--json") == 0
    document = json.loads(told()[0])
    assert run("list") == 0
    text = told()[0]

    assert list(document) == ["scenarios", "promises", "targets", "bugs"]
    for rows in document.values():
        assert rows
        for row in rows:
            assert next(iter(row.values())) in text


# Judging again


@pytest.fixture(scope="module")
def a_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the clean reference that came to its end."""
    run_folder = tmp_path_factory.mktemp("run")
    place = run_folder / LIFECYCLE
    judged = runner.run(OWNERS_AND_FAILURES, ReferenceTarget(), 1, 1.0, place)
    judgement.store(judged, ReferenceTarget(), 1, 1.0, place)
    folder.write_json(run_folder / folder.PLAN, {"scenarios": [LIFECYCLE]})
    return run_folder


def test_a_finished_run_is_judged_again_from_its_history(a_run: Path, told: Told) -> None:
    """The same verdict, the same digest; one document for machines, a table for people."""
    stored = folder.read_json(a_run / LIFECYCLE / folder.VERDICT)

    assert run("judge", a_run, "--json") == 0
    out, error = told()
    document = json.loads(out)
    assert document["conclusion"] == "valid"
    (row,) = document["scenarios"]
    same = ("scenario", "validity", "digest", "operations", "episodes", "assumptions")
    assert {key: row[key] for key in same} == {key: stored[key] for key in same}
    assert "| L · lifecycle |" in error


def test_a_result_is_a_table_to_paste_however_narrow_the_terminal(
    a_run: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row of Markdown is one line; the terminal may wrap it, the command does not."""
    monkeypatch.setenv("COLUMNS", "40")
    run("judge", a_run)

    (row,) = [line for line in told()[1].splitlines() if line.startswith("| L · lifecycle")]
    assert [cell.strip() for cell in row.split("|")][-3:] == ["5 of 5", "valid", ""]


def test_one_scenario_of_a_run_can_be_judged(a_run: Path) -> None:
    """Its folder is enough."""
    assert run("judge", a_run / LIFECYCLE) == 0


def test_a_broken_promise_is_found_again(told: Told, tmp_path: Path) -> None:
    """Exit code 1, and the line that shows it once more."""
    failure = a_failure(tmp_path / LIFECYCLE)

    assert run("judge", tmp_path) == 1
    assert f"see it again: harness replay {failure}" in told()[1]


def test_a_run_that_was_killed_is_unknown(a_run: Path, told: Told, tmp_path: Path) -> None:
    """Without a verdict of its own it was cut short, whatever its history shows so far."""
    place = tmp_path / LIFECYCLE
    place.mkdir()
    whole = (a_run / LIFECYCLE / runner.HISTORY).read_bytes()
    (place / runner.HISTORY).write_bytes(whole[:-5])

    assert run("judge", tmp_path) == 2
    assert "unknown: the run ended before it did" in told()[1]


def test_a_proof_stands_though_the_run_was_killed(tmp_path: Path) -> None:
    """What it had come to still counts."""
    a_history(tmp_path / LIFECYCLE, RIGHT, WRONG, None)

    assert run("judge", tmp_path) == 1


def test_a_question_without_answer_proves_nothing(told: Told, tmp_path: Path) -> None:
    """The harness was killed while it waited: the target is not to blame."""
    a_history(tmp_path / LIFECYCLE, RIGHT, None)

    assert run("judge", tmp_path) == 2
    assert "cut short: complete_turn" in told()[1]


def test_a_scenario_that_never_began_is_unknown(told: Told, tmp_path: Path) -> None:
    """A run that was killed at its very start can still be judged."""
    folder.write_json(tmp_path / folder.PLAN, {"scenarios": [LIFECYCLE]})

    assert run("judge", tmp_path) == 2
    assert f"{LIFECYCLE}: unknown" in told()[1]
    assert run("judge", tmp_path, "--json") == 2
    assert json.loads(told()[0])["conclusion"] == "unknown"


# Replaying


class WrongAdapter:
    """A lifecycle that commits at once."""

    def complete_turn(self, session: str, agent: str) -> dict[str, Any]:
        """Call the agent, which nobody should."""
        return {"generation": 1, "called": [[session, agent]]}

    def close(self) -> None:
        """It has nothing to let go of."""


class WrongTarget(ReferenceTarget):
    """Offers it."""

    def open(self, ability: str, folder: Path) -> Instance:  # noqa: ARG002  the protocol's
        """A fresh one."""
        return AdapterInstance(WrongAdapter())


def test_a_failure_is_seen_again_where_it_still_is(
    told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 1 where the promise is still broken, 0 where it is kept by now."""
    failure = a_failure(tmp_path / LIFECYCLE)

    assert run("replay", failure) == 0
    assert "valid" in told()[1]
    monkeypatch.setattr("harness.runs.replay.find_target", lambda _: WrongTarget())
    assert run("replay", failure.parent, "--json") == 1
    out, error = told()
    assert json.loads(out)["anomalies"][0]["promise"] == "L12"
    assert "L12 broken: " in error
