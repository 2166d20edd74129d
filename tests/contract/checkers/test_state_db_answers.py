"""Tests of the checkers of every answer of concurrent writers, and of their syncs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from harness.contract import promises
from harness.contract.checkers.state_db.answers import check_answers
from harness.contract.checkers.state_db.power_loss import (
    check_power_loss,
    followers,
    with_doubts,
)
from harness.core.contract import Promise
from harness.core.history import History, Operation, Outcome
from harness.core.verdict import Verdict

S1 = {"session": "s1"}


def op(process: int, function: str, argument: Any, at: int, result: Any = None) -> Operation:
    """An operation that takes one time unit."""
    return Operation(process, function, argument, Outcome.OK, at * 10, at * 10 + 9, result)


def append(process: int, text: str, at: int) -> Operation:
    return op(process, "append", {**S1, "role": "user", "text": text}, at)


def broken(verdict: Verdict) -> set[Promise]:
    return {anomaly.promise for anomaly in verdict.anomalies}


WRITTEN = (
    op(1, "open", {}, 0),
    op(1, "create", {**S1, "source": "cli"}, 1),
    append(1, "alpha 1", 2),
    append(2, "alpha 2", 3),
)
COLUMNS = {
    "source": "cli",
    "title": None,
    "ended": False,
    "message_count": 2,
    "tool_call_count": 0,
    "input_tokens": 0,
    "output_tokens": 0,
}
ROWS = [["user", "alpha 1"], ["user", "alpha 2"]]
HITS = [["s1", "alpha 1"], ["s1", "alpha 2"]]
SOUND = (
    *WRITTEN,
    op(2, "get", S1, 4, COLUMNS),
    op(2, "list", {}, 5, ["s1"]),
    op(2, "messages", S1, 6, ROWS),
    op(2, "search", {"word": "alpha"}, 7, HITS),
    op(2, "counters", S1, 8, {"message_count": 2, "rows": 2}),
    op(2, "pin", {"pause_s": 0.1}, 9, [2, 2]),
    op(2, "pinned", None, 9, None),
    op(2, "pin_until", {"grown": "a", "over": "b"}, 9, [2, 2]),
    op(2, "hold", {"strokes": 3, "pause_s": 0.1}, 10, 3),
    op(2, "log_bytes", {}, 11, 32 + 4120 * 7),
    op(2, "transaction", None, 12, {"begin": "BEGIN", "end": "COMMIT", "held_ns": 5}),
)


def test_sound_answers_are_valid() -> None:
    """What was acknowledged before, and nothing else."""
    assert check_answers(History(SOUND)) == Verdict()


def unacknowledged(operation: Operation) -> Operation:
    """The same write, whose client was killed before its answer."""
    return replace(operation, outcome=Outcome.INFO, completed_ns=None)


def test_what_a_read_has_shown_stays() -> None:
    """An append or a session without an acknowledgement may be missing until a read shows it."""
    lost = append(1, "alpha 1", 2)
    writes = (unacknowledged(op(1, "create", {**S1, "source": "cli"}, 1)), unacknowledged(lost))
    nothing = (op(2, "list", {}, 5, []), op(2, "messages", S1, 6, []))
    shown = (op(2, "list", {}, 7, ["s1"]), op(2, "messages", S1, 8, ROWS[:1]))
    gone = (op(3, "list", {}, 9, []), op(3, "messages", S1, 10, []))

    assert check_answers(History((*writes, *nothing, *shown))) == Verdict()
    found = check_answers(History((*writes, *shown, *gone))).anomalies
    assert {anomaly.name for anomaly in found} == {"lost-session", "lost-write"}


@pytest.mark.parametrize(
    ("function", "argument", "wrong", "promise"),
    [
        ("get", S1, {**COLUMNS, "message_count": 1}, promises.D2),
        ("get", S1, {**COLUMNS, "title": "plans"}, promises.D2),
        ("get", S1, {**COLUMNS, "source": "web"}, promises.D2),
        ("get", S1, None, promises.D1),
        ("list", {}, [], promises.D1),
        ("list", {}, ["s1", "s2"], promises.D2),
        ("list", {}, ["s1", "s1"], promises.D2),
        ("messages", S1, ROWS[:1], promises.D1),
        ("messages", S1, ROWS[::-1], promises.D1),
        ("messages", S1, [*ROWS, ["user", "alpha 3"]], promises.D2),
        ("messages", S1, [*ROWS, ROWS[1]], promises.D2),
        ("messages", S1, [ROWS[0], ["tool", "alpha 2"]], promises.D2),
        ("messages", S1, None, promises.D2),
        ("search", {"word": "alpha"}, HITS[:1], promises.D2),
        ("search", {"word": "alpha"}, [*HITS, ["s1", "alpha 3"]], promises.D2),
        ("search", {"word": "alpha"}, [*HITS, HITS[1]], promises.D2),
        ("counters", S1, {"message_count": 1, "rows": 2}, promises.D1),
        ("counters", S1, {"message_count": 3, "rows": 2}, promises.D2),
        ("pin", {"pause_s": 0.1}, [1, 2], promises.D2),
        ("pin", {"pause_s": 0.1}, [1, 1], promises.D1),
        ("pin_until", {"grown": "a", "over": "b"}, [1, 2], promises.D2),
        ("pinned", None, 1, promises.D2),
        ("hold", {"strokes": 3, "pause_s": 0.1}, 2, promises.D2),
        ("log_bytes", {}, 4121, promises.D6),
        ("close", {}, "x", promises.D2),
        ("transaction", None, {"begin": "BEGIN", "end": "x", "held_ns": 5}, promises.D7),
        ("transaction", None, {"begin": "BEGIN", "end": "END", "held_ns": 11}, promises.D7),
    ],
)
def test_wrong_answer_names_its_promise(
    function: str, argument: Any, wrong: Any, promise: Promise
) -> None:
    """One wrong answer after sound writes is one anomaly."""
    verdict = check_answers(History((*WRITTEN, op(2, function, argument, 20, wrong))))
    assert broken(verdict) == {promise}
    assert all(anomaly.expected and anomaly.observed for anomaly in verdict.anomalies)


def test_overlapping_append_may_be_read_or_not() -> None:
    """A read that overlaps an append may return it, before or after another one."""
    late = replace(append(3, "alpha 3", 4), completed_ns=95)
    for rows in (ROWS, [*ROWS, ["user", "alpha 3"]]):
        read = op(2, "messages", S1, 6, rows)
        assert check_answers(History((*WRITTEN, late, read))) == Verdict()


def test_refused_append_is_never_read() -> None:
    """A read of a refused append is a phantom."""
    refused = replace(append(3, "alpha 3", 4), outcome=Outcome.FAIL, error="Error: full")
    read = op(2, "messages", S1, 6, [*ROWS, ["user", "alpha 3"]])
    assert broken(check_answers(History((*WRITTEN, refused, read)))) == {promises.D2}


def test_process_without_calls_is_unknown() -> None:
    """A process that opened the file and did nothing leaves the verdict unknown."""
    verdict = check_answers(History((*SOUND, op(7, "open", {}, 20))))
    assert verdict.unknowns == ("process 7 opened the file, and did nothing more",)


# Syncs -------------------------------------------------------------------------------------------


def synced(process: int, at: int, *, ok: bool = True, first: bool = False) -> Operation:
    return op(process, "synced", {"file": "state.db-wal", "first": first}, at, ok)


def committed(process: int, text: str, at: int) -> Operation:
    return op(process, "committed", None, at, [text])


def waited(process: int, text: str, at: int, until: int) -> Operation:
    return replace(append(process, text, at), completed_ns=until * 10)


def test_covered_appends_are_valid() -> None:
    """A sync by any process, after the commit and before the answer, covers the append."""
    one = (waited(1, "alpha 1", 1, 9), committed(1, "alpha 1", 2), synced(2, 4))
    assert check_power_loss(History(one)) == Verdict()
    assert followers(History(one)) == 1


@pytest.mark.parametrize(
    "syncs",
    [
        [synced(1, 1)],  # it began before the commit
        [synced(1, 12)],  # it ended after the answer
        [synced(1, 4, ok=False), synced(1, 6)],
        [synced(2, 4, ok=False, first=True), synced(3, 6)],
    ],
)
def test_uncovered_append_breaks_d12(syncs: list[Operation]) -> None:
    """Too early, too late, or after a failed sync that should have covered it."""
    calls = (waited(1, "alpha 1", 1, 9), committed(1, "alpha 1", 2), *syncs)
    assert broken(check_power_loss(History(calls))) == {promises.D12}


@pytest.mark.parametrize(
    "syncs",
    [
        [synced(1, 4), synced(1, 6, ok=False)],  # it was covered before
        [synced(2, 4, ok=False, first=True), synced(1, 6)],  # its own sync reports errors, too
        [synced(2, 4, ok=False), synced(3, 6)],  # the report of an earlier failure
    ],
)
def test_failed_sync_elsewhere_concerns_no_append(syncs: list[Operation]) -> None:
    """A failed sync is no anomaly where another one proves the append to be on disk."""
    calls = (waited(1, "alpha 1", 1, 9), committed(1, "alpha 1", 2), *syncs)
    assert check_power_loss(History(calls)) == Verdict()


def test_refused_append_needs_a_failed_sync() -> None:
    """Beside a failed sync it is in doubt, without one it breaks D10."""
    refused = replace(waited(1, "alpha 1", 1, 9), outcome=Outcome.FAIL, error="Error: not synced")
    rest = (committed(2, "alpha 2", 2), synced(2, 15))
    assert broken(check_power_loss(History((refused, *rest)))) == {promises.D10}
    beside = History((refused, *rest, synced(1, 4, ok=False)))
    assert check_power_loss(beside) == Verdict()
    assert with_doubts(beside).operations[0].outcome is Outcome.INFO


def test_history_without_syncs_is_unknown() -> None:
    """A target whose syncs happen inside SQLite cannot be judged."""
    assert check_power_loss(History(WRITTEN)).unknowns == ("no sync or no commit was observed",)
