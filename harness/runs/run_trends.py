"""Judges the figures of many runs: which of them changed their level, and since which run.

The level of a figure is judged over its newest runs. Bonferroni's correction over all figures
bounds the chance that a night without a change reports one; `benches/bench_trends.py` measures it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.core.change_points import SIDE_MIN, changes
from harness.core.errors import UsageError
from harness.report import folder
from harness.report.run_history import RunHistory, Series, Shift, opened
from harness.runs.differences import UNSETTLED, read_run
from harness.runs.digest import key_of, runs_of

NEWEST = 60  # runs of a series that are judged
ALPHA = 0.002  # the chance of any false change in a night, over all figures


@dataclass(frozen=True)
class Trends:
    """Every series that was judged, its changes, and which of them the newest run has shown."""

    series: Sequence[Series]
    shifts: Sequence[Shift]
    new: Sequence[Shift]
    added: int


def update(reports: Path, history: Path) -> Trends:
    """Add the runs that the history lacks, judge every series, and keep what was found.

    A run without a conclusion has figures that say nothing, and is left out. Raises UsageError.
    """
    with opened(history) as file:
        added = sum(_add(file, path, began_s) for path, began_s in runs_of(reports, file.names()))
        series = file.series(NEWEST)
        known = file.known_shifts()
        shifts = remembered(shifts_of(series), series, known)
        former = [old for old in known if not any(_is_same(old, now, series) for now in shifts)]
        file.replace_shifts(shifts, former)
    newest = {row.name: row.runs[-1] for row in series}
    return Trends(series, shifts, [s for s in shifts if s.seen == newest[s.series]], added)


def shifts_of(series: Sequence[Series], alpha: float = ALPHA) -> list[Shift]:
    """The changes of level of all series, the surest first."""
    judged = [row for row in series if len(set(row.values)) > 1]
    return sorted(
        (
            Shift(
                *(row.name, row.figure, row.runs[change.at]),
                *(change.before, change.after, change.p),
                seen=row.runs[-1],
            )
            for row in judged
            for change in changes(row.values, alpha / len(judged))
        ),
        key=lambda shift: shift.p,
    )


def remembered(
    shifts: Sequence[Shift], series: Sequence[Series], known: Sequence[Shift]
) -> list[Shift]:
    """The changes with the run that first showed each of them.

    A change that comes and goes while its level settles is news once.
    """
    return [
        next((replace(s, seen=old.seen) for old in known if _is_same(old, s, series)), s)
        for s in shifts
    ]


def _is_same(one: Shift, other: Shift, series: Sequence[Series]) -> bool:
    """Whether two changes of one figure are so near that they are one."""
    if (one.series, one.figure) != (other.series, other.figure):
        return False
    runs = next(s.runs for s in series if (s.name, s.figure) == (one.series, one.figure))
    known = one.run in runs and other.run in runs
    return known and abs(runs.index(one.run) - runs.index(other.run)) < SIDE_MIN


def _add(file: RunHistory, path: Path, began_s: float) -> bool:
    try:
        run = read_run(path)
        plan = folder.read_json(path / folder.PLAN)
    except UsageError:
        return False  # a damaged folder says nothing
    if run.conclusion in UNSETTLED:
        return False
    file.add(path.name, " ".join(part for part in key_of(plan) if part), began_s, run.figures)
    return True
