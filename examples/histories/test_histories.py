"""Judges histories and explores threads without any server: `pytest test_histories.py`.

Each test shows one thing that the library offers: models and checkers on histories that the test
builds, a checker and a model of one's own, the explorer on a class, and a scenario that is run and
judged by calling functions.
"""

from __future__ import annotations

import threading
from pathlib import Path

from harness import (
    Anomaly,
    Budget,
    Call,
    Checker,
    Context,
    Contract,
    Expectation,
    History,
    KeyValue,
    Mode,
    Model,
    Operation,
    Order,
    Outcome,
    Promise,
    Refusal,
    Register,
    Scenario,
    Target,
    Verdict,
    conforms,
    explore,
    judge,
    linearizable,
    run,
    serializable,
    unique_queue,
    unique_register,
    unique_set,
)
from harness.testing import FakeTarget, at, fails, history, judged, ok, unknown

P1 = Promise("P1", "Every operation takes effect at one instant between its call and its reply.")
P2 = Promise("P2", "Transactions have the effect of an order in which they run one by one.")
CONTRACT = Contract("example", (P1, P2))


def test_register_stale_read_is_an_anomaly() -> None:
    """A read that began after a write had completed must return the new value."""
    stale = history(ok("write", value=1), ok("write", value=2, process=1), ok("read", result=1))
    for check in (linearizable(Register(P1), P1), unique_register(P1)):
        verdict = check(stale)
        assert [anomaly.promise for anomaly in verdict.anomalies] == [P1]


def test_register_overlapping_read_may_return_either() -> None:
    """A read that overlaps a write may return the old value or the new one."""
    for value in (None, 1):
        verdict = judged(
            linearizable(Register(P1), P1),
            at(ok("write", value=1), 0, 10),
            at(ok("read", result=value, process=1), 5, 6),
        )
        assert verdict.is_valid


def test_register_lost_reply_may_have_happened() -> None:
    """After a lost reply the write may have happened; after a refusal it has not."""
    check = linearizable(Register(P1), P1)
    assert judged(check, unknown("write", value=1), ok("read", result=1, process=1)).is_valid
    assert not judged(check, fails("write", value=1), ok("read", result=1)).is_valid


def test_key_value_store_is_judged_by_key() -> None:
    """Keys are independent, so the search runs for each of them alone."""
    check = linearizable(KeyValue(P1), P1, partition=lambda operation: operation.argument["key"])
    assert judged(check, ok("put", key="a", value="x"), ok("get", key="a", result="x")).is_valid
    assert not judged(check, ok("put", key="a", value="x"), ok("get", key="a", result="")).is_valid


def test_queue_and_set_lost_items_are_anomalies() -> None:
    """Where each value is used once, queues and sets are judged in about linear time."""
    lost = judged(
        unique_queue(P1),
        ok("enqueue", item="first"),
        ok("enqueue", item="second"),
        ok("dequeue", result="second"),
    )
    assert [anomaly.name for anomaly in lost.anomalies] == ["lost-write"]
    gone = judged(unique_set(P1), ok("add", item=1), ok("read", result=[1]), ok("read", result=[]))
    assert [anomaly.name for anomaly in gone.anomalies] == ["lost-write"]


def test_transactions_lost_update_is_no_order() -> None:
    """Two transactions read the same list and both append to it: no order explains that."""
    both = [["r", "x", []], ["append", "x", 1]], [["r", "x", []], ["append", "x", 2]]
    verdict = judged(
        serializable(P2, Order.NOTHING),
        ok("txn", operations=both[0], result=both[0]),
        ok("txn", operations=both[1], result=both[1], process=1),
        ok("txn", operations=[["r", "x", None]], result=[["r", "x", [1, 2]]], process=2),
    )
    assert [anomaly.promise for anomaly in verdict.anomalies] == [P2]


class Counter:
    """A model of one's own: `add()` returns how often it was called."""

    name = "counter"

    def initial(self) -> int:
        """Not called yet."""
        return 0

    def step(self, state: int, operation: Operation) -> tuple[int, ...] | Refusal:
        """Count one call."""
        if operation.outcome is not Outcome.OK:
            return (state, state + 1)
        if operation.result != state + 1:
            return Refusal(P1, str(operation), accepted=(state + 1,))
        return (state + 1,)


def test_own_model_accepts_and_refuses() -> None:
    """`conforms` folds the history of one client through a model."""
    model: Model[int] = Counter()
    check = conforms(model)
    assert judged(check, ok("add", result=1), ok("add", result=2)).is_valid
    assert not judged(check, ok("add", result=1), ok("add", result=1)).is_valid


def at_most(latency_ms: float, promise: Promise) -> Checker:
    """Make a checker of one's own: every reply arrives within this time."""

    def check(history: History) -> Verdict:
        slow = tuple(
            Anomaly(promise, f"{operation.call} was slow", (operation,))
            for operation in history.happened
            if operation.completed_ns is not None
            and operation.completed_ns - operation.invoked_ns > latency_ms * 1e6
        )
        return Verdict(slow)

    return check


def test_own_checker_accepts_and_refuses() -> None:
    """A checker is a pure function from a history to a verdict."""
    check = at_most(5, P1)
    assert judged(check, at(ok("add", result=1), 0, 5)).is_valid
    assert not judged(check, at(ok("add", result=1), 0, 6)).is_valid


class Unlocked:
    """A counter whose two steps are each locked, and whose sum is not."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.calls = 0

    def add(self) -> int:
        """Count one call; returns how many there were."""
        with self._lock:
            calls = self.calls
        with self._lock:
            self.calls = calls + 1
        return calls + 1

    def close(self) -> None:
        """Close nothing."""


def test_explorer_finds_the_lost_update() -> None:
    """The explorer runs a function under many schedules; a failed assertion is a finding."""

    def two_adds(schedule: object) -> None:
        counter = Unlocked()
        schedule.thread(counter.add)  # type: ignore[attr-defined]
        schedule.thread(counter.add)  # type: ignore[attr-defined]
        schedule.join()  # type: ignore[attr-defined]
        assert counter.calls == 2

    result = explore(two_adds, budget=Budget(schedules=100), seed=1)
    assert result.finding is not None
    assert "acquire Unlocked._lock" in result.story


def three_adds(context: Context) -> None:
    """A workload: one client calls three times."""
    with context.episode() as episode:
        for _ in range(3):
            call = Call("add", {})
            episode.client.ask(call.function, call.argument)


def test_scenario_is_run_and_judged_by_functions(tmp_path: Path) -> None:
    """`run` asks and judges; `judge` reads the stored history and judges it again."""
    scenario = Scenario(
        name="three-adds",
        mode=Mode.MODEL,
        ability="counter",
        promises=(P1,),
        workload=three_adds,
        checker=conforms(Counter()),
        expectations=(Expectation("calls", len, 3),),
    )
    target: Target = FakeTarget({"counter": lambda _: Unlocked()})
    first = run(scenario, target, 1, 1.0, tmp_path)
    again = judge(scenario, tmp_path)
    assert first.verdict == again.verdict
    assert first.verdict.is_valid
    assert first.operations == 3


def test_contract_finds_its_promises() -> None:
    """A contract is a set of promises, each with an ID of its own."""
    assert CONTRACT.promise("P2") is P2
