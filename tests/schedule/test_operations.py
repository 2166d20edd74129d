"""Threads of calls, judged by the models that judge everything else."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from harness.checkers.linearizability import linearizable
from harness.core.history import History, Outcome
from harness.core.promises import Promise
from harness.core.verdict import VALID, Validity, Verdict
from harness.models.register import Register
from harness.schedule import Budget, Call, Operations, explore, fewer, small_scope

BUDGET = Budget(schedules=3_000, seconds=20.0)
CHECK = linearizable(Register(Promise.S9, start=0), Promise.S9)
READ = Call("read")


class Cell:
    """A register behind one lock; compare-and-set is one section."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._value: Any = 0

    def read(self) -> Any:
        """The value."""
        with self._lock:
            return self._value

    def write(self, value: Any) -> None:
        """Set it."""
        with self._lock:
            self._value = value

    def cas(self, pair: Sequence[Any]) -> bool:
        """Set it to the second, if it is the first."""
        with self._lock:
            if self._value != pair[0]:
                return False
            self._value = pair[1]
            return True


class TornCell(Cell):
    """The same, but it looks in one section and sets in the next."""

    def cas(self, pair: Sequence[Any]) -> bool:
        """Both of two may believe they won."""
        if self.read() != pair[0]:
            return False
        self.write(pair[1])
        return True


def writes(value: int) -> Call:
    """A call that writes."""
    return Call("write", value)


def swaps(before: int, after: int) -> Call:
    """A call that compares and sets."""
    return Call("cas", (before, after))


def test_a_register_under_a_lock_is_linearizable_under_every_schedule() -> None:
    calls = [[writes(1), READ], [swaps(0, 2), READ]]
    result = explore(Operations(Cell, calls, CHECK), budget=BUDGET, strategies=["guarded"])
    assert result.exhausted
    assert result.validity is Validity.VALID


def test_a_torn_compare_and_set_is_refused_by_the_model() -> None:
    """Both compare before either sets, and both say that they won.

    a: cas(0, 1) [compare]               [set] -> True
    b: cas(0, 2)           [compare] [set]     -> True
    """
    result = explore(Operations(TornCell, [[swaps(0, 1)], [swaps(0, 2)]], CHECK), budget=BUDGET)
    assert result.finding is not None
    assert result.finding.kind == "assertion"
    assert "S9" in result.finding.message


def test_calls_that_the_failure_does_not_need_are_left_out() -> None:
    calls = [[READ, swaps(0, 1), READ], [READ], [swaps(0, 2), writes(3)]]
    program, result = fewer(
        Operations(TornCell, calls, CHECK, before=[READ]), partial(explore, budget=BUDGET)
    )
    assert result.finding is not None
    assert sum(len(thread) for thread in program.threads) == 2
    assert program.before == []


def test_small_scope_is_every_choice_of_calls() -> None:
    """All pairs of four calls are searched to the end, and all are well."""
    calls = [READ, writes(1), swaps(0, 2), swaps(1, 3)]
    scopes = list(small_scope(calls, 2))
    assert len(scopes) == 10
    for threads in scopes:
        result = explore(
            Operations(Cell, threads, CHECK, after=[READ]), budget=BUDGET, strategies=["bounded"]
        )
        assert result.exhausted
        assert result.validity is Validity.VALID


def test_an_exception_leaves_open_what_happened() -> None:
    """What a call that raised did is unknown; what it refused did not happen."""
    seen: list[History] = []

    class Moody:
        def rage(self) -> None:
            """Fail in a way that nobody announced."""
            raise OSError("no")

        def refuse(self) -> None:
            """Fail as announced."""
            raise KeyError("no")

    def note(history: History) -> Verdict:
        seen.append(history)
        return VALID

    calls = [[Call("rage"), Call("refuse")]]
    program = Operations(Moody, calls, note, refusals=(KeyError,))
    explore(program, budget=Budget(schedules=1, seconds=20.0))
    first, second = seen[0]
    assert (first.outcome, first.completed_ns) == (Outcome.INFO, None)
    assert second.outcome is Outcome.FAIL
    assert second.process != first.process


def test_a_history_is_in_order_of_its_invocations() -> None:
    seen: list[History] = []

    class Slow:
        def wait(self, seconds: float) -> None:
            """Sleep in virtual time."""
            time.sleep(seconds)

    def note(history: History) -> Verdict:
        seen.append(history)
        return VALID

    calls = [[Call("wait", 3.0)], [Call("wait", 1.0)]]
    explore(Operations(Slow, calls, note), budget=Budget(schedules=20, seconds=20.0))
    for history in seen:
        moments = [operation.invoked_ns for operation in history]
        assert moments == sorted(moments)
        assert len(history) == 2
