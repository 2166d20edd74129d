"""Stored: what threads wrote into one session is there when all is quiet, and only that.

For histories that end with a quiet `messages` and `active`. A write that came back must be seen; a
save that was refused must not be; one that nobody knows of may be either. No text is written twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from harness.core.history import History, Operation, Outcome
from harness.core.promises import Promise
from harness.core.verdict import Anomaly, Verdict

WRITES = ("append", "save_copy")


def writes_are_stored(history: History) -> Verdict:
    """Judge the last reads against the writes before them."""
    return Verdict(anomalies=tuple(_anomalies(history))[:1])


def _anomalies(history: History) -> Iterator[Anomaly]:
    for read in history:
        if read.function in ("messages", "active") and read.outcome is Outcome.FAIL:
            yield Anomaly(Promise.S1, f"the session cannot be read: {read}", (read,), "unreadable")
        if read.function == "messages" and read.outcome is Outcome.OK:
            yield from _lost_or_stray(history, read)
        if read.function == "active" and read.outcome is Outcome.OK:
            yield from _clobbered(history, read)


def _lost_or_stray(history: History, read: Operation) -> Iterator[Anomaly]:
    """A lost write (S9 where a copy was saved over it, else S2), or one that is there wrongly."""
    told = Counter(read.result)
    for text in told.keys() - {op.argument["text"] for op in history if op.function in WRITES}:
        yield Anomaly(Promise.S1, f"nobody wrote {text!r}", (read,), "stray-write")
    copies = [op for op in history if op.function == "save_copy" and op.outcome is Outcome.OK]
    for write in (op for op in history if op.function in WRITES):
        seen = told[write.argument["text"]]
        if write.outcome is Outcome.OK and write.precedes(read) and not seen:
            over = [copy for copy in copies if copy is not write and copy.meets(write)]
            broken = Promise.S9 if over else Promise.S2
            message = f"{write.argument['text']!r} was acknowledged, then gone"
            yield Anomaly(broken, message, (write, *over, read), "lost-write")
        if write.outcome is Outcome.FAIL and seen:
            message = f"{write.argument['text']!r} was refused, and is there"
            yield Anomaly(Promise.S10, message, (write, read), "refused-write")
        if seen > 1:
            message = f"{write.argument['text']!r} is there {seen} times"
            yield Anomaly(Promise.S1, message, (write, read), "doubled-write")


def _clobbered(history: History, read: Operation) -> Iterator[Anomaly]:
    """A run that registered, and that a cleanup unmarked (S7)."""
    begun = [op for op in history if op.function == "start_run" and not read.precedes(op)]
    starts = [op for op in begun if op.outcome is Outcome.OK and op.precedes(read)]
    runs = [op.argument["stream"] for op in begun if op.outcome is not Outcome.FAIL]
    if starts and read.result not in runs:
        cleanups = [op for op in history if op.function == "cleanup"]
        message = f"a run is alive, and its session is marked with {read.result!r}"
        yield Anomaly(Promise.S7, message, (*starts, *cleanups, read), "clobbered-run")
    left = [op for op in history if op.function == "leave_behind"]
    quiet = [
        op
        for op in history
        if op.function == "cleanup" and op.precedes(read) and all(one.precedes(op) for one in left)
    ]
    if left and quiet and read.result not in (None, *runs):
        message = f"nobody runs {read.result!r}, and cleanup left it"
        yield Anomaly(Promise.S7, message, (*left, *quiet, read), "left-stale")
