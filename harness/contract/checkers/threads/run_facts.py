"""What a history of calls that meet says of its runs, and the form of what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from harness.core.contract import Promise
from harness.core.history import History, Operation
from harness.core.verdict import Anomaly

OK, CONFLICT, GONE, NOTHING, CLOSING = 200, 409, 404, 422, 503


ENDS = {"done": ["done", "stream_end"], "cancelled": ["cancel"], "error": ["apperror"]}
UNTIL_CANCELLED = ("wait", "chat", "slow", "late", "later", "hang")
UNWINDS_LATE = ("slow", "late", "later", "hang")
LEFT_BEHIND = ("late", "later", "hang")  # by a run that is reclaimed
FAILING = ("fail", "exit")
STARTS = ("start", "follow", "press", "retry")
CHANGES = (*STARTS, "clear", "delete")  # of a session's messages, besides a compress
ENDERS = ("cancel", "delete", "shut_down")  # calls that may cancel a run
UNNAMED = "unknown"  # a run that was registered just now, so that no listener knows it yet


Rule = Callable[[History], Iterable[Anomaly]]


def starts_of(history: History) -> list[Operation]:
    """The calls that begin a turn, and were answered."""
    return [op for op in history.happened if op.function in STARTS]


def accepted_starts(history: History) -> list[Operation]:
    """The starts that began a run."""
    return [op for op in starts_of(history) if op.result["status"] == OK]


def is_true(cancel: Operation) -> bool:
    """Whether a cancel says that its run is cancelled."""
    return cancel.result["cancelled"] is True


def run_of(operation: Operation) -> str:
    """The name of the run of a call."""
    run: str = operation.argument["run"]
    return run


def of_run(history: History, function: str, run: str) -> list[Operation]:
    """What a history has of a run: calls, or what was observed."""
    return [op for op in history.of(function) if op.argument["run"] == run]


def wrong(  # noqa: PLR0913, PLR0917 - the parts of an anomaly
    promise: Promise,
    name: str,
    message: str,
    evidence: Iterable[Operation],
    expected: str,
    observed: object,
    *also: Promise,
) -> Anomaly:
    """An anomaly; its fields in the order in which a sentence says them."""
    return Anomaly(
        promise,
        message,
        tuple(evidence),
        name,
        also=also,
        expected=expected,
        observed=f"{observed}",
    )


def cancels_before(history: History, other: Operation) -> list[Operation]:
    """The cancels that were answered, or seen by an agent, before another call."""
    answered = [op for op in history.happened.of("cancel") if is_true(op)]
    return [op for op in (*answered, *history.of("cancelling")) if op.precedes(other)]


def may_run(history: History, start: Operation, other: Operation) -> bool:
    """Whether the run of one start may be registered at some moment of another call."""
    over = of_run(history, "ended", run_of(start))
    return not other.precedes(start) and not (over and over[-1].precedes(other))
