"""Model of a component on a failing disk: a call that was hit by a fault happened, or it did not.

`striking(function, argument, ...)` asks a function of the inner model while the disk fails or the
process dies. A call that returned happened, and its result is `{"struck": ..., "result": ...}`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Generic

from harness.core.history import Operation, Outcome
from harness.core.model import Model, Refusal, State


class DiskFaultsModel(Generic[State]):
    """The inner model, with calls that a disk fault may hit."""

    def __init__(self, inner: Model[State]) -> None:
        self.name = inner.name
        self._inner = inner

    def initial(self) -> State:
        """The initial state of the inner model."""
        return self._inner.initial()

    def step(self, state: State, operation: Operation) -> tuple[State, ...] | Refusal:
        """The states that may hold after the operation, or the promise it broke."""
        if operation.function != "striking":
            return self._inner.step(state, operation)
        argument, result = operation.argument, operation.result
        inner = replace(
            operation,
            function=argument["function"],
            argument=argument["argument"],
            result=result["result"] if operation.outcome is Outcome.OK else None,
        )
        step = self._inner.step(state, inner)
        if isinstance(step, Refusal) and not step.observed:
            return replace(step, observed=inner.answer)
        return step
