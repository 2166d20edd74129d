"""Tests of counted costs and budgets: exact where all boots agree, silent where they vary."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest

from harness.cli import main as command
from harness.core.errors import UsageError
from harness.processes import tracing
from harness.processes.probe import UnavailableError
from harness.runs import compare, counts
from harness.runs.budgets import Budget, judged_budgets, read_budgets
from harness.runs.counts import (
    BYTES,
    COUNTS,
    FSYNCS,
    LOCKS,
    STATEMENTS,
    Word,
    at_rest,
    judged_counts,
    reading,
)
from harness.runs.figures import FIGURES, TURN
from harness.runs.profile import BUDGETED, figures_of
from tests.support.simulated_rounds import MACHINES, simulated

EXACT = {STATEMENTS: 20.0, LOCKS: 164.0, FSYNCS: 13.125}


def boots(**more: Sequence[float]) -> list[dict[str, float]]:
    """Three boots that agree but for these counts."""
    names = {"statements": STATEMENTS, "locks": LOCKS, "fsyncs": FSYNCS}
    return [
        EXACT | {names[name]: values[number] for name, values in more.items()}
        for number in range(3)
    ]


@pytest.mark.parametrize(
    ("b", "word", "is_beyond"),
    [
        ([20.0, 20.0, 20.0], Word.SAME, False),
        ([21.0, 21.0, 21.0], Word.MORE, True),
        ([20.5, 20.5, 20.5], Word.MORE, False),  # within 3 %
        ([19.0, 19.0, 19.0], Word.FEWER, False),
        ([30.0, 30.0, 31.0], Word.TOO_NOISY, False),
    ],
)
def test_count_is_compared_exactly(b: Sequence[float], word: Word, *, is_beyond: bool) -> None:
    """One that varies is never red, however large; the others of the run stay the same."""
    rows = {row.figure: row for row in judged_counts(boots(), boots(statements=b), 0.03)}
    assert (rows[STATEMENTS].word, rows[STATEMENTS].is_beyond) == (word, is_beyond)
    assert rows[STATEMENTS].b == (min(b), max(b))
    assert rows[LOCKS].word is Word.SAME


def test_count_of_one_side_is_no_row() -> None:
    """Nothing is compared with what was not counted."""
    lacking = [{LOCKS: 1.0}, EXACT]
    assert [row.figure for row in judged_counts(boots(), lacking, 0.03)] == [LOCKS]
    assert judged_counts([], [], 0.03) == []


def test_noise_in_the_first_side_is_silent() -> None:
    """A varies, B is steady and above: too noisy."""
    (row, *_) = judged_counts(boots(statements=[19, 20, 20]), boots(statements=[25] * 3), 0.0)
    assert (row.word, row.is_beyond) == (Word.TOO_NOISY, False)


def test_rest_is_when_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last of two equal readings; one that never rests is an error with the count."""
    monkeypatch.setattr(counts, "SETTLED_S", 0.0)
    values = iter([1, 2, 3, 3, 4, 5])
    assert at_rest(lambda: {STATEMENTS: next(values)}) == {STATEMENTS: 3}
    monkeypatch.setattr(counts, "PATIENCE_S", -1.0)
    with pytest.raises(UnavailableError, match=STATEMENTS):
        at_rest(lambda: {STATEMENTS: next(values)})


@pytest.mark.parametrize("state", ["S", "R"])
def test_sleep_is_seen_several_times(state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that runs, or waits for a processor, keeps the next turn back, within patience."""
    monkeypatch.setattr(counts, "ASLEEP_S", 0.0)
    seen: list[bool] = []

    def sleeps(_: int) -> bool:
        seen.append(state == "S")
        return seen[-1]

    monkeypatch.setattr(counts, "_sleeps", sleeps)
    monkeypatch.setattr(counts, "PATIENCE_S", 0.02)
    counts.await_sleep(1)
    assert (len(seen) == counts.ASLEEP) == (state == "S")


def test_busy_process_does_not_sleep() -> None:
    """By the states of its threads: this one runs, a child that reads its input sleeps."""
    command = [sys.executable, "-S", "-c", "print(flush=True); input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:  # noqa: S603
        assert child.stdout is not None
        child.stdout.readline()
        counts.await_sleep(child.pid)
        assert counts._sleeps(child.pid)
        assert not counts._sleeps(os.getpid())
        child.kill()


def test_reading_sees_own_writes(tmp_path: Path) -> None:
    """Bytes of this process, and the totals of a counter's file."""
    counter = tmp_path / "counts"
    assert STATEMENTS not in reading(os.getpid(), counter)
    counter.write_bytes(b"0007 0009")
    before = reading(os.getpid(), counter)
    assert (before[STATEMENTS], before[LOCKS]) == (7, 9)
    with (tmp_path / "written").open("wb", buffering=0) as file:
        file.write(b"x" * 5000)
    assert reading(os.getpid(), counter)[BYTES] - before[BYTES] >= 5000


def test_calls_without_strace_are_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A count that a machine does not give is missing, and no zero."""
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(UnavailableError, match="strace is not installed"):
        tracing.counted_calls(1, ("fsync",), lambda: pytest.fail("nothing is counted"))


# The command, with boots and rounds in place of servers


@pytest.fixture
def compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Any:
    """Run `harness compare` with these counts of B; the exit code, the document and the text."""

    def run(counted: Mapping[str, float], *more: str) -> tuple[int, dict[str, Any], str]:
        rounds = iter(simulated(MACHINES["quiet"], Random(2), 14))
        monkeypatch.setattr(compare, "measure_block", lambda *_: next(rounds))
        monkeypatch.setattr(compare, "cores", lambda: ([], []))
        monkeypatch.setattr(
            compare,
            "count_boot",
            lambda _, host: {**EXACT, **(counted if host.place.name == "b" else {})},
        )
        arguments = ["compare", "reference", "reference", "--seed", "2", "--json", "--margin=0.5"]
        code = command.run_command([*arguments, "--reports", str(tmp_path), *more])
        captured = capsys.readouterr()
        return code, json.loads(captured.out or "{}"), captured.err

    return run


def test_more_statements_are_red(compared: Any) -> None:
    """With its row and both numbers; the same counts are green."""
    code, document, text = compared({STATEMENTS: 33.0})
    assert (code, document["conclusion"]) == (1, "costs more")
    assert f"| {STATEMENTS} | 20 | 33 | more, beyond the margin |" in text
    assert f"| {BYTES} | - | - | unavailable |" in text

    code, document, text = compared({})
    assert (code, document["conclusion"]) == (0, "not slower")
    assert f"| {STATEMENTS} | 20 | 20 | same |" in text
    assert set(document["origin"]) == {"version", "commit", "python", "machine"}


def test_one_count_is_asked_alone(compared: Any) -> None:
    """Without any block; a count that is not there is not known."""
    code, document, _ = compared({LOCKS: 400.0}, "--figure", STATEMENTS)
    assert (code, document["conclusion"], document["rounds"]) == (0, "costs no more", [])
    assert [row["figure"] for row in document["counts"]] == [STATEMENTS]
    assert compared({}, "--figure", BYTES)[0] == 2


def budget_file(folder: Path, figure: object, most: object, more: str = "") -> Path:
    path = folder / "budgets.toml"
    text = f"[[budget]]\nfigure = {figure}\nmost = {most}\nreason = 'its design'\n{more}"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("figure", "most", "code", "word"),
    [
        (STATEMENTS, 20, 0, "kept"),
        (STATEMENTS, 19.5, 1, "broken"),
        (TURN, 1, 1, "broken"),
        (BYTES, 100, 2, "unavailable"),
        ("KiB a stream", 1, 0, "not measured by this command"),
    ],
)
def test_budget_is_judged(  # noqa: PLR0913, PLR0917  one parameter a column
    figure: str, most: float, code: int, word: str, compared: Any, tmp_path: Path
) -> None:
    """A comparison without a difference is red for a broken budget, with its row."""
    path = budget_file(tmp_path, f'"{figure}"', most)
    found, document, text = compared({}, "--budgets", str(path))
    assert found == code
    assert document["budgets"][0]["word"] == word
    assert f"| {word} | its design |" in text


def test_budget_of_a_count_that_varies() -> None:
    """Broken only where even the least is above; where it is within, nothing is known."""
    budget = Budget(STATEMENTS, 20, "its design")

    def word(*bounds: float) -> str:
        (judged,) = judged_budgets([budget], {STATEMENTS: bounds}, COUNTS, "toy")  # type: ignore[dict-item]
        return judged.word

    assert word(21, 23) == "broken"
    assert word(20, 23) == "too noisy"
    assert word(18, 20) == "kept"


@pytest.mark.parametrize(
    ("figure", "most", "more", "sentence"),
    [
        ("'SQL statement a turn'", 1, "", "did you mean 'SQL statements a turn'"),
        ("'x'", 1, "", "KiB a stream"),
        ("3", 1, "", "figure = 3; expected a text"),
        (f"'{LOCKS}'", "'a'", "", "most = 'a'; expected a number"),
        (f"'{LOCKS}'", "true", "", "most = True; expected a number"),
        (f"'{LOCKS}'", "nan", "", "most = nan; expected a number"),
        (f"'{LOCKS}'", "-1", "", "not negative"),
        (f"'{LOCKS}'", 1, "least = 1", "unknown key 'least'"),
        (f"'{LOCKS}'", 1, f"[[budget]]\nfigure='{LOCKS}'\nmost=1\nreason='x'", "more than one"),
        (f"'{LOCKS}'", 1, "[budgets]", "unknown key 'budgets'"),
        ("'", 1, "", "expected a TOML file"),
    ],
)
def test_wrong_budget_file_is_refused(
    figure: str, most: object, more: str, sentence: str, tmp_path: Path
) -> None:
    """Before anything is measured, with the entry, and the names that there are."""
    path = budget_file(tmp_path, figure, most, more)
    with pytest.raises(UsageError, match=sentence) as refused:
        read_budgets(path, (*FIGURES, *COUNTS, *BUDGETED))
    assert str(path) in str(refused.value)


def test_example_budgets_are_valid() -> None:
    """The committed file names figures that exist; an empty file is refused."""
    path = Path(__file__).parents[2] / "docs" / "examples" / "budgets.toml"
    assert len(read_budgets(path, (*FIGURES, *COUNTS, *BUDGETED))) >= 3


def test_empty_budget_file_is_refused(tmp_path: Path) -> None:
    """It would keep every promise."""
    path = tmp_path / "empty.toml"
    path.write_text("", encoding="utf-8")
    with pytest.raises(UsageError, match="at least one"):
        read_budgets(path, COUNTS)


def test_profile_gives_the_figures_of_budgets() -> None:
    """What is unavailable is no figure, and every name is one that a file may have."""
    result = {
        "memory": {"streams": 400, "KiB a stream": 3.4, "threads a stream": 0.0},
        "per turn": {"events": 23.0},
        "processor": {"us an event": "unavailable: few seconds", "us a call": 9.0},
        "latency": [{"name": "turn", "p50": 1.0, "p99": 2.0, "worst": 3.0}],
    }
    found = figures_of(result)
    assert found["KiB a stream"] == (3.4, 3.4)
    assert found["turn p99, ms"] == (2.0, 2.0)
    assert "us an event" not in found
    assert set(found) <= set(BUDGETED)
