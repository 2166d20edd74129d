"""Model of a register: one value with read, write, and compare-and-set.

Arguments are mappings of keyword arguments, as clients journal them:

- `read()` answers the value;
- `write(value)` replaces it, and may answer anything;
- `cas(expected, new)` answers whether the register held the expected value, and then holds the new.

Values are hashable. Pure: no target, no clock.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.core.contract import Promise
from harness.core.history import Operation, Outcome
from harness.core.model import Refusal
from harness.models.narrowing import UNSEEN


@dataclass
class Register:
    """What a register that keeps `promise` may answer. Its first value is `start`.

    With `seen`, all values outside it count as one.
    """

    promise: Promise
    start: Hashable = None
    seen: frozenset[Any] | None = None
    name: str = "register"

    def initial(self) -> Hashable:
        """The value of a fresh register."""
        return self._known(self.start)

    def step(self, state: Hashable, operation: Operation) -> tuple[Hashable, ...] | Refusal:
        """The values that may follow the operation, or a refusal."""
        if operation.outcome is Outcome.FAIL:
            return (state,)
        after, answer = self._call(state, operation)
        if operation.outcome is Outcome.INFO:
            return (state,) if after == state else (state, after)
        if operation.result != answer:
            return Refusal(
                self.promise,
                f"{operation.call} answers another value than the register holds",
                (answer,),
                expected=repr(answer),
                observed=repr(operation.result),
            )
        return (after,)

    def _call(self, state: Hashable, operation: Operation) -> tuple[Hashable, Any]:
        """The value after the call, and the answer to it."""
        function = operation.function
        if function == "read":
            return state, state
        if function == "write":
            return self._known(operation.argument["value"]), operation.result
        if function == "cas":
            argument = operation.argument
            if state == argument["expected"]:
                return self._known(argument["new"]), True
            return state, False
        raise ValueError(f"{self.name} has no function {function!r}; it has read, write and cas")

    def _known(self, value: Hashable) -> Hashable:
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
                seen.add(operation.argument["expected"])
            elif operation.outcome is Outcome.OK and isinstance(operation.result, Hashable):
                seen.add(operation.result)  # a write's answer, too, which does no harm
        return replace(self, seen=frozenset(seen))
