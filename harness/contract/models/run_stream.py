"""A run's relay as it may be told: every event once, in order, to one end; from any cursor."""

from __future__ import annotations

from dataclasses import replace

from harness.contract.models.conversation import Phase, Session, Turn
from harness.core.history import Operation
from harness.core.model import Refusal
from harness.core.promises import Promise

TERMINAL = ("stream_end", "cancel", "apperror", "error")
SNAPSHOT = "session_snapshot"
BEYOND = "beyond"  # a cursor behind the run's end; the others are none of this run's at all


def relayed(session: Session, operation: Operation, turn: Turn | None) -> Session | Refusal:
    """A run's events, after so many, read to their end."""
    ids, names = operation.result["ids"], operation.result["names"]
    after = operation.argument["after"]
    if names[:1] == [SNAPSHOT] and (turn is None or turn.rows is None or after > turn.rows):
        # There were never so many, or not yet: then the run goes on where the snapshot says.
        after, ids, names = ids[0] or 0, ids[1:], names[1:]
        if not names:
            return session
    return _read(session, operation, turn, (after, ids, names))


def resumed(session: Session, operation: Operation, turn: Turn | None) -> Session | Refusal:
    """A run's events, after a cursor that is none of its own: a snapshot comes first."""
    ids, names = operation.result["ids"], operation.result["names"]
    if names[:1] != [SNAPSHOT]:
        return Refusal(Promise.C4, f"the cursor is foreign, and nobody says so: {operation}")
    if operation.argument["cursor"] == BEYOND:
        return session if names == [SNAPSHOT] else _closed(session, operation, turn)
    return _read(session, operation, turn, (0, ids[1:], names[1:]))


def _read(
    session: Session,
    operation: Operation,
    turn: Turn | None,
    told: tuple[int, list[int | None], list[str]],
) -> Session | Refusal:
    after, ids, names = told
    if refusal := _in_order(after, ids, operation):
        return refusal
    rows = after + len(ids)
    if turn is None or (not names and turn.rows is None):
        return session
    if turn.rows is not None and rows != turn.rows and operation.result["closed"]:
        return Refusal(Promise.C3, f"the run showed {turn.rows} events, yet {operation}")
    if not names:
        return session
    return _closed(session, operation, replace(turn, rows=rows))


def _closed(session: Session, operation: Operation, turn: Turn | None) -> Session | Refusal:
    """The relay ended when the run did, and not before."""
    is_last = turn is not None and session.run is not None and turn.run == session.run.run
    is_alive = is_last and session.is_pending and session.is_surely_busy
    if is_alive and not operation.result["closed"]:
        return session
    if refusal := _ended_otherwise(operation):
        return refusal
    if is_alive:
        return Refusal(Promise.S13, f"the run is alive, yet {operation}", also=(Promise.T3,))
    after = session if turn is None else session.with_turn(turn)
    return replace(after, phase=Phase.SAVED) if is_last and session.is_pending else after


def _ended_otherwise(operation: Operation) -> Refusal | None:
    """How a relay ends: with the one terminal event."""
    names = operation.result["names"]
    ends = [name for name in names if name in TERMINAL]
    if not operation.result["closed"]:
        return Refusal(Promise.C6, f"the relay was never closed: {operation}")
    if len(ends) != 1:
        return Refusal(Promise.T3, f"{len(ends)} terminal events: {operation}")
    if names[-1] not in TERMINAL:
        return Refusal(Promise.C6, f"the relay went on after its end: {operation}")
    return None


def _in_order(after: int, ids: list[int | None], operation: Operation) -> Refusal | None:
    wanted = list(range(after + 1, after + 1 + len(ids)))
    if ids == wanted:
        return None
    told = [seq for seq in ids if seq is not None]
    if len(set(told)) < len(told):
        promise = Promise.C2
    elif told != sorted(told):
        promise = Promise.C1
    else:
        promise = Promise.C4 if after and ids[:1] != wanted[:1] else Promise.C3
    return Refusal(promise, f"the ids should be {wanted}, yet {operation}", (wanted,))
