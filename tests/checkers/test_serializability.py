"""Tests of the serializability checker against a search over all serial orders, and by name."""

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
from harness.contract import promises
from harness.core.checker import Checker
from harness.core.history import History, Operation, Outcome
from harness.core.verdict import Validity
from tests.support.simulated_histories import in_order

SEEDS = st.integers(0, 10**9)
ORDERS = {order.value: order for order in Order}
Micro = list[Any]


def run(argument: Sequence[Micro], lists: dict[Any, list[Any]]) -> list[Micro]:
    """Run a transaction, and return its result."""
    result = []
    for what, key, value in argument:
        if what == "append":
            lists[key] = [*lists.get(key, []), value]
            result.append([what, key, value])
        else:
            result.append([what, key, lists.get(key, [])])
    return result


def has_an_order(history: History, order: Order) -> bool:
    """Run the transactions in every allowed order, with every subset of the doubtful ones."""

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
            result = run(transaction.argument["operations"], after)
            if transaction.outcome is Outcome.INFO:
                if fits(others, after) or fits(others, lists):
                    return True
            elif result == transaction.result and fits(others, after):
                return True
        return False

    return fits([op for op in history if op.outcome is not Outcome.FAIL], {})


def interleaved(seed: int, *, transactions: int = 5, keys: int = 2, doubt: float = 0.2) -> History:
    """Transactions whose micro-operations happen at separate instants: often no order fits.

    In two thirds of the histories, each transaction happens at one instant, so an order exists; but
    in half of those, the instant may lie before the transaction began.
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
        calls.append(Operation(process, "txn", {"operations": argument}, outcome, begin, end))
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
            results[number] += run([calls[number].argument["operations"][place]], lists)
    for number, call in enumerate(calls):
        if call.outcome is Outcome.OK:
            calls[number] = replace(call, result=results[number])
        elif call.outcome is Outcome.INFO:
            calls[number] = replace(call, completed_ns=None)
    return in_order(calls)


def done(process: int, times: tuple[int, int], *micros: Micro) -> Operation:
    argument = [[what, key, None if what == "r" else value] for what, key, value in micros]
    return Operation(process, "txn", {"operations": argument}, Outcome.OK, *times, list(micros))


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
@given(seed=SEEDS)
@settings(max_examples=400, deadline=None)
def test_verdict_equals_search_over_all_orders(order: Order, seed: int) -> None:
    history = interleaved(seed)

    verdict = serializable(promises.D2, order)(history)

    assert verdict.is_valid == has_an_order(history, order)


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_random_histories_include_valid_and_invalid(order: Order) -> None:
    check = serializable(promises.D2, order)

    verdicts = [check(interleaved(seed)).validity for seed in range(300)]

    assert 15 < verdicts.count(Validity.INVALID) < 285
    assert Validity.UNKNOWN not in verdicts


# Wrong implementations that the property above must catch


def _without_doubt(history: History) -> History:
    return in_order([op for op in history if op.outcome is not Outcome.INFO])


def _fail_as_info(history: History) -> History:
    return in_order(
        [replace(op, outcome=Outcome.INFO) if op.outcome is Outcome.FAIL else op for op in history]
    )


def _info_as_over(history: History) -> History:
    return in_order(
        [
            replace(
                op,
                outcome=Outcome.OK,
                result=run(op.argument["operations"], {}),
                completed_ns=op.invoked_ns,
            )
            if op.outcome is Outcome.INFO
            and all(what == "append" for what, _, _ in op.argument["operations"])
            else op
            for op in history
        ]
    )


STRICT = serializable(promises.D2, Order.REAL_TIME)
WRONG: dict[str, tuple[Order, Checker]] = {
    "info is taken as fail": (Order.REAL_TIME, lambda history: STRICT(_without_doubt(history))),
    "fail is taken as info": (Order.REAL_TIME, lambda history: STRICT(_fail_as_info(history))),
    "info is taken as ok": (Order.REAL_TIME, lambda history: STRICT(_info_as_over(history))),
    "real time is forgotten": (Order.REAL_TIME, serializable(promises.D2, Order.NOTHING)),
    "process order is forgotten": (Order.PROCESS, serializable(promises.D2, Order.NOTHING)),
    "process order is taken for real time": (
        Order.REAL_TIME,
        serializable(promises.D2, Order.PROCESS),
    ),
    "an order is imposed": (Order.NOTHING, serializable(promises.D2, Order.REAL_TIME)),
}


def _is_caught(wrong: Checker, order: Order) -> bool:
    histories = (interleaved(seed) for seed in range(3000))
    return any(wrong(history).is_valid != has_an_order(history, order) for history in histories)


@pytest.mark.parametrize(("order", "wrong"), WRONG.values(), ids=WRONG)
def test_wrong_checker_differs_from_search_over_all_orders(order: Order, wrong: Checker) -> None:
    assert _is_caught(wrong, order)


@pytest.mark.parametrize("kind", [Kind.WW, Kind.WR, Kind.RW])
def test_checker_without_one_dependency_is_caught(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forgetful(log: Log, longest: Any) -> Dependencies:
        found = dependencies(log, longest)
        others = Dependencies(found.nodes)
        for source, target, reason, key in found.among(range(found.nodes)):
            if reason is not kind:
                others.add(reason, key, [source], [target])
        return others

    monkeypatch.setattr(harness.checkers.serializability.checker, "dependencies", forgetful)

    assert _is_caught(STRICT, Order.REAL_TIME)


def test_checker_without_unseen_appends_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        harness.checkers.serializability.dependencies, "_append_unseen", lambda *_: None
    )

    assert _is_caught(STRICT, Order.REAL_TIME)


# One example of each name


def append(key: str, value: int) -> Micro:
    return ["append", key, value]


def reads(key: str, *values: int) -> Micro:
    return ["r", key, list(values)]


ANOMALIES = {
    "G0": [
        done(0, (0, 9), append("x", 1), append("y", 1)),
        done(1, (0, 9), append("x", 2), append("y", 2)),
        done(2, (0, 9), reads("x", 1, 2), reads("y", 2, 1)),
    ],
    "G1a": [
        Operation(0, "txn", {"operations": [append("x", 1)]}, Outcome.FAIL, 0, 9),
        done(1, (0, 9), reads("x", 1)),
    ],
    "G1b": [done(0, (0, 9), append("x", 1), append("x", 2)), done(1, (0, 9), reads("x", 1))],
    "G1c": [
        done(0, (0, 9), append("x", 1), reads("y", 1)),
        done(1, (0, 9), append("y", 1), reads("x", 1)),
    ],
    "G-single": [
        done(0, (0, 9), reads("x"), reads("y", 1)),
        done(1, (0, 9), append("x", 1), append("y", 1)),
    ],
    "G2-item": [
        done(0, (0, 9), reads("x"), append("y", 1)),
        done(1, (0, 9), reads("y"), append("x", 1)),
    ],
    "lost-update": [
        done(0, (0, 9), reads("x"), append("x", 1)),
        done(1, (0, 9), reads("x"), append("x", 2)),
        done(2, (0, 9), reads("x", 1, 2)),
    ],
    "phantom": [done(0, (0, 9), reads("x", 1))],
    "duplicate": [done(0, (0, 9), append("x", 1)), done(1, (0, 9), reads("x", 1, 1))],
    "incompatible-order": [
        done(0, (0, 9), append("x", 1)),
        done(1, (0, 9), append("x", 2)),
        done(2, (0, 9), reads("x", 1, 2)),
        done(3, (0, 9), reads("x", 2, 1)),
    ],
    "internal": [done(0, (0, 9), append("x", 1), reads("x"))],
    "G0-realtime": [
        done(0, (0, 1), append("x", 1)),
        done(0, (2, 3), append("x", 2)),
        done(0, (4, 5), reads("x", 2, 1)),
    ],
    "G1c-realtime": [done(0, (0, 1), reads("x", 1)), done(1, (2, 3), append("x", 1))],
    "G-single-realtime": [done(0, (0, 1), append("x", 1)), done(1, (2, 3), reads("x"))],
    "G2-item-realtime": [
        done(0, (0, 1), append("z", 1)),
        done(1, (2, 9), reads("y")),
        done(2, (0, 9), reads("z"), append("y", 1)),
    ],
}


INTERNAL = {
    "without what it had appended": [done(0, (0, 9), append("x", 1), reads("x"))],
    "with another's value for its own": [
        done(0, (0, 9), append("x", 1), reads("x", 2)),
        done(1, (0, 9), append("x", 2)),
    ],
    "two different lists": [
        done(0, (0, 9), reads("x"), reads("x", 1)),
        done(1, (0, 9), append("x", 1)),
    ],
    "more than what it read and appended": [
        done(0, (0, 9), reads("x"), append("x", 2), reads("x", 1, 2)),
        done(1, (0, 9), append("x", 1)),
    ],
    "what it appended only later": [done(0, (0, 9), reads("x"), reads("x", 1), append("x", 1))],
}


@pytest.mark.parametrize("operations", INTERNAL.values(), ids=INTERNAL)
def test_self_contradicting_transaction_is_internal(operations: list[Operation]) -> None:
    anomalies = STRICT(in_order(operations)).anomalies

    internal = [anomaly for anomaly in anomalies if anomaly.name == "internal"]
    assert [(anomaly.promise, anomaly.evidence) for anomaly in internal] == [
        (promises.D2, (operations[0],))
    ]


@pytest.mark.parametrize("name", ANOMALIES)
def test_each_kind_of_anomaly_has_its_name(name: str) -> None:
    anomalies = STRICT(in_order(ANOMALIES[name])).anomalies

    assert name in {anomaly.name for anomaly in anomalies}
    for anomaly in anomalies:
        assert anomaly.message
        assert anomaly.evidence
        assert anomaly.expected
        assert anomaly.observed
        assert anomaly.expected != anomaly.observed


@pytest.mark.parametrize("name", ["G0", "G1c", "G-single"])
def test_realtime_anomaly_is_valid_without_real_time(name: str) -> None:
    """With the order of one process, the name of the anomaly ends in *process*."""
    history = in_order(ANOMALIES[f"{name}-realtime"])
    own = in_order([replace(op, process=0) for op in history])

    assert serializable(promises.D2, Order.NOTHING)(history).is_valid
    (anomaly,) = serializable(promises.D2, Order.PROCESS)(own).anomalies
    assert anomaly.name == f"{name}-process"


def test_unacknowledged_transaction_that_was_read_happened() -> None:
    """Then the whole transaction happened, and its other appends count."""
    lost = Operation(
        0, "txn", {"operations": [append("x", 1), append("y", 1)]}, Outcome.INFO, 0, None
    )
    seen, unseen = done(1, (1, 2), reads("x", 1)), done(1, (3, 4), reads("y"))

    assert STRICT(in_order([lost, unseen])).is_valid
    assert STRICT(in_order([lost, seen])).is_valid
    (anomaly,) = STRICT(in_order([lost, seen, unseen])).anomalies
    assert anomaly.name == "G-single-realtime"


def test_value_appended_twice_is_unknown() -> None:
    history = in_order([done(0, (0, 1), append("x", 1)), done(0, (2, 3), append("x", 1))])

    verdict = STRICT(history)

    assert verdict.validity is Validity.UNKNOWN
    assert "'x'" in verdict.unknowns[0]


def test_evidence_of_a_cycle_is_the_shortest() -> None:
    """Ten transactions form a ring of reads; two of them also read each other."""
    ring = [
        [append(f"k{place}", 1), reads(f"k{(place - 1) % 10}", 1), reads(f"k{(place + 1) % 10}")]
        for place in range(10)
    ]
    ring[4][2] = reads("k5", 1)

    (anomaly,) = STRICT(
        in_order([done(n, (0, 9), *micros) for n, micros in enumerate(ring)])
    ).anomalies

    assert anomaly.name == "G1c"
    assert [transaction.process for transaction in anomaly.evidence] == [4, 5]
    assert anomaly.message == "the transactions T1, T2 precede each other (G1c)"
    assert anomaly.observed == (
        "T2 read an append of T1 to 'k4', but T1 read an append of T2 to 'k5'"
    )


def test_long_history_with_one_fault_has_one_anomaly() -> None:
    """The two transactions of a lost update are found among three hundred."""
    calm = [
        done(0, (10 * n, 10 * n + 1), reads("x", *range(n)), append("x", n)) for n in range(300)
    ]
    calm[200] = done(0, (2000, 2001), reads("x", *range(199)), append("x", 200))

    anomalies = STRICT(in_order(calm)).anomalies

    assert len(anomalies) == 1
    assert len(anomalies[0].evidence) == 2


def test_worse_cycle_is_preferred_to_a_shorter_one() -> None:
    """Three overwrote each other in a ring, and two of them read each other as well."""
    ring = [
        done(0, (0, 9), append("a", 1), append("c", 2), append("p", 1), reads("q", 1)),
        done(1, (0, 9), append("a", 2), append("b", 1), append("q", 1), reads("p", 1)),
        done(2, (0, 9), append("b", 2), append("c", 1)),
        done(3, (0, 9), reads("a", 1, 2), reads("b", 1, 2), reads("c", 1, 2)),
    ]

    (anomaly,) = STRICT(in_order(ring)).anomalies

    assert anomaly.name == "G0"
    assert [transaction.process for transaction in anomaly.evidence] == [0, 1, 2]


def test_cycle_with_one_anti_dependency_is_preferred() -> None:
    """Two missed each other's appends; through a third, one read an append of the other."""
    history = in_order(
        [
            done(0, (0, 9), reads("x"), append("y", 1)),
            done(1, (0, 9), reads("y"), append("x", 1), append("z", 1)),
            done(2, (0, 9), reads("z", 1), append("w", 1)),
            done(3, (0, 9), reads("w", 1), append("v", 1)),
        ]
    )
    closed = [
        replace(op, result=[*op.result, reads("v", 1)]) if op.process == 0 else op for op in history
    ]

    (anomaly,) = STRICT(in_order(closed)).anomalies

    assert anomaly.name == "G-single"
    assert [transaction.process for transaction in anomaly.evidence] == [0, 1, 2, 3]


def test_lost_update_requires_equal_reads() -> None:
    """The second read half of the appends of the first, which is another anomaly."""
    history = in_order(
        [
            done(0, (0, 9), reads("x"), append("x", 5), append("x", 1)),
            done(1, (0, 9), reads("x", 5), append("x", 2)),
            done(2, (0, 9), reads("x", 5, 1, 2)),
        ]
    )

    assert {anomaly.name for anomaly in STRICT(history).anomalies} == {"G1b"}


def test_list_changed_under_a_reader_is_not_intermediate() -> None:
    history = in_order(
        [done(0, (0, 9), append("x", 1)), done(1, (0, 9), reads("x"), reads("x", 1))]
    )

    assert {anomaly.name for anomaly in STRICT(history).anomalies} == {"internal", "G-single"}


def test_process_order_skips_unacknowledged_transactions() -> None:
    """Only acknowledged transactions are in the order of their process.

    C0: |- append(1) -| |- append(2) ? |- read() -> [1] -| |- read() -> [1, 2] -|
    """
    lost = Operation(0, "txn", {"operations": [append("x", 2)]}, Outcome.INFO, 2, None)
    others = [
        done(0, (0, 1), append("x", 1)),
        done(0, (4, 5), reads("x", 1)),
        done(0, (6, 7), reads("x", 1, 2)),
    ]

    assert serializable(promises.D2, Order.PROCESS)(in_order([*others, lost])).is_valid
    assert STRICT(in_order([*others, lost])).is_valid


def test_doubtful_transaction_with_an_end_may_be_missing() -> None:
    lost = Operation(0, "txn", {"operations": [append("x", 1)]}, Outcome.INFO, 0, 1)

    assert STRICT(in_order([lost, done(1, (2, 3), reads("x"))])).is_valid
