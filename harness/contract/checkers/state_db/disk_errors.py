"""Checks that errors of the disk are reported clearly, and that all recovers when it is healed.

For histories in which faults of disk and files begin and are healed. A fault's name says what it
is; faults of a whole disk leave every read possible, those of a damaged file may not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from harness.contract import promises
from harness.core.history import FaultInterval, History, Operation, Outcome
from harness.core.verdict import Anomaly, Verdict

# Words of SQLite and the system for a broken disk or file; an error that passes them on has one.
CLEAR = re.compile(
    r"full|space left|too large|I/O|IOERR|disk|read-?only|permi|malformed|corrupt|not a database"
    r"|unable to open|vtable constructor failed",  # the last one is for a damaged index
    re.IGNORECASE,
)
DAMAGE = re.compile(r"corrupt|gone|ends after")  # the faults beside which a read may be refused


def check_disk_errors(history: History) -> Verdict:
    """Judge D10: errors are clear, reads go on, and all is well when it is healed."""
    return Verdict(tuple(_anomalies(history)))


def _anomalies(history: History) -> Iterator[Anomaly]:
    for op in history:
        if op.outcome is not Outcome.FAIL:
            continue
        fault = _beside(op, history)
        if fault is None:
            yield Anomaly(
                promises.D10,
                f"{op.call} was refused after every fault was healed",
                (op,),
                "not-recovered",
                expected="success once the disk is healed",
                observed=op.answer,
            )
        elif not CLEAR.search(op.error):
            yield Anomaly(
                promises.D10,
                f"{op.call} failed with an error that does not name the disk",
                (op,),
                "unclear-error",
                expected=f"an error that says what is broken: {fault.name}",
                observed=op.answer,
            )
        elif op.function == "messages" and not DAMAGE.search(fault.name):
            yield Anomaly(
                promises.D10,
                f"{op.call} was refused beside a fault that leaves reads possible",
                (op,),
                "unreadable",
                expected=f"the acknowledged messages, while {fault.name}",
                observed=op.answer,
            )


def _beside(op: Operation, history: History) -> FaultInterval | None:
    """The first fault that overlaps the operation, if any."""
    for fault in history.faults:
        ends = fault.healed_ns is None or op.invoked_ns < fault.healed_ns
        if ends and (op.completed_ns or op.invoked_ns) > fault.began_ns:
            return fault
    return None
