"""Checks how processes use the file's locks, by what their connections were observed to do.

Instrumented processes record each transaction that wrote (`transaction`: how it began, its
statements, how long it held the lock), each open of the file other than SQLite's
(`opened_behind`), and the number of descriptors left of a dropped handle (`drop`). The checker
judges order and kind, not times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from harness.contract import promises
from harness.contract.checkers.state_db.wait_times import WRITES
from harness.core.history import History, Operation, Outcome
from harness.core.verdict import Anomaly, Verdict

AT_ONCE = ("BEGIN IMMEDIATE", "BEGIN EXCLUSIVE")
_CHANGES = ("INSERT", "UPDATE", "DELETE", "REPLACE", "CREATE", "DROP", "ALTER")
_WAITING = ("wal_checkpoint(TRUNCATE", "wal_checkpoint(RESTART", "wal_checkpoint(FULL")

Rule = Callable[[History], Iterator[Anomaly]]


def check_lock_discipline(history: History) -> Verdict:
    """Judge D7, D8 and D11 by the recorded transactions and descriptors."""
    rules: tuple[Rule, ...] = (
        _late_locks,
        _locking_readers,
        _leaks,
        _opened_behind,
        refused_reads,
    )
    return Verdict(tuple(anomaly for rule in rules for anomaly in rule(history)))


def opened_behind(history: History) -> Verdict:
    """Judge D11 alone, for processes that do more than one thing at once."""
    return Verdict(tuple(_opened_behind(history)))


def transactions(history: History) -> Iterator[Operation]:
    """The transactions that wrote, or began in order to write."""
    for op in history.happened:
        if op.function == "transaction" and _takes_write_lock(op.result):
            yield op


def held_ms(history: History) -> list[float]:
    """The times for which write locks were held, ascending; the last statement not counted."""
    held = sorted(op.result["held_ns"] / 1e6 for op in transactions(history))
    return [duration_ms for duration_ms in held if duration_ms]


def _takes_write_lock(transaction: dict[str, Any]) -> bool:
    is_immediate = transaction["begin"] in AT_ONCE
    return is_immediate or any(map(_is_change, transaction["statements"]))


def _is_change(statement: str) -> bool:
    sql = statement.upper()
    if "IF NOT EXISTS" in sql or "IF EXISTS" in sql:
        return False  # on an up-to-date file SQLite has nothing to do, and takes no lock
    return sql.startswith(_CHANGES) or any(word in statement.replace(" ", "") for word in _WAITING)


def _late_locks(history: History) -> Iterator[Anomaly]:
    """A transaction that began as a reader and wrote later (D7)."""
    for op in transactions(history):
        begin = op.result["begin"]
        if begin and begin not in AT_ONCE:
            write = next(filter(_is_change, op.result["statements"]))
            reads = op.result["statements"].index(write)
            yield Anomaly(
                promises.D7,
                f"process {op.process} upgraded a read transaction to a write after {reads} reads",
                (op,),
                "deferred-upgrade",
                expected=f"a transaction that writes begins with {AT_ONCE[0]}",
                observed=f"{begin}, then {write}",
            )


def _locking_readers(history: History) -> Iterator[Anomaly]:
    """A process that only opened, read and closed, and took the write lock (D8)."""
    writers = {op.process for op in history if op.function in WRITES}
    locking = {op.process: op for op in transactions(history) if op.process not in writers}
    for process, op in locking.items():
        statement = op.result["begin"] or op.result["statements"][0]
        yield Anomaly(
            promises.D8,
            f"process {process} only opened, read and closed, and took the write lock",
            (op,),
            "locking-reader",
            expected="no statement that takes the write lock",
            observed=f"{statement}",
        )


def _leaks(history: History) -> Iterator[Anomaly]:
    """A dropped handle whose descriptors stayed open (D8)."""
    for op in history.happened:
        if op.function == "drop" and op.result:
            yield Anomaly(
                promises.D8,
                f"drop() left descriptors of the file open in process {op.process}",
                (op,),
                "leaked-handle",
                accepted=(0,),
                expected="0 open descriptors",
                observed=f"{op.result} open descriptors",
            )


def _opened_behind(history: History) -> Iterator[Anomaly]:
    """An open other than SQLite's, whose close drops the locks of the process (D11)."""
    for op in history:
        if op.function == "opened_behind":
            yield Anomaly(
                promises.D11,
                f"process {op.process} opened the file without SQLite",
                (op,),
                "opened-behind",
                expected="the file is opened by SQLite only while a connection is open",
                observed=f"an open of {op.argument['file']}",
            )


def refused_reads(history: History) -> Iterator[Anomaly]:
    """An open, a read or a close that was refused (D8)."""
    for op in history:
        if op.function not in WRITES and op.outcome is Outcome.FAIL:
            yield Anomaly(
                promises.D8,
                f"{op.call} was refused beside other processes",
                (op,),
                "refused",
                expected="success: opening, reading and closing need no write lock",
                observed=op.answer,
            )
