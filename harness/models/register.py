"""A register: one value that is read, written, and compared and set.

- `read()` answers the value;
- `write(value)` may answer anything;
- `cas([expected, new])` answers whether it found the expected value, and then the new one holds.

Values are hashable. Pure: no target, no clock.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.core.history import Operation, Outcome
from harness.core.model import Refusal
from harness.core.promises import Promise
from harness.models.narrowing import UNSEEN


@dataclass
class Register:
    """What a register that keeps `promise` may answer. It holds `start` at first.

    With `seen`, all values outside it count as one.
    """

    promise: Promise
    start: Hashable = None
    seen: frozenset[Any] | None = None
    name: str = "register"

    def initial(self) -> Hashable:
        """The value of a fresh register."""
        return self._held(self.start)

    def step(self, state: Hashable, operation: Operation) -> tuple[Hashable, ...] | Refusal:
        """The values that may hold after the operation, or why it cannot be."""
        if operation.outcome is Outcome.FAIL:
            return (state,)
        after, answer = self._call(state, operation)
        if operation.outcome is Outcome.INFO:
            return (state,) if after == state else (state, after)
        if operation.result != answer:
            message = f"the register held {state!r}, so it cannot have said {operation.result!r}"
            return Refusal(self.promise, message, accepted=(answer,))
        return (after,)

    def _call(self, state: Hashable, operation: Operation) -> tuple[Hashable, Any]:
        """The value after the call, and the answer to it."""
        function = operation.function
        if function == "read":
            return state, state
        if function == "write":
            return self._held(operation.argument), operation.result
        if function == "cas":
            expected, new = operation.argument
            return (self._held(new), True) if state == expected else (state, False)
        raise ValueError(f"a register knows no {function!r}")

    def _held(self, value: Hashable) -> Hashable:
        return value if self.seen is None or value in self.seen else UNSEEN

    def observes(self, operation: Operation) -> bool:
        """Whether it is a read, or a comparison that failed."""
        return operation.function == "read" or (
            operation.function == "cas"
            and operation.outcome is Outcome.OK
            and operation.result is False
        )

    def narrowed(self, operations: Sequence[Operation]) -> Register:
        """The register of a history in which only some values are ever read or expected."""
        seen = set()
        for operation in operations:
            if operation.function == "cas":
                seen.add(operation.argument[0])
            elif operation.outcome is Outcome.OK and isinstance(operation.result, Hashable):
                seen.add(operation.result)  # a write's answer, too, which does no harm
        return replace(self, seen=frozenset(seen))
