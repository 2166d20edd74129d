"""Copies of a source in which threads pause."""

from __future__ import annotations

import ast
import random
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.cli.main import cli
from harness.core.errors import UsageError
from harness.mutation.delays import MODULE, delayed_copy, with_pauses
from tests.support.paths import PROJECT

SOURCE = '''
"""A module."""

def twice(values):
    """Double each value."""
    total = [
        2 * value for value in values
    ]
    for value in values: total.append(value)
    if total:
        return total
    return "é", None
'''


def test_every_source_of_the_reference_can_pause() -> None:
    """Each copy is the same program: without its pauses it is the source, line by line."""
    for file in (PROJECT / "reference_impl").rglob("*.py"):
        text = file.read_text("utf-8")
        paused, count = with_pauses(text, random.Random(3), 1.0)
        ast.parse(paused)
        lines = paused.splitlines()
        assert len(lines) == len(text.splitlines())
        assert sum(MODULE in line for line in lines) == count
        bare = [_without_pause(line) for line in lines]
        assert bare == text.splitlines()


@pytest.mark.parametrize("seed", range(20))
def test_a_pause_stands_before_a_whole_statement(seed: int) -> None:
    """Never in a docstring, nor behind a colon, nor within an expression."""
    paused, count = with_pauses(SOURCE, random.Random(seed), 1.0)
    names: dict[str, object] = {}
    exec(paused.replace(f'__import__("{MODULE}").pause', "passed.append"), {"passed": []}, names)  # noqa: S102  it is our own source

    assert count == 1
    assert paused.splitlines()[4] == '    """Double each value."""'
    assert names["twice"]([]) == ("é", None)  # type: ignore[operator]


def test_the_copy_pauses_by_its_seed(tmp_path: Path) -> None:
    """Equal seeds give equal copies; a package keeps its name."""
    package = tmp_path / "shop"
    package.mkdir()
    (package / "__init__.py").write_text("", "utf-8")
    (package / "till.py").write_text(SOURCE * 9, "utf-8")
    (package / "page.py").write_text("{{ no python }} of a template {%", "utf-8")
    counts = [
        delayed_copy(package, tmp_path / name, seed, share=0.5)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    texts = [(tmp_path / name / "shop" / "till.py").read_text("utf-8") for name in "abc"]

    assert counts[0] == counts[1] > 0
    assert texts[0] == texts[1] != texts[2]
    assert "(1)" in (tmp_path / "a" / f"{MODULE}.py").read_text("utf-8")


def test_what_cannot_be_copied_is_a_usage_error(tmp_path: Path) -> None:
    """No source, no Python, or a copy that would overwrite something."""
    (tmp_path / "text.txt").write_text("no python", "utf-8")
    for source in (tmp_path / "absent", tmp_path):
        with pytest.raises(UsageError, match="no folder of Python"):
            delayed_copy(source, tmp_path / "copy", 1)
    source = PROJECT / "reference_impl" / "agents"
    delayed_copy(source, tmp_path / "copy", 1)
    with pytest.raises(UsageError, match="not empty"):
        delayed_copy(source, tmp_path / "copy", 1)


def test_delay_command_tells_the_number_of_pauses(tmp_path: Path) -> None:
    source = str(PROJECT / "reference_impl")
    done = CliRunner().invoke(cli, ["delay", source, str(tmp_path / "slow"), "--seed", "7"])

    assert done.exit_code == 0, done.output
    assert "pauses in" in done.output
    assert (tmp_path / "slow" / "reference_impl" / "app.py").exists()


def _without_pause(line: str) -> str:
    start, mark, rest = line.partition(f'__import__("{MODULE}").pause(')
    return start + rest.partition("); ")[2] if mark else line
