"""Checks that a stalled lock holder delays writers by their patience at most, and is named.

For histories in which processes were stopped (a fault `pause process N`) inside a transaction. A
write that began meanwhile is answered before the holder continues, which it does only once all are
answered; and a refusal names the holder.
"""

from __future__ import annotations

from collections.abc import Iterator

from harness.contract import promises
from harness.contract.checkers.state_db.wait_times import WRITES
from harness.core.history import FaultInterval, History, Operation, Outcome
from harness.core.verdict import Anomaly, Verdict

PAUSE = "pause process "


def check_stalled_holders(history: History) -> Verdict:
    """Judge D5 by the writes that began while a process was stopped."""
    pauses = [fault for fault in history.faults if fault.name.startswith(PAUSE)]
    return Verdict(tuple(found for pause in pauses for found in _beside(pause, history)))


def _beside(pause: FaultInterval, history: History) -> Iterator[Anomaly]:
    pid = pause.name.removeprefix(PAUSE)
    # The writes of the stopped process are left out: it continues before the harness notes that.
    stopped = {op.process for op in history if _is_open_at(pause.began_ns, op)}
    for op in history:
        if op.function not in WRITES or op.process in stopped or not _began_in(pause, op):
            continue
        if op.completed_ns is None or (pause.healed_ns and op.completed_ns > pause.healed_ns):
            yield Anomaly(
                promises.D5,
                f"{op.call} of process {op.process} waited until the holder continued",
                (op,),
                "held-up",
                expected=f"an answer while process {pid} is stopped",
                observed="no answer before it continued",
            )
        elif op.outcome is Outcome.FAIL and pid not in op.error:
            yield Anomaly(
                promises.D5,
                f"{op.call} was refused with an error that does not name the holder",
                (op,),
                "unnamed-holder",
                expected=f"an error that names process {pid}, which holds the lock",
                observed=op.answer,
            )


def _began_in(pause: FaultInterval, op: Operation) -> bool:
    return pause.began_ns < op.invoked_ns and (
        pause.healed_ns is None or op.invoked_ns < pause.healed_ns
    )


def _is_open_at(moment_ns: int, op: Operation) -> bool:
    return op.invoked_ns <= moment_ns and (op.completed_ns is None or op.completed_ns > moment_ns)
