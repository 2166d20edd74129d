"""Broken disk: what a disk or a file refuses is told clearly, and hurts nobody afterwards.

For histories in which faults of disk and files roam and are healed. A fault's name says what it is;
those of whole disks leave every read possible, those of a damaged file may not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from harness.core.history import FaultInterval, History, Operation, Outcome
from harness.core.promises import Promise
from harness.core.verdict import Anomaly, Verdict

# What SQLite and the system say of a disk or a file, and so must whoever passes it on.
CLEAR = re.compile(
    r"full|space left|too large|I/O|IOERR|disk|read-?only|permi|malformed|corrupt|not a database"
    r"|unable to open|vtable constructor failed",  # the last is what a damaged index is told by
    re.IGNORECASE,
)
DAMAGE = re.compile(r"corrupt|gone|ends after")  # the faults beside which a read may be refused


def broken_disks_are_told(history: History) -> Verdict:
    """Judge D10: errors are clear, reads go on, and all is well when it is healed."""
    return Verdict(tuple(_anomalies(history)))


def _anomalies(history: History) -> Iterator[Anomaly]:
    for op in history:
        if op.outcome is not Outcome.FAIL:
            continue
        fault = _beside(op, history)
        if fault is None:
            message = f"refused though nothing was broken any more: {op}"
            yield Anomaly(Promise.D10, message, (op,), "not-recovered")
        elif not CLEAR.search(op.error):
            message = f"while {fault.name} the error does not say so: {op}"
            yield Anomaly(Promise.D10, message, (op,), "unclear-error")
        elif op.function == "messages" and not DAMAGE.search(fault.name):
            message = f"while {fault.name} what was acknowledged cannot be read: {op}"
            yield Anomaly(Promise.D10, message, (op,), "unreadable")


def _beside(op: Operation, history: History) -> FaultInterval | None:
    """The fault that was there for some of the operation's time."""
    for fault in history.faults:
        ends = fault.healed_ns is None or op.invoked_ns < fault.healed_ns
        if ends and (op.completed_ns or op.invoked_ns) > fault.began_ns:
            return fault
    return None
