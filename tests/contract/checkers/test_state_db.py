"""Tests of the checkers of concurrent writers: waits, fairness, content, locks, log, faults."""

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
    check_succession,
    check_writes_after_kills,
    no_early_refusals,
    no_hangs,
    no_starvation,
)
from harness.contract.checkers.state_db.lock_discipline import (
    check_lock_discipline,
    held_ms,
    opened_behind,
)
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
    return History(tuple(sorted(operations, key=lambda op: op.invoked_ns)))


def broken(verdict: Verdict) -> set[Promise]:
    return {anomaly.promise for anomaly in verdict.anomalies}


def in_turns(writers: int, turns: int) -> list[Operation]:
    """A queue: each writer writes again at once, and gets the lock after all others."""
    return [
        append(turn % writers, f"{turn}", (max(0, turn - writers + 1) * MS, (turn + 1) * MS))
        for turn in range(writers * turns)
    ]


def barging(writers: int, turns: int) -> list[Operation]:
    """No queue: each writer writes all it has while the others wait for their first."""
    return [
        append(writer, f"{writer} {turn}", (begins * MS, (number + 1) * MS))
        for writer in range(writers)
        for turn in range(turns)
        for number in [writer * turns + turn]
        for begins in [number if turn else 0]
    ]


# Waits --------------------------------------------------------------------------------------------


@given(writers=st.integers(2, 6), turns=st.integers(5, 12))
def test_queue_order_has_at_most_one_overtaking(writers: int, turns: int) -> None:
    """In order of arrival, shares are equal and a write is overtaken once at most."""
    waits = measure(writes_of(history(in_turns(writers, turns))))
    assert waits.overtaken_max <= 1
    assert waits.jain is not None
    assert waits.jain >= 0.9
    assert waits.writes == writers * turns
    assert waits.p50_ms <= waits.p99_ms <= waits.p999_ms <= waits.max_ms <= waits.gap_ms_max


@given(writers=st.integers(2, 5), turns=st.integers(2, 20))
def test_overtakings_match_their_definition(writers: int, turns: int) -> None:
    """The search by bisection finds what the definition gives, write by write."""
    by_writer = writes_of(history(barging(writers, turns)))
    found = {found.write.process: found.times for found in overtakings(by_writer)}
    for process, writes in by_writer.items():
        most = max(
            sum(
                other.invoked_ns > write.invoked_ns
                and (other.completed_ns or 0) < (write.completed_ns or 0)
                for other in others
            )
            for write in writes
            for rival, others in by_writer.items()
            if rival != process
        )
        assert found.get(process, 0) == most


def test_simultaneous_waits_are_a_convoy() -> None:
    """Independent long waits overlap at times, not always.

    together: a |-long-|......  b |-long-|......     by turns: a |-long-|......  b ......|-long-|
    """
    quick = [
        append(process, f"q{process}{at}", (at, at + 1))
        for process in (1, 2)
        for at in range(1000, 1020)
    ]
    together = [append(1, "a", (0, 500)), append(2, "b", (0, 500))]
    by_turns = [append(1, "a", (0, 500)), append(2, "b", (500, 1000))]
    assert measure(writes_of(history([*together, *quick]))).convoy > 1
    assert measure(writes_of(history([*by_turns, *quick]))).convoy == 0


def test_measure_of_no_writes_raises() -> None:
    with pytest.raises(ValueError, match="no answered write"):
        measure({})


# Fairness -----------------------------------------------------------------------------------------


def test_repeated_overtaking_is_starvation() -> None:
    """A queue is fair, a pile-up is not; the message counts the starved writers."""
    assert no_starvation(history(in_turns(4, STARVING * 2))).is_valid
    verdict = no_starvation(history(barging(4, STARVING * 2)))
    assert broken(verdict) == {promises.D4}
    assert "3 of 4 writers starved" in verdict.anomalies[0].message


def test_unscheduled_write_is_not_starved() -> None:
    """Runnable for half of the wait: the system held the write back, not the lock."""
    pile = barging(4, STARVING * 2)
    first = {write.process: write for write in reversed(pile)}
    for share, is_valid in ((0.6, True), (0.4, False)):
        notes = [
            op(process, "unscheduled", None, (write.invoked_ns, ended), round(share * ended))
            for process, write in first.items()
            if (ended := write.completed_ns)
        ]
        assert no_starvation(history([*pile, *notes])).is_valid is is_valid


def test_refused_writes_overtake_none() -> None:
    """A refused write takes no turn from another writer."""
    pile = barging(4, STARVING * 2)
    refused = [
        write if write.process == 3 else replace(write, outcome=Outcome.FAIL, error="E: locked")
        for write in pile
    ]
    assert broken(no_starvation(history(pile))) == {promises.D4}
    assert no_starvation(history(refused)).is_valid


def test_single_starved_writer_is_valid() -> None:
    """The system may hold back one writer before it enters the queue."""
    unlucky = append(9, "unlucky", (0, STARVING * 8 * MS))
    assert no_starvation(history([*in_turns(4, STARVING * 2), unlucky])).is_valid


def test_refusal_before_patience_breaks_d3() -> None:
    """Patience counts in seconds, not in attempts."""
    refused = replace(
        append(2, "b", (0, 400 * MS)), outcome=Outcome.FAIL, error="OperationalError: locked"
    )
    written = append(1, "a", (0, 300 * MS))
    check = no_early_refusals(patience_s=1.0)
    assert broken(check(history([written, refused]))) == {promises.D3}
    assert check(history([written])).is_valid


def test_refusal_after_patience_is_unknown() -> None:
    refused = replace(append(2, "b", (0, 2000 * MS)), outcome=Outcome.FAIL, error="E: locked")
    verdict = no_early_refusals(patience_s=1.0)(history([refused]))
    assert not verdict.anomalies
    assert verdict.unknowns


# Content ------------------------------------------------------------------------------------------

SOUND = {"integrity": "ok", "full_text": "ok", "drift": []}
DONE = [append(1, "alpha 1", (0, 1)), append(1, "alpha 2", (2, 3)), append(2, "alpha 3", (0, None))]


def inspected(texts: list[str], **differs: Any) -> History:
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
def test_content_with_all_acknowledged_is_valid(texts: list[str]) -> None:
    assert check_database_content(inspected(texts)).is_valid


@pytest.mark.parametrize(
    ("seen", "promise"),
    [
        (inspected(["alpha 1"]), promises.D1),
        (inspected(["alpha 2", "alpha 1"]), promises.D1),
        (inspected(["alpha 1", "alpha 1", "alpha 2"]), promises.D2),
        (inspected(["alpha 1", "alpha 2", "alpha 4"]), promises.D2),
        (inspected(["alpha 1", "alpha 2"], integrity="row 3 missing"), promises.D1),
        (inspected(["alpha 1", "alpha 2"], full_text="words: malformed"), promises.D2),
        (inspected(["alpha 1", "alpha 2"], drift=[["s1", 3, 2]]), promises.D2),
        (inspected(["alpha 1", "alpha 2"], found=["alpha 1"]), promises.D2),
    ],
    ids=["lost", "swapped", "doubled", "phantom", "damaged", "index", "counter", "unfound"],
)
def test_wrong_content_names_its_promise(seen: History, promise: Promise) -> None:
    assert broken(check_database_content(seen)) == {promise}


def test_content_without_inspection_is_unknown() -> None:
    verdict = check_database_content(history(DONE))
    assert not verdict.anomalies
    assert verdict.unknowns


# Transactions -------------------------------------------------------------------------------------


def read(process: int, times: tuple[int, int], *texts: str) -> Operation:
    return op(process, "messages", {"session": "s1"}, times, [["user", text] for text in texts])


def test_stale_read_is_a_cycle() -> None:
    """The read precedes an append that was over before the read began.

    one:   |- append a -|
    other:                 |- read: nothing -|     |- read: a -|
    """
    late = [read(2, (2, 3)), read(2, (4, 5), "a")]
    verdict = check_append_transactions(history([append(1, "a", (0, 1)), *late]))
    assert broken(verdict) == {promises.D1}
    assert verdict.anomalies[0].name.startswith("G")
    sound = [append(1, "a", (0, 3)), *late]
    assert check_append_transactions(history(sound)).is_valid


def test_two_orders_of_one_list_are_rejected() -> None:
    both = [append(1, "a", (0, 9)), append(2, "b", (0, 9))]
    reads = [read(3, (1, 2), "a", "b"), read(4, (3, 4), "b", "a")]
    assert broken(check_append_transactions(history([*both, *reads]))) == {promises.D1}


# Locks --------------------------------------------------------------------------------------------


def traced(process: int, begin: str, *statements: str, held_ns: int = 0) -> Operation:
    transaction = {
        "begin": begin,
        "statements": list(statements),
        "end": "COMMIT",
        "held_ns": held_ns,
    }
    return op(process, "transaction", None, (5, 6), transaction)


UPDATE = "UPDATE sessions SET title = ''"
WRITER = append(1, "a", (4, 7))


@pytest.mark.parametrize(
    ("one", "promise"),
    [
        (traced(1, "BEGIN", "SELECT 1", UPDATE), promises.D7),
        (traced(1, "BEGIN DEFERRED", UPDATE), promises.D7),
        (traced(2, "BEGIN IMMEDIATE"), promises.D8),
        (traced(2, "", UPDATE), promises.D8),
        (traced(2, "", "PRAGMA wal_checkpoint (TRUNCATE)"), promises.D8),
        (op(2, "drop", {}, (5, 6), 2), promises.D8),
        (op(2, "opened_behind", {"file": "state.db"}, (5, 6)), promises.D11),
        (
            Operation(2, "messages", {}, Outcome.FAIL, 5, 6, error="E: locked"),
            promises.D8,
        ),
    ],
    ids=["upgrade", "deferred", "reader", "opener", "closer", "leak", "behind", "refused"],
)
def test_lock_misuse_names_its_promise(one: Operation, promise: Promise) -> None:
    assert broken(check_lock_discipline(history([WRITER, one]))) == {promise}


def test_open_behind_sqlite_breaks_d11_alone() -> None:
    behind = op(2, "opened_behind", {"file": "state.db-shm"}, (5, 6))
    assert broken(opened_behind(history([WRITER, behind]))) == {promises.D11}
    assert opened_behind(history([WRITER, traced(2, "BEGIN", UPDATE)])).is_valid


def test_sound_lock_use_is_valid() -> None:
    """A read transaction, a passive checkpoint and a single writing statement."""
    harmless = [
        traced(1, "BEGIN IMMEDIATE", "SELECT 1", UPDATE, held_ns=2 * MS),
        traced(1, "", UPDATE),
        traced(2, "BEGIN", "SELECT 1"),
        traced(2, "", "PRAGMA wal_checkpoint(PASSIVE)"),
        traced(2, "", "CREATE TABLE IF NOT EXISTS sessions (id TEXT)"),
        op(2, "drop", {}, (5, 6), 0),
    ]
    assert check_lock_discipline(history([WRITER, *harmless])).is_valid
    assert held_ms(history([WRITER, *harmless])) == [2.0]


# The log ------------------------------------------------------------------------------------------


def test_log_above_limit_breaks_d6() -> None:
    looks = [op(1, "log_bytes", {}, (at, at), size) for at, size in enumerate((10, 70, 20))]
    assert wal_stays_below(70)(history(looks)).is_valid
    assert broken(wal_stays_below(69)(history(looks))) == {promises.D6}
    assert wal_high_water_bytes(history(looks)) == 70


def test_log_without_samples_is_unknown() -> None:
    assert wal_stays_below(1)(history([])).unknowns


# Kills, stops and broken disks --------------------------------------------------------------------


def refused(process: int, function: str, times: tuple[int, int], error: str) -> Operation:
    argument = {"session": "s1"}
    return Operation(process, function, argument, Outcome.FAIL, *times, error=error)


def beside(fault: str, *operations: Operation) -> History:
    """The operations, and a fault from 10 to 20."""
    return replace(history(operations), faults=(FaultInterval(fault, 10, 20),))


def test_refusal_beside_killed_processes_breaks_d5() -> None:
    late = refused(1, "append", (0, 99), "OutOfPatienceError: no turn in 30 s")
    assert broken(check_writes_after_kills(history([late]))) == {promises.D5}
    assert check_writes_after_kills(history([append(1, "a", (0, 99))])).is_valid


@pytest.mark.parametrize(
    ("waits_ms", "is_valid"),
    [
        ((900, 900, 900, 900), False),
        ((900, 900, 900, 5), True),
        ((900, 900, 900), True),
        ((5, 5, 5, 5), True),
    ],
    ids=["all-late", "one-at-once", "too-few", "at-once"],
)
def test_late_succession_breaks_d5(waits_ms: tuple[int, ...], *, is_valid: bool) -> None:
    """All of four writers or more waited for a dead process."""
    writes = (
        append(number, f"a{number}", (11 * MS, (11 + wait_ms) * MS))
        for number, wait_ms in enumerate(waits_ms)
    )
    again = append(0, "again", (2000 * MS, 2001 * MS))
    verdict = check_succession(beside(f"{KILL}42", *writes, again))
    assert broken(verdict) == (set() if is_valid else {promises.D5})


def test_succession_excuses_a_wait_for_a_processor() -> None:
    writes = [append(number, f"a{number}", (11 * MS, 911 * MS)) for number in range(4)]
    waited = op(0, "unscheduled", None, (11 * MS, 912 * MS), 600 * MS)
    assert check_succession(beside(f"{KILL}42", *writes, waited)).is_valid


def test_hang_breaks_d5_and_kill_does_not() -> None:
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
        (append(1, "no answer", (11, None)), False),
        (append(1, "before", (9, 21)), True),
        (refused(1, "append", (21, 22), "E: whatever"), True),
    ],
    ids=["named", "unnamed", "got-by", "held-up", "never", "before", "after"],
)
def test_writes_beside_stopped_holder_are_judged(one: Operation, *, is_valid: bool) -> None:
    assert check_stalled_holders(beside("pause process 42", one)).is_valid is is_valid


def test_stopped_process_may_write_before_noted() -> None:
    """D5: a process continues a moment before the harness notes it.

    own writes     [-- write ----------------][- write -]
    stopped, noted     |------------------------------|
    stopped, truly     |----------------------|
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
def test_disk_errors_are_judged_by_their_text(fault: str, one: Operation, name: str) -> None:
    verdict = check_disk_errors(beside(fault, one))
    assert {anomaly.name for anomaly in verdict.anomalies} == ({name} if name else set())
    assert broken(verdict) <= {promises.D10}
