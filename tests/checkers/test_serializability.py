"""List-append transactions are judged as by running them in every order, and by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import harness.checkers.serializability.checker
import harness.checkers.serializability.dependencies
from harness.checkers.serializability.checker import Order, serializable
from harness.checkers.serializability.dependencies import Dependencies, Kind, dependencies
from harness.checkers.serializability.transactions import Log
from harness.core.checker import Checker
from harness.core.history import History, Operation, Outcome
from harness.core.promises import Promise
from harness.core.verdict import Anomaly, Validity
from tests.support.simulated_histories import in_order

SEEDS = st.integers(0, 10**9)
ORDERS = {order.value: order for order in Order}
Micro = list[Any]


def run(argument: Sequence[Micro], lists: dict[Any, list[Any]]) -> list[Micro]:
    """Do what a transaction asks for, and answer it."""
    result = []
    for what, key, value in argument:
        if what == "append":
            lists[key] = [*lists.get(key, []), value]
            result.append([what, key, value])
        else:
            result.append([what, key, lists.get(key, [])])
    return result


def has_an_order(history: History, order: Order) -> bool:
    """Run the transactions in every order that may be, with every subset of what is doubtful."""

    def before(one: Operation, other: Operation) -> bool:
        if order is Order.REAL_TIME:
            return one.outcome is Outcome.OK and one.precedes(other)
        same = one.process == other.process and one.outcome is Outcome.OK
        return order is Order.PROCESS and same and one.invoked_ns < other.invoked_ns

    def fits(rest: Sequence[Operation], lists: dict[Any, list[Any]]) -> bool:
        if all(transaction.outcome is Outcome.INFO for transaction in rest):
            return True
        for transaction in rest:
            others = [other for other in rest if other is not transaction]
            if any(before(other, transaction) for other in others):
                continue
            after = dict(lists)
            result = run(transaction.argument, after)
            if transaction.outcome is Outcome.INFO:
                if fits(others, after) or fits(others, lists):
                    return True
            elif result == transaction.result and fits(others, after):
                return True
        return False

    return fits([op for op in history if op.outcome is not Outcome.FAIL], {})


def interleaved(seed: int, *, transactions: int = 5, keys: int = 2, doubt: float = 0.2) -> History:
    """Transactions whose micro-operations happen at instants of their own: often no order fits.

    In two thirds of the histories, each happens in one instant, so there is always an order; but in
    half of those, it may be an instant before it began.
    """
    rng = Random(seed)
    atomic, early = rng.choice([(True, 0), (True, 9), (False, 0)])
    calls = []
    micros = []
    values = count()
    free_ns = [0, 0, 0]
    for number in range(transactions):
        process = rng.randrange(3)
        begin = free_ns[process] + rng.randrange(4)
        end = begin + rng.randrange(8)
        free_ns[process] = end + 1
        outcome = Outcome.OK
        if rng.random() < doubt:
            outcome = rng.choice([Outcome.INFO, Outcome.FAIL])
        argument = [
            rng.choice(
                [["append", rng.randrange(keys), next(values)], ["r", rng.randrange(keys), None]]
            )
            for _ in range(rng.randrange(1, 4))
        ]
        calls.append(Operation(process, "txn", argument, outcome, begin, end))
        instants = sorted(rng.uniform(begin, end) for _ in argument)
        happens = outcome is Outcome.OK or rng.random() < (0.5 if outcome is Outcome.INFO else 0.1)
        lag = rng.choice([0, early])
        for place, instant in enumerate(instants):
            at = instants[0] - lag if atomic else instant
            micros.append((at, number, place, happens))
    lists: dict[Any, list[Any]] = {}
    results: list[list[Micro]] = [[] for _ in calls]
    for _, number, place, happens in sorted(micros):
        if happens:
            results[number] += run([calls[number].argument[place]], lists)
    for number, call in enumerate(calls):
        if call.outcome is Outcome.OK:
            calls[number] = replace(call, result=results[number])
        elif call.outcome is Outcome.INFO:
            calls[number] = replace(call, completed_ns=None)
    return in_order(calls)


def did(process: int, times: tuple[int, int], *micros: Micro) -> Operation:
    argument = [[what, key, None if what == "r" else value] for what, key, value in micros]
    return Operation(process, "txn", argument, Outcome.OK, *times, list(micros))


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
@given(seed=SEEDS)
@settings(max_examples=400, deadline=None)
def test_transactions_are_judged_as_by_running_them_in_every_order(order: Order, seed: int) -> None:
    history = interleaved(seed)

    verdict = serializable(Promise.D2, order)(history)

    assert verdict.is_valid == has_an_order(history, order)


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_the_histories_made_by_chance_are_of_both_kinds(order: Order) -> None:
    check = serializable(Promise.D2, order)

    verdicts = [check(interleaved(seed)).validity for seed in range(300)]

    assert 15 < verdicts.count(Validity.INVALID) < 285
    assert Validity.UNKNOWN not in verdicts


# Wrong implementations, which the property above must catch


def _without_doubt(history: History) -> History:
    return in_order([op for op in history if op.outcome is not Outcome.INFO])


def _fail_as_info(history: History) -> History:
    return in_order(
        [replace(op, outcome=Outcome.INFO) if op.outcome is Outcome.FAIL else op for op in history]
    )


def _info_as_over(history: History) -> History:
    return in_order(
        [
            replace(op, outcome=Outcome.OK, result=run(op.argument, {}), completed_ns=op.invoked_ns)
            if op.outcome is Outcome.INFO and all(what == "append" for what, _, _ in op.argument)
            else op
            for op in history
        ]
    )


STRICT = serializable(Promise.D2, Order.REAL_TIME)
WRONG: dict[str, tuple[Order, Checker]] = {
    "info is taken as fail": (Order.REAL_TIME, lambda history: STRICT(_without_doubt(history))),
    "fail is taken as info": (Order.REAL_TIME, lambda history: STRICT(_fail_as_info(history))),
    "info is taken as ok": (Order.REAL_TIME, lambda history: STRICT(_info_as_over(history))),
    "real time is forgotten": (Order.REAL_TIME, serializable(Promise.D2, Order.NOTHING)),
    "process order is forgotten": (Order.PROCESS, serializable(Promise.D2, Order.NOTHING)),
    "process order is taken for real time": (
        Order.REAL_TIME,
        serializable(Promise.D2, Order.PROCESS),
    ),
    "an order is imposed": (Order.NOTHING, serializable(Promise.D2, Order.REAL_TIME)),
}


def _is_caught(wrong: Checker, order: Order) -> bool:
    histories = (interleaved(seed) for seed in range(3000))
    return any(wrong(history).is_valid != has_an_order(history, order) for history in histories)


@pytest.mark.parametrize(("order", "wrong"), WRONG.values(), ids=WRONG)
def test_a_wrong_checker_is_caught_by_running_every_order(order: Order, wrong: Checker) -> None:
    assert _is_caught(wrong, order)


@pytest.mark.parametrize("kind", [Kind.WW, Kind.WR, Kind.RW])
def test_a_checker_that_forgets_a_dependency_is_caught(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forgetful(log: Log, longest: Any) -> Dependencies:
        found = dependencies(log, longest)
        kept = Dependencies(found.nodes)
        for source, target, reason, key in found.among(range(found.nodes)):
            if reason is not kind:
                kept.add(reason, key, [source], [target])
        return kept

    monkeypatch.setattr(harness.checkers.serializability.checker, "dependencies", forgetful)

    assert _is_caught(STRICT, Order.REAL_TIME)


def test_a_checker_that_forgets_what_nobody_saw_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        harness.checkers.serializability.dependencies, "_append_unseen", lambda *_: None
    )

    assert _is_caught(STRICT, Order.REAL_TIME)


# One example of each name


def put(key: str, value: int) -> Micro:
    return ["append", key, value]


def saw(key: str, *values: int) -> Micro:
    return ["r", key, list(values)]


GUILTY = {
    "G0": [
        did(0, (0, 9), put("x", 1), put("y", 1)),
        did(1, (0, 9), put("x", 2), put("y", 2)),
        did(2, (0, 9), saw("x", 1, 2), saw("y", 2, 1)),
    ],
    "G1a": [
        Operation(0, "txn", [put("x", 1)], Outcome.FAIL, 0, 9),
        did(1, (0, 9), saw("x", 1)),
    ],
    "G1b": [did(0, (0, 9), put("x", 1), put("x", 2)), did(1, (0, 9), saw("x", 1))],
    "G1c": [
        did(0, (0, 9), put("x", 1), saw("y", 1)),
        did(1, (0, 9), put("y", 1), saw("x", 1)),
    ],
    "G-single": [
        did(0, (0, 9), saw("x"), saw("y", 1)),
        did(1, (0, 9), put("x", 1), put("y", 1)),
    ],
    "G2-item": [did(0, (0, 9), saw("x"), put("y", 1)), did(1, (0, 9), saw("y"), put("x", 1))],
    "lost-update": [
        did(0, (0, 9), saw("x"), put("x", 1)),
        did(1, (0, 9), saw("x"), put("x", 2)),
        did(2, (0, 9), saw("x", 1, 2)),
    ],
    "phantom": [did(0, (0, 9), saw("x", 1))],
    "duplicate": [did(0, (0, 9), put("x", 1)), did(1, (0, 9), saw("x", 1, 1))],
    "incompatible-order": [
        did(0, (0, 9), put("x", 1)),
        did(1, (0, 9), put("x", 2)),
        did(2, (0, 9), saw("x", 1, 2)),
        did(3, (0, 9), saw("x", 2, 1)),
    ],
    "internal": [did(0, (0, 9), put("x", 1), saw("x"))],
    "G0-realtime": [
        did(0, (0, 1), put("x", 1)),
        did(0, (2, 3), put("x", 2)),
        did(0, (4, 5), saw("x", 2, 1)),
    ],
    "G1c-realtime": [did(0, (0, 1), saw("x", 1)), did(1, (2, 3), put("x", 1))],
    "G-single-realtime": [did(0, (0, 1), put("x", 1)), did(1, (2, 3), saw("x"))],
    "G2-item-realtime": [
        did(0, (0, 1), put("z", 1)),
        did(1, (2, 9), saw("y")),
        did(2, (0, 9), saw("z"), put("y", 1)),
    ],
}


INTERNAL = {
    "without what it had appended": [did(0, (0, 9), put("x", 1), saw("x"))],
    "with another's value for its own": [
        did(0, (0, 9), put("x", 1), saw("x", 2)),
        did(1, (0, 9), put("x", 2)),
    ],
    "two different lists": [did(0, (0, 9), saw("x"), saw("x", 1)), did(1, (0, 9), put("x", 1))],
    "more than what it read and appended": [
        did(0, (0, 9), saw("x"), put("x", 2), saw("x", 1, 2)),
        did(1, (0, 9), put("x", 1)),
    ],
    "what it appended only later": [did(0, (0, 9), saw("x"), saw("x", 1), put("x", 1))],
}


@pytest.mark.parametrize("operations", INTERNAL.values(), ids=INTERNAL)
def test_a_transaction_that_contradicts_itself_is_told(operations: list[Operation]) -> None:
    anomalies = STRICT(in_order(operations)).anomalies

    assert [op for op in anomalies if op.name == "internal"] == [
        Anomaly(Promise.D2, anomalies[0].message, evidence=(operations[0],), name="internal")
    ]


@pytest.mark.parametrize("name", GUILTY)
def test_each_kind_of_wrong_has_its_name(name: str) -> None:
    anomalies = STRICT(in_order(GUILTY[name])).anomalies

    assert name in {anomaly.name for anomaly in anomalies}
    assert all(anomaly.message and anomaly.evidence for anomaly in anomalies)


@pytest.mark.parametrize("name", ["G0", "G1c", "G-single"])
def test_what_needs_real_time_to_be_wrong_is_not_wrong_without(name: str) -> None:
    """A process's own order has its own name for it."""
    history = in_order(GUILTY[f"{name}-realtime"])
    own = in_order([replace(op, process=0) for op in history])

    assert serializable(Promise.D2, Order.NOTHING)(history).is_valid
    (anomaly,) = serializable(Promise.D2, Order.PROCESS)(own).anomalies
    assert anomaly.name == f"{name}-process"


def test_a_transaction_without_a_reply_happened_if_it_was_seen() -> None:
    """Then it happened whole, and its other appends count."""
    lost = Operation(0, "txn", [put("x", 1), put("y", 1)], Outcome.INFO, 0, None)
    seen, unseen = did(1, (1, 2), saw("x", 1)), did(1, (3, 4), saw("y"))

    assert STRICT(in_order([lost, unseen])).is_valid
    assert STRICT(in_order([lost, seen])).is_valid
    (anomaly,) = STRICT(in_order([lost, seen, unseen])).anomalies
    assert anomaly.name == "G-single-realtime"


def test_a_value_appended_twice_proves_nothing() -> None:
    history = in_order([did(0, (0, 1), put("x", 1)), did(0, (2, 3), put("x", 1))])

    verdict = STRICT(history)

    assert verdict.validity is Validity.UNKNOWN
    assert "'x'" in verdict.unknowns[0]


def test_the_evidence_of_a_cycle_is_the_shortest_there_is() -> None:
    """Ten transactions each saw the one before, round and round; two of them also each other."""
    ring = [
        [put(f"k{place}", 1), saw(f"k{(place - 1) % 10}", 1), saw(f"k{(place + 1) % 10}")]
        for place in range(10)
    ]
    ring[4][2] = saw("k5", 1)

    (anomaly,) = STRICT(
        in_order([did(n, (0, 9), *micros) for n, micros in enumerate(ring)])
    ).anomalies

    assert anomaly.name == "G1c"
    assert [transaction.process for transaction in anomaly.evidence] == [4, 5]
    assert anomaly.message == (
        "T2 saw what T1 appended to 'k4', and yet T1 saw what T2 appended to 'k5'"
    )


def test_a_long_history_with_one_fault_is_found_guilty_of_that_one() -> None:
    """The two that lost an update are found among three hundred, and nothing else is."""
    calm = [did(0, (10 * n, 10 * n + 1), saw("x", *range(n)), put("x", n)) for n in range(300)]
    calm[200] = did(0, (2000, 2001), saw("x", *range(199)), put("x", 200))

    anomalies = STRICT(in_order(calm)).anomalies

    assert len(anomalies) == 1
    assert len(anomalies[0].evidence) == 2


def test_the_worst_kind_of_cycle_is_told_though_a_shorter_one_is_less_bad() -> None:
    """Three overwrote each other in a ring, and two of them saw each other as well."""
    ring = [
        did(0, (0, 9), put("a", 1), put("c", 2), put("p", 1), saw("q", 1)),
        did(1, (0, 9), put("a", 2), put("b", 1), put("q", 1), saw("p", 1)),
        did(2, (0, 9), put("b", 2), put("c", 1)),
        did(3, (0, 9), saw("a", 1, 2), saw("b", 1, 2), saw("c", 1, 2)),
    ]

    (anomaly,) = STRICT(in_order(ring)).anomalies

    assert anomaly.name == "G0"
    assert [transaction.process for transaction in anomaly.evidence] == [0, 1, 2]


def test_one_anti_dependency_is_worse_than_two_on_a_shorter_way() -> None:
    """Two missed each other's appends; by way of a third, one saw the other's after all."""
    history = in_order(
        [
            did(0, (0, 9), saw("x"), put("y", 1)),
            did(1, (0, 9), saw("y"), put("x", 1), put("z", 1)),
            did(2, (0, 9), saw("z", 1), put("w", 1)),
            did(3, (0, 9), saw("w", 1), put("v", 1)),
        ]
    )
    closed = [
        replace(op, result=[*op.result, saw("v", 1)]) if op.process == 0 else op for op in history
    ]

    (anomaly,) = STRICT(in_order(closed)).anomalies

    assert anomaly.name == "G-single"
    assert [transaction.process for transaction in anomaly.evidence] == [0, 1, 2, 3]


def test_an_update_is_lost_only_if_both_had_read_the_same() -> None:
    """The second saw half of the first's appends, which is another fault."""
    history = in_order(
        [
            did(0, (0, 9), saw("x"), put("x", 5), put("x", 1)),
            did(1, (0, 9), saw("x", 5), put("x", 2)),
            did(2, (0, 9), saw("x", 5, 1, 2)),
        ]
    )

    assert {anomaly.name for anomaly in STRICT(history).anomalies} == {"G1b"}


def test_a_list_that_changed_under_a_reader_is_no_intermediate_read() -> None:
    history = in_order([did(0, (0, 9), put("x", 1)), did(1, (0, 9), saw("x"), saw("x", 1))])

    assert {anomaly.name for anomaly in STRICT(history).anomalies} == {"internal", "G-single"}


def test_a_process_goes_on_after_a_transaction_that_may_still_happen() -> None:
    """Only those that were answered are in its order.

    C0: |- append(1) -| |- append(2) ? |- read() -> [1] -| |- read() -> [1, 2] -|
    """
    lost = Operation(0, "txn", [put("x", 2)], Outcome.INFO, 2, None)
    others = [
        did(0, (0, 1), put("x", 1)),
        did(0, (4, 5), saw("x", 1)),
        did(0, (6, 7), saw("x", 1, 2)),
    ]

    assert serializable(Promise.D2, Order.PROCESS)(in_order([*others, lost])).is_valid
    assert STRICT(in_order([*others, lost])).is_valid


def test_a_doubtful_transaction_with_an_end_may_never_have_happened() -> None:
    lost = Operation(0, "txn", [put("x", 1)], Outcome.INFO, 0, 1)

    assert STRICT(in_order([lost, did(1, (2, 3), saw("x"))])).is_valid
