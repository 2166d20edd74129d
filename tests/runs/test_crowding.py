"""Checks that a crowd finds refusals, lost and doubled writes and a growing log of any store."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from harness.core.errors import UsageError
from harness.runs.crowding import CrowdReport, crowd, texts_in


def opened(path: Path) -> sqlite3.Connection:
    """A store as many are: one table in a WAL database, with a patience."""
    connection = sqlite3.connect(path, timeout=30.0, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("CREATE TABLE IF NOT EXISTS notes (id INTEGER PRIMARY KEY, text TEXT)")
    return connection


def written(store: sqlite3.Connection, text: str) -> None:
    """Write a text."""
    store.execute("INSERT INTO notes (text) VALUES (?)", (text,))


def read(store: sqlite3.Connection) -> list[str]:
    """Read all texts."""
    return [text for (text,) in store.execute("SELECT text FROM notes")]


def small(**settings: object) -> CrowdReport:
    """A small crowd, on the store above unless a setting says something else."""
    chosen = {"open": opened, "write": written, "processes": 3, "writes": 20, "fair": False}
    return crowd(**{**chosen, **settings})  # type: ignore[arg-type]


def broken(report: CrowdReport) -> set[str]:
    """The promises that a store broke."""
    return {anomaly.promise.id for anomaly in report.verdict.anomalies}


@pytest.mark.parametrize("reader", [None, read])
def test_sound_store_is_valid(reader: object) -> None:
    """With a function that reads, or by a search in the file."""
    report = small(read=reader)

    assert report.is_sound, report
    assert report.waits.writes >= 50
    assert "write-ahead log: " in str(report)


def test_lost_write_is_found() -> None:
    """The store forgets one text in ten."""

    def forgetful(store: sqlite3.Connection, text: str) -> None:
        if not text.endswith("7"):
            written(store, text)

    report = small(write=forgetful)
    assert broken(report) == {"D1"}
    assert "was acknowledged, and the last read lacks it" in str(report)
    assert str(report).count("D1: ") == 1  # the others are counted
    assert "more of this kind" in str(report)


def test_doubled_write_is_found() -> None:
    """A retry writes a text that was written already."""

    def retrying(store: sqlite3.Connection, text: str) -> None:
        written(store, text)
        if text.endswith("9"):
            written(store, text)

    assert broken(small(write=retrying)) == {"D2"}


def test_refusal_within_patience_is_found() -> None:
    """The store raises what a busy database raises."""

    def impatient(store: sqlite3.Connection, text: str) -> None:
        if text.endswith("5"):
            raise sqlite3.OperationalError("database is locked")
        written(store, text)

    report = small(write=impatient)
    assert broken(report) == {"D3"}
    assert "database is locked" not in str(small(write=impatient, patience_s=0.0).verdict.anomalies)


def test_growing_log_is_found() -> None:
    """The store never copies its log back."""

    def hoarding(path: Path) -> sqlite3.Connection:
        connection = opened(path)
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        return connection

    assert broken(small(open=hoarding, log_bytes_max=64 << 10)) == {"D6"}


def test_store_that_does_not_open_is_usage_error() -> None:
    """The error says why."""

    def unopened(path: Path) -> sqlite3.Connection:
        raise RuntimeError(f"no {path.name}")

    with pytest.raises(UsageError, match=r"not open a new store: RuntimeError: .*no state\.db"):
        small(open=unopened)


def test_single_process_is_no_crowd() -> None:
    """At least two must meet."""
    with pytest.raises(UsageError, match="1 processes are no crowd"):
        small(processes=1)


def test_texts_are_found_in_any_column(tmp_path: Path) -> None:
    """Inside JSON and bytes too, and once, although an index repeats them."""
    path = tmp_path / "a.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE a (n INTEGER, data BLOB)")
    connection.execute("CREATE TABLE b (copy TEXT)")
    connection.execute("INSERT INTO a VALUES (1, ?), (2, ?)", (b'{"x": "crowd 1.2"}', "crowd 1.3"))
    connection.execute("INSERT INTO b VALUES ('crowd 1.2')")
    connection.commit()
    connection.close()

    assert texts_in(path) == ["crowd 1.2", "crowd 1.3"]
