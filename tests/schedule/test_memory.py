"""Checks that unsynchronised accesses are found, named and explored at the default level."""

from __future__ import annotations

import functools
import heapq
import sys
import threading
from collections import defaultdict
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field

import pytest

from harness.core.verdict import Validity
from harness.schedule import Budget, Finding, Result, Run, explore, replay, reproduced
from harness.schedule.accesses import SPINS, Loop
from harness.schedule.program import Body
from harness.schedule.sites import Site

AMPLE = Budget(schedules=5_000, seconds=30.0)


class Store:
    """Check-then-act on plain memory, in different forms, without a lock and with one."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.items: dict[str, int] = {}
        self.value = 0
        self.made = 0
        self.ready = False
        self.log: list[str] = []

    def make(self) -> int:
        """Make an item."""
        self.made += 1
        return self.made

    def get(self) -> int:
        """Make the item once: two threads may both see none."""
        if "k" not in self.items:
            self.items["k"] = self.make()
        return self.items["k"]

    def get_locked(self) -> int:
        """Make the item once, under the lock."""
        with self.lock:
            return self.get()

    def add(self) -> None:
        """Add in two lines."""
        seen = self.value
        self.value = seen + 1

    def add_at_once(self) -> None:
        """Add in one statement."""
        self.value += 1

    def add_through_call(self) -> None:
        """Add in one line, with a call between the read and the write."""
        self.value = self.value + one()


def one() -> int:
    """Return one; CPython may release its global lock on the way."""
    return 1


def both(method: str, value: str, expected: int) -> Body:
    """Make a body in which two threads call a method, after which an attribute has a value."""

    def body(run: Run) -> None:
        store = Store()
        run.thread(getattr(store, method), name="a")
        run.thread(getattr(store, method), name="b")
        run.join()
        assert getattr(store, value) == expected

    return body


def found(body: Body) -> Finding:
    """Explore a body that must fail at the default level."""
    finding = explore(body, budget=AMPLE).finding
    assert finding is not None
    assert reproduced(body, finding, times=20) == 20
    return finding


def valid(body: Body, budget: Budget = AMPLE) -> Result:
    """Explore a body that must hold, all of its schedules."""
    result = explore(body, budget=budget)
    assert result.validity is Validity.VALID, result.story
    assert result.exhausted, str(result)
    return result


@pytest.mark.parametrize("method", ["add", "add_at_once", "add_through_call"])
def test_unlocked_counter_is_found(method: str) -> None:
    finding = found(both(method, "value", 2))
    assert any("self.value, no common lock" in access for access in finding.accesses)
    assert "test_memory.py:" in finding.story


def test_lost_update_across_call_happens_on_cpython() -> None:
    assert found(both("add_through_call", "value", 2)).feasible


def test_lost_update_of_one_statement_is_infeasible() -> None:
    assert not found(both("add_at_once", "value", 2)).feasible
    stock = explore(both("add_at_once", "value", 2), budget=AMPLE, stock=True)
    assert stock.finding is None
    assert stock.accesses
    assert not stock.exhausted
    assert "not exhausted: no points, as a stock CPython does not switch" in str(stock)


def test_unlocked_check_then_act_is_found() -> None:
    finding = found(both("get", "made", 1))
    assert any("writes self.items" in access for access in finding.accesses)


def test_locked_check_then_act_has_no_points() -> None:
    result = valid(both("get_locked", "made", 1))
    assert (result.lines, result.accesses) == (0, ())
    assert "0 lines of tests.schedule.test_memory are points" in str(result)


def test_finding_replays_in_json_and_choices() -> None:
    finding = Finding.from_json(found(both("get", "made", 1)).to_json())
    (execution,) = replay(
        both("get", "made", 1), finding.choices, points=finding.points, timers=finding.timers
    )
    assert execution.ending is not None
    assert execution.ending.kind == "assertion"


total = 0


def test_unlocked_global_is_found() -> None:
    def add() -> None:
        global total  # noqa: PLW0603 - the access on trial
        seen = total
        total = seen + 1

    def body(run: Run) -> None:
        global total  # noqa: PLW0603 - the access on trial
        total = 0
        run.thread(add)
        run.thread(add)
        run.join()
        assert total == 2

    assert any("writes total" in access for access in found(body).accesses)


def test_unlocked_closure_is_found() -> None:
    def body(run: Run) -> None:
        count = 0

        def add() -> None:
            nonlocal count
            seen = count
            count = seen + 1

        run.thread(add)
        run.thread(add)
        run.join()
        assert count == 2

    assert any("writes count" in access for access in found(body).accesses)


def test_class_attribute_is_one_place_for_all_objects() -> None:
    class Shared:
        count = 0

        def add(self) -> None:
            """Add to the class."""
            seen = Shared.count
            Shared.count = seen + 1

    def body(run: Run) -> None:
        Shared.count = 0
        run.thread(Shared().add)
        run.thread(Shared().add)
        run.join()
        assert Shared.count == 2

    found(body)


def test_hand_over_by_event_and_join_is_ordered() -> None:
    """What a thread wrote before it set an event needs no lock, nor what it wrote before its end.

    a: value = 1, [set]            log.append .. end
    b:                 [wait] value                   join, log
    """

    def body(run: Run) -> None:
        store, done = Store(), threading.Event()

        def write() -> None:
            store.value = 1
            done.set()
            store.log.append("end")

        def read() -> None:
            done.wait()
            assert store.value == 1

        writer = run.thread(write)
        run.thread(read)
        run.join(writer)
        assert store.log == ["end"]

    assert valid(body).accesses == ()


def test_hand_over_by_pool_is_ordered() -> None:
    def body(run: Run) -> None:  # noqa: ARG001 - the pool starts the threads
        store = Store()
        with ThreadPoolExecutor(max_workers=1) as pool:
            store.value = 1
            assert pool.submit(lambda: store.value).result() == 1

    result = explore(body, budget=Budget(schedules=200, seconds=20.0))
    assert (result.finding, result.accesses) == (None, ())


def test_bare_loop_that_other_thread_ends_gets_points() -> None:
    """The loop has no visible operation of its own, but what it reads is written elsewhere."""

    def body(run: Run) -> None:
        store = Store()

        def poll() -> None:
            while not store.ready:
                pass

        def answer() -> None:
            store.ready = True

        run.thread(poll, name="poller")
        run.thread(answer, name="setter")
        run.join()

    budget = Budget(schedules=5, seconds=20.0, steps=500)
    result = explore(body, budget=budget, strategies=["bounded"])
    assert result.validity is Validity.VALID, result.story
    assert not result.exhausted
    assert any("reads store.ready" in access for access in result.accesses)


def test_bare_loop_without_end_is_named_and_unknown() -> None:
    """A loop on memory that no thread writes is neither a livelock that is proven, nor valid."""

    def body(run: Run) -> None:
        store = Store()

        def poll() -> None:
            while not store.ready:
                pass

        run.thread(poll, name="poller")
        run.join()

    result = explore(body, budget=Budget(schedules=5, seconds=20.0, steps=500))
    assert result.validity is Validity.UNKNOWN
    assert any("poller polls `store.ready`" in escape for escape in result.escapes)


def test_loop_without_any_access_ends_with_the_budget() -> None:
    def body(run: Run) -> None:
        def spin() -> None:
            while True:
                pass

        run.thread(spin, name="spinner")
        run.join()

    result = explore(body, budget=Budget(schedules=5, seconds=0.5))
    assert result.validity is Validity.UNKNOWN
    (escape,) = result.escapes
    assert escape.startswith("spinner took no step for")
    assert "test_memory.py:" in escape


LOCKS: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)


class PerKey:
    """A lock for each key, from a factory that a default argument took at the import."""

    def __init__(self, make: type[threading.Lock] = threading.Lock) -> None:
        self.locks: defaultdict[str, threading.Lock] = defaultdict(make)
        self.value = 0

    def add(self) -> None:
        """Read in one section, write in the next."""
        with self.locks["k"]:
            seen = self.value
        with self.locks["k"]:
            self.value = seen + 1


class Global(PerKey):
    """Locks of a dict that exists since the import."""

    def __init__(self) -> None:
        super().__init__()
        self.locks = LOCKS


@dataclass
class Data:
    """A lock from a field of a dataclass."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    value: int = 0

    def add(self) -> None:
        """Read in one section, write in the next."""
        with self.lock:
            seen = self.value
        with self.lock:
            self.value = seen + 1


@pytest.mark.parametrize("make", [PerKey, Global, Data])
def test_lock_from_captured_factory_is_under_control(make: type[PerKey]) -> None:
    def body(run: Run) -> None:
        counter = make()
        run.thread(counter.add, name="a")
        run.thread(counter.add, name="b")
        run.join()
        assert counter.value == 2

    result = explore(body, budget=AMPLE)
    assert result.validity is Validity.INVALID
    assert result.escapes == ()
    assert LOCKS.default_factory is threading.Lock


FACTORIES = (threading.Lock,)  # a tuple cannot be changed


def test_lock_that_stays_native_is_named() -> None:
    def body(run: Run) -> None:
        make = FACTORIES[0]

        def hold() -> None:
            lock = make()
            with lock:
                pass

        run.thread(hold)
        run.thread(hold)
        run.join()

    result = explore(body, budget=Budget(schedules=10, seconds=20.0))
    assert result.validity is Validity.UNKNOWN
    assert any("a native lock, made in" in escape for escape in result.escapes)


class Kept:
    """Results that are kept once made, by different means."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.made: list[int] = []
        self.numbers = self._numbers()
        self.name = "value"
        self.heap = [1]

        @functools.lru_cache
        def table() -> int:
            return self.make()

        self.table = table

    def make(self) -> int:
        """Make a result."""
        self.made.append(1)
        return 1

    def by_name(self) -> None:
        """Make an attribute once, by its name."""
        if not hasattr(self, "value"):
            setattr(self, self.name, self.make())  # the name is computed, as in a mixin

    def deleted_by_name(self) -> None:
        """Take an attribute once, by its name."""
        if getattr(self, "name", None):
            delattr(self, "name")
            self.make()

    def cached(self) -> None:
        """Make a result once, by lru_cache, which runs the function twice at the same time."""
        table = self.table
        table()

    def cached_method(self) -> None:
        """The same, as a method."""
        self.loaded()

    @functools.cache  # noqa: B019 - the object lives as long as the test
    def loaded(self) -> int:
        """Make a result once for each object."""
        return self.make()

    def cached_property(self) -> None:
        """Make a result once, as a property."""
        self.property_  # noqa: B018

    @functools.cached_property
    def property_(self) -> int:
        """Make a result once."""
        return self.make()

    def _numbers(self) -> Iterator[int]:
        number = 0
        while True:
            number += 1
            yield number

    def popped(self) -> None:
        """Take the only item of a heap, which a function of C changes."""
        if self.heap:
            self.made.append(heapq.heappop(self.heap))

    def numbered(self) -> None:
        """Take a number from a generator, in which only one thread may be."""
        self.made += [1] * (next(self.numbers) == 1)


KEPT = [
    *("by_name", "deleted_by_name", "cached", "cached_method", "cached_property"),
    *("popped", "numbered"),
]


def kept(method: str, *, locked: bool) -> Body:
    """Make a body in which two threads want a result that is made once."""

    def body(run: Run) -> None:
        result = Kept()

        def use() -> None:
            with result.lock if locked else nullcontext():
                getattr(result, method)()

        run.thread(use, name="a")
        run.thread(use, name="b")
        run.join()
        assert len(result.made) == 1

    return body


@pytest.mark.parametrize("method", KEPT)
def test_unlocked_result_is_made_twice(method: str) -> None:
    """Accesses by name, results that functools keeps, and generators are followed too."""
    result = explore(kept(method, locked=False), budget=AMPLE)
    if method == "cached_property" and sys.version_info < (3, 12):
        assert result.finding is None  # CPython takes a lock
        assert result.validity is Validity.VALID
        return
    assert result.finding is not None, result
    assert result.finding.feasible is (method != "popped")  # a test and a call: no switch between
    assert reproduced(kept(method, locked=False), result.finding, times=5) == 5
    if method == "numbered":
        assert result.finding.message == "ValueError: generator already executing"


@pytest.mark.parametrize("method", KEPT)
def test_locked_result_is_exhausted(method: str) -> None:
    result = explore(kept(method, locked=True), budget=AMPLE)
    assert result.finding is None
    assert result.exhausted
    assert not result.escapes


def test_generators_keep_their_values() -> None:
    """What is sent, thrown and returned passes through the hooks unchanged."""

    def talk() -> Generator[object, object, list[object]]:
        heard: list[object] = []
        try:
            heard.append((yield "first"))
            heard.append((yield "second"))
        except KeyError as error:
            yield error
        return heard

    def body(run: Run) -> None:
        def listen() -> None:
            words = talk()
            assert next(words) == "first"
            assert words.send(1) == "second"
            with pytest.raises(StopIteration) as ended:
                words.send(2)
            assert ended.value.value == [1, 2]
            words = talk()
            next(words)
            assert isinstance(words.throw(KeyError("x")), KeyError)

        run.thread(listen)
        run.thread(listen)
        run.join()

    result = explore(body, budget=Budget(schedules=40))
    assert result.finding is None, result.story
    assert result.accesses == ()


class Table:
    """Rows that one thread adds and another one lists."""

    def __init__(self) -> None:
        self.rows = {"a": 1, "c": 3}

    def add(self) -> None:
        self.rows["b"] = 2

    def listed(self, how: str) -> list[str]:
        match how:
            case "loop":
                names = []
                for name in self.rows:
                    names += [str(name)]
                return names
            case "enumerate":
                return [f"{number}{name}" for number, name in enumerate(self.rows)]
            case "view":
                return [f"{name}{row}" for name, row in self.rows.items()]
            case _:
                return list(self.rows)


def listing(how: str) -> Body:
    """A body in which a list of rows meets a new row."""

    def body(run: Run) -> None:
        table = Table()
        run.thread(table.listed, how, name="lister")
        run.thread(table.add, name="adder")
        run.join()

    return body


@pytest.mark.parametrize("stock", [False, True])
@pytest.mark.parametrize("how", ["loop", "view", "enumerate"])
def test_loop_over_changing_dict_is_found(how: str, stock: bool) -> None:  # noqa: FBT001
    """A dict changes its size between two steps of a loop, where a stock CPython switches too."""
    result = explore(listing(how), stock=stock)

    assert result.finding is not None
    assert result.finding.error == "RuntimeError"
    assert "dictionary changed size" in result.finding.message
    assert "next of self.rows" in result.story


def test_copy_of_changing_dict_is_exhausted() -> None:
    """`list` copies within one call, which no other thread interrupts."""
    result = explore(listing("list"))

    assert result.validity is Validity.VALID
    assert result.exhausted


def test_loop_has_few_points() -> None:
    """Of a thousand items the first steps, powers of two, and the last."""
    steps: list[object] = []
    site = Site("m", "f", "g", 1, 1, "value", "", writes=False, text="x", feasible=True, loops=True)
    items = list(range(1_000))

    assert list(Loop(items, items, site, lambda *step: steps.append(step))) == items
    assert len(steps) == 12


class Handle:
    """An object with a finalizer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def use(self) -> None:
        with self._lock:
            pass

    def __del__(self) -> None:
        pass


def test_finalizers_in_use_are_named() -> None:
    """The garbage collector can run them at other moments than an exploration does."""

    def body(run: Run) -> None:
        handle = Handle()
        run.thread(handle.use)
        run.thread(handle.use)
        run.join()

    assert "finalizers" not in str(explore(listing("list")))
    assert "Handle.__del__ at " in str(explore(body))


def quotes_in(text: str) -> int:
    """Step through a text by hand, as parsers do."""
    found = at = 0
    while at < len(text):
        found += text[at] == '"'
        at += 1
    return found


def test_scan_of_a_text_is_no_poll() -> None:
    """No thread can change a text or a number, so a long loop over them gets no point."""
    text = '"' * (2 * SPINS)

    def body(run: Run) -> None:
        run.thread(lambda: quotes_in(text), name="a")
        run.thread(lambda: quotes_in(text), name="b")
        run.join()

    result = explore(body, budget=Budget(schedules=1, seconds=60.0))

    assert result.escapes == ()
    assert result.steps_max < SPINS
