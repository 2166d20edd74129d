"""Code mutants: copies of a suite's source with one small mistake each.

A mutant that survives shows a line whose effect no checker looks at (DeMillo, Lipton and Sayward,
"Hints on Test Data Selection", Computer 1978). The operators are the ones that Offutt et al. found
sufficient ("An Experimental Determination of Sufficient Mutant Operators", TOSEM 1996), statement
deletion, and the removal of a lock (Bradbury, Cordy and Dingel, "Mutation Operators for Concurrent
Java", 2006).

Code that no promise is about is not mutated: logging, messages of errors, annotations. Calls that
send signals are not mutated either, because a mutant could signal a foreign process.
"""

from __future__ import annotations

import ast
import compileall
import itertools
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from harness.core.errors import UsageError
from harness.core.suggestions import unknown
from harness.engine.suite import suite_with_source
from harness.mutation.known_bugs import copy_source


class Operator(StrEnum):
    """The kind of edit."""

    RELATION = "relation"  # < becomes <=, == becomes !=
    CONNECTOR = "connector"  # and becomes or
    NEGATION = "negation"  # if x becomes if not x
    ARITHMETIC = "arithmetic"  # + becomes -
    CONSTANT = "constant"  # 0 becomes 1, True becomes False
    DELETION = "deletion"  # a statement is left out
    LOCK = "lock"  # a block is entered without its lock


@dataclass(frozen=True, slots=True, order=True)
class Mutant:
    """One edit of one file: characters `start` to `end` become `after`. Lines count from 1."""

    file: str
    line: int
    start: int
    end: int
    operator: Operator
    before: str
    after: str

    @property
    def name(self) -> str:
        """File, line and operator."""
        return f"{self.file}:{self.line} {self.operator}"

    def __str__(self) -> str:
        before, after = (" ".join(text.split()) for text in (self.before, self.after))
        return f"{self.name}: {before} -> {after}"


def find_mutants(files: Iterable[str] = ()) -> list[Mutant]:
    """All mutants of these files of the source, in order; of every file for none.

    Raises UsageError for an unknown file.
    """
    top = source_folder()
    every = sorted(path.relative_to(top).as_posix() for path in top.rglob("*.py"))
    wanted = list(files)
    for name in wanted:
        if name not in every:
            raise UsageError(unknown("source file", name, every))
    sources = {name: (top / name).read_text("utf-8") for name in wanted or every}
    return [mutant for name, source in sources.items() for mutant in mutants_of(name, source)]


def source_folder() -> Path:
    """The folder of the package that mutants are made of."""
    source = suite_with_source().source
    assert source is not None, "the suite was chosen for it"
    return source


def mutants_of(file: str, source: str) -> list[Mutant]:
    """All mutants of a module's source, in order."""
    finder = _Finder(file, source)
    finder.visit(ast.parse(source))
    return sorted(set(finder.found))


def prepared_copy(folder: Path) -> Path:
    """Put a compiled copy of the source into `folder`, from which `breed` makes its copies."""
    copy_source(suite_with_source(), folder)
    compileall.compile_dir(folder, quiet=2, workers=1)
    return folder


def breed(mutants: Iterable[Mutant], folder: Path, prepared: Path) -> Path:
    """Copy a prepared copy to `folder`, make the edits in it, and return the folder.

    The edits must not overlap. Files without an edit stay compiled.
    """
    shutil.copytree(prepared, folder)
    for mutant in sorted(mutants, reverse=True, key=lambda mutant: mutant.start):
        path = folder / source_folder().name / mutant.file
        path.write_text(mutated(path.read_text("utf-8"), mutant), "utf-8")
        for compiled in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
            compiled.unlink()
    return folder


def mutated(source: str, mutant: Mutant) -> str:
    """The source text with the edit."""
    return source[: mutant.start] + mutant.after + source[mutant.end :]


_RELATIONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_SPARED_CALLS = {"log", "kill", "killpg", "send_signal"}


class _Finder(ast.NodeVisitor):
    """Walks over a module, and collects its mutants."""

    def __init__(self, file: str, source: str) -> None:
        self.found: list[Mutant] = []
        self._file = file
        self._source = source
        self._lines = source.splitlines(keepends=True)
        self._begins = [0, *itertools.accumulate(len(line) for line in self._lines)]
        self._is_in_init = False

    # Nodes that are visited, and nodes that are skipped

    def visit(self, node: ast.AST) -> None:
        """Collect the mutants of the node, and go on below it."""
        mutate = _MUTATIONS.get(type(node))
        if mutate is not None:
            mutate(self, node)
        super().visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if _SPARED_CALLS.isdisjoint(ast.unparse(node.func).split(".")):
            self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> None:
        """Skip it: it is an error's message."""

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Skip it: it is a message, and Python 3.11 does not know its positions."""

    def visit_Assert(self, node: ast.Assert) -> None:
        """Skip it: it documents an invariant."""

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        if not any(ast.unparse(base).startswith("Protocol") for base in node.bases):
            for part in node.body:
                self.visit(part)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        before, self._is_in_init = self._is_in_init, node.name == "__init__"
        for part in (*node.args.defaults, *node.args.kw_defaults, *node.body):
            if part is not None and node.name != "__repr__":
                self.visit(part)
        self._is_in_init = before

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815  as ast calls it

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    # The mutations

    def relation(self, node: ast.Compare) -> None:
        """Another relation, where two values are compared."""
        if len(node.ops) == 1:
            other = ast.Compare(node.left, [_RELATIONS[type(node.ops[0])]()], node.comparators)
            self._note(Operator.RELATION, node, f"({ast.unparse(other)})")

    def connector(self, node: ast.BoolOp) -> None:
        other = ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
        self._note(Operator.CONNECTOR, node, f"({ast.unparse(other)})")

    def negation(self, node: ast.If | ast.While | ast.IfExp) -> None:
        """The negated condition; comparisons and constants have mutants of their own."""
        if isinstance(node.test, ast.UnaryOp) and isinstance(node.test.op, ast.Not):
            self._note(Operator.NEGATION, node.test, f"({ast.unparse(node.test.operand)})")
        elif not isinstance(node.test, ast.Compare | ast.Constant):
            self._note(Operator.NEGATION, node.test, f"(not ({ast.unparse(node.test)}))")

    def arithmetic(self, node: ast.BinOp) -> None:
        """The other sign, unless an operand is a text or a container."""
        turned = {ast.Add: ast.Sub, ast.Sub: ast.Add}.get(type(node.op))
        if turned is not None and not any(map(_is_no_number, (node.left, node.right))):
            other = ast.BinOp(node.left, turned(), node.right)
            self._note(Operator.ARITHMETIC, node, f"({ast.unparse(other)})")

    def constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self._note(Operator.CONSTANT, node, str(not node.value))
        elif node.value in (0, 1) and isinstance(node.value, int):
            self._note(Operator.CONSTANT, node, str(node.value + 1))

    def deletion(self, node: ast.stmt) -> None:
        """Delete calls and assignments to attributes; without a local name the copy just fails."""
        match node:
            case ast.Expr(value=ast.Call() as call):
                is_useful = _SPARED_CALLS.isdisjoint(ast.unparse(call.func).split("."))
            case ast.Expr():
                is_useful = isinstance(node.value, ast.Await | ast.Yield)
            case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
                is_useful = not self._is_in_init  # its deletion just fails, as above
            case ast.Assign():
                is_useful = False
            case ast.Return():
                is_useful = node.value is None
            case _:
                is_useful = True
        if is_useful:
            self._note(Operator.DELETION, node, "pass")

    def lock(self, node: ast.With) -> None:
        first, *others = node.items
        if first.optional_vars is not None or "lock" not in ast.unparse(first).lower():
            return
        start, end = self._span(first.context_expr)
        if others:
            end, after = self._span(others[0].context_expr)[0], ""
        else:
            start, after = self._offset(node.lineno, node.col_offset), "if True"
        self._add(Operator.LOCK, node.lineno, start, end, after)

    def _note(self, operator: Operator, node: ast.expr | ast.stmt, after: str) -> None:
        self._add(operator, node.lineno, *self._span(node), after)

    def _add(self, operator: Operator, line: int, start: int, end: int, after: str) -> None:
        before = self._source[start:end]
        self.found.append(Mutant(self._file, line, start, end, operator, before, after))

    def _span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        start = self._offset(node.lineno, node.col_offset)
        return start, self._offset(node.end_lineno, node.end_col_offset)

    def _offset(self, line: int, column: int) -> int:
        """Where it is in the text; the tree counts columns in bytes."""
        before = self._lines[line - 1].encode()[:column]
        return self._begins[line - 1] + len(before.decode())


def _is_no_number(node: ast.expr) -> bool:
    if isinstance(node, ast.Constant):
        return not isinstance(node.value, int | float)
    return isinstance(node, ast.JoinedStr | ast.List | ast.Tuple | ast.Dict | ast.Set)


_MUTATIONS: Mapping[type[ast.AST], Callable[[_Finder, Any], None]] = {
    ast.Compare: _Finder.relation,
    ast.BoolOp: _Finder.connector,
    **dict.fromkeys((ast.If, ast.While, ast.IfExp), _Finder.negation),
    ast.BinOp: _Finder.arithmetic,
    ast.Constant: _Finder.constant,
    **dict.fromkeys((ast.Expr, ast.Assign, ast.AugAssign, ast.Delete), _Finder.deletion),
    **dict.fromkeys((ast.Return, ast.Break, ast.Continue), _Finder.deletion),
    ast.With: _Finder.lock,
}
