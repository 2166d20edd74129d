"""Checks that drawn programs of tasks are judged by a model, cancelled, and shrunk."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings

from harness.checkers.linearizability import linearizable
from harness.contract import promises
from harness.core.history import History, Outcome
from harness.core.verdict import VALID, Validity, Verdict
from harness.models.register import Register
from harness.schedule import Budget, Call, Operations, explore, install, uninstall
from harness.workloads.conversations import Calls, conversations

CHECK = linearizable(Register(promises.S9, start=0), promises.S9)
FEW = Budget(schedules=20, seconds=20.0)
CALLS = [
    Call("read"),
    Call("write", {"value": 1}),
    Call("cas", {"expected": 0, "new": 2}),
    Call("cas", {"expected": 0, "new": 3}),
]


@pytest.fixture(autouse=True, scope="module")
def _patched() -> Iterator[None]:
    """Patch once for all tests: each search looks through all functions otherwise."""
    install()
    yield
    uninstall()


class AsyncCell:
    """A register of an asyncio service; its compare-and-set holds a lock over an await."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._value: Any = 0

    async def read(self) -> Any:
        async with self._lock:
            return self._value

    async def write(self, value: Any) -> None:
        async with self._lock:
            self._value = value

    async def cas(self, expected: Any, new: Any) -> bool:
        async with self._lock:
            return await self._cas(expected, new)

    async def _cas(self, expected: Any, new: Any) -> bool:
        if self._value != expected:
            return False
        await asyncio.sleep(0)
        self._value = new
        return True


class TornAsyncCell(AsyncCell):
    """Its compare-and-set has no lock: two may both succeed."""

    async def cas(self, expected: Any, new: Any) -> bool:
        return await self._cas(expected, new)


def searched(cell: type, calls: Sequence[Call], drawn: list[Calls]) -> Any:
    """Make a Hypothesis test of this class; it notes the programs that failed."""

    @settings(
        max_examples=8, database=None, deadline=None, derandomize=True, report_multiple_bugs=False
    )
    @given(conversations(calls, processes=2))
    def test(threads: Calls) -> None:
        result = explore(Operations(cell, threads, CHECK, tasks=True), budget=FEW)
        if result.finding is not None:
            drawn.append(threads)
        assert result.validity is Validity.VALID, result.story

    return test


def test_locked_cell_passes_drawn_programs() -> None:
    searched(AsyncCell, CALLS, [])()


def test_torn_cell_shrinks_to_two_calls() -> None:
    drawn: list[Calls] = []
    with pytest.raises(AssertionError, match="S9"):
        searched(TornAsyncCell, CALLS[2:], drawn)()
    assert sorted(len(calls) for calls in drawn[-1]) == [1, 1]


def test_cancelled_call_has_unknown_outcome() -> None:
    histories: list[History] = []

    def record(history: History) -> Verdict:
        histories.append(history)
        return VALID

    threads = [[Call("cas", {"expected": 0, "new": 1}), Call("read")]]
    program = Operations(AsyncCell, threads, record, tasks=True, impatient=[1])
    result = explore(program, budget=FEW)
    assert result.validity is Validity.VALID, result.story
    lengths = {len(history.operations) for history in histories}
    outcomes = {each.outcome for history in histories for each in history.operations}
    assert 2 in lengths
    assert outcomes == {Outcome.OK, Outcome.INFO}
