"""Basic blocks of Python source: what reach is counted in.

A block is a longest run of statements of one function that either all start or none does: a
compound statement ends the block that leads to it, and each of its bodies begins another. Literals
that stand alone, docstrings and `...`, belong to no block: they do nothing.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

_COMPOUND = (
    ast.If,
    ast.For,
    ast.AsyncFor,
    ast.While,
    ast.Try,
    ast.TryStar,
    ast.With,
    ast.AsyncWith,
    ast.Match,
)
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@dataclass(frozen=True, slots=True, order=True)
class Block:
    """One block: its first and last line, and the function that it is in."""

    file: str
    first: int
    last: int
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.first} in {self.function}"


def blocks_of(file: str, source: str) -> list[Block]:
    """The blocks of every function of a module, in order. Raises SyntaxError for bad source."""
    found: list[Block] = []
    _walk(ast.parse(source).body, "", file, found)
    return sorted(found)


def place_of(source: str, line: int) -> range:
    """The lines that run together with this one: its block, or its statement outside functions."""
    return _places(source)[line - 1]


@cache
def _places(source: str) -> tuple[range, ...]:
    """For each line the lines that run together with it."""
    places = [range(n, n + 1) for n in range(1, source.count("\n") + 2)]
    owners = list(range(1, len(places) + 1))  # the first line of the innermost statement
    for node in ast.walk(ast.parse(source)):  # from the outside to the inside
        if not isinstance(node, ast.stmt):
            continue
        last = node.end_lineno or node.lineno
        if isinstance(node, (*_COMPOUND, *_DEFINITIONS)):
            bodies = [body[0].lineno for body in _bodies(node)]
            last = max(node.lineno, min(bodies, default=last) - 1)
        first = _first_line(node)
        for number in range(first, last + 1):
            owners[number - 1] = node.lineno
            places[number - 1] = range(first, last + 1)
    blocks = {
        number: range(block.first, block.last + 1)
        for block in blocks_of("", source)
        for number in range(block.first, block.last + 1)
    }
    return tuple(blocks.get(owners[n], place) for n, place in enumerate(places))


def _walk(body: list[ast.stmt], owner: str, file: str, found: list[Block]) -> None:
    """Find the functions below a module or class."""
    for statement in body:
        if isinstance(statement, ast.ClassDef):
            _walk(statement.body, f"{owner}{statement.name}.", file, found)
        elif isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            _split(statement.body, f"{owner}{statement.name}", file, found)


def _split(body: list[ast.stmt], function: str, file: str, found: list[Block]) -> None:
    """Cut a suite into blocks, and go on in the bodies of its compound statements."""
    run: list[ast.stmt] = []
    for statement in body:
        if _is_constant(statement):
            continue
        if isinstance(statement, _DEFINITIONS):
            _walk([statement], f"{function}.", file, found)
            run.append(statement)
            continue
        run.append(statement)
        if isinstance(statement, _COMPOUND):
            found.append(_block(run, function, file))
            run = []
            for inner in _bodies(statement):
                _split(inner, function, file, found)
    if run:
        found.append(_block(run, function, file))


def _block(run: list[ast.stmt], function: str, file: str) -> Block:
    last = run[-1]
    ends = last.lineno if isinstance(last, (*_COMPOUND, *_DEFINITIONS)) else last.end_lineno
    return Block(file, _first_line(run[0]), ends or last.lineno, function)


def _first_line(statement: ast.stmt) -> int:
    decorators = getattr(statement, "decorator_list", [])
    return decorators[0].lineno if decorators else statement.lineno


def _bodies(statement: ast.stmt) -> Iterator[list[ast.stmt]]:
    for name in ("body", "orelse", "finalbody"):
        inner = getattr(statement, name, None)
        if inner:
            yield inner
    for handler in getattr(statement, "handlers", ()):
        yield handler.body
    for case in getattr(statement, "cases", ()):
        yield case.body


def _is_constant(statement: ast.stmt) -> bool:
    """Whether it is a docstring, another literal or `...`."""
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
