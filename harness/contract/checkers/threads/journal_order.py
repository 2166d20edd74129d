"""Journalled: a run's rows are numbered 1, 2, 3 in its file, and were shown in that order.

For histories of `emit`s, some of them struck by the disk, that end with a quiet `rows`: what the
file holds, and which numbers were shown. A row that was acknowledged is there, one that was
refused is not, and one of which nobody knows may be either.
"""

from __future__ import annotations

from collections.abc import Iterator

from harness.core.history import History, Operation, Outcome
from harness.core.promises import Promise
from harness.core.verdict import Anomaly, Verdict

EMITS = ("emit", "emit_struck")


def rows_are_in_order(history: History) -> Verdict:
    """Judge what was read back last; that it can be read at all is part of it."""
    reads = [op for op in history if op.function == "rows"]
    if not reads:
        return Verdict()
    read = reads[-1]
    if read.outcome is Outcome.FAIL:
        return Verdict((Anomaly(Promise.T5, f"nobody can read the journal: {read}", (read,)),))
    if read.outcome is Outcome.INFO:
        return Verdict(unknowns=("nobody knows what the journal holds",))
    return Verdict(anomalies=tuple(_anomalies(history, read))[:1])


def _anomalies(history: History, read: Operation) -> Iterator[Anomaly]:
    emits = tuple(op for op in history if op.function in EMITS)
    seqs, texts, shown = (read.result[name] for name in ("seqs", "texts", "shown"))
    was_shown_in_order = shown == sorted(set(shown))
    if seqs != list(range(1, len(seqs) + 1)):
        also = () if was_shown_in_order else (Promise.C1,)
        message = f"the rows of the run are numbered {seqs}"
        yield Anomaly(Promise.T5, message, (*emits, read), "out-of-order", also=also)
    for emit in emits:
        text = emit.argument["text"]
        if emit.outcome is Outcome.OK and text not in texts:
            message = f"{text!r} was acknowledged, and is not in the journal"
            yield Anomaly(Promise.T5, message, (emit, read), "lost-row")
        if emit.outcome is Outcome.FAIL and text in texts:
            message = f"{text!r} was refused, and is in the journal"
            yield Anomaly(Promise.T5, message, (emit, read), "refused-row")
    if not was_shown_in_order:
        message = f"the rows were shown in the order {shown}"
        yield Anomaly(Promise.C1, message, (*emits, read), "shown-out-of-order")
