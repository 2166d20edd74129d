"""Tests that the server calls what schedules, crashes and known bugs try."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import reference_impl

CALLED_BY_ASYNCIO = {
    *("connection_made", "connection_lost", "data_received", "eof_received"),
    *("pause_writing", "resume_writing"),
}


def test_server_calls_every_function() -> None:
    """A function that only adapters call is a twin: what is tried there is not what runs."""
    defined: set[str] = set()
    used: Counter[str] = Counter()
    folder = Path(reference_impl.__file__).parent
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                defined.add(node.name)
            elif isinstance(node, ast.Attribute):
                used[node.attr] += 1
            elif isinstance(node, ast.Name):
                used[node.id] += 1
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                used[node.value] += 1  # such as a name that is looked up
    uncalled = {name for name in defined if not used[name] and not name.startswith("__")}

    assert uncalled == CALLED_BY_ASYNCIO
