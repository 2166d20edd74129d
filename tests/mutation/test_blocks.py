"""Tests of blocks: every statement of a function lies in exactly one block of that function."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.mutation.blocks import Block, blocks_of
from harness.mutation.mutants import source_folder

Lines = list[str]
SIMPLE = st.sampled_from(
    [
        ["x = 1"],
        ["pass"],
        ["call(x)"],
        ["return x"],
        ["raise ValueError(x)"],
        ["y = [", "    1,", "    2,", "]"],
        ["import os"],
        ["..."],
    ]
)


def indented(body: Lines) -> Lines:
    """The lines one level deeper."""
    return [f"    {line}" for line in body]


def compound(bodies: st.SearchStrategy[Lines]) -> st.SearchStrategy[Lines]:
    """Statements with bodies of their own."""
    return st.one_of(
        st.builds(lambda a: ["if x:", *indented(a)], bodies),
        st.builds(lambda a, b: ["if x:", *indented(a), "else:", *indented(b)], bodies, bodies),
        st.builds(lambda a, b: ["if x:", *indented(a), "elif y:", *indented(b)], bodies, bodies),
        st.builds(
            lambda a, b: ["for x in y:", *indented(a), "else:", *indented(b)], bodies, bodies
        ),
        st.builds(lambda a: ["while x:", *indented(a)], bodies),
        st.builds(lambda a: ["with x as y:", *indented(a)], bodies),
        st.builds(
            lambda a, b, c: [
                *("try:", *indented(a), "except KeyError:", *indented(b)),
                *("finally:", *indented(c)),
            ],
            *(bodies, bodies, bodies),
        ),
        st.builds(
            lambda a, b, c: [
                *("try:", *indented(a), "except OSError as e:", *indented(b)),
                *("else:", *indented(c)),
            ],
            *(bodies, bodies, bodies),
        ),
        st.builds(
            lambda a, b: [
                "match x:",
                *indented(["case 1:", *indented(a), "case _:", *indented(b)]),
            ],
            *(bodies, bodies),
        ),
    )


def joined(statements: list[Lines]) -> Lines:
    """Statements one after another; functions in them get names of their own."""
    return [line for statement in statements for line in statement]


DOCSTRINGS = st.sampled_from([[], ['"""Says what it does."""'], ['"""One.', "", 'Two."""']])


def functions(bodies: st.SearchStrategy[Lines]) -> st.SearchStrategy[Lines]:
    """Functions, with decorators and docstrings or without."""
    return st.builds(
        lambda decorators, kind, docstring, body: [
            *decorators,
            f"{kind} NAME():",
            *indented([*docstring, *body]),
        ],
        st.sampled_from([[], ["@cache"], ["@first", "@second"]]),
        st.sampled_from(["def", "async def"]),
        DOCSTRINGS,
        bodies,
    )


def classes(bodies: st.SearchStrategy[Lines]) -> st.SearchStrategy[Lines]:
    """Classes with methods."""
    return st.lists(functions(bodies), min_size=1, max_size=2).map(
        lambda methods: ["class NAME:", *indented(["field = 1", *joined(methods)])]
    )


def numbered(lines: Lines) -> str:
    """The source text, in which every function and class has a name of its own."""
    return "\n".join(line.replace("NAME", f"n{number}") for number, line in enumerate(lines))


BODIES: st.SearchStrategy[Lines] = st.recursive(
    SIMPLE,
    lambda below: st.lists(compound(below) | SIMPLE | functions(below), min_size=1, max_size=3).map(
        joined
    ),
    max_leaves=8,
)
MODULES = st.lists(functions(BODIES) | classes(BODIES) | SIMPLE, min_size=1, max_size=3)
SOURCES = MODULES.map(joined).map(numbered)


def statements(body: list[ast.stmt], owner: str) -> Iterator[tuple[str, ast.stmt]]:
    """Every statement of every function below, with the name of its function."""
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            name = f"{owner}{statement.name}"
            yield from ((name, below) for below in own_statements(statement.body))
            yield from statements(statement.body, f"{name}.")
        elif isinstance(statement, ast.ClassDef):
            yield from statements(statement.body, f"{owner}{statement.name}.")
        else:
            for inner in bodies_of(statement):
                yield from statements(inner, owner)


def own_statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a function, without literals and without those of functions inside."""
    for statement in body:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            continue
        yield statement
        if not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            for inner in bodies_of(statement):
                yield from own_statements(inner)


def bodies_of(statement: ast.stmt) -> list[list[ast.stmt]]:
    """The bodies of a compound statement."""
    if isinstance(statement, ast.Match):
        return [case.body for case in statement.cases]
    handlers = [handler.body for handler in getattr(statement, "handlers", [])]
    named = [getattr(statement, name, []) for name in ("body", "orelse", "finalbody")]
    return named + handlers


def check(source: str) -> list[Block]:
    """Assert that every statement lies in exactly one block of its function."""
    blocks = blocks_of("m.py", source)
    for function, statement in statements(ast.parse(source).body, ""):
        containing = [
            block
            for block in blocks
            if block.function == function and block.first <= statement.lineno <= block.last
        ]
        assert len(containing) == 1, (function, statement.lineno, containing)
    return blocks


@given(SOURCES)
def test_each_statement_is_in_one_block(source: str) -> None:
    """Blocks of a function do not overlap, and none is empty."""
    blocks = check(source)

    firsts = {(function, line.lineno) for function, line in statements(ast.parse(source).body, "")}
    for block in blocks:
        lines = range(block.first, block.last + 1)
        assert any((block.function, line) in firsts for line in lines), block
    assert blocks == sorted(set(blocks))


@pytest.mark.parametrize("path", sorted(source_folder().rglob("*.py")), ids=lambda path: path.name)
def test_each_statement_of_the_reference(path: Path) -> None:
    """The property holds for real source too."""
    check(path.read_text(encoding="utf-8"))


def test_a_compound_statement_ends_the_block() -> None:
    """Its header belongs to the block before it; each body begins another."""
    source = '''\
def run(x):
    """Not counted."""
    a = 1
    if x:
        b = 2
        c = 3
    else:
        d = 4
    return a
'''
    spans = [(block.first, block.last) for block in blocks_of("m.py", source)]

    assert spans == [(3, 4), (5, 6), (8, 8), (9, 9)]


def test_a_method_is_named_by_its_class() -> None:
    """And an inner function by its outer one."""
    source = (
        "class A:\n    def b(self):\n        def c():\n            return 1\n        return c\n"
    )

    blocks = blocks_of("m.py", source)
    assert [str(block) for block in blocks] == ["m.py:3 in A.b", "m.py:4 in A.b.c"]


def test_a_literal_alone_is_no_block() -> None:
    """A docstring never runs, and `...` stands for code that is elsewhere."""
    source = 'def a():\n    """Empty."""\n\ndef b():\n    ...\n\ndef c():\n    pass\n'

    assert [block.function for block in blocks_of("m.py", source)] == ["c"]


def test_bad_source_is_a_syntax_error() -> None:
    with pytest.raises(SyntaxError):
        blocks_of("m.py", "def :")
