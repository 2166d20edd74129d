"""Keeps the figures of every run in one SQLite file, and the changes of level that were found.

A run folder is deleted after a while; its figures stay. The file can be carried from one machine to
the next, as an artifact of a workflow.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.core.errors import UsageError

FILE = "history.sqlite"
RUNS_KEPT = 2000
TABLES = """
CREATE TABLE IF NOT EXISTS runs (
    name TEXT PRIMARY KEY, series TEXT NOT NULL, began REAL NOT NULL);
CREATE TABLE IF NOT EXISTS figures (
    run TEXT REFERENCES runs ON DELETE CASCADE, figure TEXT, value REAL,
    PRIMARY KEY (run, figure)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS changes (
    series TEXT, figure TEXT, run TEXT, before REAL, after REAL, p REAL,
    seen TEXT, shown INTEGER);
"""


@dataclass(frozen=True, slots=True)
class Series:
    """One figure over the runs of one kind on one target, the oldest first."""

    name: str
    figure: str
    runs: Sequence[str]
    values: Sequence[float]


@dataclass(frozen=True, slots=True)
class Shift:
    """A change of level of a series: the first run after it, and the levels.

    `seen` is the run that first showed it, which has some runs of the new level before it.
    """

    series: str
    figure: str
    run: str
    before: float
    after: float
    p: float
    seen: str

    def __str__(self) -> str:
        share = f" ({self.after / self.before - 1:+.0%})" if self.before else ""
        levels = f"from {self.before:,.4g} to {self.after:,.4g}{share}"
        return f"{self.series} · {self.figure}: {levels} since {self.run}"


class RunHistory:
    """The SQLite file in which the figures of many runs are kept, open."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def names(self) -> set[str]:
        """The runs that it has."""
        return {name for (name,) in self._db.execute("SELECT name FROM runs")}

    def add(self, name: str, series: str, began_s: float, figures: Mapping[str, float]) -> None:
        """Add a run, and drop the oldest ones where there are too many."""
        with self._db:
            self._db.execute(
                "INSERT OR REPLACE INTO runs VALUES (?, ?, ?)", (name, series, began_s)
            )
            self._db.executemany(
                "INSERT OR REPLACE INTO figures VALUES (?, ?, ?)",
                [(name, figure, value) for figure, value in figures.items()],
            )
            newest = "SELECT name FROM runs ORDER BY began DESC, name DESC LIMIT ?"
            self._db.execute(f"DELETE FROM runs WHERE name NOT IN ({newest})", [RUNS_KEPT])  # noqa: S608

    def series(self, newest: int) -> list[Series]:
        """Every series, with its newest values."""
        rows: dict[tuple[str, str], list[tuple[str, float]]] = {}
        query = (
            "SELECT series, figure, name, value FROM figures JOIN runs ON run = name"
            " ORDER BY series, figure, began, name"
        )
        for series, figure, name, value in self._db.execute(query):
            rows.setdefault((series, figure), []).append((name, value))
        return [
            Series(*key, [name for name, _ in row[-newest:]], [value for _, value in row[-newest:]])
            for key, row in rows.items()
        ]

    def shifts(self) -> list[Shift]:
        """The changes that were found last, the surest first."""
        return self._shifts("WHERE shown")

    def known_shifts(self) -> list[Shift]:
        """Every change that was ever found."""
        return self._shifts("")

    def _shifts(self, which: str) -> list[Shift]:
        columns = "series, figure, run, before, after, p, seen"
        found = self._db.execute(f"SELECT {columns} FROM changes {which} ORDER BY p")  # noqa: S608
        return [Shift(*row) for row in found]

    def replace_shifts(self, shown: Iterable[Shift], former: Iterable[Shift]) -> None:
        """Keep the changes that are found now, and those that were found before."""
        rows = [(s, True) for s in shown] + [(s, False) for s in former]
        with self._db:
            self._db.execute("DELETE FROM changes")
            self._db.executemany(
                "INSERT INTO changes VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (s.series, s.figure, s.run, s.before, s.after, s.p, s.seen, is_shown)
                    for s, is_shown in rows
                ],
            )


@contextmanager
def opened(path: Path) -> Iterator[RunHistory]:
    """Open the file, which is made where there is none. Raises UsageError for a damaged one."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(path)) as db:
            db.executescript(f"PRAGMA foreign_keys = ON; {TABLES}")
            yield RunHistory(db)
    except (sqlite3.Error, OSError) as error:
        raise UsageError(f"{path}: expected a history of runs: {error}") from error
