"""Copies of a source in which threads pause at random places: noise that may break no promise.

A pause of some hundredths of a second is what a busy machine does to a thread at any moment. So an
accusation of a correct program with pauses in it is a false one; and in a program with a race, the
pauses meet it far oftener than chance does (noise injection: Edelstein et al., "Multithreaded Java
program testing", 2002). A pause stands before one simple statement of some functions, on the same
line, so that line numbers stay. The more often a place was passed, the rarer it pauses.
"""

from __future__ import annotations

import ast
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

from harness.core.errors import UsageError

SHARE = 0.12  # of the functions
PAUSE_S = 0.06
MODULE = "harness_delays"
_SIMPLE = (ast.Expr, ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Return, ast.Raise, ast.Delete)
_SOURCE = '''"""Pauses of threads, called from the lines of this copy."""

import random
import time

_sleep = time.sleep
_passed = {{}}
_choices = random.Random({seed!r})


def pause(place):
    """Pause with a chance that falls with the number of calls from this place."""
    passed = _passed[place] = _passed.get(place, 0) + 1
    if _choices.random() < 2 / (passed + 1):
        _sleep({pause_s})
'''


def delayed_copy(source: Path, folder: Path, seed: int, *, share: float = SHARE) -> int:
    """Copy the package or tree `source` into `folder`, with pauses; returns their number.

    Raises UsageError where `source` is no folder with Python files, or `folder` exists.
    """
    if not source.is_dir() or next(source.rglob("*.py"), None) is None:
        raise UsageError(f"{source} is no folder of Python files")
    is_package = (source / "__init__.py").exists()
    copy = folder / source.name if is_package else folder
    if copy.exists() and any(copy.iterdir()):
        raise UsageError(f"{copy} exists, and is not empty")
    ignored = shutil.ignore_patterns("__pycache__", ".git", ".venv", "node_modules")
    shutil.copytree(source, copy, ignore=ignored, dirs_exist_ok=True)
    rng = random.Random(f"{seed}/delays")
    count = 0
    for file in sorted(copy.rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        try:
            paused, added = with_pauses(text, rng, share, count)
        except SyntaxError:
            continue  # of a template, or for another version of Python
        file.write_text(paused, encoding="utf-8")
        count += added
    module = _SOURCE.format(seed=seed, pause_s=PAUSE_S)
    (folder / f"{MODULE}.py").write_text(module, encoding="utf-8")
    return count


def with_pauses(text: str, rng: random.Random, share: float, first: int = 0) -> tuple[str, int]:
    """Put a pause into a share of the functions of a source; the new source, and their number.

    Raises SyntaxError where it is no Python.
    """
    lines = text.encode().splitlines(keepends=True)
    places = []
    for function in ast.walk(ast.parse(text)):
        if isinstance(function, ast.FunctionDef) and rng.random() < share:
            places += rng.sample(found := list(_statements(function, lines)), min(1, len(found)))
    for number, (line, column) in enumerate(sorted(set(places)), first):
        row = lines[line]
        call = f'__import__("{MODULE}").pause({number}); '.encode()
        lines[line] = row[:column] + call + row[column:]
    return b"".join(lines).decode(), len(set(places))


def _statements(function: ast.FunctionDef, lines: list[bytes]) -> Iterator[tuple[int, int]]:
    """Where simple statements begin that begin their line: line, and column in bytes."""
    for node in ast.walk(function):
        if not isinstance(node, _SIMPLE) or _is_docstring(node):
            continue
        line, column = node.lineno - 1, node.col_offset
        if not lines[line][:column].strip():
            yield line, column


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
