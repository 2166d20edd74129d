"""Checks that histories of threads of calls are judged by models, and shrunk."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from harness.checkers.linearizability import linearizable
from harness.contract import promises
from harness.core.history import History, Outcome
from harness.core.verdict import VALID, Validity, Verdict
from harness.models.register import Register
from harness.schedule import (
    Budget,
    Call,
    Operations,
    explore,
    install,
    shrink_calls,
    small_scope,
    uninstall,
)

BUDGET = Budget(schedules=3_000, seconds=20.0)
CHECK = linearizable(Register(promises.S9, start=0), promises.S9)
READ = Call("read")


@pytest.fixture(autouse=True, scope="module")
def _patched() -> Iterator[None]:
    """Patch once for all tests: each search looks through all objects otherwise."""
    install()
    yield
    uninstall()


class Cell:
    """A register under one lock; compare-and-set is one critical section."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._value: Any = 0

    def read(self) -> Any:
        """Read the value."""
        with self._lock:
            return self._value

    def write(self, value: Any) -> None:
        """Write the value."""
        with self._lock:
            self._value = value

    def cas(self, expected: Any, new: Any) -> bool:
        """Write the new value if the present one is the expected one."""
        with self._lock:
            if self._value != expected:
                return False
            self._value = new
            return True


class TornCell(Cell):
    """A register whose compare-and-set reads in one section and writes in the next."""

    def cas(self, expected: Any, new: Any) -> bool:
        """Two concurrent calls may both succeed."""
        if self.read() != expected:
            return False
        self.write(new)
        return True


def writes(value: int) -> Call:
    """Make a write call."""
    return Call("write", {"value": value})


def swaps(before: int, after: int) -> Call:
    """Make a compare-and-set call."""
    return Call("cas", {"expected": before, "new": after})


def test_locked_register_is_linearizable_in_every_schedule() -> None:
    calls = [[writes(1), READ], [swaps(0, 2), READ]]
    result = explore(Operations(Cell, calls, CHECK), budget=BUDGET, strategies=["guarded"])
    assert result.exhausted
    assert result.validity is Validity.VALID


def test_torn_compare_and_set_is_rejected() -> None:
    """Both calls compare before either sets, and both return True.

    a: cas(0, 1) [compare]               [set] -> True
    b: cas(0, 2)           [compare] [set]     -> True
    """
    result = explore(Operations(TornCell, [[swaps(0, 1)], [swaps(0, 2)]], CHECK), budget=BUDGET)
    assert result.finding is not None
    assert result.finding.kind == "assertion"
    assert "S9" in result.finding.message


def test_shrink_calls_removes_unneeded_calls() -> None:
    calls = [[READ, swaps(0, 1), READ], [READ], [swaps(0, 2), writes(3)]]
    program, result = shrink_calls(
        Operations(TornCell, calls, CHECK, before=[READ]), partial(explore, budget=BUDGET)
    )
    assert result.finding is not None
    assert sum(len(thread) for thread in program.threads) == 2
    assert program.before == []


def test_small_scope_yields_every_pair_of_calls() -> None:
    """All pairs of four calls are searched exhaustively, and all are valid."""
    calls = [READ, writes(1), swaps(0, 2), swaps(1, 3)]
    scopes = list(small_scope(calls, 2))
    assert len(scopes) == 10
    for threads in scopes:
        result = explore(
            Operations(Cell, threads, CHECK, after=[READ]), budget=BUDGET, strategies=["bounded"]
        )
        assert result.exhausted
        assert result.validity is Validity.VALID


def test_exception_outcome_is_unknown_and_refusal_fails() -> None:
    """A call that raised has an unknown outcome; a refused call did not happen."""
    histories: list[History] = []

    class Failing:
        def fail(self) -> None:
            """Raise an exception that is not among the refusals."""
            raise OSError("no")

        def refuse(self) -> None:
            """Raise a refusal."""
            raise KeyError("no")

    def record(history: History) -> Verdict:
        histories.append(history)
        return VALID

    calls = [[Call("fail"), Call("refuse")]]
    program = Operations(Failing, calls, record, refusals=(KeyError,))
    explore(program, budget=Budget(schedules=1, seconds=20.0))
    first, second = histories[0]
    assert (first.outcome, first.completed_ns) == (Outcome.INFO, None)
    assert second.outcome is Outcome.FAIL
    assert second.process != first.process


def test_history_is_ordered_by_invocation() -> None:
    histories: list[History] = []

    class Slow:
        def wait(self, seconds: float) -> None:
            """Sleep in virtual time."""
            time.sleep(seconds)

    def record(history: History) -> Verdict:
        histories.append(history)
        return VALID

    calls = [[Call("wait", 3.0)], [Call("wait", 1.0)]]
    explore(Operations(Slow, calls, record), budget=Budget(schedules=20, seconds=20.0))
    for history in histories:
        invocations = [operation.invoked_ns for operation in history]
        assert invocations == sorted(invocations)
        assert len(history) == 2
