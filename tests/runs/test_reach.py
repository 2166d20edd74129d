"""Tests of reach: the recorder in child processes, and the blocks that scenarios reach."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from harness.cli import main as command
from harness.core.errors import UsageError
from harness.mutation.blocks import Block
from harness.mutation.mutants import source_folder
from harness.report import folder
from harness.runs.pytest_run import no_progress
from harness.runs.reach import Reach
from harness.runs.reached import EXCUSES, Reached, blocks_in, excuses_for, read_excuses
from harness.worker import reach as recorder
from tests.support.toy_suites import judging_by, write_suite, write_target

PROGRAM = """
import os, runpy, signal, sys, threading

sys.path.insert(0, sys.argv[1])
runpy.run_path(os.environ["HARNESS_REACH_CODE"])["start"]()

from package import work

thread = threading.Thread(target=work.in_thread)
thread.start()
thread.join()
if os.fork() == 0:
    work.in_fork()
    os.kill(os.getpid(), signal.SIGKILL)
os.wait()
work.before_kill()
os.kill(os.getpid(), signal.SIGKILL)
work.after_kill()
"""
WORK = """
def in_thread():
    return "thread"

def in_fork():
    return "fork"

def before_kill():
    for _ in range(3):
        done = "before"
    return done

def after_kill():
    return "after"
"""


def recorded(tmp_path: Path, source: Path, program: str = PROGRAM) -> set[tuple[str, int]]:
    """Run a program under the recorder; the lines that it noted."""
    lines = tmp_path / "lines"
    lines.mkdir()
    settings = recorder.settings(lines, source)
    ended = subprocess.run(  # noqa: S603  a fixed command
        [sys.executable, "-c", program, str(tmp_path)],
        env={**os.environ, **settings},
        check=False,
    )
    assert ended.returncode == -9
    return recorder.lines_in(lines)


def write_package(top: Path) -> Path:
    """A package whose functions are called before and after a kill."""
    package = top / "package"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "work.py").write_text(WORK, encoding="utf-8")
    return package


def line_of(text: str) -> int:
    """The number of the line of WORK that contains this text."""
    (number,) = [n for n, line in enumerate(WORK.splitlines(), start=1) if text in line]
    return number


def test_a_killed_process_keeps_its_lines(tmp_path: Path) -> None:
    """Those of its threads and of a killed fork too; a line after the kill is not noted."""
    found = recorded(tmp_path, write_package(tmp_path))

    numbers = {number for name, number in found if name == "work.py"}
    for text in ('"thread"', '"fork"', '"before"', "return done"):
        assert line_of(text) in numbers
    assert line_of('"after"') not in numbers


def test_a_copy_of_the_source_counts(tmp_path: Path) -> None:
    """A planted copy has its package in another folder, under the same name."""
    write_package(tmp_path)
    source = write_package(tmp_path / "else")

    assert ("work.py", line_of('"before"')) in recorded(tmp_path, source)


def test_other_code_is_not_recorded(tmp_path: Path) -> None:
    """Only the code on trial is."""
    write_package(tmp_path)

    assert recorded(tmp_path, tmp_path / "other_package") == set()


def test_closed_descriptors_lose_no_line(tmp_path: Path) -> None:
    """The recorder holds none, and so it writes into no other file that takes its number."""
    program = PROGRAM.replace("work.before_kill()", "os.closerange(3, 99); work.before_kill()")

    found = recorded(tmp_path, write_package(tmp_path), program)
    assert ("work.py", line_of('"before"')) in found


# Blocks and rooms


def test_rooms_count_reached_blocks() -> None:
    """A room is a folder at the top; files at the top share one."""
    first, second, third = (Block(file, 1, 2, "f") for file in ("a/x.py", "a/y.py", "z.py"))
    reached = Reached(
        (first, second, third),
        {"one": frozenset({first}), "two": frozenset({first, third})},
        {"one": "valid"},
    )

    assert reached.rooms() == [("a", 1, 2), (".", 1, 1)]
    assert reached.missed == [second]
    document = reached.to_json()
    assert document["missed"] == [{"block": "a/y.py:1 in f", "reason": ""}]
    assert reached.unexplained == [second]
    assert replace(reached, excuses={second: "cannot run here"}).unexplained == []
    assert document["scenarios"]["two"] == {"reached": 2, "verdict": "unknown"}


def test_a_source_without_functions_is_refused(tmp_path: Path) -> None:
    """The error names the folder."""
    (tmp_path / "empty.py").touch()

    with pytest.raises(UsageError, match="expected Python modules with functions; found none"):
        blocks_in(tmp_path)


def test_an_excuse_names_a_block(tmp_path: Path) -> None:
    """By the function and the text of its first line; one that fits no block is refused."""
    package = write_package(tmp_path)
    blocks = blocks_in(package)
    excuse = {"file": "work.py", "function": "after_kill", "line": 'return "after"', "reason": "x"}
    file = tmp_path / EXCUSES
    file.write_text(json.dumps([excuse]), encoding="utf-8")

    ((block, reason),) = read_excuses(file, package, blocks).items()
    assert (block.function, reason) == ("after_kill", "x")
    file.write_text(json.dumps([{**excuse, "line": "return 1"}]), encoding="utf-8")
    with pytest.raises(UsageError, match="is no block of"):
        read_excuses(file, package, blocks)


def test_excuses_of_the_suite_fit_the_reference() -> None:
    """Each has a reason of more than a few words, and names a block that is there."""
    source = source_folder().resolve()
    excuses = excuses_for(source, blocks_in(source))
    assert all(len(reason.split()) > 3 for reason in excuses.values())


# Runs


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the toy suite."""
    return write_suite(tmp_path_factory.mktemp("reach") / "reached_suite")


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of the toy target, in the current folder and on the path of child processes."""
    monkeypatch.chdir(write_target(tmp_path / "target", "reached_target"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "target"))
    monkeypatch.syspath_prepend(tmp_path / "target")
    return tmp_path / "target" / "reached_target.py"


@pytest.mark.parametrize("is_file", [True, False], ids=["file", "folder"])
def test_reach_finds_the_blocks_that_ran(
    suite: Path, target: Path, tmp_path: Path, *, is_file: bool
) -> None:
    """The target's `standalone` is not called, and neither is the branch for a mistake."""
    source = target if is_file else target.parent
    reach = Reach("reached_target:CounterTarget", 1, 1.0, tmp_path, 1, source=source)
    with judging_by(suite):
        run, reached = reach.run(no_progress)

    assert {block.function for block in reached.reached} >= {"Counter.add", "Counter.close"}
    assert [block.function for block in reached.missed] == [
        "CounterTarget.open",
        "CounterTarget.standalone",
    ]
    assert reached.validity == {"toy-counter": "valid"}
    stored = folder.read_json(run / folder.VERDICT)
    assert stored == json.loads(json.dumps(reached.to_json()))


@pytest.mark.parametrize(("at_least", "code"), [("0.5", 0), ("1.0", 1)])
def test_reach_exits_by_the_share(
    at_least: str, code: int, suite: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And lists the missed blocks."""
    reports = str(target.parent / "reports")
    options = ["--source", str(target), "--reports", reports, "--seed", "1", "--missed"]
    name = "reached_target:CounterTarget"
    arguments = ["reach", "--target", name, *options, "--at-least", at_least]
    with judging_by(suite):
        assert command.run_command([*arguments, "--workers", "1"]) == code
    assert "in CounterTarget.standalone" in capsys.readouterr().out
