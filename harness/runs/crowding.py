"""Lets many processes write into one SQLite store, kills one of them, and judges what is left.

The store needs two functions: one that opens it at a path, and one that writes a text into it and
returns when the text is durable. Each process is a fork that opens the store itself. The judgement
is that of the contention scenarios: no refusal within the patience, no writer that starves, every
acknowledged text once, nothing of a refused one, a bounded write-ahead log.
"""

from __future__ import annotations

import re
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.contract.checkers.state_db.append_durability import check_append_durability
from harness.contract.checkers.state_db.fairness import (
    STARVING,
    no_early_refusals,
    no_hangs,
    no_starvation,
)
from harness.contract.checkers.state_db.wait_times import Waits, measure, writes_of
from harness.contract.checkers.state_db.wal_size import wal_high_water_bytes, wal_stays_below
from harness.contract.promises import D3
from harness.contract.workloads.database_writers import Round, Step, Writer, WriterPool
from harness.core import history
from harness.core.errors import UsageError
from harness.core.history import History, Journal
from harness.core.verdict import Verdict, merge
from harness.engine.target import AdapterInstance
from harness.faults.process_faults import Kill
from harness.worker.writers import WriterParent

PROCESSES = 8
WRITES = 2 * STARVING  # of each process: enough to see that one starves
PATIENCE_S = 30.0
LOG_BYTES_MAX = 32 << 20
SESSION = "crowd"
_TEXT = re.compile(r"crowd [0-9]+\.[0-9]+\b")

Open = Callable[[Path], Any]
Write = Callable[[Any, str], object]
Read = Callable[[Any], Iterable[str]]


@dataclass(frozen=True, slots=True)
class CrowdReport:
    """What a crowd found: the verdict, the waits of all writes, the largest write-ahead log."""

    verdict: Verdict
    waits: Waits
    log_bytes: int
    history: History

    @property
    def is_sound(self) -> bool:
        """Whether the store kept its promises."""
        return self.verdict.is_valid

    def __str__(self) -> str:
        waits = self.waits
        share = "" if waits.jain is None else f", Jain's index {waits.jain:.2f}"
        writes = f"{waits.writes:,} writes, {waits.refused} refused, {waits.per_s:,.0f} a second"
        times = f"median {waits.p50_ms:.1f} ms, 99 % {waits.p99_ms:.1f} ms, longest"
        rows = [
            f"{self.verdict.validity}: {writes}",
            f"waits: {times} {waits.max_ms:.1f} ms",
            f"one write was overtaken {waits.overtaken_max} times by one writer{share}",
            f"write-ahead log: {self.log_bytes:,} bytes at most",
        ]
        counts = Counter((broken.promise.id, broken.name) for broken in self.verdict.anomalies)
        for anomaly in self.verdict.anomalies:
            count = counts.pop((anomaly.promise.id, anomaly.name), 0)
            if not count:
                continue  # one of each kind is enough
            rows += [f"{anomaly.promise.id}: {anomaly.promise.sentence}", f"    {anomaly.message}"]
            rows += [f"    expected {anomaly.expected}", f"    observed {anomaly.observed}"]
            rows += [f"    and {count - 1} more of this kind"] if count > 1 else []
        rows += [f"unknown: {reason}" for reason in self.verdict.unknowns]
        return "\n".join(rows)


def crowd(  # noqa: PLR0913 - all but two have defaults
    *,
    open: Open,  # noqa: A002 - the word that fits; this module opens no file
    write: Write,
    read: Read | None = None,
    processes: int = PROCESSES,
    writes: int = WRITES,
    patience_s: float = PATIENCE_S,
    log_bytes_max: int = LOG_BYTES_MAX,
    fair: bool = True,
    kills: bool = True,
) -> CrowdReport:
    """Let `processes` forks write `writes` texts each into one new store, and judge it.

    `open(path)` opens the store, `write(store, text)` returns when the text is durable and raises
    where it is refused. `read(store)` returns all texts; without it every column of every table is
    searched. A write may be refused only after `patience_s`. With `fair` no writer may starve,
    which SQLite's own lock does not promise, as it has no queue. With `kills` one process is killed
    in the middle, and what it was answered must be there. Raises UsageError for fewer than two
    processes, and where a store cannot be opened at all.
    """
    least = 2
    if processes < least:
        raise UsageError(f"crowd: {processes} processes are no crowd, expected {least} or more")
    with tempfile.TemporaryDirectory(prefix="harness-crowd-") as temporary:
        folder = Path(temporary, "store")
        folder.mkdir()
        journal = Journal(Path(temporary, "history.jsonl"), time.monotonic_ns)
        journal.episode()

        def adapter(path: Path) -> _Adapter:
            return _Adapter(path, open, write, read)

        parent = AdapterInstance(WriterParent(folder, adapter))
        with closing(WriterPool(parent, folder, journal)) as pool:
            opened = pool.ask(("open", {}))
            if not any(
                operation.function == "open" and not operation.error for operation in opened
            ):
                error = next((operation.error for operation in opened), "no answer")
                raise UsageError(f"crowd: open() does not open a new store: {error}")
            _write_at_once(pool, processes, writes, kills=kills)
            pool.ask(("messages", {"session": SESSION}), ("probe", {"session": SESSION}))
        (found,) = history.read(Path(temporary, "history.jsonl"))
    checks = (
        *(_durable, no_early_refusals(patience_s), no_hangs, wal_stays_below(log_bytes_max)),
        *((no_starvation,) if fair else ()),
    )
    verdict = merge(check(found) for check in checks)
    waits = measure(writes_of(found, ("append",)))
    return CrowdReport(verdict, waits, wal_high_water_bytes(found), found)


def _write_at_once(pool: WriterPool, processes: int, writes: int, *, kills: bool) -> None:
    """Start all writers together, and kill the first one when it has done half of its writes."""
    writers: list[Writer] = []
    with pool.starting_together():
        for number in range(processes):
            text = f"crowd {number}.{{n}}"
            append = ("append", {"session": SESSION, "text": text})
            steps: tuple[Step, ...] = (append, ("log_bytes", {}))
            writers.append(pool.fork([Round(steps, writes)]))
    if kills:
        pool.wait_for(writers[0], "append", writes // 2)
        Kill(writers[0].pid).inject()
    pool.wait_for_all()


def _durable(found: History) -> Verdict:
    """Judge what is left; whether a write may be refused depends on the patience."""
    verdict = check_append_durability(found)
    left = (
        anomaly
        for anomaly in verdict.anomalies
        if (anomaly.promise, anomaly.name) != (D3, "refused")
    )
    return replace(verdict, anomalies=tuple(left))


class _Adapter:
    """The store, as a writer process uses it."""

    def __init__(self, folder: Path, opened: Open, write: Write, read: Read | None) -> None:
        self._path = folder / "state.db"
        self._write = write
        self._read = read
        self._store = opened(self._path)

    def append(self, session: str, text: str) -> None:  # noqa: ARG002 - as the history shows it
        """Write a text."""
        self._write(self._store, text)

    def messages(self, session: str) -> list[list[str]]:  # noqa: ARG002
        """Read all texts."""
        texts = texts_in(self._path) if self._read is None else self._read(self._store)
        return [["user", text] for text in texts]

    def probe(self, session: str) -> dict[str, Any]:  # noqa: ARG002
        """Look whether the file is locked, and whether it is damaged."""
        with closing(sqlite3.connect(self._path, isolation_level=None, timeout=1.0)) as connection:
            integrity = connection.execute("PRAGMA integrity_check").fetchone()[0]
            try:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("ROLLBACK")
            except sqlite3.OperationalError:
                return {"locked": True, "integrity": integrity}
        return {"locked": False, "integrity": integrity}

    def close(self) -> None:
        """Close the store, if it can be closed."""
        if hasattr(self._store, "close"):
            self._store.close()


def texts_in(path: Path) -> list[str]:
    """The texts of a crowd in a database: those of the column that has most of them."""
    best: Counter[str] = Counter()
    with closing(sqlite3.connect(path)) as connection:
        tables = "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"
        for (table,) in connection.execute(tables).fetchall():
            with suppress(sqlite3.DatabaseError):  # a virtual table without its module
                rows = connection.execute(f'SELECT * FROM "{table}"').fetchall()  # noqa: S608
                for column in zip(*rows, strict=True):
                    found = Counter(text for value in column for text in _found(value))
                    best = max(best, found, key=len)
    return list(best.elements())


def _found(value: object) -> list[str]:
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return _TEXT.findall(text)
