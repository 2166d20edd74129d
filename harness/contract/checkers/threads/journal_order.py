"""Checks that a run's rows are numbered 1, 2, 3 in its file, and were streamed in that order.

For histories of `emit`s, some of them hit by disk errors, that end with a quiet `rows`: what the
file holds, and which numbers were streamed. An acknowledged row is in the file under the number
that was returned, a refused one is not, and one of unknown outcome may be either. No other row is
there, except those of the end, and each row was streamed. A row is refused for a reason only: the
end of the run, or the fault of its disk.
"""

from __future__ import annotations

from collections.abc import Iterator

from harness.contract import promises
from harness.core.checker import first_of
from harness.core.history import History, Operation, Outcome
from harness.core.verdict import Anomaly, Verdict

EMITS = ("emit", "emit_struck")
END = ["done", "end"]  # the texts of the rows that `finish` writes
_ERRORS = {"full": "OSError: [Errno 28]", "broken": "OSError: [Errno 5]"}  # by first word
_OVER = "RunOverError"
_HARMLESS = "short write"  # the row is whole all the same


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
    if seqs != list(range(1, len(texts) + 1)):
        yield Anomaly(
            promises.T5,
            "rows() returned rows with wrong numbers",
            (*emits, read),
            "out-of-order",
            also=() if was_shown_in_order else (promises.C1,),
            expected=f"the numbers 1 to {len(texts)} in order",
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
    yield from _misnumbered(emits, read)
    yield from _surplus(history, emits, read)
    yield from _unfounded(history, emits)


def _misnumbered(emits: tuple[Operation, ...], read: Operation) -> Iterator[Anomaly]:
    """An answer that says another number than the row has."""
    texts = read.result["texts"]
    for emit in emits:
        if emit.outcome is not Outcome.OK:
            continue
        number = texts.index(emit.argument["text"]) + 1
        is_struck = emit.function == "emit_struck"
        answer = emit.result["seq"] if is_struck else emit.result
        if answer != number:
            yield Anomaly(
                promises.T5,
                f"{emit.call} returned another number than its row has",
                (emit, read),
                "wrong-number",
                expected=f"{number}",
                observed=f"{answer}",
            )
        if is_struck and emit.result["struck"] is not _was_struck(emit):
            yield Anomaly(
                promises.T5,
                f"{emit.call} was acknowledged, whatever its fault did",
                (emit, read),
                "wrong-strike",
                expected=f"struck: {_was_struck(emit)}",
                observed=f"struck: {emit.result['struck']}",
            )


def _was_struck(emit: Operation) -> bool:
    """Whether an acknowledged row met its fault: one that harms nothing, at its only write."""
    return bool(emit.argument["strike"] == _HARMLESS and emit.argument["at"] == 1)


def _surplus(history: History, emits: tuple[Operation, ...], read: Operation) -> Iterator[Anomaly]:
    """A row that no call wrote, or that is there twice, or was not streamed."""
    seqs, texts, shown = (read.result[name] for name in ("seqs", "texts", "shown"))
    end = END if history.happened.of("finish") else []
    written = sorted(op.argument["text"] for op in emits if op.outcome is Outcome.OK)
    unknown = [op.argument["text"] for op in emits if op.outcome is Outcome.INFO]
    doubtful = [text for text in unknown if text in texts]
    emitted = texts[: len(texts) - len(end)]
    if sorted(emitted) != sorted((*written, *doubtful)) or texts[len(emitted) :] != end:
        yield Anomaly(
            promises.T5,
            "the journal holds other rows than those that were written",
            (*emits, *history.of("finish"), read),
            "other-rows",
            expected=f"the rows {written}, perhaps {unknown}, and then {end}",
            observed=f"the rows {texts}",
        )
    unshown = [seq for seq, text in zip(seqs, texts, strict=True) if seq not in shown]
    if len(unshown) > len(doubtful) or len(shown) + len(unshown) != len(seqs):
        yield Anomaly(
            promises.T5,
            "other rows were streamed than the journal holds",
            (*emits, read),
            "not-shown",
            expected=f"the numbers {seqs}",
            observed=f"the numbers {shown}",
        )


def _unfounded(history: History, emits: tuple[Operation, ...]) -> Iterator[Anomaly]:
    """A call that was refused without a reason, or an end that is not silent."""
    ends = history.of("finish")
    for op in (*emits, *ends):
        if op.outcome is Outcome.OK and (op.function != "finish" or op.result is None):
            continue
        strike, _, _ = (op.argument or {}).get("strike", "").partition(" ")
        fault = _ERRORS.get(strike, "no fault")
        is_over = any(not op.precedes(end) for end in ends) and op.error.startswith(_OVER)
        is_refusal = op.outcome is Outcome.FAIL and op in emits
        if is_refusal and (is_over or op.error.startswith(fault)):
            continue
        if op.outcome is not Outcome.INFO:
            yield Anomaly(
                promises.T5,
                f"{op.function}() was refused, or gave an answer that nothing explains",
                (op, *ends),
                "refused",
                expected="the call happens, and an end returns nothing",
                observed=op.answer,
            )
