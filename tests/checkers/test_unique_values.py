"""Tests that the sweeps for unique values agree with the search for linearizations."""

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
SWEEPS: dict[str, tuple[Machine, Checker]] = {
    "register": (UNIQUE_REGISTER, unique_register(promises.D1)),
    "queue": (QUEUE, unique_queue(promises.W1)),
    "set": (SET, unique_set(promises.S2)),
}


def done(
    process: int, function: str, argument: Any, times: tuple[int, int], result: Any = None
) -> Operation:
    return Operation(process, function, argument, Outcome.OK, *times, result)


@pytest.mark.parametrize(("machine", "sweep"), SWEEPS.values(), ids=SWEEPS)
@given(seed=SEEDS, size=SIZES, processes=st.integers(1, 5))
@settings(max_examples=400, deadline=None)
def test_sweep_verdict_equals_search_verdict(
    machine: Machine, sweep: Checker, seed: int, size: int, processes: int
) -> None:
    """Except that a lost dequeue may leave the sweep unknown, and a budget the search."""
    history = random_history(machine, seed, operations=size, processes=processes)

    verdict = sweep(history)

    if verdict.validity is Validity.UNKNOWN:
        assert machine is QUEUE
        assert any(op.outcome is Outcome.INFO for op in history.of("dequeue"))
    else:
        searched = linearizable(machine, promises.S2, budget=Budget(steps=100_000))(history)
        assert searched.validity in (verdict.validity, Validity.UNKNOWN)


@pytest.mark.parametrize(("machine", "sweep"), SWEEPS.values(), ids=SWEEPS)
def test_sweeps_leave_few_histories_unknown(machine: Machine, sweep: Checker) -> None:
    verdicts = [sweep(random_history(machine, seed, operations=12)).validity for seed in range(400)]

    assert verdicts.count(Validity.UNKNOWN) < 120
    assert verdicts.count(Validity.INVALID) > 40


@pytest.mark.parametrize(("machine", "sweep"), SWEEPS.values(), ids=SWEEPS)
@given(seed=SEEDS)
@settings(max_examples=200, deadline=None)
def test_evidence_of_a_sweep_is_sufficient(machine: Machine, sweep: Checker, seed: int) -> None:
    """The search finds no order of the evidence."""
    for anomaly in sweep(random_history(machine, seed, operations=14, processes=4)).anomalies:
        assert not linearizable(machine, promises.S2)(in_order(anomaly.evidence)).is_valid


# Wrong objects, and their anomalies


def _forgetful_register(state: Any, function: str, argument: Any) -> tuple[Any, Any]:
    """Drops every fifth write."""
    return UNIQUE_REGISTER.answer(
        state, "read" if function == "write" and argument["value"] % 5 == 0 else function, argument
    )


def _stack(state: Any, function: str, argument: Any) -> tuple[Any, Any]:
    """Returns the newest item."""
    if function == "enqueue":
        return (argument["item"], *state), None
    return QUEUE.answer(state, function, argument)


def _leaky_queue(state: Any, function: str, argument: Any) -> tuple[Any, Any]:
    """Drops every fifth item."""
    dropped = function == "enqueue" and argument["item"] % 5 == 0
    return (state, None) if dropped else QUEUE.answer(state, function, argument)


def _echoing_queue(state: Any, function: str, argument: Any) -> tuple[Any, Any]:
    """Returns every fifth item twice: it stores the second one as its negative."""
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
        SWEEPS["register"][1],
        {"lost-write"},
    ),
    "a stack for a queue": (QUEUE, _stack, SWEEPS["queue"][1], {"out-of-order", "lost-write"}),
    "a queue drops items": (QUEUE, _leaky_queue, SWEEPS["queue"][1], {"lost-write"}),
    "a queue gives items twice": (QUEUE, _echoing_queue, SWEEPS["queue"][1], {"duplicate"}),
    "a set drops items": (SET, _leaky_set, SWEEPS["set"][1], {"lost-write"}),
}


@pytest.mark.parametrize(("machine", "wrong", "sweep", "names"), WRONG.values(), ids=WRONG)
def test_wrong_object_has_the_matching_anomaly(
    machine: Machine, wrong: Any, sweep: Checker, names: set[str]
) -> None:
    broken = Machine(machine.name, machine.start, wrong, machine.draw)
    found = [
        {anomaly.name for anomaly in sweep(history).anomalies}
        for history in (
            history_of(broken, Random(seed), operations=60, processes=3, doubt=0)
            for seed in range(20)
        )
    ]

    assert sum(map(bool, found)) > 15
    assert set().union(*found) <= names


# One example of each name


def _write(value: int, *times: int) -> Operation:
    return done(0, "write", {"value": value}, (times[0], times[1]))


def _read(result: Any, *times: int) -> Operation:
    return done(1, "read", {}, (times[0], times[1]), result)


def _enqueue(item: int, *times: int) -> Operation:
    return done(0, "enqueue", {"item": item}, (times[0], times[1]))


def _dequeue(result: Any, *times: int) -> Operation:
    return done(1, "dequeue", {}, (times[0], times[1]), result)


def _add(item: int, *times: int) -> Operation:
    return done(0, "add", {"item": item}, (times[0], times[1]))


ANOMALIES = [
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
    ("queue", "phantom", [_dequeue(7, 0, 1)]),
    ("queue", "phantom", [_dequeue(7, 0, 1), _enqueue(7, 2, 3)]),
    ("queue", "duplicate", [_enqueue(1, 0, 1), _dequeue(1, 2, 3), _dequeue(1, 4, 5)]),
    (
        "queue",
        "out-of-order",
        [_enqueue(1, 0, 1), _enqueue(2, 2, 3), _dequeue(2, 4, 5), _dequeue(1, 6, 7)],
    ),
    ("queue", "lost-write", [_enqueue(1, 0, 1), _enqueue(2, 2, 3), _dequeue(2, 4, 5)]),
    ("queue", "lost-write", [_enqueue(1, 0, 1), _dequeue(None, 2, 3)]),
    ("queue", "stale-read", [_enqueue(1, 0, 1), _dequeue(None, 2, 3), _dequeue(1, 4, 5)]),
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


@pytest.mark.parametrize(("checker", "name", "operations"), ANOMALIES)
def test_each_kind_of_anomaly_has_its_name(
    checker: str, name: str, operations: list[Operation]
) -> None:
    (anomaly, *_) = SWEEPS[checker][1](in_order(operations)).anomalies

    assert anomaly.name == name
    assert anomaly.message
    assert anomaly.expected
    assert anomaly.observed
    assert anomaly.expected != anomaly.observed


def test_empty_dequeue_of_a_filled_queue_is_stale() -> None:
    """No item was there all the time, but at every time one was.

    C0: |put 1| |put 2|
    C1:         |--------- take -> nothing ---------|
    C2:                |take 1|
    C3:                                              |take 2|
    """
    put = [_enqueue(1, 0, 1), _enqueue(2, 2, 3)]
    empty, first, second = _dequeue(None, 2, 8), _dequeue(1, 5, 6), _dequeue(2, 9, 10)

    (anomaly,) = SWEEPS["queue"][1](in_order([*put, empty, first, second])).anomalies

    assert anomaly.name == "stale-read"
    assert set(map(str, anomaly.evidence)) == set(map(str, [*put, first, second, empty]))


def test_empty_dequeue_may_happen_at_its_end() -> None:
    """At time 5 the first item may be out already, and the second not in yet.

    C0: |put 1 0-1|
    C1:            |--- take -> nothing, 2-5 ---|
    C2:                                         |take 1, 5-6|
    """
    touching = [_enqueue(1, 0, 1), _dequeue(None, 2, 5), _dequeue(1, 5, 6)]

    assert SWEEPS["queue"][1](in_order(touching)).is_valid


def test_instant_write_may_precede_a_write_ending_then() -> None:
    touching = [_write(1, 0, 5), _write(2, 5, 5), _read(1, 7, 8)]

    assert SWEEPS["register"][1](in_order(touching)).is_valid


def test_last_read_of_alternating_values_is_stale() -> None:
    """Neither value was written before the other, so one of two orders must hold.

    C0: |------- write(1) -------|   C1: |------- write(2) -------|
    C2: |read -> 1| |read -> 2| |read -> 1|
    """
    written = [_write(1, 0, 9), _write(2, 0, 9)]
    looks = [_read(1, 1, 2), _read(2, 3, 4), _read(1, 5, 6)]

    (anomaly,) = SWEEPS["register"][1](in_order([*written, *looks])).anomalies

    assert anomaly.evidence[-1] == looks[2]


def test_unseen_add_without_a_reply_never_happened() -> None:
    """Also if its completion time is known."""
    lost = Operation(0, "add", {"item": 1}, Outcome.INFO, 0, 1)

    assert SWEEPS["set"][1](in_order([lost, _add(2, 2, 3), _read([2], 4, 5)])).is_valid


def test_dequeue_without_a_reply_leaves_loss_unknown() -> None:
    operations = [_enqueue(1, 0, 1), _enqueue(2, 2, 3), _dequeue(2, 4, 5)]
    silent = Operation(2, "dequeue", {}, Outcome.INFO, 0, None)

    verdict = SWEEPS["queue"][1](in_order([*operations, silent]))

    assert verdict.validity is Validity.UNKNOWN
    assert "1" in verdict.unknowns[0]


@pytest.mark.parametrize("operation", [_write(1, 0, 1), _enqueue(1, 0, 1), _add(1, 0, 1)])
def test_value_used_twice_is_unknown(operation: Operation) -> None:
    verdicts = [sweep(in_order([operation, operation])) for _, sweep in SWEEPS.values()]

    assert [verdict.validity for verdict in verdicts].count(Validity.UNKNOWN) == 1
