"""Draws figures over runs for the index of all runs, each changed level marked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.report.run_history import Series, Shift, opened

NEWEST = 60  # runs that are drawn
DRAWINGS_MAX = 24
ALWAYS = ("seconds", "costs: rss_bytes", "costs: cpu_us_an_operation")  # without a change too
RUNS_MIN = 3  # of a series that is drawn
WIDTH, HEIGHT, EDGE = 320, 64, 4


@dataclass(frozen=True, slots=True)
class Drawing:
    """One series as shown: its line, its dots, and the places where its level changed."""

    series: Series
    shifts: Sequence[Shift]

    @property
    def dots(self) -> list[tuple[float, float, str]]:
        """The place of each run, and what it says."""
        low, high = min(self.series.values), max(self.series.values)
        span = (high - low) or 1.0
        step = (WIDTH - 2 * EDGE) / max(1, len(self.series.values) - 1)
        return [
            (
                round(EDGE + at * step, 1),
                round(EDGE + (HEIGHT - 2 * EDGE) * (1 - (value - low) / span), 1),
                f"{run}: {value:,.4g}",
            )
            for at, (run, value) in enumerate(
                zip(self.series.runs, self.series.values, strict=True)
            )
        ]

    @property
    def line(self) -> str:
        """The points of the line."""
        return " ".join(f"{x},{y}" for x, y, _ in self.dots)

    @property
    def marks(self) -> list[float]:
        """Where the level changed: between the last run before and the first one after."""
        places = [self.series.runs.index(s.run) for s in self.shifts if s.run in self.series.runs]
        return [(self.dots[at - 1][0] + self.dots[at][0]) / 2 for at in places if at]


def drawings(history: Path) -> list[Drawing]:
    """The changed figures, the surest change first, then a few that every run has."""
    if not history.exists():
        return []
    with opened(history) as file:
        series = {(s.name, s.figure): s for s in file.series(NEWEST) if len(s.runs) >= RUNS_MIN}
        shifts = file.shifts()
    changed = [key for shift in shifts if (key := (shift.series, shift.figure)) in series]
    keys = dict.fromkeys([*changed, *(key for key in series if key[1] in ALWAYS)])
    return [
        Drawing(series[key], [s for s in shifts if (s.series, s.figure) == key])
        for key in list(keys)[:DRAWINGS_MAX]
    ]
