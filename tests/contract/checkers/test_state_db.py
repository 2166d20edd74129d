"""The checkers of crowds: each tells a crowd that is served well from one that is not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.contract import promises
from harness.contract.checkers.state_db.append_transactions import check_append_transactions
from harness.contract.checkers.state_db.database_content import check_database_content
from harness.contract.checkers.state_db.disk_errors import check_disk_errors
from harness.contract.checkers.state_db.fairness import (
    HANG,
    KILL,
    STARVING,
    check_writes_after_kills,
    no_early_refusals,
    no_hangs,
    no_starvation,
)
from harness.contract.checkers.state_db.lock_discipline import check_lock_discipline, held_ms
from harness.contract.checkers.state_db.stalled_holder import check_stalled_holders
from harness.contract.checkers.state_db.wait_times import measure, overtakings, writes_of
from harness.contract.checkers.state_db.wal_size import wal_high_water_bytes, wal_stays_below
from harness.core.contract import Promise
from harness.core.history import FaultInterval, History, Operation, Outcome
from harness.core.verdict import Verdict

MS = 1_000_000


def op(
    process: int, function: str, argument: Any, times: tuple[int, int | None], result: Any = None
) -> Operation:
    began, ended = times
    outcome = Outcome.INFO if ended is None else Outcome.OK
    return Operation(process, function, argument, outcome, began, ended, result)


def append(process: int, text: str, times: tuple[int, int | None]) -> Operation:
    return op(process, "append", {"session": "s1", "role": "user", "text": text}, times)


def history(operations: Iterable[Operation]) -> History:
    return History(tuple(sorted(operations, key=lambda each: each.invoked_ns)))


def broken(verdict: Verdict) -> set[Promise]:
    return {anomaly.promise for anomaly in verdict.anomalies}


def in_turns(writers: int, turns: int) -> list[Operation]:
    """A line: each writes again as soon as it is served, and is served when all others were."""
    return [
        append(turn % writers, f"{turn}", (max(0, turn - writers + 1) * MS, (turn + 1) * MS))
        for turn in range(writers * turns)
    ]


def barging(writers: int, turns: int) -> list[Operation]:
    """A pile: each writes all it has while the others wait for their first."""
    return [
        append(writer, f"{writer} {turn}", (begins * MS, (number + 1) * MS))
        for writer in range(writers)
        for turn in range(turns)
        for number in [writer * turns + turn]
        for begins in [number if turn else 0]
    ]


# Waits --------------------------------------------------------------------------------------------


@given(writers=st.integers(2, 6), turns=st.integers(5, 12))
def test_in_a_line_nobody_is_overtaken_more_than_once(writers: int, turns: int) -> None:
    """Served in order of arrival, shares are equal and overtaking is at most one turn."""
    waits = measure(writes_of(history(in_turns(writers, turns))))
    assert waits.overtaken_max <= 1
    assert waits.jain is not None
    assert waits.jain >= 0.9
    assert waits.writes == writers * turns
    assert waits.p50_ms <= waits.p99_ms <= waits.p999_ms <= waits.max_ms <= waits.gap_ms_max


@given(writers=st.integers(2, 5), turns=st.integers(2, 20))
def test_overtaking_counts_what_began_after_and_ended_before(writers: int, turns: int) -> None:
    """What the definition says, write by write, is what the search by bisection finds."""
    by_writer = writes_of(history(barging(writers, turns)))
    found = {each.write.process: each.times for each in overtakings(by_writer)}
    for process, writes in by_writer.items():
        most = max(
            sum(
                other.invoked_ns > write.invoked_ns
                and (other.completed_ns or 0) < (write.completed_ns or 0)
                for other in others
            )
            for write in writes
            for who, others in by_writer.items()
            if who != process
        )
        assert found.get(process, 0) == most


def test_waiting_together_is_a_convoy_and_waiting_by_turns_is_not() -> None:
    """Chance would have long waits lie beside each other now and then, not always.

    together: a |-long-|......  b |-long-|......     by turns: a |-long-|......  b ......|-long-|
    """
    quick = [append(who, f"q{who}{at}", (at, at + 1)) for who in (1, 2) for at in range(1000, 1020)]
    together = [append(1, "a", (0, 500)), append(2, "b", (0, 500))]
    by_turns = [append(1, "a", (0, 500)), append(2, "b", (500, 1000))]
    assert measure(writes_of(history([*together, *quick]))).convoy > 1
    assert measure(writes_of(history([*by_turns, *quick]))).convoy == 0


def test_nobody_can_measure_what_nobody_wrote() -> None:
    with pytest.raises(ValueError, match="no answered write"):
        measure({})


# Fairness -----------------------------------------------------------------------------------------


def test_who_is_overtaken_without_bound_starves() -> None:
    """A line is fair, a pile is not; the sentence says who passed whom, and how often."""
    assert no_starvation(history(in_turns(4, STARVING * 2))).is_valid
    verdict = no_starvation(history(barging(4, STARVING * 2)))
    assert broken(verdict) == {promises.D4}
    assert "3 of 4 writers starved" in verdict.anomalies[0].message


def test_who_lacked_a_processor_was_not_overtaken_by_a_policy() -> None:
    """Ready to run for half of the wait: whoever was put aside by the system stood in no line."""
    pile = barging(4, STARVING * 2)
    first = {one.process: one for one in reversed(pile)}
    for share, is_valid in ((0.6, True), (0.4, False)):
        notes = [
            op(who, "unscheduled", None, (one.invoked_ns, ended), round(share * ended))
            for who, one in first.items()
            if (ended := one.completed_ns)
        ]
        assert no_starvation(history([*pile, *notes])).is_valid is is_valid


def test_to_be_refused_again_and_again_is_not_to_overtake() -> None:
    """Who is told no a hundred times has taken no turn from anybody."""
    pile = barging(4, STARVING * 2)
    refused = [
        one if one.process == 3 else replace(one, outcome=Outcome.FAIL, error="E: locked")
        for one in pile
    ]
    assert broken(no_starvation(history(pile))) == {promises.D4}
    assert no_starvation(history(refused)).is_valid


def test_one_writer_that_had_bad_luck_proves_nothing() -> None:
    """One that was put aside by the system, before it could stand in line, is no policy."""
    unlucky = append(9, "unlucky", (0, STARVING * 8 * MS))
    assert no_starvation(history([*in_turns(4, STARVING * 2), unlucky])).is_valid


def test_a_refusal_before_the_patience_is_over_is_one_too_many() -> None:
    """Attempts do not count: only seconds do."""
    refused = replace(
        append(2, "b", (0, 400 * MS)), outcome=Outcome.FAIL, error="OperationalError: locked"
    )
    served = append(1, "a", (0, 300 * MS))
    check = no_early_refusals(patience_s=1.0)
    assert broken(check(history([served, refused]))) == {promises.D3}
    assert check(history([served])).is_valid


def test_a_refusal_after_the_patience_leaves_unknown_what_would_have_come() -> None:
    refused = replace(append(2, "b", (0, 2000 * MS)), outcome=Outcome.FAIL, error="E: locked")
    verdict = no_early_refusals(patience_s=1.0)(history([refused]))
    assert not verdict.anomalies
    assert verdict.unknowns


# Kept ---------------------------------------------------------------------------------------------

SOUND = {"integrity": "ok", "full_text": "ok", "drift": []}
DONE = [append(1, "alpha 1", (0, 1)), append(1, "alpha 2", (2, 3)), append(2, "alpha 3", (0, None))]


def looked_at(texts: list[str], **differs: Any) -> History:
    found = differs.pop("found", texts)
    return history(
        [
            *DONE,
            op(9, "inspect", {}, (10, 11), {**SOUND, **differs}),
            op(9, "messages", {"session": "s1"}, (12, 13), [["user", text] for text in texts]),
            op(9, "search", {"word": "alpha"}, (14, 15), [["s1", text] for text in found]),
        ]
    )


@pytest.mark.parametrize("texts", [["alpha 1", "alpha 2"], ["alpha 1", "alpha 3", "alpha 2"]])
def test_what_was_acknowledged_is_there_and_the_unknown_may_be(texts: list[str]) -> None:
    assert check_database_content(looked_at(texts)).is_valid


@pytest.mark.parametrize(
    ("seen", "promise"),
    [
        (looked_at(["alpha 1"]), promises.D1),
        (looked_at(["alpha 2", "alpha 1"]), promises.D1),
        (looked_at(["alpha 1", "alpha 1", "alpha 2"]), promises.D2),
        (looked_at(["alpha 1", "alpha 2", "alpha 4"]), promises.D2),
        (looked_at(["alpha 1", "alpha 2"], integrity="row 3 missing"), promises.D1),
        (looked_at(["alpha 1", "alpha 2"], full_text="words: malformed"), promises.D2),
        (looked_at(["alpha 1", "alpha 2"], drift=[["s1", 3, 2]]), promises.D2),
        (looked_at(["alpha 1", "alpha 2"], found=["alpha 1"]), promises.D2),
    ],
    ids=["lost", "swapped", "doubled", "phantom", "damaged", "index", "counter", "unfound"],
)
def test_what_is_lost_doubled_or_damaged_is_seen(seen: History, promise: Promise) -> None:
    assert broken(check_database_content(seen)) == {promise}


def test_without_a_last_look_nothing_is_known() -> None:
    verdict = check_database_content(history(DONE))
    assert not verdict.anomalies
    assert verdict.unknowns


# Serial appends -----------------------------------------------------------------------------------


def read(process: int, times: tuple[int, int], *texts: str) -> Operation:
    return op(process, "messages", {"session": "s1"}, times, [["user", text] for text in texts])


def test_a_read_that_misses_what_was_acknowledged_before_it_is_a_cycle() -> None:
    """The read came before the append that was over before the read began.

    one:   |- append a -|
    other:                 |- read: nothing -|     |- read: a -|
    """
    late = [read(2, (2, 3)), read(2, (4, 5), "a")]
    verdict = check_append_transactions(history([append(1, "a", (0, 1)), *late]))
    assert broken(verdict) == {promises.D1}
    assert verdict.anomalies[0].name.startswith("G")
    sound = [append(1, "a", (0, 3)), *late]
    assert check_append_transactions(history(sound)).is_valid


def test_two_orders_of_one_list_are_seen() -> None:
    both = [append(1, "a", (0, 9)), append(2, "b", (0, 9))]
    reads = [read(3, (1, 2), "a", "b"), read(4, (3, 4), "b", "a")]
    assert broken(check_append_transactions(history([*both, *reads]))) == {promises.D1}


# Locks --------------------------------------------------------------------------------------------


def seen(process: int, begin: str, *statements: str, held_ns: int = 0) -> Operation:
    told = {"begin": begin, "statements": list(statements), "end": "COMMIT", "held_ns": held_ns}
    return op(process, "transaction", None, (5, 6), told)


UPDATE = "UPDATE sessions SET title = ''"
WRITER = append(1, "a", (4, 7))


@pytest.mark.parametrize(
    ("one", "promise"),
    [
        (seen(1, "BEGIN", "SELECT 1", UPDATE), promises.D7),
        (seen(1, "BEGIN DEFERRED", UPDATE), promises.D7),
        (seen(2, "BEGIN IMMEDIATE"), promises.D8),
        (seen(2, "", UPDATE), promises.D8),
        (seen(2, "", "PRAGMA wal_checkpoint (TRUNCATE)"), promises.D8),
        (op(2, "drop", {}, (5, 6), 2), promises.D8),
        (op(2, "opened_behind", {"file": "state.db"}, (5, 6)), promises.D11),
    ],
    ids=["upgrade", "deferred", "reader", "opener", "closer", "leak", "behind"],
)
def test_a_lock_that_is_taken_late_or_by_a_reader_is_seen(one: Operation, promise: Promise) -> None:
    assert broken(check_lock_discipline(history([WRITER, one]))) == {promise}


def test_what_takes_its_lock_at_once_or_none_is_well() -> None:
    """A reading transaction, a passive checkpoint and a writer's single statement harm nobody."""
    harmless = [
        seen(1, "BEGIN IMMEDIATE", "SELECT 1", UPDATE, held_ns=2 * MS),
        seen(1, "", UPDATE),
        seen(2, "BEGIN", "SELECT 1"),
        seen(2, "", "PRAGMA wal_checkpoint(PASSIVE)"),
        seen(2, "", "CREATE TABLE IF NOT EXISTS sessions (id TEXT)"),
        op(2, "drop", {}, (5, 6), 0),
    ]
    assert check_lock_discipline(history([WRITER, *harmless])).is_valid
    assert held_ms(history([WRITER, *harmless])) == [2.0]


# The log ------------------------------------------------------------------------------------------


def test_a_log_that_outgrows_its_bound_is_seen_by_its_highest_mark() -> None:
    looks = [op(1, "log_bytes", {}, (at, at), size) for at, size in enumerate((10, 70, 20))]
    assert wal_stays_below(70)(history(looks)).is_valid
    assert broken(wal_stays_below(69)(history(looks))) == {promises.D6}
    assert wal_high_water_bytes(history(looks)) == 70


def test_a_log_that_nobody_looked_at_is_unknown() -> None:
    assert wal_stays_below(1)(history([])).unknowns


# The dead, the hung and the broken ----------------------------------------------------------------


def refused(process: int, function: str, times: tuple[int, int], error: str) -> Operation:
    argument = {"session": "s1"}
    return Operation(process, function, argument, Outcome.FAIL, *times, error=error)


def beside(fault: str, *operations: Operation) -> History:
    """The fault is there from 10 to 20."""
    return replace(history(operations), faults=(FaultInterval(fault, 10, 20),))


def test_whoever_is_refused_beside_the_dead_was_not_let_in_after_them() -> None:
    late = refused(1, "append", (0, 99), "OutOfPatienceError: no turn in 30 s")
    assert broken(check_writes_after_kills(history([late]))) == {promises.D5}
    assert check_writes_after_kills(history([append(1, "a", (0, 99))])).is_valid


def test_a_process_that_never_ends_is_an_accusation_and_a_killed_one_is_not() -> None:
    question = append(1, "a", (11, None))
    assert broken(no_hangs(beside(f"{HANG}42", question))) == {promises.D5}
    assert no_hangs(beside(f"{KILL}42", question)).is_valid


@pytest.mark.parametrize(
    ("one", "is_valid"),
    [
        (refused(1, "append", (11, 19), "E: process 42 (python) has the lock"), True),
        (refused(1, "append", (11, 19), "E: database is locked"), False),
        (append(1, "got by", (11, 19)), True),
        (append(1, "held up", (11, 21)), False),
        (append(1, "never told", (11, None)), False),
        (append(1, "before", (9, 21)), True),
        (refused(1, "append", (21, 22), "E: whatever"), True),
    ],
    ids=["named", "unnamed", "got-by", "held-up", "never", "before", "after"],
)
def test_beside_a_hung_holder_all_are_answered_and_told_who_it_is(
    one: Operation, *, is_valid: bool
) -> None:
    assert check_stalled_holders(beside("pause process 42", one)).is_valid is is_valid


def test_one_that_stood_still_may_write_before_anybody_noted_that_it_goes_on() -> None:
    """D5: a process goes on a moment before anybody can note that it does.

    it itself      [-- write ----------------][- write -]
    stands still       |------------------------------|   as noted
    truly              |----------------------|
    """
    own = (append(1, "inside", (9, 18)), append(1, "its next", (19, 21)))
    assert check_stalled_holders(beside("pause process 42", *own)).is_valid
    other = append(2, "held up", (19, 21))
    assert not check_stalled_holders(beside("pause process 42", *own, other)).is_valid


@pytest.mark.parametrize(
    ("fault", "one", "name"),
    [
        ("the disk is full", refused(1, "append", (11, 12), "E: disk is full"), ""),
        ("the disk is full", refused(1, "append", (11, 12), "KeyError: 7"), "unclear-error"),
        ("the disk is full", refused(1, "messages", (11, 12), "E: disk I/O error"), "unreadable"),
        ("page 3 is corrupt", refused(1, "messages", (11, 12), "E: malformed"), ""),
        ("the disk is full", refused(1, "append", (21, 22), "E: disk is full"), "not-recovered"),
    ],
    ids=["clear", "unclear", "unreadable", "damaged", "not-recovered"],
)
def test_what_a_broken_disk_refuses_is_told_clearly_and_only_while_it_is_broken(
    fault: str, one: Operation, name: str
) -> None:
    verdict = check_disk_errors(beside(fault, one))
    assert {anomaly.name for anomaly in verdict.anomalies} == ({name} if name else set())
    assert broken(verdict) <= {promises.D10}
