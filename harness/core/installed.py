"""What installed packages offer under the groups of this one: targets and suites."""

from __future__ import annotations

import sys
from functools import cache
from importlib.metadata import EntryPoints, entry_points


def installed(group: str) -> EntryPoints:
    """The entry points of a group.

    They are read once for each search path: that opens a file of every installed package.
    """
    return _installed(group, tuple(sys.path))


@cache
def _installed(group: str, _path: tuple[str, ...]) -> EntryPoints:
    return entry_points(group=group)
