"""Serial appends: what many processes appended and read, as list-append transactions.

An `append` adds a text to the list of its session, a `messages` reads that list; each is one
transaction. So the checker of serializability judges them, and says *G0* to *G2* of a cycle.
"""

from __future__ import annotations

from dataclasses import replace

from harness.checkers.serializability.checker import Order, serializable
from harness.core.history import History, Operation, Outcome
from harness.core.promises import Promise
from harness.core.verdict import Verdict

_strictly = serializable(Promise.D1, Order.REAL_TIME)


def appends_are_serializable(history: History) -> Verdict:
    """Judge D1: who reads sees all that was acknowledged before, in one order for everybody."""
    transactions = tuple(
        _transaction(op) for op in history if op.function in ("append", "messages")
    )
    return _strictly(replace(history, operations=transactions))


def _transaction(op: Operation) -> Operation:
    session = op.argument["session"]
    if op.function == "append":
        asked = told = [["append", session, op.argument["text"]]]
    else:
        asked = [["r", session, None]]
        told = [["r", session, [text for _, text in op.result or ()]]]
    result = told if op.outcome is Outcome.OK else None
    return replace(op, function="txn", argument=asked, result=result)
