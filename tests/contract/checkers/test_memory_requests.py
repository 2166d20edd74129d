"""Tests of the checker of requests to a memory provider: allowed histories, and wrong ones."""

from __future__ import annotations

from typing import Any

import pytest

from harness.contract import promises
from harness.contract.checkers.threads.memory_requests import check_memory_requests
from harness.core.history import History, Operation, Outcome

Span = tuple[int, int]


def call(function: str, span: Span, error: str = "", **argument: Any) -> Operation:
    """A call, which failed if it has an error."""
    outcome = Outcome.FAIL if error else Outcome.OK
    return Operation(1, function, argument or None, outcome, *span, None, error)


def sync(turn: str, at: int) -> Operation:
    return call("sync", (at, at + 1), turn=turn)


def sent(turn: str, span: Span, *, accepted: bool = True, reply: str = "") -> Operation:
    messages = [
        {"role": "user", "content": f"ask {turn}"},
        {"role": "assistant", "content": reply or f"reply to {turn}"},
    ]
    body = {"turn_id": turn, "messages": messages}
    return call("request", span, what="messages", body=body, accepted=accepted)


def extracted(span: Span, *, accepted: bool = True) -> Operation:
    return call("request", span, what="commit", body={}, accepted=accepted)


def blamed(*calls: Operation) -> list[str]:
    ordered = tuple(sorted(calls, key=lambda op: op.invoked_ns))
    found = check_memory_requests(History(ordered)).anomalies
    assert all(anomaly.promise == promises.L15 for anomaly in found)
    return [anomaly.name for anomaly in found]


REST = call("rest", (30, 40))
A, B = sync("a", 1), sync("b", 3)
BOTH = (A, B, sent("a", (5, 6)), sent("b", (7, 8)))


@pytest.mark.parametrize(
    "calls",
    [
        (*BOTH, REST),
        (*BOTH, call("commit", (9, 12)), extracted((10, 11)), REST),
        (A, sent("a", (3, 4), accepted=False), REST, sent("a", (41, 42))),
        (A, call("commit", (5, 9), "URLError"), sent("a", (6, 7), accepted=False), REST),
        (*BOTH, call("commit", (9, 12), "URLError"), extracted((10, 11), accepted=False)),
    ],
)
def test_allowed_requests_are_valid(calls: tuple[Operation, ...]) -> None:
    """Turns in order, a refused one that waits, and a boundary after all turns."""
    assert blamed(*calls) == []


@pytest.mark.parametrize(
    ("calls", "name"),
    [
        ((*BOTH, sent("a", (9, 10))), "turns-disordered"),
        ((A, B, sent("b", (5, 6)), sent("a", (7, 8))), "turns-disordered"),
        ((A, B, sent("a", (5, 8)), sent("b", (6, 7))), "turns-disordered"),
        ((A, B, sent("a", (5, 6)), REST), "turn-unsent"),
        ((A, REST), "turn-unsent"),
        ((A, sent("a", (3, 4), reply="another")), "other-request"),
        ((A, sent("b", (3, 4))), "other-request"),
        ((*BOTH, call("commit", (9, 12))), "extracted-early"),
        ((A, call("commit", (5, 12)), extracted((7, 8)), sent("a", (9, 10))), "extracted-early"),
        ((*BOTH, call("commit", (9, 12), "TimeoutError")), "commit-failed"),
        ((*BOTH, extracted((9, 10))), "extraction-without-boundary"),
        (
            (*BOTH, call("commit", (9, 14)), extracted((10, 11)), extracted((12, 13))),
            "extraction-without-boundary",
        ),
    ],
)
def test_wrong_requests_break_l15(calls: tuple[Operation, ...], name: str) -> None:
    """A turn lost, repeated or out of order, and a boundary too early, failed or invented."""
    assert blamed(*calls) == [name]
