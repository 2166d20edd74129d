"""Tests of the checker of threads' calls on a database: each wrong history is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from harness.contract.checkers.threads.database_calls import check_database_calls
from harness.core.history import History, Operation, Outcome

S1 = {"session": "s1"}


def op(function: str, argument: Any, at: tuple[int, int], result: Any = None) -> Operation:
    """An operation that happened."""
    return Operation(1, function, argument, Outcome.OK, *at, result)


def refused(function: str, argument: Any, at: tuple[int, int], error: str) -> Operation:
    """A call that was refused."""
    return Operation(1, function, argument, Outcome.FAIL, *at, None, error)


def message(text: str, handle: int = 0) -> dict[str, Any]:
    """The argument of an append."""
    return {**S1, "role": "user", "text": f"alpha {text}", "handle": handle}


CREATE = op("create", {**S1, "source": "cli"}, (1, 2))
COMMITTED = op("committed", {"texts": ["alpha a"], "synced": False}, (11, 12))
SYNCED = op("synced", {"file": "state.db-wal", "handle": 0, "first": False, "ok": True}, (13, 14))
APPEND = op("append", message("a"), (10, 20))
LATE = op("messages", S1, (60, 61), [["user", "alpha a"]])
SHORT = op("arrange", {"patience_s": 0.5}, (3, 4))
LOCK = op("take_lock", None, (5, 6), 4711)
PATIENCE = "OutOfPatienceError: no turn in 0.5 s; process 4711 (python) has the write lock"
NOT_IN_VAIN = refused("append", message("a"), (10, 20), PATIENCE)
EMPTY = op("messages", S1, (60, 61), [])


FAIL = op("fail", {"statements": ["ROLLBACK"]}, (3, 4))
OPEN = "DatabaseFailedError: cannot start a transaction within a transaction"
LOGS = op("arrange_logs", {"logs": 2, "syncs_s": [0.1]}, (1, 2))
DOUBT = "OSError: round 1 of syncs failed"


def commit(text: str, at: tuple[int, int], handle: int = 0) -> Operation:
    """A commit of a log."""
    return op("commit", {"text": f"alpha {text}", "handle": handle}, at)


def doubted(text: str, at: tuple[int, int], handle: int = 0) -> Operation:
    """A commit that the log could not vouch for."""
    return refused("commit", {"text": f"alpha {text}", "handle": handle}, at, DOUBT)


def sync(at: tuple[int, int], *, ok: bool = True, handle: int = 1) -> Operation:
    """A sync of a log's file."""
    event = {"file": "state.db-wal", "handle": handle, "first": not ok, "ok": ok}
    return op("synced", event, at)


def took(seconds: float) -> Operation:
    """How long the append took."""
    return op("took", {"text": "alpha a", "handle": 0, "seconds": seconds}, (10, 19))


def judged(*operations: Operation) -> set[str]:
    """The promises that the history breaks."""
    verdict = check_database_calls(History(operations))
    assert verdict.unknowns == ()
    return {str(promise.id) for anomaly in verdict.anomalies for promise in anomaly.promises}


@pytest.mark.parametrize(
    "history",
    [
        (CREATE, APPEND, COMMITTED, SYNCED, LATE),
        (CREATE, SHORT, LOCK, NOT_IN_VAIN, took(0.5), EMPTY),
        (
            CREATE,
            op("close_handle", {"handle": 0}, (8, 15)),
            refused("append", message("a"), (10, 20), "ClosedError: closed"),
            op("left_open", None, (50, 51), 0),
            EMPTY,
        ),
        (LOGS, commit("a", (10, 20)), COMMITTED, sync((13, 14))),
        (LOGS, doubted("a", (10, 20)), COMMITTED, sync((13, 14), ok=False)),
        (
            *(LOGS, commit("b", (3, 12), 1), doubted("a", (10, 20)), COMMITTED),
            sync((4, 9), ok=False),
        ),
        (LOGS, op("close_log", {"handle": 0}, (5, 12)), doubted("a", (10, 20))),
    ],
)
def test_sound_history_is_valid(history: tuple[Operation, ...]) -> None:
    """A write that happened, one that lost its patience, one whose handle was closed."""
    assert judged(*history) == set()


@pytest.mark.parametrize(
    ("history", "promise"),
    [
        ((CREATE, SHORT, LOCK, NOT_IN_VAIN, took(0.5), LATE), "D2"),
        ((CREATE, SHORT, LOCK, NOT_IN_VAIN, took(0.5), COMMITTED, SYNCED, EMPTY), "D2"),
        ((CREATE, APPEND, COMMITTED, SYNCED, EMPTY), "D1"),
        ((CREATE, SHORT, LOCK, NOT_IN_VAIN, took(0.4), EMPTY), "D3"),
        ((CREATE, SHORT, LOCK, NOT_IN_VAIN, took(9.0), EMPTY), "D5"),
        ((CREATE, SHORT, NOT_IN_VAIN, took(0.5), EMPTY), "D3"),
        (
            (
                CREATE,
                SHORT,
                LOCK,
                refused("append", message("a"), (10, 20), "OutOfPatienceError: no turn"),
                took(0.5),
                EMPTY,
            ),
            "D5",
        ),
        ((CREATE, APPEND, COMMITTED, LATE), "D12"),
        ((CREATE, refused("append", message("a"), (10, 20), "IndexError: pop"), EMPTY), "D10"),
        ((CREATE, FAIL, refused("append", message("a"), (10, 20), OPEN), EMPTY), "D9"),
        ((LOGS, commit("a", (10, 20)), COMMITTED), "D12"),
        ((LOGS, commit("a", (10, 20)), COMMITTED, sync((9, 14))), "D12"),
        ((LOGS, doubted("a", (10, 20)), COMMITTED, sync((13, 14))), "D10"),
        ((LOGS, doubted("a", (10, 20)), COMMITTED, sync((4, 9), ok=False)), "D10"),
        ((CREATE, op("left_open", None, (50, 51), 2)), "D8"),
        ((CREATE, refused("close_handle", {"handle": 0}, (8, 9), "OSError: no")), "D8"),
    ],
)
def test_wrong_history_is_refused(history: tuple[Operation, ...], promise: str) -> None:
    """Each wrong history breaks its promise."""
    assert promise in judged(*history)


def turns(first: str, then: str) -> tuple[Operation, ...]:
    """Thread 1 appends `a`, and thread 2 waits and appends `b`; the order of their commits."""
    texts = [{"texts": [f"alpha {text}"], "synced": True} for text in (first, then)]
    return (
        CREATE,
        op("free_ticket", None, (3, 4)),
        op("append", message("a", 1), (10, 50)),
        replace(op("wait", {"seconds": 0.1}, (11, 20)), process=2),
        replace(op("append", message("b"), (21, 55)), process=2),
        op("committed", texts[0], (30, 31)),
        op("committed", texts[1], (40, 41)),
        op("messages", S1, (60, 61), [["user", f"alpha {text}"] for text in (first, then)]),
    )


def test_overtaken_write_is_refused() -> None:
    """A write behind a wait has a later ticket than one that began before the wait ended."""
    assert judged(*turns("a", "b")) == set()
    assert judged(*turns("b", "a")) == {"D4"}
