"""What a run bought: schedules with their bounds, and pairs of consecutive calls.

A count of operations says how much was asked, not how different it was. Two measures say more: how
many of the ordered pairs of functions one client called one directly after the other, and up to
which bound each program of threads was explored.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from harness.core.history import History


@dataclass(frozen=True, slots=True)
class Extent:
    """`functions` were called, in `pairs` different ordered pairs; `programs` has a line for each.

    `schedules` counts all schedules of all programs.
    """

    functions: int = 0
    pairs: int = 0
    schedules: int = 0
    programs: tuple[str, ...] = ()

    @property
    def pairs_possible(self) -> int:
        """The ordered pairs of the functions that were called."""
        return self.functions * self.functions

    def to_json(self) -> dict[str, Any]:
        """Render as a JSON object."""
        return {
            "functions": self.functions,
            "pairs": self.pairs,
            "schedules": self.schedules,
            "programs": list(self.programs),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Extent:
        """Read what `to_json` wrote."""
        return cls(
            data.get("functions", 0),
            data.get("pairs", 0),
            data.get("schedules", 0),
            tuple(data.get("programs", ())),
        )


def extent_of(histories: Iterable[History]) -> Extent:
    """What these episodes bought."""
    functions, pairs = set[str](), set[tuple[str, str]]()
    schedules, programs = 0, list[str]()
    for episode in histories:
        before: dict[int, str] = {}  # the last function that each process called
        for operation in episode:
            functions.add(operation.function)
            if operation.process in before:
                pairs.add((before[operation.process], operation.function))
            before[operation.process] = operation.function
        if "bought" in episode.notes:
            schedules += episode.notes.get("schedules", 0)
            programs.append(f"{episode.notes.get('program', '')}: {episode.notes['bought']}")
    return Extent(len(functions), len(pairs), schedules, tuple(programs))


def total(extents: Iterable[Extent]) -> dict[str, int]:
    """Sums over scenarios: each one's pairs are counted on its own."""
    every = list(extents)
    return {
        "schedules": sum(extent.schedules for extent in every),
        "pairs": sum(extent.pairs for extent in every),
        "pairs_possible": sum(extent.pairs_possible for extent in every),
    }
