"""Who judges what threads stored: what must be there is missed, what must not be is seen."""

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
    """One operation of session `s`, from and to these moments."""
    begun, ended = span
    error = "" if outcome is OK else "ValueError: as told"
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
    """The promise that the checker says was broken; None where it has nothing to say."""
    history = History(tuple(sorted(operations, key=lambda one: one.invoked_ns)))
    anomalies = check_session_writes(history).anomalies
    return anomalies[0].promise if anomalies else None


# Writes -------------------------------------------------------------------------------------------


def test_one_of_two_copies_is_refused() -> None:
    """One of two copies is refused.

    C0: |---- save t1 ----|
    C1:      |---- save t2: stale ----|
    C0:                                  |- messages -> [t1] -|
    """
    assert blamed(save((1, 3), "t1"), save((2, 4), "t2", FAIL), messages((5, 6), "t1")) is None


def test_a_stale_copy_does_not_win() -> None:
    """A stale copy does not win.

    C0: |---- save t1 ----|
    C1:      |---- save t2 ----|
    C0:                           |- messages -> [t2] -|
    """
    lost = messages((5, 6), "t2")

    assert blamed(save((1, 3), "t1"), save((2, 4), "t2"), lost) == promises.S9
    assert blamed(append((1, 3), "t1"), save((2, 4), "t2"), lost) == promises.S9


def test_no_acknowledged_message_is_lost() -> None:
    """No acknowledged message is lost.

    C0: |- append t1 -|   |- append t2 -|   |- messages -> [t2] -|
    """
    assert blamed(append((1, 2), "t1"), append((3, 4), "t2"), messages((5, 6), "t2")) == promises.S2


def test_an_append_that_overlaps_the_read_may_be_missing() -> None:
    """An append that overlaps the read may be missing.

    C0: |---- append t1 ----|
    C1:      |- messages -> [] -|
    """
    assert blamed(append((1, 3), "t1"), messages((2, 4))) is None


def test_a_refused_save_stores_nothing() -> None:
    """A refused save stores nothing.

    C0: |- save t1: stale -|   |- messages -> [t1] -|
    """
    assert blamed(save((1, 2), "t1", FAIL), messages((3, 4), "t1")) == promises.S10


def test_a_save_that_nobody_knows_of_may_be_stored_or_not() -> None:
    """A save that nobody knows of may be stored or not.

    C0: |- save t1 ...          (its reply was lost)
    C1:                |- messages -> [] -|
    """
    assert blamed(save((1, 2), "t1", INFO), messages((3, 4))) is None
    assert blamed(save((1, 2), "t1", INFO), messages((3, 4), "t1")) is None


def test_a_message_is_stored_once() -> None:
    assert blamed(append((1, 2), "t1"), messages((3, 4), "t1", "t1")) == promises.S1


def test_what_nobody_wrote_is_not_there() -> None:
    """Half of one text and half of another, say."""
    assert blamed(append((1, 2), "t1"), messages((3, 4), "t1", "t")) == promises.S1


@pytest.mark.parametrize("function", ["messages", "active"])
def test_a_session_can_be_read_when_all_is_quiet(function: str) -> None:
    """A file that two threads tore tells nothing, and that is no way out."""
    assert blamed(append((1, 2), "t1"), op(function, (3, 4), outcome=FAIL)) == promises.S1


# Runs ---------------------------------------------------------------------------------------------


def test_a_cleanup_spares_a_run_that_registered_meanwhile() -> None:
    """A cleanup spares a run that registered meanwhile.

    C0: |- leave old -|  |---- cleanup ----|
    C1:                      |- start new -|
    C0:                                        |- active -> new -|
    """
    met = (leave((1, 2)), cleanup((3, 6)), start((4, 5)))

    assert blamed(*met, active((7, 8), "new")) is None
    assert blamed(*met, active((7, 8), None)) == promises.S7
    assert blamed(*met, active((7, 8), "old")) == promises.S7


def test_a_run_that_starts_later_is_not_missed_now() -> None:
    """A run that starts later is not missed now.

    C0: |- active -> None -|  |- start new -|  |- active -> new -|
    """
    assert blamed(active((1, 2), None), start((3, 4)), active((5, 6), "new")) is None


def test_a_run_that_starts_during_the_read_may_be_seen_or_not() -> None:
    """A run that starts during the read may be seen or not.

    C0: |- start one -|  |--- active ---|
    C1:                    |- start two -|
    """
    met = (start((1, 2), "one"), start((4, 5), "two"))

    assert blamed(*met, active((3, 6), "one")) is None
    assert blamed(*met, active((3, 6), "two")) is None
    assert blamed(*met, active((3, 6), None)) == promises.S7


def test_a_cleanup_unmarks_what_nobody_runs() -> None:
    """A cleanup unmarks what nobody runs.

    C0: |- leave old -|  |- cleanup -|  |- active -> old -|
    """
    left = (leave((1, 2)), cleanup((3, 4)))

    assert blamed(*left, active((5, 6), None)) is None
    assert blamed(*left, active((5, 6), "old")) == promises.S7


def test_a_cleanup_is_not_blamed_for_what_is_left_behind_later() -> None:
    """A cleanup is not blamed for what is left behind later.

    C0: |- cleanup -|  |- leave old -|  |- active -> old -|
    """
    assert blamed(cleanup((1, 2)), leave((3, 4)), active((5, 6), "old")) is None


def test_a_start_that_nobody_knows_of_may_have_marked_the_session() -> None:
    """A start that nobody knows of may have marked the session.

    C0: |- leave old -|  |- cleanup -|               |- active -> new -|
    C1:                               |- start new ...  (its reply was lost)
    """
    met = (leave((1, 2)), cleanup((3, 4)), start((5, 6), outcome=INFO))

    assert blamed(*met, active((7, 8), "new")) is None
    assert blamed(*met, active((7, 8), None)) is None
    assert blamed(*met, active((7, 8), "old")) == promises.S7


# Whatever is done one after another ---------------------------------------------------------------


def serially(rng: Random) -> History:
    """Writes, runs and cleanups of one session, read at any time, one after another."""
    now = count(1)
    told: list[Operation] = []
    texts: list[str] = []
    mark: str | None = None
    live: set[str] = set()
    for number in range(14):
        span = next(now), next(now)
        name = f"x{number}"
        match rng.choice(["append", "save", "refused", "leave", "start", "cleanup", "read"]):
            case "append":
                told.append(append(span, name))
                texts.append(name)
            case "save":
                told.append(save(span, name))
                texts.append(name)
            case "refused":
                told.append(save(span, name, FAIL))
            case "leave" if not live:
                told.append(leave(span, name))
                mark = name
            case "start":
                told.append(start(span, name))
                live.add(name)
                mark = name
            case "cleanup":
                told.append(cleanup(span))
                mark = mark if mark in live else None
            case "read":
                told += (messages(span, *texts), active((next(now), next(now)), mark))
    told += (messages((next(now), next(now)), *texts), active((next(now), next(now)), mark))
    return History(tuple(told))


def test_what_is_done_one_after_another_is_never_refused() -> None:
    """A store that does one thing at a time keeps every promise."""
    for seed in range(1_000):
        assert check_session_writes(serially(Random(seed))) == VALID, seed
