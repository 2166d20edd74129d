"""Tests of the search for linearizations against an exhaustive search."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from harness.checkers.conformance import Fold
from harness.checkers.linearizability import Budget, linearizable
from harness.contract import promises
from harness.core.checker import Checker
from harness.core.history import History, Operation, Outcome
from harness.core.model import Model, Refusal
from harness.core.verdict import Validity
from harness.models.key_value import KeyValue, key
from harness.models.register import Register
from tests.support.simulated_histories import (
    CAS_REGISTER,
    QUEUE,
    Machine,
    damaged,
    history_of,
    in_order,
    random_history,
)

REGISTER = Register(promises.S2)
SEEDS = st.integers(0, 10**9)


def has_an_order(model: Model[Any], operations: Iterable[Operation]) -> bool:
    """Try every order that real time allows, with every subset of the doubtful operations."""

    def fits(rest: Sequence[Operation], state: Any) -> bool:
        if all(operation.outcome is Outcome.INFO for operation in rest):
            return True
        for operation in rest:
            others = [other for other in rest if other is not operation]
            if any(other.precedes(operation) for other in others):
                continue
            step = model.step(state, operation)
            after = () if isinstance(step, Refusal) else step
            if operation.outcome is Outcome.INFO:
                after = (*after, state)
            if any(fits(others, state) for state in after):
                return True
        return False

    happened = [operation for operation in operations if operation.outcome is not Outcome.FAIL]
    return fits(happened, model.initial())


def done(
    process: int, function: str, argument: Any, times: tuple[int, int], result: Any = None
) -> Operation:
    return Operation(process, function, argument, Outcome.OK, *times, result)


def is_linearizable(*operations: Operation) -> bool:
    return linearizable(REGISTER, promises.S2)(in_order(operations)).is_valid


# The search against every order


@given(SEEDS)
@settings(max_examples=400, deadline=None)
def test_register_verdict_equals_exhaustive_search(seed: int) -> None:
    history = random_history(CAS_REGISTER, seed)

    verdict = linearizable(REGISTER, promises.S2)(history)

    assert verdict.is_valid == has_an_order(REGISTER, history)


@given(SEEDS)
@settings(max_examples=200, deadline=None)
def test_verdict_without_hints_equals_exhaustive_search(seed: int) -> None:
    """The queue says neither which calls only read nor which states are equivalent."""
    history = random_history(QUEUE, seed)

    verdict = linearizable(QUEUE, promises.S2)(history)

    assert verdict.is_valid == has_an_order(QUEUE, history)


@given(SEEDS)
@settings(max_examples=200, deadline=None)
def test_hints_of_a_model_change_no_verdict(seed: int) -> None:
    """The machine is the same register, but gives no hints."""
    history = random_history(CAS_REGISTER, seed, operations=30, processes=5)

    hinted = linearizable(REGISTER, promises.S2)(history)

    assert hinted.validity is linearizable(CAS_REGISTER, promises.S2)(history).validity


@given(SEEDS)
@settings(max_examples=100, deadline=None)
def test_right_object_is_always_valid(seed: int) -> None:
    history = history_of(CAS_REGISTER, Random(seed), operations=60, processes=5)

    assert linearizable(REGISTER, promises.S2)(history).is_valid


def test_random_histories_include_valid_and_invalid() -> None:
    """Otherwise the properties above would be weak."""
    verdicts = [
        linearizable(machine, promises.S2)(random_history(machine, seed)).is_valid
        for machine in (CAS_REGISTER, QUEUE)
        for seed in range(200)
    ]

    assert 50 <= verdicts.count(False) <= 350


# Wrong implementations that the property above must catch


def _without_doubt(history: History) -> History:
    return in_order([op for op in history if op.outcome is not Outcome.INFO])


def _all_at_once(history: History) -> History:
    return in_order(
        [
            replace(op, invoked_ns=0, completed_ns=None if op.completed_ns is None else 999)
            for op in history
        ]
    )


def _one_after_the_other(history: History) -> History:
    return History(
        tuple(
            replace(op, invoked_ns=2 * place, completed_ns=2 * place + 1)
            for place, op in enumerate(history)
        )
    )


def _fail_as_info(history: History) -> History:
    return in_order(
        [replace(op, outcome=Outcome.INFO) if op.outcome is Outcome.FAIL else op for op in history]
    )


def _equal_times_in_order(history: History) -> History:
    def later(op: Operation) -> Operation:
        begin, end = 2 * op.invoked_ns + 1, op.completed_ns
        return replace(
            op, invoked_ns=begin, completed_ns=None if end is None else max(2 * end, begin)
        )

    return in_order([later(op) for op in history])


class WritesAreReads(Register):
    """Treats a write as a read."""

    def observes(self, operation: Operation) -> bool:
        """Whether it is a read or a write."""
        return operation.function in {"read", "write"}


class ExpectationsUnseen(Register):
    """Omits the values that a cas expects."""

    def narrowed(self, operations: Sequence[Operation]) -> Register:
        """Narrow without them."""
        return super().narrowed([op for op in operations if op.function != "cas"])


def _after(blur: Callable[[History], History]) -> Checker:
    right = linearizable(REGISTER, promises.S2)
    return lambda history: right(blur(history))


WRONG: dict[str, Checker] = {
    "info is taken as fail": _after(_without_doubt),
    "fail is taken as info": _after(_fail_as_info),
    "real time is forgotten": _after(_all_at_once),
    "overlaps are forgotten": _after(_one_after_the_other),
    "equal times are an order": _after(_equal_times_in_order),
    "a write only looks": linearizable(WritesAreReads(promises.S2), promises.S2),
    "what a cas expects is unseen": linearizable(ExpectationsUnseen(promises.S2), promises.S2),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_wrong_search_differs_from_exhaustive_search(wrong: Checker) -> None:
    histories = (random_history(CAS_REGISTER, seed) for seed in range(3000))

    assert any(wrong(history).is_valid != has_an_order(REGISTER, history) for history in histories)


# Outcomes


@pytest.mark.parametrize(
    ("model", "change", "look", "before", "after"),
    [
        (REGISTER, ("write", {"value": 1}), ("read", {}), None, 1),
        (REGISTER, ("cas", {"expected": None, "new": 1}), ("read", {}), None, 1),
        (
            KeyValue(promises.D1),
            ("append", {"key": "x", "value": "1"}),
            ("get", {"key": "x"}),
            "",
            "1",
        ),
    ],
)
def test_after_a_lost_reply_both_states_may_hold(
    model: Model[Any], change: tuple[str, Any], look: tuple[str, Any], before: Any, after: Any
) -> None:
    """One client in order: its reads decide which state holds."""
    lost = Operation(0, *change, Outcome.INFO, 0, None)

    def says(*results: Any) -> bool:
        looks = [done(0, *look, (2 * n, 2 * n + 1), result) for n, result in enumerate(results)]
        fold = Fold(model)
        return not any(map(fold.step, (lost, *looks)))

    assert says(before)
    assert says(after)
    assert not says(before, after)
    assert not says(after, before)


def test_read_may_see_an_unacknowledged_write_or_not() -> None:
    """Without a reply neither the time nor the effect is known.

    C0: |--- write(1) ------ ?
    C1:     |- read() -> nil -| |- read() -> 1 -|
    """
    lost = Operation(0, "write", {"value": 1}, Outcome.INFO, 0, None)
    unseen, seen = done(1, "read", {}, (5, 10), None), done(1, "read", {}, (15, 20), 1)

    assert is_linearizable(lost, unseen, seen)
    assert is_linearizable(lost, unseen)
    assert not is_linearizable(lost, replace(unseen, result=1), replace(seen, result=None))


def test_doubtful_write_does_not_happen_after_its_end() -> None:
    """Its completion bounds the time of its effect.

    C0: |--- write(1) ? ---|
    C1:                       |- read() -> nil -| |- read() -> 1 -|
    """
    doubtful = Operation(0, "write", {"value": 1}, Outcome.INFO, 0, 10)
    unseen, seen = done(1, "read", {}, (15, 20), None), done(1, "read", {}, (25, 30), 1)

    assert is_linearizable(doubtful, seen)
    assert is_linearizable(doubtful, unseen)
    assert not is_linearizable(doubtful, unseen, seen)


def test_unacknowledged_writes_explain_several_answers() -> None:
    """Each answer needs one of the two writes without a reply.

    C0: |--- write(1) ---- ?
    C1:   |--- write(0) -- ?
    C2:      |- cas(0 to 0) -> true -| |- read() -> 1 -|
    """
    lost = [Operation(n, "write", {"value": 1 - n}, Outcome.INFO, n, None) for n in range(2)]
    swap = done(2, "cas", {"expected": 0, "new": 0}, (3, 4), result=True)
    look = done(2, "read", {}, (5, 6), result=1)
    missed = replace(swap, argument={"expected": 1, "new": 1}, result=False)

    assert is_linearizable(*lost, swap, look)
    assert is_linearizable(*lost, replace(look, invoked_ns=1, completed_ns=2), missed)
    assert not is_linearizable(lost[0], swap, look)


def test_failed_write_never_happened() -> None:
    failed = Operation(0, "write", {"value": 1}, Outcome.FAIL, 0, 10)

    assert not is_linearizable(failed, done(1, "read", {}, (5, 15), 1))


def test_failures_are_judged_if_they_count() -> None:
    """A model may refuse a failed operation."""

    class NeverFails(Register):
        def step(self, state: Any, operation: Operation) -> tuple[Any, ...] | Refusal:
            if operation.outcome is Outcome.FAIL:
                return Refusal(promises.D3, "write() failed", expected="success")
            return super().step(state, operation)

    history = in_order([Operation(0, "write", {"value": 1}, Outcome.FAIL, 0, 10)])
    model = NeverFails(promises.D3)

    assert linearizable(model, promises.D3)(history).is_valid
    judged = linearizable(model, promises.D3, counts=lambda _: True)(history)
    assert judged.validity is Validity.INVALID


def test_operations_that_touch_in_time_overlap() -> None:
    """Only an operation that completed before is in order.

    C0: |- write(1) -|
    C1:              |- read() -> nil -|
    """
    write = done(0, "write", {"value": 1}, (0, 10))

    assert is_linearizable(write, done(1, "read", {}, (10, 20), None))
    assert not is_linearizable(write, done(1, "read", {}, (11, 20), None))


# Evidence, partitions and budgets


def _as_known_then(operation: Operation, last: Operation) -> Operation:
    assert last.completed_ns is not None
    if operation.completed_ns is not None and operation.completed_ns < last.completed_ns:
        return operation
    return replace(operation, outcome=Outcome.INFO, completed_ns=None, result=None)


@given(SEEDS)
@example(17651)  # operations that end together: what ended just then is not known yet
@example(18935)
@settings(max_examples=300, deadline=None)
def test_evidence_is_explained_without_its_last_operation(seed: int) -> None:
    """So the evidence is a proof by itself, and its last operation is the wrong one."""
    history = random_history(CAS_REGISTER, seed, operations=14, processes=4)

    for anomaly in linearizable(REGISTER, promises.S2)(history).anomalies:
        *others, last = anomaly.evidence
        before = [_as_known_then(operation, last) for operation in others]
        assert not has_an_order(REGISTER, anomaly.evidence)
        assert has_an_order(REGISTER, before)
        assert last.result not in anomaly.accepted
        assert all(
            has_an_order(REGISTER, [*before, replace(last, result=result)])
            for result in anomaly.accepted
        )


def test_evidence_omits_irrelevant_operations() -> None:
    """Two of two hundred operations prove a stale read."""
    busy = [done(0, "write", {"value": n}, (10 * n, 10 * n + 5)) for n in range(100)]
    looks = [done(1, "read", {}, (10 * n + 6, 10 * n + 8), n) for n in range(100)]
    looks[80] = replace(looks[80], result=40)

    (anomaly,) = linearizable(REGISTER, promises.D1)(in_order(busy + looks)).anomalies

    assert anomaly.promise == promises.D1
    assert anomaly.name == "not-linearizable"
    assert anomaly.evidence[-1] == looks[80]
    assert len(anomaly.evidence) == 2
    assert looks[80].call in anomaly.message
    assert (anomaly.expected, anomaly.observed) == ("80", "-> 40")


def key_value_history(seed: int) -> History:
    """Three keys, each a text; some histories are damaged."""

    def answer(state: Any, function: str, argument: Any) -> tuple[Any, Any]:
        texts = dict(state)
        text = texts.get(argument["key"], "")
        if function == "get":
            return state, text
        texts[argument["key"]] = (
            argument["value"] if function == "put" else text + argument["value"]
        )
        return tuple(sorted(texts.items())), None

    def draw(rng: Random, number: int) -> tuple[str, Any]:
        function = rng.choice(["get", "get", "put", "append"])
        value = {} if function == "get" else {"value": rng.choice("abc") + str(number % 3)}
        return function, {"key": rng.choice("xyz"), **value}

    return random_history(Machine("texts", (), answer, draw), seed, operations=20, processes=4)


@given(SEEDS)
@settings(max_examples=200, deadline=None)
def test_store_verdict_equals_verdict_by_key(seed: int) -> None:
    history = key_value_history(seed)
    model = KeyValue(promises.D1)

    whole = linearizable(model, promises.D1)(history)
    parts = linearizable(model, promises.D1, partition=key)(history)

    assert whole.validity is parts.validity


@given(SEEDS)
@settings(max_examples=100, deadline=None)
def test_store_verdict_equals_exhaustive_search(seed: int) -> None:
    history = in_order(key_value_history(seed).operations[:6])
    model = KeyValue(promises.D1)

    assert linearizable(model, promises.D1)(history).is_valid == has_an_order(model, history)


@given(SEEDS, st.integers(0, 60), st.integers(0, 30))
@settings(max_examples=200, deadline=None)
def test_search_with_a_small_budget_is_unknown(seed: int, steps: int, entries: int) -> None:
    history = random_history(CAS_REGISTER, seed, operations=12, processes=4)
    full = linearizable(REGISTER, promises.S2)(history)

    short = linearizable(REGISTER, promises.S2, budget=Budget(steps, entries))(history)

    assert short.validity in {full.validity, Validity.UNKNOWN}


def test_unknown_verdict_names_the_operations() -> None:
    history = history_of(CAS_REGISTER, Random(1), operations=30, processes=5)

    verdict = linearizable(REGISTER, promises.S2, budget=Budget(steps=5))(history)

    assert verdict.validity is Validity.UNKNOWN
    (reason,) = verdict.unknowns
    assert "register operations" in reason


def test_inexhaustible_search_ends_by_its_budget() -> None:
    """Sixty concurrent enqueues have too many orders, and none gives that answer."""
    enqueues = [done(n, "enqueue", {"item": n}, (0, 100)) for n in range(60)]
    dequeue = done(60, "dequeue", {}, (101, 102), "never put in")

    verdict = linearizable(QUEUE, promises.S2, budget=Budget(20_000, 5_000))(
        in_order([*enqueues, dequeue])
    )

    assert verdict.validity is Validity.UNKNOWN


def test_damage_changes_one_operation_at_most() -> None:
    history = history_of(QUEUE, Random(3), operations=20, processes=3)

    changed = set(map(str, damaged(history, Random(4)))) ^ set(map(str, history))

    assert len(changed) <= 2
