"""Stopped: whoever reads a stream that is stopped is told that it is over.

For histories of `read` operations, true where the end came, that meet a `stop`; and of `readers`,
how many were there when all was quiet.
"""

from __future__ import annotations

from harness.core.history import History, Operation
from harness.core.promises import Promise
from harness.core.verdict import Anomaly, Verdict


def readers_end_with_the_stop(history: History) -> Verdict:
    """Judge a history in which something was stopped (G4)."""
    stops = _done(history, "stop")
    for read in _done(history, "read"):
        if read.result is False:
            message = "a reader was left waiting for ever"
            return Verdict((Anomaly(Promise.G4, message, (*stops, read), "never-ended"),))
    for readers in _done(history, "readers"):
        if readers.result:
            message = f"{readers.result} are still listed as readers"
            return Verdict((Anomaly(Promise.G4, message, (*stops, readers), "still-listed"),))
    return Verdict()


def _done(history: History, function: str) -> list[Operation]:
    return [operation for operation in history.happened if operation.function == function]
