"""Lists of names that one answer gives, and that the calls after it walk through.

A target says what it can be asked: containers, changes, requests. Each name comes once, and a call
asks for names that were given, in their order; it may give names itself. A history may leave some
out, as a minimal one does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from harness.core.history import Operation

Walks = tuple[tuple[str, tuple[str, ...]], ...]  # by asking function: the names still to come


class Asked(NamedTuple):
    """The function that asks for each name, and its argument that has the name."""

    function: str
    argument: str


def walked(walks: Walks, operation: Operation, lists: Mapping[str, Asked]) -> Walks | str:
    """The walks after an operation, or what is wrong with it; `lists` has functions that name."""
    left = dict(walks)
    for asked in lists.values():
        if asked.function != operation.function or asked.function not in left:
            continue
        name = operation.argument[asked.argument]
        if name not in left[asked.function]:
            return f"a name of those that were given, in their order: {[*left[asked.function]]}"
        at = left[asked.function].index(name)
        left[asked.function] = left[asked.function][at + 1 :]
    if named := lists.get(operation.function):
        names = operation.result
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            return "a list of names"
        if len(set(names)) != len(names):
            return "each name once"
        left[named.function] = tuple(names)
    return tuple(left.items())
