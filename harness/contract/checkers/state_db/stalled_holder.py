"""Hung: a holder that stands still delays others by their patience at most, and is named.

For histories in which processes were stopped (a fault `pause process N`) inside a transaction.
Whoever began a write meanwhile must have his answer before the holder goes on, which it does only
when all have one; and a refusal must name the holder, which this machine makes known.
"""

from __future__ import annotations

from collections.abc import Iterator

from harness.contract.checkers.state_db.wait_times import WRITES
from harness.core.history import FaultInterval, History, Operation, Outcome
from harness.core.promises import Promise
from harness.core.verdict import Anomaly, Verdict

PAUSE = "pause process "


def the_hung_are_named(history: History) -> Verdict:
    """Judge D5 by what was asked while a process stood still."""
    pauses = [fault for fault in history.faults if fault.name.startswith(PAUSE)]
    return Verdict(tuple(found for pause in pauses for found in _beside(pause, history)))


def _beside(pause: FaultInterval, history: History) -> Iterator[Anomaly]:
    pid = pause.name.removeprefix(PAUSE)
    # Its own writes: it goes on a moment before anybody can note that it does.
    stood_still = {op.process for op in history if _is_open_at(pause.began_ns, op)}
    for op in history:
        if op.function not in WRITES or op.process in stood_still or not _began_in(pause, op):
            continue
        if op.completed_ns is None or (pause.healed_ns and op.completed_ns > pause.healed_ns):
            message = f"no answer for as long as process {pid} stood still: {op}"
            yield Anomaly(Promise.D5, message, (op,), "held-up")
        elif op.outcome is Outcome.FAIL and pid not in op.error:
            message = (
                f"process {pid} stood still with the lock, and the error does not name it: {op}"
            )
            yield Anomaly(Promise.D5, message, (op,), "unnamed-holder")


def _began_in(pause: FaultInterval, op: Operation) -> bool:
    return pause.began_ns < op.invoked_ns and (
        pause.healed_ns is None or op.invoked_ns < pause.healed_ns
    )


def _is_open_at(moment_ns: int, op: Operation) -> bool:
    return op.invoked_ns <= moment_ns and (op.completed_ns is None or op.completed_ns > moment_ns)
