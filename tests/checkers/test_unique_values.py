"""Where values are unique, the quick checkers say what the search for linearizations says."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.checkers.linearizability import Budget, linearizable
from harness.checkers.unique.queue import unique_queue
from harness.checkers.unique.register import unique_register
from harness.checkers.unique.set import unique_set
from harness.contract import promises
from harness.core.checker import Checker
from harness.core.history import Operation, Outcome
from harness.core.verdict import Validity
from tests.support.simulated_histories import (
    QUEUE,
    SET,
    UNIQUE_REGISTER,
    Machine,
    history_of,
    in_order,
    random_history,
)

SEEDS = st.integers(0, 10**9)
SIZES = st.integers(1, 20)
QUICK: dict[str, tuple[Machine, Checker]] = {
    "register": (UNIQUE_REGISTER, unique_register(promises.D1)),
    "queue": (QUEUE, unique_queue(promises.W1)),
    "set": (SET, unique_set(promises.S2)),
}


def did(
    process: int, function: str, argument: Any, times: tuple[int, int], result: Any = None
) -> Operation:
    return Operation(process, function, argument, Outcome.OK, *times, result)


@pytest.mark.parametrize(("machine", "quick"), QUICK.values(), ids=QUICK)
@given(seed=SEEDS, size=SIZES, processes=st.integers(1, 5))
@settings(max_examples=400, deadline=None)
def test_the_quick_verdict_is_that_of_the_search(
    machine: Machine, quick: Checker, seed: int, size: int, processes: int
) -> None:
    """Save that a lost dequeue may leave it unknown, and that the search may have to give up."""
    history = random_history(machine, seed, operations=size, processes=processes)

    verdict = quick(history)

    if verdict.validity is Validity.UNKNOWN:
        assert machine is QUEUE
        assert any(op.outcome is Outcome.INFO for op in history.of("dequeue"))
    else:
        searched = linearizable(machine, promises.S2, budget=Budget(steps=100_000))(history)
        assert searched.validity in (verdict.validity, Validity.UNKNOWN)


@pytest.mark.parametrize(("machine", "quick"), QUICK.values(), ids=QUICK)
def test_few_histories_are_left_unknown_and_many_are_invalid(
    machine: Machine, quick: Checker
) -> None:
    verdicts = [quick(random_history(machine, seed, operations=12)).validity for seed in range(400)]

    assert verdicts.count(Validity.UNKNOWN) < 120
    assert verdicts.count(Validity.INVALID) > 40


@pytest.mark.parametrize(("machine", "quick"), QUICK.values(), ids=QUICK)
@given(seed=SEEDS)
@settings(max_examples=200, deadline=None)
def test_the_evidence_of_a_quick_verdict_is_a_proof_by_itself(
    machine: Machine, quick: Checker, seed: int
) -> None:
    """The search finds no order of the evidence alone."""
    for anomaly in quick(random_history(machine, seed, operations=14, processes=4)).anomalies:
        assert not linearizable(machine, promises.S2)(in_order(anomaly.evidence)).is_valid


# Objects that are wrong, and what they are found guilty of


def _forgetful_register(state: Any, function: str, argument: Any) -> tuple[Any, Any]:
    """Drops every fifth write."""
    return UNIQUE_REGISTER.answer(
        state, "read" if function == "write" and argument["value"] % 5 == 0 else function, argument
    )


def _stack(state: Any, function: str, argument: Any) -> tuple[Any, Any]:
    """Gives back what came last."""
    if function == "enqueue":
        return (argument["item"], *state), None
    return QUEUE.answer(state, function, argument)


def _leaky_queue(state: Any, function: str, argument: Any) -> tuple[Any, Any]:
    """Drops every fifth item."""
    dropped = function == "enqueue" and argument["item"] % 5 == 0
    return (state, None) if dropped else QUEUE.answer(state, function, argument)


def _echoing_queue(state: Any, function: str, argument: Any) -> tuple[Any, Any]:
    """Gives every fifth item twice: the second time it stands there as its negative."""
    if function == "dequeue" and state and state[0] < 0:
        return state[1:], -state[0]
    if function == "dequeue" and state and state[0] % 5 == 1:
        return (-state[0], *state[1:]), state[0]
    return QUEUE.answer(state, function, argument)


def _leaky_set(state: Any, function: str, argument: Any) -> tuple[Any, Any]:
    """Drops every fifth item."""
    dropped = function == "add" and argument["item"] % 5 == 0
    return (state, None) if dropped else SET.answer(state, function, argument)


WRONG: dict[str, tuple[Machine, Any, Checker, set[str]]] = {
    "a register drops writes": (
        UNIQUE_REGISTER,
        _forgetful_register,
        QUICK["register"][1],
        {"lost-write"},
    ),
    "a stack for a queue": (QUEUE, _stack, QUICK["queue"][1], {"out-of-order", "lost-write"}),
    "a queue drops items": (QUEUE, _leaky_queue, QUICK["queue"][1], {"lost-write"}),
    "a queue gives items twice": (QUEUE, _echoing_queue, QUICK["queue"][1], {"duplicate"}),
    "a set drops items": (SET, _leaky_set, QUICK["set"][1], {"lost-write"}),
}


@pytest.mark.parametrize(("machine", "wrong", "quick", "names"), WRONG.values(), ids=WRONG)
def test_a_wrong_object_is_found_guilty_of_what_it_does(
    machine: Machine, wrong: Any, quick: Checker, names: set[str]
) -> None:
    broken = Machine(machine.name, machine.start, wrong, machine.draw)
    found = [
        {anomaly.name for anomaly in quick(history).anomalies}
        for history in (
            history_of(broken, Random(seed), operations=60, processes=3, doubt=0)
            for seed in range(20)
        )
    ]

    assert sum(map(bool, found)) > 15
    assert set().union(*found) <= names


# One example of each name


def _write(value: int, *times: int) -> Operation:
    return did(0, "write", {"value": value}, (times[0], times[1]))


def _read(result: Any, *times: int) -> Operation:
    return did(1, "read", {}, (times[0], times[1]), result)


def _put(item: int, *times: int) -> Operation:
    return did(0, "enqueue", {"item": item}, (times[0], times[1]))


def _take(result: Any, *times: int) -> Operation:
    return did(1, "dequeue", {}, (times[0], times[1]), result)


def _add(item: int, *times: int) -> Operation:
    return did(0, "add", {"item": item}, (times[0], times[1]))


GUILTY = [
    ("register", "phantom", [_read(7, 0, 1)]),
    ("register", "phantom", [_read(7, 0, 1), _write(7, 2, 3)]),
    (
        "register",
        "phantom",
        [Operation(0, "write", {"value": 7}, Outcome.FAIL, 0, 1), _read(7, 2, 3)],
    ),
    ("register", "lost-write", [_write(1, 0, 1), _write(2, 2, 3), _read(1, 4, 5)]),
    ("register", "lost-write", [_write(1, 0, 1), _read(None, 2, 3)]),
    ("register", "stale-read", [_write(1, 0, 9), _read(1, 1, 2), _read(None, 3, 4)]),
    ("queue", "phantom", [_take(7, 0, 1)]),
    ("queue", "phantom", [_take(7, 0, 1), _put(7, 2, 3)]),
    ("queue", "duplicate", [_put(1, 0, 1), _take(1, 2, 3), _take(1, 4, 5)]),
    (
        "queue",
        "out-of-order",
        [_put(1, 0, 1), _put(2, 2, 3), _take(2, 4, 5), _take(1, 6, 7)],
    ),
    ("queue", "lost-write", [_put(1, 0, 1), _put(2, 2, 3), _take(2, 4, 5)]),
    ("queue", "lost-write", [_put(1, 0, 1), _take(None, 2, 3)]),
    ("queue", "stale-read", [_put(1, 0, 1), _take(None, 2, 3), _take(1, 4, 5)]),
    ("set", "phantom", [_read([7], 0, 1)]),
    ("set", "phantom", [_read([7], 0, 1), _add(7, 2, 3)]),
    ("set", "phantom", [_read([[7]], 0, 1)]),
    ("set", "duplicate", [_add(1, 0, 1), _read([1, 1], 2, 3)]),
    ("set", "lost-write", [_add(1, 0, 1), _read([], 2, 3)]),
    ("set", "lost-write", [_add(1, 0, 9), _add(2, 0, 9), _read([1], 1, 2), _read([2], 3, 4)]),
    ("set", "stale-read", [_add(1, 0, 1), _read([], 2, 3), _read([1], 4, 5)]),
    ("set", "lost-write", [_add(1, 1, 2), _add(2, 3, 4), _read([2], 0, 9)]),
    (
        "set",
        "out-of-order",
        [_add(1, 1, 2), _add(2, 3, 4), _read([2], 0, 9), _read([1, 2], 0, 9)],
    ),
    ("set", "long-fork", [_add(1, 0, 9), _add(2, 0, 9), _read([1], 0, 9), _read([2], 0, 9)]),
]


@pytest.mark.parametrize(("checker", "name", "operations"), GUILTY)
def test_each_kind_of_wrong_has_its_name(
    checker: str, name: str, operations: list[Operation]
) -> None:
    (anomaly, *_) = QUICK[checker][1](in_order(operations)).anomalies

    assert anomaly.name == name
    assert anomaly.message


def test_an_empty_answer_is_false_if_items_relieved_each_other() -> None:
    """No single item was there all the time, but at any time one was.

    C0: |put 1| |put 2|
    C1:         |--------- take -> nothing ---------|
    C2:                |take 1|
    C3:                                              |take 2|
    """
    put = [_put(1, 0, 1), _put(2, 2, 3)]
    empty, first, second = _take(None, 2, 8), _take(1, 5, 6), _take(2, 9, 10)

    (anomaly,) = QUICK["queue"][1](in_order([*put, empty, first, second])).anomalies

    assert anomaly.name == "stale-read"
    assert set(map(str, anomaly.evidence)) == set(map(str, [*put, first, second, empty]))


def test_an_empty_answer_may_be_given_at_the_very_end_of_the_call() -> None:
    """At the time 5 the first may be out already, and the second not in yet.

    C0: |put 1 0-1|
    C1:            |--- take -> nothing, 2-5 ---|
    C2:                                         |take 1, 5-6|
    """
    touching = [_put(1, 0, 1), _take(None, 2, 5), _take(1, 5, 6)]

    assert QUICK["queue"][1](in_order(touching)).is_valid


def test_a_write_that_takes_no_time_may_come_before_one_that_ends_then() -> None:
    touching = [_write(1, 0, 5), _write(2, 5, 5), _read(1, 7, 8)]

    assert QUICK["register"][1](in_order(touching)).is_valid


def test_of_two_values_that_replace_each_other_the_one_read_last_is_stale() -> None:
    """Neither was written before the other, so either order would do, but not both.

    C0: |------- write(1) -------|   C1: |------- write(2) -------|
    C2: |read -> 1| |read -> 2| |read -> 1|
    """
    written = [_write(1, 0, 9), _write(2, 0, 9)]
    looks = [_read(1, 1, 2), _read(2, 3, 4), _read(1, 5, 6)]

    (anomaly,) = QUICK["register"][1](in_order([*written, *looks])).anomalies

    assert anomaly.evidence[-1] == looks[2]


def test_an_add_without_a_reply_that_nobody_saw_never_happened() -> None:
    """Even if it is known when it would have."""
    lost = Operation(0, "add", {"item": 1}, Outcome.INFO, 0, 1)

    assert QUICK["set"][1](in_order([lost, _add(2, 2, 3), _read([2], 4, 5)])).is_valid


def test_a_dequeue_without_a_reply_may_have_taken_what_seems_lost() -> None:
    operations = [_put(1, 0, 1), _put(2, 2, 3), _take(2, 4, 5)]
    silent = Operation(2, "dequeue", {}, Outcome.INFO, 0, None)

    verdict = QUICK["queue"][1](in_order([*operations, silent]))

    assert verdict.validity is Validity.UNKNOWN
    assert "1" in verdict.unknowns[0]


@pytest.mark.parametrize("operation", [_write(1, 0, 1), _put(1, 0, 1), _add(1, 0, 1)])
def test_a_value_used_twice_proves_nothing(operation: Operation) -> None:
    verdicts = [quick(in_order([operation, operation])) for _, quick in QUICK.values()]

    assert [verdict.validity for verdict in verdicts].count(Validity.UNKNOWN) == 1
