"""Lock use: how a process uses the file's locks, from what its connections were seen to do.

Watched members note each transaction that wrote (`transaction`: how it began, its statements, how
long it held the lock), each open of the file other than SQLite's (`opened_behind`), and how many
descriptors are left of a handle that was dropped (`drop`). Judged by order and kind, not by time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from harness.contract.checkers.state_db.wait_times import WRITES
from harness.core.history import History, Operation, Outcome
from harness.core.promises import Promise
from harness.core.verdict import Anomaly, Verdict

AT_ONCE = ("BEGIN IMMEDIATE", "BEGIN EXCLUSIVE")
_CHANGES = ("INSERT", "UPDATE", "DELETE", "REPLACE", "CREATE", "DROP", "ALTER")
_WAITING = ("wal_checkpoint(TRUNCATE", "wal_checkpoint(RESTART", "wal_checkpoint(FULL")

Rule = Callable[[History], Iterator[Anomaly]]


def locks_are_used_well(history: History) -> Verdict:
    """Judge D7, D8 and D11 by what was seen."""
    rules: tuple[Rule, ...] = (
        _late_locks,
        _locking_readers,
        _leaks,
        _opened_behind,
        refused_reads,
    )
    return Verdict(tuple(anomaly for rule in rules for anomaly in rule(history)))


def transactions(history: History) -> Iterator[Operation]:
    """Those that changed something, or meant to."""
    for op in history.happened:
        if op.function == "transaction" and _wants_the_lock(op.result):
            yield op


def held_ms(history: History) -> list[float]:
    """How long each had the write lock, the shortest first; its last statement not counted."""
    held = sorted(op.result["held_ns"] / 1e6 for op in transactions(history))
    return [each_ms for each_ms in held if each_ms]


def _wants_the_lock(seen: dict[str, Any]) -> bool:
    return seen["begin"] in AT_ONCE or any(map(_is_change, seen["statements"]))


def _is_change(statement: str) -> bool:
    said = statement.upper()
    if "IF NOT EXISTS" in said or "IF EXISTS" in said:
        return False  # on an up-to-date file SQLite finds nothing to do, and takes no lock
    return said.startswith(_CHANGES) or any(word in statement.replace(" ", "") for word in _WAITING)


def _late_locks(history: History) -> Iterator[Anomaly]:
    """A transaction that began as a reader, and wanted to write later (D7)."""
    for op in transactions(history):
        begin = op.result["begin"]
        if begin and begin not in AT_ONCE:
            wrote = next(filter(_is_change, op.result["statements"]))
            read = op.result["statements"].index(wrote)
            message = f"a transaction began with {begin}, and after {read} reads it wrote: {wrote}"
            yield Anomaly(Promise.D7, message, (op,), "deferred-upgrade")


def _locking_readers(history: History) -> Iterator[Anomaly]:
    """A process that only opened, read and closed, and took the write lock (D8)."""
    asked = {op.process for op in history if op.function in WRITES}
    seen = {op.process: op for op in transactions(history) if op.process not in asked}
    for process, op in seen.items():
        what = op.result["begin"] or op.result["statements"][0]
        message = f"process {process} only opened, read and closed, and wanted the lock: {what}"
        yield Anomaly(Promise.D8, message, (op,), "locking-reader")


def _leaks(history: History) -> Iterator[Anomaly]:
    """A handle that was dropped, and kept its descriptors (D8)."""
    for op in history.happened:
        if op.function == "drop" and op.result:
            message = f"a handle was dropped, and {op.result} descriptors of the file stayed open"
            yield Anomaly(Promise.D8, message, (op,), "leaked-handle", (0,))


def _opened_behind(history: History) -> Iterator[Anomaly]:
    """An open that was not SQLite's: closing it drops the process's locks (D11)."""
    for op in history:
        if op.function == "opened_behind":
            message = f"a process opened {op.argument['file']} behind SQLite's back"
            yield Anomaly(Promise.D11, message, (op,), "opened-behind")


def refused_reads(history: History) -> Iterator[Anomaly]:
    """An opening, a read or a closing that was refused (D8)."""
    for op in history:
        if op.function not in WRITES and op.outcome is Outcome.FAIL:
            yield Anomaly(Promise.D8, f"refused beside others: {op}", (op,), "refused")
