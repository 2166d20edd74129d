"""Checks that a run's rows are numbered 1, 2, 3 in its file, and were streamed in that order.

For histories of `emit`s, some of them hit by disk errors, that end with a quiet `rows`: what the
file holds, and which numbers were streamed. An acknowledged row is in the file, a refused one is
not, and one of unknown outcome may be either.
"""

from __future__ import annotations

from collections.abc import Iterator

from harness.contract import promises
from harness.core.checker import first_of
from harness.core.history import History, Operation, Outcome
from harness.core.verdict import Anomaly, Verdict

EMITS = ("emit", "emit_struck")


def check_journal_order(history: History) -> Verdict:
    """Judge the last read of the journal; that it can be read is part of the promise."""
    reads = history.of("rows")
    if not reads:
        return Verdict()
    read = reads[-1]
    if read.outcome is Outcome.FAIL:
        return Verdict(
            (
                Anomaly(
                    promises.T5,
                    "rows() failed",
                    (read,),
                    "unreadable",
                    expected="the rows of the journal",
                    observed=read.answer,
                ),
            )
        )
    if read.outcome is Outcome.INFO:
        return Verdict(unknowns=("the content of the journal is unknown: no reply to rows()",))
    return first_of(lambda history: _anomalies(history, read))(history)


def _anomalies(history: History, read: Operation) -> Iterator[Anomaly]:
    emits = tuple(op for op in history if op.function in EMITS)
    seqs, texts, shown = (read.result[name] for name in ("seqs", "texts", "shown"))
    was_shown_in_order = shown == sorted(set(shown))
    if seqs != list(range(1, len(seqs) + 1)):
        yield Anomaly(
            promises.T5,
            "rows() returned rows with wrong numbers",
            (*emits, read),
            "out-of-order",
            also=() if was_shown_in_order else (promises.C1,),
            expected=f"the numbers 1 to {len(seqs)} in order",
            observed=f"numbers {seqs}",
        )
    for emit in emits:
        text = emit.argument["text"]
        if emit.outcome is Outcome.OK and text not in texts:
            yield Anomaly(
                promises.T5,
                f"{emit.function}({text!r}) was acknowledged, and the journal lacks the row",
                (emit, read),
                "lost-row",
                expected=f"a row {text!r}",
                observed=f"rows {texts}",
            )
        if emit.outcome is Outcome.FAIL and text in texts:
            yield Anomaly(
                promises.T5,
                f"{emit.function}({text!r}) was refused, and the journal holds the row",
                (emit, read),
                "refused-row",
                expected=f"no row {text!r}",
                observed=f"rows {texts}",
            )
    if not was_shown_in_order:
        yield Anomaly(
            promises.C1,
            "the rows were streamed out of order",
            (*emits, read),
            "shown-out-of-order",
            expected=f"numbers {sorted(set(shown))}",
            observed=f"numbers {shown}",
        )
