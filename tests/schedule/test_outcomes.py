"""Checks that exhaustive search reaches every outcome of a program, and no other.

`[ ]` is one critical section. Every test holds with either thread started first, and for every
exhaustive search: without reduction, with sleep sets, and with sleep sets for programs that touch
shared memory only under locks or through cells.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.schedule import Budget, Cell, Level, Run, explore, install, uninstall
from harness.schedule.program import Body

AMPLE = Budget(schedules=200_000, seconds=60.0)
UNGUARDED = ("bounded", "reduced")
GUARDED = (*UNGUARDED, "guarded")


@pytest.fixture(autouse=True, scope="module")
def _patched() -> Iterator[None]:
    """Patch once for all tests: each search looks through all objects otherwise."""
    install()
    yield
    uninstall()


def outcomes(body: Body, search: str, level: Level = Level.SYNC) -> set[Hashable]:
    """Return every outcome of a program, by an exhaustive search."""
    result = explore(
        body, budget=AMPLE, strategies=[search], level=level, modules=[__name__], seed=1
    )
    assert result.finding is None, result.story
    assert result.exhausted, str(result)
    return set(result.outcomes)


def sections(of_a: int, of_b: int, *, b_first: bool) -> Body:
    """Make a body whose threads enter critical sections of one lock; its outcome is their order."""

    def body(run: Run) -> str:
        lock = threading.Lock()
        order: list[str] = []

        def enter(name: str, times: int) -> None:
            for number in range(times):
                with lock:
                    order.append(f"{name}{number + 1}")

        start(run, [lambda: enter("a", of_a), lambda: enter("b", of_b)], b_first=b_first)
        return " ".join(order)

    return body


def start(run: Run, threads: list[Callable[[], Any]], *, b_first: bool) -> None:
    """Start the threads in this order or the other, and join them."""
    for thread in reversed(threads) if b_first else threads:
        run.thread(thread)
    run.join()


@pytest.mark.parametrize("b_first", [False, True])
@pytest.mark.parametrize("search", GUARDED)
def test_two_sections_and_one_have_three_orders(search: str, *, b_first: bool) -> None:
    assert outcomes(sections(2, 1, b_first=b_first), search) == {
        "a1 a2 b1",
        "a1 b1 a2",
        "b1 a1 a2",
    }


@pytest.mark.parametrize("b_first", [False, True])
@pytest.mark.parametrize("search", GUARDED)
def test_two_sections_and_two_have_six_orders(search: str, *, b_first: bool) -> None:
    assert len(outcomes(sections(2, 2, b_first=b_first), search)) == 6


@pytest.mark.parametrize("b_first", [False, True])
@pytest.mark.parametrize("search", UNGUARDED)
def test_unlocked_read_outcomes_are_reached(search: str, *, b_first: bool) -> None:
    """a: read x, [append (a, x)]. b: [x = 1; append b]. x is plain memory, not a cell."""

    def body(run: Run) -> str:
        lock = threading.Lock()
        x = [0]
        order: list[str] = []

        def a() -> None:
            read = x[0]
            with lock:
                order.append(f"a{read}")

        def b() -> None:
            with lock:
                x[0] = 1
                order.append("b")

        start(run, [a, b], b_first=b_first)
        return " ".join(order)

    assert outcomes(body, search) == {"a0 b", "b a0", "b a1"}


@pytest.mark.parametrize("b_first", [False, True])
@pytest.mark.parametrize("search", GUARDED)
def test_unlocked_cell_read_outcomes_are_reached(search: str, *, b_first: bool) -> None:
    """As above, with x as a cell, so `guarded` applies too."""

    def body(run: Run) -> str:
        lock = threading.Lock()
        x = run.cell(0, "x")
        order: list[str] = []

        def a() -> None:
            read = x.get()
            with lock:
                order.append(f"a{read}")

        def b() -> None:
            with lock:
                x.set(1)
                order.append("b")

        start(run, [a, b], b_first=b_first)
        return " ".join(order)

    assert outcomes(body, search) == {"a0 b", "b a0", "b a1"}


@pytest.mark.parametrize("b_first", [False, True])
@pytest.mark.parametrize("search", GUARDED)
def test_unlocked_read_and_write_have_two_outcomes(search: str, *, b_first: bool) -> None:
    def body(run: Run) -> int:
        x = run.cell(0)
        read: list[int] = []
        start(run, [lambda: read.append(x.get()), lambda: x.set(1)], b_first=b_first)
        return read[0]

    assert outcomes(body, search) == {0, 1}


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("search", GUARDED)
def test_unlocked_counter_loses_updates(search: str, threads: int) -> None:
    """`x += 1` by n threads gives every value from 1 to n."""

    def body(run: Run) -> int:
        x = run.cell(0)
        for _ in range(threads):
            run.thread(lambda: x.set(x.get() + 1))
        run.join()
        return x.get()

    assert outcomes(body, search) == set(range(1, threads + 1))


@pytest.mark.parametrize("b_first", [False, True])
@pytest.mark.parametrize("search", GUARDED)
def test_store_buffering_has_three_outcomes(search: str, *, b_first: bool) -> None:
    """x=1; read y / y=1; read x: under sequential consistency not both read 0."""

    def body(run: Run) -> tuple[int, int]:
        x, y = run.cell(0, "x"), run.cell(0, "y")
        read: dict[str, int] = {}

        def act(name: str, own: Cell[int], other: Cell[int]) -> None:
            own.set(1)
            read[name] = other.get()

        start(run, [lambda: act("a", x, y), lambda: act("b", y, x)], b_first=b_first)
        return (read["a"], read["b"])

    assert outcomes(body, search) == {(0, 1), (1, 0), (1, 1)}


class Plain:
    """Shared plain memory, for the finer levels."""

    def __init__(self) -> None:
        self.x = 0
        self.y = 0
        self.read: dict[str, int] = {}

    def add(self) -> None:
        """Add in two lines, between which an update can be lost."""
        seen = self.x
        self.x = seen + 1

    def add_at_once(self) -> None:
        """Add in one line, between whose opcodes an update can be lost."""
        self.x += 1

    def store_x(self) -> None:
        """Write x, read y."""
        self.x = 1
        self.read["a"] = self.y

    def store_y(self) -> None:
        """Write y, read x."""
        self.y = 1
        self.read["b"] = self.x


@pytest.mark.parametrize("b_first", [False, True])
def test_line_level_reaches_plain_memory_outcomes(*, b_first: bool) -> None:
    """The counter and the store buffering, on plain attributes."""

    def counter(run: Run) -> int:
        plain = Plain()
        start(run, [plain.add, plain.add], b_first=b_first)
        return plain.x

    def buffers(run: Run) -> tuple[int, int]:
        plain = Plain()
        start(run, [plain.store_x, plain.store_y], b_first=b_first)
        return (plain.read["a"], plain.read["b"])

    assert outcomes(counter, "bounded", Level.LINE) == {1, 2}
    assert outcomes(buffers, "bounded", Level.LINE) == {(0, 1), (1, 0), (1, 1)}


def test_opcode_level_reaches_more_than_lines() -> None:
    """`self.x += 1` has one outcome at line level, two at opcode level."""

    def counter(run: Run) -> int:
        plain = Plain()
        run.thread(plain.add_at_once)
        run.thread(plain.add_at_once)
        run.join()
        return plain.x

    assert outcomes(counter, "bounded", Level.LINE) == {2}
    fine = explore(
        counter,
        budget=AMPLE,
        strategies=["bounded-1"],
        level=Level.OPCODE,
        modules=[__name__],
    )
    assert fine.bound == 1
    assert set(fine.outcomes) == {1, 2}


Action = tuple[str, int]  # the kind, and the index of one of two cells
LOCKED = st.tuples(st.sampled_from(["read", "write", "section", "try"]), st.integers(0, 1))
PLAIN = st.tuples(st.sampled_from(["read", "write"]), st.integers(0, 1))
PROGRAMS = st.one_of(
    st.tuples(*[st.lists(LOCKED, min_size=1, max_size=2)] * 2),
    st.tuples(*[st.lists(PLAIN, min_size=1, max_size=1)] * 3),
)


@settings(
    max_examples=25,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(PROGRAMS)
def test_reduction_loses_no_outcome_of_random_programs(program: tuple[list[Action], ...]) -> None:
    """Sleep sets and full search agree on random programs of cells, sections and tries."""

    def body(run: Run) -> tuple[Any, ...]:
        cells = [run.cell("-", "x"), run.cell("-", "y")]
        locks = [threading.Lock(), threading.Lock()]
        seen: dict[str, list[str]] = {}

        def act(name: str, actions: list[Action]) -> None:
            own = seen[name] = []
            for number, (kind, index) in enumerate(actions):
                mark = f"{name}{number}"
                if kind == "read":
                    own.append(cells[index].get())
                elif kind == "write":
                    cells[index].set(mark)
                elif kind == "section":
                    with locks[index]:
                        own.append(cells[index].get())
                        cells[index].set(mark)
                elif locks[index].acquire(blocking=False):
                    own.append("got")
                    locks[index].release()
                else:
                    own.append("refused")

        for index, actions in enumerate(program):
            run.thread(act, "abc"[index], actions)
        run.join()
        views = tuple(tuple(view) for _, view in sorted(seen.items()))
        return (*views, *(cell.get() for cell in cells))

    assert outcomes(body, "guarded") == outcomes(body, "bounded")
