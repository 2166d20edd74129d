"""Checks that a server is back at its first values after every client has left (H8).

The operation `epilogue` is the last of an instance. It belongs to no model, so `resting` takes it
out of a history before the scenario's own checker sees the rest.
"""

from __future__ import annotations

from dataclasses import replace

from harness.contract import promises
from harness.core.checker import Checker
from harness.core.history import History, Operation, Outcome
from harness.core.verdict import Anomaly, Verdict

EPILOGUE = "epilogue"
OF_READERS = ("streams_taken", "sse", "channel", "connections", "watcher", "open sockets")
OF_RUNS = ("runs", "streams", "active", "run_writers")
OF_SESSIONS = ("wakeup", "process")


def resting(checker: Checker) -> Checker:
    """Add the epilogue to a checker."""

    def check(history: History) -> Verdict:
        epilogues = [operation for operation in history if operation.function == EPILOGUE]
        others = tuple(op for op in history.operations if op.function != EPILOGUE)
        verdict = checker(replace(history, operations=others))
        before = len(verdict.anomalies)  # which may be why something is left
        found = [
            replace(anomaly, behind=before)
            for operation in epilogues
            if (anomaly := _left(operation, history))
        ]
        return replace(verdict, anomalies=(*verdict.anomalies, *found))

    return check


def _left(operation: Operation, history: History) -> Anomaly | None:
    """The anomaly of an epilogue after which something is left."""
    if operation.is_unanswered:
        return None
    if operation.outcome is Outcome.OK:
        left = operation.result["left"]
        if operation.result == {"left": {}}:
            return None
    else:
        left = {}
    also = [promises.H4]
    if any(name.startswith(OF_READERS) for name in left):
        also = [promises.C11, *also]
    if any(name.startswith(OF_RUNS) for name in left):
        also = [promises.T3, *also]
    if any(name.startswith(OF_SESSIONS) for name in left):
        also = [promises.W9, *also]
    return Anomaly(
        promises.H8,
        "after every client had left, gauges were not back at their first values",
        history.operations,
        name=f"left {', '.join(sorted(left))}",
        also=tuple(also),
        expected="every gauge, thread and descriptor at its first value",
        observed=f"{left}" if left else operation.answer,
    )
