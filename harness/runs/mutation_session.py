"""The SQLite file of a mutation run: mutants, what was asked of them, and the results.

A run that is killed loses the question that it was asking and nothing else: the same command with
the same file goes on. Several processes may work on one file; each claims a mutant before it asks,
and a claim of a process that ended is void.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from harness.core.errors import UsageError
from harness.mutation.mutants import Mutant, Operator

if TYPE_CHECKING:
    from collections.abc import Iterator

Line = tuple[str, int]  # a file below the source, and a line of it
FILE = "session.sqlite"  # in the run folder, unless another one is named
SCHEMA = """
CREATE TABLE IF NOT EXISTS plan (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS clean (
    scenario TEXT, effort REAL, seconds REAL, validity TEXT, PRIMARY KEY (scenario, effort)
);
CREATE TABLE IF NOT EXISTS reached (
    scenario TEXT, file TEXT, line INTEGER, PRIMARY KEY (scenario, file, line)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS mutants (
    id INTEGER PRIMARY KEY, file TEXT, line INTEGER, start INTEGER, stop INTEGER, operator TEXT,
    before TEXT, after TEXT, status TEXT DEFAULT 'open', scenario TEXT DEFAULT '',
    reason TEXT DEFAULT '', evidence TEXT DEFAULT '', seconds REAL DEFAULT 0, owner TEXT
);
CREATE INDEX IF NOT EXISTS by_status ON mutants (status, id);
CREATE TABLE IF NOT EXISTS asked (
    mutant INTEGER, scenario TEXT, effort REAL, finding TEXT, seconds REAL, in_group INTEGER
);
"""


class Status(StrEnum):
    """The state of a mutant in a session."""

    OPEN = "open"  # not asked yet
    UNDECIDED = "undecided"  # alone it passed the most telling scenarios; the others are left
    DETECTED = "detected"
    INCONCLUSIVE = "inconclusive"
    SURVIVED = "survived"


RESULTS = (Status.DETECTED, Status.INCONCLUSIVE, Status.SURVIVED)


@dataclass(frozen=True, slots=True)
class Stored:
    """A mutant of a session with its status.

    `scenario` and `reason` say what decided it; `evidence` is the record of a detection as text,
    and `seconds` the time that was spent on it.
    """

    id: int
    mutant: Mutant
    status: Status
    scenario: str = ""
    reason: str = ""
    evidence: str = ""
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"{self.status}: {self.mutant}  {self.scenario} {self.reason}".rstrip()

    def to_json(self) -> dict[str, Any]:
        """Render as a JSON object."""
        return {
            "file": self.mutant.file,
            "line": self.mutant.line,
            "operator": str(self.mutant.operator),
            "before": self.mutant.before,
            "after": self.mutant.after,
            "status": str(self.status),
            "scenario": self.scenario,
            "reason": self.reason,
            "evidence": self.evidence,
            "seconds": round(self.seconds, 1),
        }


@dataclass(frozen=True, slots=True)
class Clean:
    """What a scenario took on the clean source, and its verdict there."""

    seconds: float
    validity: str


class MutationSession:
    """One session's file. Thread-safe."""

    def __init__(self, path: Path, *, share: tuple[int, int] = (1, 1)) -> None:
        """Open or create the file; `share` (k, n) claims the k-th of n shares of the mutants."""
        self.path = path
        self._share = share
        self._lock = threading.RLock()
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._db = sqlite3.connect(
                path, timeout=60.0, check_same_thread=False, isolation_level=None
            )
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.executescript(SCHEMA)
        except sqlite3.Error as error:
            raise UsageError(f"{path}: expected the file of a session: {error}") from error
        process = psutil.Process()
        self._owner = f"{process.pid}:{process.create_time():.2f}"

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def begin(self, plan: Mapping[str, Any], mutants: Sequence[Mutant]) -> None:
        """Store the plan and the mutants in a new file, or check that an old one has this plan.

        Raises UsageError where the file was made with another seed, effort or source.
        """
        with self._writing():
            stored = dict(self._rows("SELECT name, value FROM plan"))
            for name, value in plan.items():
                if stored and stored.get(name) != str(value):
                    raise UsageError(
                        f"{self.path}: was made with {name} {stored.get(name)}, not {value};"
                        " name another --session"
                    )
            if stored:
                return
            rows = [(name, str(value)) for name, value in plan.items()]
            self._db.executemany("INSERT INTO plan VALUES (?, ?)", rows)
            self._db.executemany(
                "INSERT INTO mutants (file, line, start, stop, operator, before, after)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                [
                    (m.file, m.line, m.start, m.end, str(m.operator), m.before, m.after)
                    for m in mutants
                ],
            )

    def plan(self) -> dict[str, str]:
        """What the session was made with."""
        return dict(self._rows("SELECT name, value FROM plan"))

    # The clean source

    def store_clean(self, scenario: str, effort: float, clean: Clean) -> None:
        """Store what a scenario took on the clean source."""
        with self._writing():
            self._db.execute(
                "REPLACE INTO clean VALUES (?, ?, ?, ?)",
                (scenario, effort, clean.seconds, clean.validity),
            )

    def clean(self, effort: float) -> dict[str, Clean]:
        """What each scenario took on the clean source at this effort."""
        sql = "SELECT scenario, seconds, validity FROM clean WHERE effort = ?"
        return {
            name: Clean(seconds, validity) for name, seconds, validity in self._rows(sql, effort)
        }

    def store_reached(self, scenario: str, lines: Iterable[Line]) -> None:
        """Store the lines that a scenario ran."""
        with self._writing():
            self._db.executemany(
                "REPLACE INTO reached VALUES (?, ?, ?)", [(scenario, *line) for line in lines]
            )

    def reached(self) -> dict[Line, set[str]]:
        """The scenarios that ran each line."""
        found = defaultdict[Line, set[str]](set)
        for scenario, file, line in self._rows("SELECT scenario, file, line FROM reached"):
            found[file, line].add(scenario)
        return dict(found)

    def measured(self) -> set[str]:
        """The scenarios whose reach is stored."""
        return {name for (name,) in self._rows("SELECT DISTINCT scenario FROM reached")}

    # Mutants

    def claim(self, status: Status, sample: int, count: int = 1) -> list[Stored]:
        """Claim up to `count` mutants of this status among the first `sample` of the share."""
        with self._writing():
            self._drop_claims()
            rows = self._rows(
                f"SELECT {_COLUMNS} FROM mutants WHERE status = ? AND owner IS NULL"  # noqa: S608  constants
                f" AND id IN ({_SAMPLE}) ORDER BY id LIMIT ?",
                str(status),
                *self._in_share(sample),
                count,
            )
            claimed = [_stored(row) for row in rows]
            self._db.executemany(
                "UPDATE mutants SET owner = ? WHERE id = ?",
                [(self._owner, stored.id) for stored in claimed],
            )
        return claimed

    def release(self, ids: Iterable[int]) -> None:
        """Give mutants back unchanged."""
        with self._writing():
            self._db.executemany(
                "UPDATE mutants SET owner = NULL WHERE id = ?", [(id_,) for id_ in ids]
            )

    def decide(self, stored: Stored) -> None:
        """Store a mutant's status and reason, and end the claim."""
        with self._writing():
            self._db.execute(
                "UPDATE mutants SET status = ?, scenario = ?, reason = ?, evidence = ?,"
                " seconds = ?, owner = NULL WHERE id = ?",
                (
                    str(stored.status),
                    stored.scenario,
                    stored.reason,
                    stored.evidence,
                    stored.seconds,
                    stored.id,
                ),
            )

    def note(self, mutant: int, scenario: str, effort: float, finding: str, seconds: float) -> None:
        """Store one answer about a mutant asked alone; `in_group` answers have their own call."""
        self._note([mutant], scenario, effort, finding, seconds, in_group=False)

    def note_group(
        self, mutants: Iterable[int], scenario: str, effort: float, finding: str, seconds: float
    ) -> None:
        """Store one answer about mutants that were asked in one copy."""
        self._note(mutants, scenario, effort, finding, seconds, in_group=True)

    def _note(  # noqa: PLR0913  the columns of a row
        self,
        mutants: Iterable[int],
        scenario: str,
        effort: float,
        finding: str,
        seconds: float,
        *,
        in_group: bool,
    ) -> None:
        with self._writing():
            self._db.executemany(
                "INSERT INTO asked VALUES (?, ?, ?, ?, ?, ?)",
                [(id_, scenario, effort, finding, seconds, in_group) for id_ in mutants],
            )

    def experience(self) -> list[tuple[str, str, int, int]]:
        """For each file and scenario: how often it was asked about a lone mutant, and detected."""
        return self._rows(
            "SELECT file, asked.scenario, COUNT(*), SUM(finding = 'detected')"
            " FROM asked JOIN mutants ON mutants.id = asked.mutant WHERE NOT in_group"
            " GROUP BY file, asked.scenario"
        )

    def results(self, sample: int) -> list[Stored]:
        """The first `sample` mutants of the share, in the order of the sample."""
        rows = self._rows(
            f"SELECT {_COLUMNS} FROM mutants WHERE id IN ({_SAMPLE}) ORDER BY id",  # noqa: S608
            *self._in_share(sample),
        )
        return [_stored(row) for row in rows]

    def _in_share(self, sample: int) -> tuple[int, int, int]:
        number, shares = self._share
        return shares, number - 1, sample

    def _drop_claims(self) -> None:
        """Void the claims of processes that ended."""
        owners = [
            owner
            for (owner,) in self._rows("SELECT DISTINCT owner FROM mutants WHERE owner NOT NULL")
            if owner != self._owner and not _is_alive(owner)
        ]
        self._db.executemany(
            "UPDATE mutants SET owner = NULL WHERE owner = ?", [(owner,) for owner in owners]
        )

    def _rows(self, sql: str, *values: Any) -> list[Any]:
        with self._lock:
            return self._db.execute(sql, values).fetchall()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")


_COLUMNS = (
    "id, file, line, start, stop, operator, before, after, status, scenario, reason, evidence,"
    " seconds"
)
_SAMPLE = "SELECT id FROM mutants WHERE (id - 1) % ? = ? ORDER BY id LIMIT ?"


def _stored(row: Sequence[Any]) -> Stored:
    id_, file, line, start, stop, operator, before, after, status, *rest = row
    mutant = Mutant(file, line, start, stop, Operator(operator), before, after)
    return Stored(id_, mutant, Status(status), *rest)


def _is_alive(owner: str) -> bool:
    pid, _, began = owner.partition(":")
    try:
        return f"{psutil.Process(int(pid)).create_time():.2f}" == began
    except psutil.Error:
        return False
