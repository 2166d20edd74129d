"""Reads a file of budgets, and judges the figures of a comparison or a profile by them.

    [[budget]]
    figure = "SQL statements a turn"
    most = 20
    reason = "one transaction for the message, one for the reply"

A budget is broken where even the least value of its figure is above `most`. One that this command
does not measure is left to the other command; one that it should measure and could not is unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.errors import UsageError
from harness.core.suggestions import unknown
from harness.core.toml_files import read_tables

FIELDS = ("figure", "most", "reason")

Ranges = Mapping[str, tuple[float, float]]  # the least and the most of each figure


@dataclass(frozen=True, slots=True)
class Budget:
    """The most that a figure may be, and why."""

    figure: str
    most: float
    reason: str


@dataclass(frozen=True, slots=True)
class Judged:
    """A budget beside the range of its figure; none where it was not measured."""

    budget: Budget
    target: str
    range: tuple[float, float] | None
    is_elsewhere: bool = False  # another command measures it

    @property
    def is_broken(self) -> bool:
        """Whether even the least value is above."""
        return self.range is not None and self.range[0] > self.budget.most

    @property
    def is_unknown(self) -> bool:
        """Whether nothing is known: the figure is unavailable, or only some values are above."""
        if self.range is None:
            return not self.is_elsewhere
        return self.range[0] <= self.budget.most < self.range[1]

    @property
    def word(self) -> str:
        """What is known, in words."""
        if self.range is None:
            return "not measured by this command" if self.is_elsewhere else "unavailable"
        if self.is_broken:
            return "broken"
        return "too noisy" if self.is_unknown else "kept"

    def to_json(self) -> dict[str, Any]:
        """Render as a JSON object."""
        return {
            "figure": self.budget.figure,
            "most": self.budget.most,
            "reason": self.budget.reason,
            "target": self.target,
            "range": None if self.range is None else list(self.range),
            "word": self.word,
        }


def read_budgets(path: Path, known: Iterable[str]) -> list[Budget]:
    """Read a file of budgets. Raises UsageError with the entry, and what is wrong with it."""
    where = f"--budgets {path}"
    names = list(known)
    budgets = [_budget(at, entry, names) for at, entry in read_tables(path, where, "budget")]
    if not budgets:
        raise UsageError(f"{where}: expected at least one [[budget]]; found none")
    figures = [budget.figure for budget in budgets]
    if twice := [figure for figure in figures if figures.count(figure) > 1]:
        raise UsageError(f"{where}: figure {twice[0]!r} has more than one budget")
    return budgets


def _budget(where: str, entry: Mapping[str, Any], known: Sequence[str]) -> Budget:
    if strange := set(entry) - set(FIELDS):
        raise UsageError(f"{where}: unknown key {min(strange)!r}; known: {', '.join(FIELDS)}")
    figure, most, reason = (entry.get(name) for name in FIELDS)
    for name, text in (("figure", figure), ("reason", reason)):
        if not isinstance(text, str) or not text:
            raise UsageError(f"{where}: {name} = {text!r}; expected a text")
    if isinstance(most, bool) or not isinstance(most, int | float) or not 0 <= most < float("inf"):
        raise UsageError(f"{where}: most = {most!r}; expected a number that is not negative")
    if figure not in known:
        near = (
            unknown("figure", str(figure), known).partition("; known:")[0].partition(" Known:")[0]
        )
        raise UsageError(f"{where}: {near}; figures: {'; '.join(known)}")
    return Budget(str(figure), float(most), str(reason))


def judged_budgets(
    budgets: Iterable[Budget], ranges: Ranges, measured: Iterable[str], target: str
) -> list[Judged]:
    """Each budget beside its figure; `measured` are the figures that this command tries."""
    tried = set(measured)
    return [
        Judged(budget, target, ranges.get(budget.figure), budget.figure not in tried)
        for budget in budgets
    ]


def markdown(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Render budgets as lines of a table."""
    lines = ["| budget | most | measured | it is | reason |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        bounds = dict.fromkeys(f"{value:,.7g}" for value in row["range"] or ())
        found = " to ".join(bounds) or "-"
        cells = (row["figure"], f"{row['most']:,.7g}", found, row["word"], row["reason"])
        lines.append(f"| {' | '.join(cells)} |")
    return lines
