"""Tests of code mutants: each differs from the source in one place."""

from __future__ import annotations

import ast
import itertools
import textwrap
from pathlib import Path

import pytest

from harness.core.errors import UsageError
from harness.mutation.mutants import (
    Operator,
    breed,
    find_mutants,
    mutants_of,
    mutated,
    prepared_copy,
    source_folder,
)

SOURCE = '''
@dataclass(slots=True)
class Möbel:
    """Not mutated."""

    _KEPT = 1

    def __init__(self) -> None:
        self.count = 0

    def take(self, wanted: int = 1) -> bool:
        with self._lock:
            if self.count < wanted and self.open:
                log.info("%d", self.count + 1)
                return False
            über = self.count - wanted
            self.count = über
            self.notify()
        if self.done:
            raise ValueError(f"{self.count + 1} are {'too' + ' many'}")
        return True
'''


def test_operators_find_their_nodes_and_no_others() -> None:
    """Columns count bytes: characters of two bytes stand before some of the nodes."""
    found = {
        (mutant.operator, mutant.before, mutant.after) for mutant in mutants_of("x.py", SOURCE)
    }
    test = "self.count < wanted and self.open"

    assert found == {
        (Operator.CONSTANT, "1", "2"),
        (Operator.CONSTANT, "0", "1"),
        (Operator.LOCK, "with self._lock", "if True"),
        (Operator.CONNECTOR, test, "(self.count < wanted or self.open)"),
        (Operator.NEGATION, test, f"(not ({test}))"),
        (Operator.RELATION, "self.count < wanted", "(self.count <= wanted)"),
        (Operator.CONSTANT, "False", "True"),
        (Operator.ARITHMETIC, "self.count - wanted", "(self.count + wanted)"),
        (Operator.DELETION, "self.count = über", "pass"),
        (Operator.DELETION, "self.notify()", "pass"),
        (Operator.NEGATION, "self.done", "(not (self.done))"),
        (Operator.CONSTANT, "True", "False"),
    }


def functions(source: str) -> list[tuple[int, int]]:
    """First and last character of each function with its indentation, the outer ones first."""
    lines = [0, *itertools.accumulate(map(len, source.splitlines(keepends=True)))]
    return [
        (lines[node.lineno - 1], lines[node.end_lineno or node.lineno])
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def tree(text: str) -> str:
    return ast.dump(ast.parse(textwrap.dedent(text)))


def test_reference_mutants_parse_and_differ() -> None:
    """Each is Python, and has another syntax tree than the source.

    Compared are the functions that are changed, since whole files would take half a minute.
    """
    folder = source_folder()
    sources = {
        path.relative_to(folder).as_posix(): path.read_text("utf-8")
        for path in folder.rglob("*.py")
    }
    parts = {name: functions(source) for name, source in sources.items()}
    trees: dict[tuple[str, int, int], str] = {}
    mutants = find_mutants()

    assert len(mutants) > 1000
    for mutant in mutants:
        source = sources[mutant.file]
        around = [p for p in parts[mutant.file] if p[0] <= mutant.start and mutant.end <= p[1]]
        first, last = around[0] if around else (0, len(source))
        key = (mutant.file, first, last)
        if key not in trees:
            trees[key] = tree(source[first:last])
        changed = mutated(source, mutant)[first : last + len(mutant.after) - len(mutant.before)]
        assert tree(changed) != trees[key]


def test_breed_changes_a_copy_only(tmp_path: Path) -> None:
    """The source itself stays as it is."""
    mutant = find_mutants(["storage/durable_map.py"])[0]
    before = (source_folder() / "storage/durable_map.py").read_text("utf-8")
    breed([mutant], tmp_path / "copy", prepared_copy(tmp_path / "prepared"))

    assert (tmp_path / "copy" / "reference_impl" / "storage/durable_map.py").read_text(
        "utf-8"
    ) == mutated(before, mutant)
    assert (source_folder() / "storage/durable_map.py").read_text("utf-8") == before


def test_breed_compiles_only_what_it_changes(tmp_path: Path) -> None:
    """Several edits of one file are made in one copy; the other files stay compiled."""
    every = find_mutants(["storage/durable_map.py"])
    first, last = every[0], every[-1]
    prepared = prepared_copy(tmp_path / "prepared")
    copy = breed([first, last], tmp_path / "copy", prepared) / "reference_impl" / "storage"

    before = (source_folder() / "storage/durable_map.py").read_text("utf-8")
    assert (copy / "durable_map.py").read_text("utf-8") == mutated(mutated(before, last), first)
    compiled = {path.name.partition(".")[0] for path in (copy / "__pycache__").iterdir()}
    assert "files" in compiled
    assert "durable_map" not in compiled


def test_an_unknown_file_is_a_usage_error() -> None:
    """The error names the file and the nearest ones."""
    with pytest.raises(UsageError, match="unknown source file 'nothing"):
        find_mutants(["nothing.py"])
