"""Tests of the checker of session writes: allowed histories of threads, and wrong ones."""

from __future__ import annotations

from itertools import count
from random import Random

import pytest

from harness.contract import promises
from harness.contract.checkers.threads.session_writes import check_session_writes
from harness.core.contract import Promise
from harness.core.history import History, Operation, Outcome
from harness.core.verdict import VALID

OK, FAIL, INFO = Outcome.OK, Outcome.FAIL, Outcome.INFO
Span = tuple[int, int]


def op(
    function: str, span: Span, result: object = None, outcome: Outcome = OK, **argument: object
) -> Operation:
    """An operation of session `s`, between two moments."""
    begun, ended = span
    error = "" if outcome is OK else "ValueError: refused"
    completed = None if outcome is INFO else ended
    return Operation(
        0, function, {"session": "s", **argument}, outcome, begun, completed, result, error
    )


def append(span: Span, text: str, outcome: Outcome = OK) -> Operation:
    return op("append", span, None, outcome, text=text)


def save(span: Span, text: str, outcome: Outcome = OK) -> Operation:
    return op("save_copy", span, None, outcome, text=text)


def messages(span: Span, *texts: str) -> Operation:
    return op("messages", span, list(texts))


def active(span: Span, stream: str | None) -> Operation:
    return op("active", span, stream)


def leave(span: Span, stream: str = "old") -> Operation:
    return op("leave_behind", span, stream=stream)


def start(span: Span, stream: str = "new", outcome: Outcome = OK) -> Operation:
    return op("start_run", span, None, outcome, stream=stream)


def cleanup(span: Span) -> Operation:
    return op("cleanup", span)


def blamed(*operations: Operation) -> Promise | None:
    """The promise that the checker reports as broken; None for a valid history."""
    history = History(tuple(sorted(operations, key=lambda op: op.invoked_ns)))
    anomalies = check_session_writes(history).anomalies
    return anomalies[0].promise if anomalies else None


# Writes -------------------------------------------------------------------------------------------


def test_refused_stale_copy_is_valid() -> None:
    """One of two concurrent copies is refused.

    C0: |---- save t1 ----|
    C1:      |---- save t2: stale ----|
    C0:                                  |- messages -> [t1] -|
    """
    assert blamed(save((1, 3), "t1"), save((2, 4), "t2", FAIL), messages((5, 6), "t1")) is None


def test_stale_copy_that_wins_is_rejected() -> None:
    """A copy overwrote an acknowledged write.

    C0: |---- save t1 ----|
    C1:      |---- save t2 ----|
    C0:                           |- messages -> [t2] -|
    """
    lost = messages((5, 6), "t2")

    assert blamed(save((1, 3), "t1"), save((2, 4), "t2"), lost) == promises.S9
    assert blamed(append((1, 3), "t1"), save((2, 4), "t2"), lost) == promises.S9


def test_lost_append_is_rejected() -> None:
    """An acknowledged message must be stored.

    C0: |- append t1 -|   |- append t2 -|   |- messages -> [t2] -|
    """
    assert blamed(append((1, 2), "t1"), append((3, 4), "t2"), messages((5, 6), "t2")) == promises.S2


def test_append_overlapping_the_read_may_be_missing() -> None:
    """The read may come first.

    C0: |---- append t1 ----|
    C1:      |- messages -> [] -|
    """
    assert blamed(append((1, 3), "t1"), messages((2, 4))) is None


def test_refused_save_that_is_stored_is_rejected() -> None:
    """A refused save has no effect.

    C0: |- save t1: stale -|   |- messages -> [t1] -|
    """
    assert blamed(save((1, 2), "t1", FAIL), messages((3, 4), "t1")) == promises.S10


def test_save_of_unknown_outcome_may_be_stored() -> None:
    """A call without a reply may have had its effect.

    C0: |- save t1 ...          (its reply was lost)
    C1:                |- messages -> [] -|
    """
    assert blamed(save((1, 2), "t1", INFO), messages((3, 4))) is None
    assert blamed(save((1, 2), "t1", INFO), messages((3, 4), "t1")) is None


def test_doubled_message_is_rejected() -> None:
    assert blamed(append((1, 2), "t1"), messages((3, 4), "t1", "t1")) == promises.S1


def test_unwritten_text_is_rejected() -> None:
    """Such as half of one text and half of another."""
    assert blamed(append((1, 2), "t1"), messages((3, 4), "t1", "t")) == promises.S1


@pytest.mark.parametrize("function", ["messages", "active"])
def test_unreadable_session_is_rejected(function: str) -> None:
    """A file that two threads tore cannot be read."""
    assert blamed(append((1, 2), "t1"), op(function, (3, 4), outcome=FAIL)) == promises.S1


# Runs ---------------------------------------------------------------------------------------------


def test_cleanup_must_keep_a_new_run() -> None:
    """A run that registered during the cleanup stays marked.

    C0: |- leave old -|  |---- cleanup ----|
    C1:                      |- start new -|
    C0:                                        |- active -> new -|
    """
    met = (leave((1, 2)), cleanup((3, 6)), start((4, 5)))

    assert blamed(*met, active((7, 8), "new")) is None
    assert blamed(*met, active((7, 8), None)) == promises.S7
    assert blamed(*met, active((7, 8), "old")) == promises.S7


def test_run_after_the_read_is_not_required() -> None:
    """It starts after the read.

    C0: |- active -> None -|  |- start new -|  |- active -> new -|
    """
    assert blamed(active((1, 2), None), start((3, 4)), active((5, 6), "new")) is None


def test_run_overlapping_the_read_may_be_missing() -> None:
    """The read may come first.

    C0: |- start one -|  |--- active ---|
    C1:                    |- start two -|
    """
    met = (start((1, 2), "one"), start((4, 5), "two"))

    assert blamed(*met, active((3, 6), "one")) is None
    assert blamed(*met, active((3, 6), "two")) is None
    assert blamed(*met, active((3, 6), None)) == promises.S7


def test_cleanup_must_remove_a_stale_mark() -> None:
    """The marked run is not under way.

    C0: |- leave old -|  |- cleanup -|  |- active -> old -|
    """
    left = (leave((1, 2)), cleanup((3, 4)))

    assert blamed(*left, active((5, 6), None)) is None
    assert blamed(*left, active((5, 6), "old")) == promises.S7


def test_mark_left_after_the_cleanup_is_valid() -> None:
    """No cleanup began after it.

    C0: |- cleanup -|  |- leave old -|  |- active -> old -|
    """
    assert blamed(cleanup((1, 2)), leave((3, 4)), active((5, 6), "old")) is None


def test_start_of_unknown_outcome_may_have_marked() -> None:
    """A call without a reply may have had its effect.

    C0: |- leave old -|  |- cleanup -|               |- active -> new -|
    C1:                               |- start new ...  (its reply was lost)
    """
    met = (leave((1, 2)), cleanup((3, 4)), start((5, 6), outcome=INFO))

    assert blamed(*met, active((7, 8), "new")) is None
    assert blamed(*met, active((7, 8), None)) is None
    assert blamed(*met, active((7, 8), "old")) == promises.S7


# Removals and lists -------------------------------------------------------------------------------


def listed(span: Span, count: int | None) -> Operation:
    """A list of sessions, in which `s` has this number of messages, or is missing."""
    return op("listed", span, {} if count is None else {"s": count})


NEW, CLEAR, DELETE = op("new", (1, 2)), op("clear", (5, 6)), op("delete", (5, 6))


def test_list_that_began_before_its_request_is_rejected() -> None:
    """It shares the list that another client asked for before the append.

    C0: |-------- listed -> 0 --------|
    C1:      |- append -|  |- listed -> 0 -|
    """
    met = (NEW, listed((3, 9), 0), append((4, 5), "t"))

    assert blamed(*met, listed((6, 10), 1)) is None
    assert blamed(*met, listed((6, 10), 0)) == promises.S15
    assert blamed(*met, listed((6, 10), 2)) == promises.S15
    assert blamed(*met, listed((6, 10), None)) == promises.S15


def test_list_with_another_sessions_old_row_is_rejected() -> None:
    """Each row counts the messages of its own session.

    C0: |- append to s -|   |- listed -|
    C1: |- append to o -|
    """
    of_o = (op("new", (1, 2), session="o"), op("append", (3, 5), session="o", text="u"))
    met = (NEW, *of_o, append((3, 4), "t"))

    assert blamed(*met, op("listed", (6, 7), {"s": 1, "o": 1})) is None
    assert blamed(*met, op("listed", (6, 7), {"s": 1, "o": 0})) == promises.S15
    assert blamed(*met, op("listed", (6, 7), {"s": 2, "o": 1})) == promises.S15
    assert blamed(*met, op("listed_elsewhere", (6, 7), {"s": 1, "o": 0})) == promises.S15


def test_list_that_fails_is_rejected() -> None:
    assert blamed(NEW, op("listed", (3, 4), outcome=FAIL)) == promises.S11


def test_counted_row_is_as_new_as_its_request() -> None:
    """It counts each change before it, and may count one that it meets."""
    met = (op("count_up", (1, 2)), op("count_up", (4, 6)))

    assert blamed(*met, op("counted", (3, 5), 1)) is None
    assert blamed(*met, op("counted", (3, 5), 2)) is None
    assert blamed(*met, op("counted", (3, 5), 0)) == promises.S15
    assert blamed(*met, op("counted", (3, 5), 3)) == promises.S15
    assert blamed(*met, op("counted", (3, 5), outcome=FAIL)) == promises.S15


def test_list_after_a_removal_lacks_what_was_removed() -> None:
    """What was removed is counted no more.

    C0: |- append -|  |- clear, or delete -|  |- listed -|
    """
    before = (NEW, append((3, 4), "t"))

    assert blamed(*before, CLEAR, listed((7, 8), 0)) is None
    assert blamed(*before, CLEAR, listed((7, 8), 1)) == promises.S15
    assert blamed(*before, DELETE, listed((7, 8), None)) is None
    assert blamed(*before, DELETE, listed((7, 8), 1)) == promises.S15


def test_removed_text_or_session_stays_so() -> None:
    """No later read has it.

    C0: |- append t -|  |- clear, or delete -|  |- messages -|
    """
    before = (NEW, append((3, 4), "t"))
    gone = op("messages", (7, 8), None)

    assert blamed(*before, CLEAR, messages((7, 8))) is None
    assert blamed(*before, CLEAR, messages((7, 8), "t")) == promises.S6
    assert blamed(*before, DELETE, gone) is None
    assert blamed(*before, DELETE, messages((7, 8))) == promises.S6
    assert blamed(*before, DELETE, op("new", (9, 10)), messages((11, 12))) is None


def test_append_that_met_a_removal_may_be_gone() -> None:
    """Either may come first; one that follows the removal is stored."""
    met = (NEW, CLEAR, append((4, 7), "t"))

    assert blamed(*met, messages((8, 9))) is None
    assert blamed(*met, messages((8, 9), "t")) is None
    assert blamed(NEW, CLEAR, append((7, 8), "t"), messages((9, 10))) == promises.S2


@pytest.mark.parametrize(
    ("call", "promise"),
    [
        (append((3, 4), "t", FAIL), promises.S2),
        (save((3, 4), "t", FAIL), promises.S2),
        (op("cleanup", (3, 4), outcome=FAIL), promises.S7),
        (op("new", (3, 4), outcome=FAIL), promises.S11),
    ],
)
def test_refusal_without_a_rival_is_rejected(call: Operation, promise: Promise) -> None:
    """No copy is stale, and no session was deleted."""
    assert blamed(NEW, call, messages((7, 8))) == promise
    deleted = op("delete", (3, 4))
    assert blamed(NEW, deleted, append((5, 6), "t", FAIL), op("messages", (7, 8), None)) is None


def test_messages_in_another_order_are_rejected() -> None:
    """Writes that overlap may be stored in either order."""
    written = (append((1, 2), "a"), append((3, 4), "b"))
    assert blamed(*written, messages((5, 6), "b", "a")) == promises.S1
    met = (append((1, 4), "a"), append((2, 3), "b"))
    assert blamed(*met, messages((5, 6), "b", "a")) is None


def test_mark_of_no_stream_is_rejected() -> None:
    assert blamed(active((1, 2), "other")) == promises.S7
    assert blamed(leave((1, 2)), active((3, 4), "other")) == promises.S7


# Serial histories ---------------------------------------------------------------------------------


def serially(rng: Random) -> History:
    """Writes, runs and cleanups of one session, read at any time, one after another."""
    now = count(1)
    operations: list[Operation] = []
    texts: list[str] = []
    mark: str | None = None
    live: set[str] = set()
    for number in range(14):
        span = next(now), next(now)
        name = f"x{number}"
        match rng.choice(["append", "save", "refused", "leave", "start", "cleanup", "read"]):
            case "append":
                operations.append(append(span, name))
                texts.append(name)
            case "save":
                operations.append(save(span, name))
                texts.append(name)
            case "refused":  # by an append that it meets
                operations.append(save((span[0], next(now) + 1), name, FAIL))
                operations.append(append((span[1], next(now) - 1), f"{name}'"))
                texts.append(f"{name}'")
            case "leave" if not live:
                operations.append(leave(span, name))
                mark = name
            case "start":
                operations.append(start(span, name))
                live.add(name)
                mark = name
            case "cleanup":
                operations.append(cleanup(span))
                mark = mark if mark in live else None
            case "read":
                operations += (messages(span, *texts), active((next(now), next(now)), mark))
    operations += (messages((next(now), next(now)), *texts), active((next(now), next(now)), mark))
    return History(tuple(operations))


def test_serial_histories_are_valid() -> None:
    """A store without concurrency keeps every promise."""
    for seed in range(1_000):
        assert check_session_writes(serially(Random(seed))) == VALID, seed


def held(span: Span, *sessions: str) -> Operation:
    return op("held", span, [*sessions])


def test_a_session_with_a_run_leaves_memory() -> None:
    assert blamed(start((1, 2)), held((3, 4), "other")) == promises.A6


@pytest.mark.parametrize(
    "others",
    [
        (start((1, 2)), held((3, 4), "s")),
        (start((1, 4)), held((2, 3))),
        (start((1, 2), outcome=FAIL), leave((3, 4)), held((5, 6))),
        (start((1, 2)), cleanup((3, 4)), held((5, 6))),
    ],
    ids=["held", "meanwhile", "refused", "cleaned"],
)
def test_a_session_may_leave_memory(others: tuple[Operation, ...]) -> None:
    assert blamed(*others) != promises.A6


# A session and its copy in the database -----------------------------------------------------------


def copies(sidecar: list[str] | None, database: list[str] | None) -> Operation:
    return op("copies", (9, 10), {"sidecar": sidecar, "database": database})


COPIED_RENAME = op("copied_rename", (3, 4), title="plans")
COPIED_DELETE = op("copied_delete", (5, 6))


def test_copies_that_agree_are_accepted() -> None:
    """A change of a deleted session is refused."""
    assert blamed(COPIED_RENAME, copies(["plans", "t1"], ["plans", "t1"])) is None
    assert blamed(COPIED_RENAME, COPIED_DELETE, copies(None, None)) is None
    late = op("copied_rename", (7, 8), outcome=FAIL, title="notes")
    assert blamed(COPIED_RENAME, COPIED_DELETE, late, copies(None, None)) is None


@pytest.mark.parametrize(
    "calls",
    [
        (COPIED_RENAME, copies(["plans"], ["notes"])),
        (COPIED_RENAME, copies(["plans", "t1"], ["plans"])),
        (COPIED_RENAME, copies(["plans"], None)),
        (COPIED_RENAME, copies(None, None)),
        (COPIED_RENAME, COPIED_DELETE, copies(None, ["plans"])),
        (COPIED_RENAME, COPIED_DELETE, copies(["plans"], ["plans"])),
        (COPIED_RENAME, op("copies", (9, 10), outcome=FAIL)),
    ],
)
def test_copies_that_differ_are_rejected(calls: tuple[Operation, ...]) -> None:
    """By title, by texts, or one is there and the other is not."""
    assert blamed(*calls) == promises.S14
