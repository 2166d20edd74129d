"""Any model of something on disk, with strikes: what was hit happened, or it did not.

`striking(function, argument, ...)` asks a function of the inner model while the disk fails or the
process dies. A call that survived it happened, and says so in `{"struck": ..., "result": ...}`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Generic

from harness.core.history import Operation, Outcome
from harness.core.model import Model, Refusal, State


class StrikingModel(Generic[State]):
    """The inner model, asked on a disk that may be struck."""

    def __init__(self, inner: Model[State]) -> None:
        self.name = inner.name
        self._inner = inner

    def initial(self) -> State:
        """The inner model's."""
        return self._inner.initial()

    def step(self, state: State, operation: Operation) -> tuple[State, ...] | Refusal:
        """What may hold after the operation, or the promise it broke."""
        if operation.function != "striking":
            return self._inner.step(state, operation)
        argument, result = operation.argument, operation.result
        asked = replace(
            operation,
            function=argument["function"],
            argument=argument["argument"],
            result=result["result"] if operation.outcome is Outcome.OK else None,
        )
        return self._inner.step(state, asked)
