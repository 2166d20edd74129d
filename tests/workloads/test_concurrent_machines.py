"""Checks that rules of sequential machines run in threads and tasks, and accuse no right class."""

from __future__ import annotations

import asyncio
import itertools
import queue
import re
import threading
from contextlib import suppress
from dataclasses import replace
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule
from hypothesis.stateful import precondition as only_if

from harness import schedule
from harness.core.errors import UsageError
from harness.core.history import History, Operation, Outcome
from harness.schedule import Budget
from harness.testing import Concurrency, NotLinearizableError, run_concurrently
from harness.workloads import concurrent_machines
from harness.workloads.concurrent_machines import DEFAULT_SETTINGS
from harness.workloads.sequential_orders import (
    Fresh,
    MachineCall,
    Orders,
    Program,
    Raised,
    RejectedError,
    Sequential,
    frozen,
    orders_of,
)

FEW = settings(
    DEFAULT_SETTINGS,
    max_examples=5,
    stateful_step_count=4,
    database=None,
    derandomize=True,
)
ONE = settings(FEW, max_examples=1)
BUDGET = Budget(schedules=15, seconds=20.0, timers=0)


class Counter:
    """Adds in one critical section."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.value = 0

    def add(self, number: int) -> None:
        with self._lock:
            self.value += number


class TornCounter(Counter):
    """Reads in one critical section, writes in the next."""

    def add(self, number: int) -> None:
        with self._lock:
            seen = self.value
        with self._lock:
            self.value = seen + number


class CounterMachine(RuleBasedStateMachine):
    """Adds, and its invariant reads."""

    kind: ClassVar[type[Counter]] = Counter

    def __init__(self) -> None:
        super().__init__()
        self.counter, self.total = self.kind(), 0

    @rule(number=st.integers(1, 3))
    def add(self, number: int) -> None:
        self.counter.add(number)
        self.total += number

    @invariant()
    def is_total(self) -> None:
        assert self.counter.value == self.total


class TornCounterMachine(CounterMachine):
    """The same rules on the wrong class."""

    kind = TornCounter


class Cache:
    """An asyncio cache; its lock is held while it loads."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._values: dict[str, int] = {}

    async def load(self, key: str, value: int) -> int:
        async with self._lock:
            return await self._load(key, value)

    async def _load(self, key: str, value: int) -> int:
        if key not in self._values:
            await asyncio.sleep(0)
            self._values[key] = value
        return self._values[key]


class TornCache(Cache):
    """Two may load at once, and the later one wins."""

    async def load(self, key: str, value: int) -> int:
        return await self._load(key, value)


class CacheMachine(RuleBasedStateMachine):
    """Loads."""

    kind: ClassVar[type[Cache]] = Cache

    @initialize(size=st.integers(1, 2))
    def begin(self, size: int) -> None:
        self.cache, self.model = self.kind(), dict.fromkeys(range(size))

    @rule(key=st.sampled_from("ab"), value=st.integers(0, 5))
    def load(self, key: str, value: int) -> None:
        assert isinstance(asyncio.run(self.cache.load(key, value)), int)


class TornCacheMachine(CacheMachine):
    """The same rules on the wrong class."""

    kind = TornCache


def ran(machine: type[RuleBasedStateMachine], subject: str, **options: Any) -> Concurrency:
    """Run with a small budget, the same at each time."""
    return run_concurrently(machine, subject, **{"settings": FEW, "budget": BUDGET, **options})


WRONG = [(TornCounterMachine, "counter", False), (TornCacheMachine, "cache", True)]


@pytest.mark.parametrize(("machine", "subject", "tasks"), WRONG)
def test_torn_class_shrinks_and_replays(
    machine: type[RuleBasedStateMachine], subject: str, *, tasks: bool
) -> None:
    with pytest.raises(NotLinearizableError, match="no sequential order gives") as caught:
        ran(machine, subject, tasks=tasks, settings=settings(FEW, max_examples=40))
    program = caught.value.program
    assert [len(calls) for calls in program.threads] == [1, 1]
    assert not program.before
    assert caught.value.finding.replayed == 10

    text = re.search(r'replay="([^"]+)"', str(caught.value))
    assert text is not None
    with pytest.raises(NotLinearizableError) as again:
        run_concurrently(machine, subject, tasks=tasks, replay=text[1])
    assert str(again.value.program) == str(program)
    mended = machine.__mro__[1]
    assert run_concurrently(mended, subject, tasks=tasks, replay=text[1]).schedules == 1


@pytest.mark.parametrize(
    ("machine", "subject", "tasks"),
    [(CounterMachine, "counter", False), (CacheMachine, "cache", True)],
)
def test_right_class_is_clean(
    machine: type[RuleBasedStateMachine], subject: str, *, tasks: bool
) -> None:
    report = ran(machine, subject, tasks=tasks)
    assert report.programs > 2
    assert report.schedules > report.programs
    assert not report.unknown


class Pool:
    """Lends objects, and takes back those that it lent."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lent: list[object] = []

    def lend(self) -> object:
        with self._lock:
            self._lent.append(handle := object())
        return handle

    def give_back(self, handle: object) -> None:
        with self._lock:
            self._lent.remove(handle)

    def __len__(self) -> int:
        with self._lock:
            return len(self._lent)


class PoolMachine(RuleBasedStateMachine):
    """Objects that one call returned are arguments of later ones."""

    handles = Bundle("handles")

    def __init__(self) -> None:
        super().__init__()
        self.pool = Pool()

    @rule(target=handles)
    def lend(self) -> object:
        return self.pool.lend()

    @rule(handle=handles)
    def give_back(self, handle: object) -> None:
        with suppress(ValueError):
            self.pool.give_back(handle)

    @invariant()
    def is_counted(self) -> None:
        assert len(self.pool) >= 0


def test_answers_as_arguments_are_no_fault() -> None:
    many = settings(FEW, max_examples=10)
    assert ran(PoolMachine, "pool", settings=many).programs > 3


class QueueMachine(RuleBasedStateMachine):
    """Gets only where something is; a queue without would block."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: queue.Queue[int] = queue.Queue()
        self.puts = 0

    @rule()
    def put(self) -> None:
        self.queue.put(1)
        self.puts += 1

    @rule()
    def get_if_any(self) -> None:
        if self.puts:
            assert self.queue.get() == 1
            self.puts -= 1

    @only_if(lambda machine: machine.puts)
    @rule()
    def get(self) -> None:
        assert self.queue.get() == 1
        self.puts -= 1


def test_guards_and_preconditions_hold_in_every_order() -> None:
    many = settings(FEW, max_examples=12)
    report = ran(QueueMachine, "queue", settings=many)
    assert report.programs > 3
    assert "a precondition does not hold in every order" in report.rejected
    assert "a rule makes other calls in another order" in report.rejected


# Programs and their orders


def program_of(kind: type, *threads: list[str], before: list[str] = []) -> Program:  # noqa: B006
    """Make a program of calls without arguments."""

    class Maker:
        def teardown(self) -> None:
            raise AssertionError("its model knows none of these calls")

    numbers = itertools.count(1)
    rows = [tuple(MachineCall(name, None, next(numbers)) for name in row) for row in threads]
    first = tuple(MachineCall(name, None, next(numbers)) for name in before)
    return Program(lambda: Fresh(Maker(), kind()), first, tuple(rows), ())


class Ticks:
    """Each call has another answer; `fail` raises."""

    def __init__(self) -> None:
        self._ticks = itertools.count()

    def tick(self) -> int:
        return next(self._ticks)

    def fail(self) -> None:
        raise KeyError(self.tick())


def a_history(order: tuple[int, ...], results: list[Any], *, overlap: bool) -> History:
    """Calls of these processes, one after the other, or all at once."""
    return History(
        tuple(
            Operation(
                p,
                "tick",
                None,
                Outcome.OK,
                n if overlap else 2 * n,
                90 + n if overlap else 2 * n + 1,
                result,
            )
            for n, (p, result) in enumerate(zip(order, results, strict=True))
        )
    )


@pytest.fixture(scope="module")
def ticks() -> Orders:
    return orders_of(program_of(Ticks, ["tick", "tick"], ["tick"]), Sequential())


@settings(deadline=None, max_examples=30)
@given(order=st.permutations([1, 1, 2]), wrong=st.integers(0, 2))
def test_sequential_order_is_accepted_and_no_other(
    ticks: Orders, order: list[int], wrong: int
) -> None:
    results: list[Any] = [0, 1, 2]
    assert ticks.judge(a_history(tuple(order), results, overlap=False)).is_valid
    results[wrong] = 3
    assert not ticks.judge(a_history(tuple(order), results, overlap=False)).is_valid


def test_order_of_times_is_respected(ticks: Orders) -> None:
    assert ticks.judge(a_history((1, 2), [1, 0], overlap=True)) is not None
    late = a_history((1, 2, 1), [1, 0, 2], overlap=False)  # 2 answers as if it had been first
    assert not ticks.judge(late).is_valid


def test_exceptions_are_answers_by_type() -> None:
    orders = orders_of(program_of(Ticks, ["fail"], ["tick"]), Sequential())
    assert set(orders.answers.values()) == {Raised("KeyError"), 0, 1}


class Waits:
    """Waits for something that no call brings, or for another call."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._never = threading.Event()

    def go(self) -> None:
        self._open.set()

    def wait(self) -> bool:
        return self._open.wait()

    def hang(self) -> bool:
        return self._never.wait()


def test_call_that_waits_for_other_is_asked() -> None:
    orders = orders_of(program_of(Waits, ["wait"], ["go"]), Sequential())
    assert set(orders.answers) == {(2,), (2, 1)}


@pytest.mark.parametrize("threads", [(["hang"], ["go"]), (["wait", "go"], ["wait"])])
def test_program_that_blocks_in_sequence_is_rejected(threads: tuple[list[str], ...]) -> None:
    with pytest.raises(RejectedError, match="block"):
        orders_of(program_of(Waits, *threads), Sequential())


class Fickle:
    """Does not repeat its answers."""

    numbers = itertools.count()

    def answer(self) -> int:
        return next(self.numbers)


def test_unrepeatable_answers_are_usage_error() -> None:
    with pytest.raises(UsageError, match="expected a class that repeats its answers"):
        orders_of(program_of(Fickle, ["answer", "answer"], ["answer"]), Sequential())


def test_answers_are_compared_as_they_were() -> None:
    live = {"a": [1]}
    answer = frozen(live)
    live["a"].append(2)
    assert answer == frozen({"a": [1]})
    assert answer != frozen(live)
    assert frozen(object()) == frozen(object())
    assert frozen(float("nan")) == frozen(float("nan"))
    assert frozen({2, 1}) == frozen({1, 2})


# Machines that do not fit


def test_missing_subject_is_usage_error() -> None:
    with pytest.raises(UsageError, match="no attribute 'nothing'"):
        ran(CounterMachine, "nothing")


def test_awaitable_in_thread_is_usage_error() -> None:
    with pytest.raises(UsageError, match="expected tasks=True"):
        ran(CacheMachine, "cache")


class IdleMachine(RuleBasedStateMachine):
    """Its rule never calls the subject."""

    def __init__(self) -> None:
        super().__init__()
        self.counter = Counter()

    @rule()
    def rest(self) -> None:
        pass


def test_machine_without_calls_proves_nothing() -> None:
    with pytest.raises(UsageError, match="no program was explored"):
        ran(IdleMachine, "counter")


def test_search_that_proves_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    explore = schedule.explore

    def escaping(*args: Any, **options: Any) -> Any:
        return replace(explore(*args, **options), escapes=("a native lock",))

    monkeypatch.setattr(concurrent_machines, "explore", escaping)
    with pytest.raises(AssertionError, match="unknown: a native lock"):
        ran(CounterMachine, "counter", settings=ONE)
    assert ran(CounterMachine, "counter", settings=ONE, allow_unknown=True).unknown
