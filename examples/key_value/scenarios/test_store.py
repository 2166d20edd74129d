"""The key-value store on trial: any sequence of calls, and threads that meet."""

from __future__ import annotations

from harness import (
    Call,
    Expectation,
    History,
    Interleaving,
    Judge,
    Machine,
    Mode,
    Operation,
    Outcome,
    Program,
    Refusal,
    Scenario,
    conforms,
    explore_machine,
    linearizable,
)
from hypothesis import strategies as st
from hypothesis.stateful import rule

from suite import K1, K2

KEYS = ("a", "b")
State = tuple[tuple[str, int], ...]


class Counters:
    """The sequential specification: numbers by key, each 0 at first."""

    name = "counters"

    def initial(self) -> State:
        """Nothing is written yet."""
        return ()

    def step(self, state: State, operation: Operation) -> tuple[State, ...] | Refusal:
        """Read a number, or add to it and return the sum."""
        numbers, key = dict(state), operation.argument["key"]
        promise = K1 if key in numbers else K2
        if operation.function == "add":
            numbers[key] = numbers.get(key, 0) + operation.argument["amount"]
            promise = K1
        after = tuple(sorted(numbers.items()))
        if operation.outcome is not Outcome.OK:
            return (state, after)
        expected = numbers.get(key, 0)
        if operation.result != expected:
            message = f"{operation} does not follow from the calls before it"
            return Refusal(promise, message, accepted=(expected,), expected=str(expected))
        return (after,)


class CountersMachine(Machine):
    """Hypothesis draws the calls; the model judges each answer."""

    model = Counters()

    @rule(key=st.sampled_from(KEYS), amount=st.integers(-3, 3))
    def add(self, key: str, amount: int) -> None:
        """Add to a number."""
        self.ask("add", key=key, amount=amount)

    @rule(key=st.sampled_from(KEYS))
    def get(self, key: str) -> None:
        """Read a number."""
        self.ask("get", key=key)


def two_adds_overlapped(history: History) -> bool:
    """Whether two additions were under way at the same time."""
    adds = [operation for operation in history if operation.function == "add"]
    return any(one.meets(other) for one in adds for other in adds if one is not other)


ADD = Call("add", {"key": "a", "amount": 1})
THREADS = Interleaving(
    programs=(
        Program("two adds", ((ADD,), (ADD,)), stuck=K1, last=(Call("get", {"key": "a"}),)),
        Program("an add and a read", ((ADD,), (Call("get", {"key": "a"}),)), stuck=K1),
    ),
    check=linearizable(Counters(), K1),
    meetings={"two adds overlapped": two_adds_overlapped},
)

ANY_SEQUENCE = Scenario(
    name="store-any-sequence",
    mode=Mode.MODEL,
    ability="store",
    promises=(K1, K2),
    workload=explore_machine(CountersMachine),
    checker=conforms(CountersMachine.model),
    expectations=(Expectation("calls", len, 100),),
)
MEETING_THREADS = THREADS.scenario("store-threads", ability="store", promises=(K1,), examples=200)


def test_any_sequence_of_calls_counts(judge: Judge) -> None:
    """One client calls in any order."""
    assert judge(ANY_SEQUENCE).is_valid


def test_threads_that_meet_lose_no_addition(judge: Judge) -> None:
    """Two threads call at the same time, under every schedule with few preemptions."""
    assert judge(MEETING_THREADS).is_valid
