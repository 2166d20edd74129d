"""Checks that appends and reads by many processes are serializable, as list-append transactions.

An `append` adds a text to the list of its session, a `messages` reads that list; each is one
transaction. The checker of serializability judges them, and names a cycle *G0* to *G2*.
"""

from __future__ import annotations

from dataclasses import replace

from harness.checkers.serializability.checker import Order, serializable
from harness.contract import promises
from harness.core.history import History, Operation, Outcome
from harness.core.verdict import Verdict

_strictly = serializable(promises.D1, Order.REAL_TIME)


def check_append_transactions(history: History) -> Verdict:
    """Judge D1: a read returns all that was acknowledged before, in one order for all readers."""
    transactions = tuple(
        _transaction(op) for op in history if op.function in ("append", "messages")
    )
    return _strictly(replace(history, operations=transactions))


def _transaction(op: Operation) -> Operation:
    session = op.argument["session"]
    if op.function == "append":
        argument = done = [["append", session, op.argument["text"]]]
    else:
        argument = [["r", session, None]]
        done = [["r", session, [text for _, text in op.result or ()]]]
    result = done if op.outcome is Outcome.OK else None
    return replace(op, function="txn", argument={"operations": argument}, result=result)
