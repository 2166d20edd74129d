"""Helpers for tests of models, checkers and targets: histories, a recording checker, fakes.

```python
from harness.testing import fails, history, ok

verdict = my_checker(history(ok("write", value=1), ok("read", result=2)))
```

`run_concurrently` runs the rules of a sequential Hypothesis machine in threads or asyncio tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.core.checker import Checker
from harness.core.errors import UsageError
from harness.core.history import FaultInterval, History, Operation, Outcome
from harness.core.verdict import VALID, Verdict
from harness.engine.target import AdapterInstance, Instance
from harness.workloads.concurrent_machines import (
    Concurrency,
    NotLinearizableError,
    run_concurrently,
)

__all__ = [
    "STEP_NS",
    "Concurrency",
    "FakeTarget",
    "NotLinearizableError",
    "RecordingChecker",
    "at",
    "fails",
    "history",
    "judged",
    "ok",
    "run_concurrently",
    "unknown",
]

STEP_NS = 1_000_000  # between two events of a built history


def ok(function: str, /, *, result: Any = None, process: int = 0, **argument: Any) -> Operation:
    """An operation that happened and returned `result`."""
    return Operation(process, function, argument, Outcome.OK, 0, 0, result)


def fails(
    function: str, /, *, error: str = "ValueError: refused", process: int = 0, **argument: Any
) -> Operation:
    """An operation that was refused: it did not happen and will not."""
    return Operation(process, function, argument, Outcome.FAIL, 0, 0, None, error)


def unknown(
    function: str, /, *, error: str = "TimeoutError: no reply", process: int = 0, **argument: Any
) -> Operation:
    """An operation whose reply was lost: it may have happened, or happen later."""
    return Operation(process, function, argument, Outcome.INFO, 0, None, None, error)


def at(operation: Operation, invoked_ms: float, completed_ms: float | None) -> Operation:
    """The same operation at these times, in milliseconds; None while its end is unknown."""
    completed_ns = None if completed_ms is None else round(completed_ms * STEP_NS)
    return replace(operation, invoked_ns=round(invoked_ms * STEP_NS), completed_ns=completed_ns)


def history(
    *operations: Operation, faults: tuple[FaultInterval, ...] = (), **notes: Any
) -> History:
    """A history of these operations, one after the other, a millisecond each.

    Operations that have times of their own (see `at`) keep them. `notes` are the episode's.
    """
    timed = []
    for index, operation in enumerate(operations):
        if operation.invoked_ns == 0 and not operation.completed_ns:
            ends = None if operation.outcome is Outcome.INFO else 2 * index + 1
            timed.append(at(operation, 2 * index, ends))
        else:
            timed.append(operation)
    return History(tuple(sorted(timed, key=lambda operation: operation.invoked_ns)), faults, notes)


@dataclass
class RecordingChecker:
    """A checker that keeps the histories that it was given, and returns the same verdict."""

    verdict: Verdict = VALID
    histories: list[History] = field(default_factory=list)

    def __call__(self, history: History) -> Verdict:
        """Keep the history; the verdict."""
        self.histories.append(history)
        return self.verdict


@dataclass
class FakeTarget:
    """A target whose adapters are made by functions: `FakeTarget({"store": MyAdapter})`.

    Each function takes the instance's empty folder and returns an adapter, an object whose methods
    are the ability's functions and that has `close()`. Raises UsageError for another ability.
    """

    adapters: Mapping[str, Callable[[Path], Any]]
    name: str = "fake"

    @property
    def abilities(self) -> frozenset[str]:
        """What the adapters offer."""
        return frozenset(self.adapters)

    def prepare(self) -> None:
        """Do nothing: the adapters are here."""

    def open(self, ability: str, folder: Path) -> Instance:
        """A fresh adapter. Raises UsageError for an ability that there is not."""
        if ability not in self.adapters:
            raise UsageError(f"fake target {self.name!r} has no ability {ability!r}")
        return AdapterInstance(self.adapters[ability](folder))

    def standalone(self, ability: str) -> str:
        """Python source for a test file; it says that a fake cannot stand alone."""
        return f"raise NotImplementedError('a fake target has no source for {ability}')"


def judged(check: Checker, *operations: Operation, **notes: Any) -> Verdict:
    """The verdict of a checker on a history of these operations."""
    return check(history(*operations, **notes))
