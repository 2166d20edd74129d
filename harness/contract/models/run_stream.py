"""Model of a run's event stream: every event once, in order, from any cursor to one end."""

from __future__ import annotations

from dataclasses import dataclass, replace

from harness.contract import promises
from harness.contract.models.conversation import Phase, Session, Turn
from harness.contract.models.transcripts import wrong_events
from harness.core.history import Operation
from harness.core.model import Refusal

TERMINAL = ("stream_end", "cancel", "apperror", "error")
SNAPSHOT = "session_snapshot"
BEYOND = "beyond"  # a cursor behind the run's end; the other foreign cursors are of no run


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the stream: the events behind a cursor, without the snapshot before them."""

    after: int
    ids: list[int | None]
    names: list[str]


def streamed(session: Session, operation: Operation, turn: Turn | None) -> Session | Refusal:
    """A run's events behind a cursor of its own, read to their end."""
    if refusal := _uneven(operation):
        return refusal
    ids, names = operation.result["ids"], operation.result["names"]
    after = operation.argument["after"]
    if names[:1] == [SNAPSHOT] and (turn is None or turn.rows is None or after > turn.rows):
        # The cursor is ahead of the run's events: then the run goes on where the snapshot says.
        after, ids, names = ids[0] or 0, ids[1:], names[1:]
        if not names:
            return session
    return _read(session, operation, turn, Part(after, ids, names))


def resumed(session: Session, operation: Operation, turn: Turn | None) -> Session | Refusal:
    """A run's events behind a foreign cursor: a snapshot comes first."""
    if refusal := _uneven(operation):
        return refusal
    ids, names = operation.result["ids"], operation.result["names"]
    if names[:1] != [SNAPSHOT]:
        return Refusal(
            promises.C4,
            f"{operation.call} resumed at a foreign cursor without a snapshot",
            expected=f"{SNAPSHOT} as the first event",
            observed=f"{(names or ['no event'])[0]} as the first event",
        )
    if operation.argument["cursor"] == BEYOND:
        return session if names == [SNAPSHOT] else _closed(session, operation, turn)
    return _read(session, operation, turn, Part(0, ids[1:], names[1:]))


def _read(
    session: Session, operation: Operation, turn: Turn | None, part: Part
) -> Session | Refusal:
    if refusal := _in_order(part, operation):
        return refusal
    rows = part.after + len(part.ids)
    if turn is None or (not part.names and turn.rows is None):
        return session
    if turn.rows is not None and rows != turn.rows and operation.result["closed"]:
        return Refusal(
            promises.C3,
            f"{operation.call} ended with another event than the reader before",
            expected=f"{turn.rows} as the last id",
            observed=f"{rows} as the last id",
        )
    if not part.names:
        return session
    texts = operation.result.get("texts")
    if texts is not None:
        rows_read = list(zip(part.names, texts[len(texts) - len(part.names) :], strict=True))
        if wrong := wrong_events(turn, operation, rows_read, part.after):
            return wrong
    return _closed(session, operation, replace(turn, rows=rows))


def _uneven(operation: Operation) -> Refusal | None:
    """The refusal of events that lack an id or a text, or whose id is no number."""
    result = operation.result
    counts = {len(result["ids"]), len(result["names"]), len(result.get("texts", result["names"]))}
    if len(counts) == 1 and all(id_ is None or isinstance(id_, int) for id_ in result["ids"]):
        return None
    return Refusal(
        promises.C3,
        f"{operation.call}: an event without an id, a name or a text",
        also=(promises.C2, promises.C4),
        expected="as many ids, which are numbers, and texts as names",
    )


def _closed(session: Session, operation: Operation, turn: Turn | None) -> Session | Refusal:
    """Judge the end of the stream: it ends when the run does, and not before."""
    is_last = turn is not None and session.run is not None and turn.run == session.run.run
    is_alive = is_last and session.is_pending and session.is_surely_busy
    if is_alive and not operation.result["closed"]:
        return session
    if refusal := _badly_ended(operation):
        return refusal
    if is_alive:
        return Refusal(
            promises.S13,
            f"{operation.call}: the stream ended although its run is alive",
            also=(promises.T3,),
            expected="a stream that stays open (closed = False)",
        )
    after = session if turn is None else session.with_turn(turn)
    return replace(after, phase=Phase.SAVED) if is_last and session.is_pending else after


def _badly_ended(operation: Operation) -> Refusal | None:
    """The refusal of a stream that does not end with its one terminal event."""
    names = operation.result["names"]
    ends = [name for name in names if name in TERMINAL]
    if not operation.result["closed"]:
        last = names[-1] if names[-1:] and names[-1] in TERMINAL else "no terminal event"
        return Refusal(
            promises.C6,
            f"{operation.call}: the stream of an ended run stayed open after {last}",
            also=() if last in TERMINAL else (promises.T3,),
            expected="a stream that the server closes (closed = True)",
            observed=f"closed = False after {names[-1:] or 'no event'}",
        )
    if len(ends) != 1:
        return Refusal(
            promises.T3,
            f"{operation.call}: the run has {len(ends)} terminal events",
            expected=f"exactly one of {', '.join(TERMINAL)}",
            observed=f"{ends or 'none'}",
        )
    if names[-1] not in TERMINAL:
        return Refusal(
            promises.C6,
            f"{operation.call}: the stream went on after its terminal event",
            expected=f"{ends[0]} as the last event",
            observed=f"{names[-1]} as the last event",
        )
    return None


def _in_order(part: Part, operation: Operation) -> Refusal | None:
    wanted = list(range(part.after + 1, part.after + 1 + len(part.ids)))
    if part.ids == wanted:
        return None
    numbers = [number for number in part.ids if number is not None]
    if len(set(numbers)) < len(numbers):
        promise, problem = promises.C2, "repeated an id"
    elif numbers != sorted(numbers):
        promise, problem = promises.C1, "is out of order"
    elif part.after and part.ids[:1] != wanted[:1]:
        promise, problem = promises.C4, f"did not resume behind {part.after}"
    else:
        promise, problem = promises.C3, "has a gap"
    return Refusal(
        promise,
        f"{operation.call}: the stream {problem}",
        (wanted,),
        expected=f"the ids {wanted}",
        observed=f"the ids {part.ids}",
    )
