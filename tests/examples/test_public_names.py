"""Checks that every public name of the harness is documented, and used by an example."""

from __future__ import annotations

import ast
import inspect
from itertools import pairwise
from pathlib import Path

import pytest

import harness

EXAMPLES = Path(__file__).parents[2] / "examples"


def imported_by_examples() -> set[str]:
    """The names that example files import from `harness`."""
    return {
        alias.name
        for file in EXAMPLES.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module == "harness"
        for alias in node.names
    }


def described_aliases() -> set[str]:
    """The type aliases of the package whose assignment is followed by a string."""
    return {
        statement.target.id
        for file in Path(harness.__file__).parent.rglob("*.py")
        for statement, following in pairwise(ast.parse(file.read_text(encoding="utf-8")).body)
        if isinstance(statement, ast.AnnAssign)
        and isinstance(statement.target, ast.Name)
        and isinstance(following, ast.Expr)
        and isinstance(following.value, ast.Constant)
    }


@pytest.mark.parametrize("name", harness.__all__)
def test_public_name_has_a_description(name: str) -> None:
    """Classes and functions have docstrings; a type alias has a string below it."""
    value = getattr(harness, name)
    if inspect.isclass(value) or inspect.isfunction(value):
        assert value.__doc__
        assert not value.__doc__.startswith(f"{name}(")  # what dataclasses write by themselves
    else:
        assert name in described_aliases()


def test_public_names_are_used_by_examples() -> None:
    """Each public name is imported by an example, which the tests beside this one run."""
    assert set(harness.__all__) - imported_by_examples() == set()


def test_public_names_are_sorted_and_loadable() -> None:
    """The list is sorted, has no name twice, and `dir` shows it."""
    assert harness.__all__ == sorted(set(harness.__all__))
    assert set(harness.__all__) <= set(dir(harness))
