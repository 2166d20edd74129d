"""Model of readers that leave: nothing of them stays behind."""

from __future__ import annotations

from typing import Any

from harness.contract import promises
from harness.core.contract import Promise
from harness.core.history import Operation, Outcome
from harness.core.model import Refusal

OF_READERS = ("streams", "sse", "channel", "connections", "watcher")
NOTHING: dict[str, Any] = {}
_ANSWERS = {
    "begin": None,
    "leave": {"left": NOTHING},
    "leave_stalled": {"left": NOTHING},
    "rest": {"left": NOTHING},
    "idle": {"wakeups_above": 0, "cpu_ms_above": 0},
}


class LeavingReadersModel:
    """A model without state: each answer says what stayed behind, which is nothing."""

    name = "leaving-readers"

    def initial(self) -> None:
        """No state."""

    def adopt(self, state: None, operation: Operation) -> tuple[None]:  # noqa: ARG002
        """There is nothing to adopt: the model has no state."""
        return (None,)

    def step(self, state: None, operation: Operation) -> tuple[None] | Refusal:
        """Judge one answer."""
        wanted = _ANSWERS[operation.function]
        for name in _EACH.get(operation.function, ()):
            wanted = {**(wanted or {}), name: operation.argument["readers"]}
        if operation.outcome is Outcome.OK and _judged(operation.result) == wanted:
            return (state,)
        first, *also = _broken(operation)
        return Refusal(
            first,
            f"{operation.function}: {_problem(operation)}",
            also=tuple(also),
            expected=f"{wanted}",
            observed=operation.answer,
        )


_EACH = {"leave": ("ended",), "leave_stalled": ("ended", "counted")}  # counts of all readers


def _judged(result: Any) -> Any:
    """The answer without the number of stalled readers, which a kernel's buffers decide."""
    if not isinstance(result, dict):
        return result
    return {name: value for name, value in result.items() if name != "stalled"}


_PROBLEMS = {
    "begin": "the server did not serve its readers",
    "leave": "readers that had left were still served or counted: {endpoint}, {way}",
    "leave_stalled": "readers that took nothing were counted wrongly, or after they left: {way}",
    "rest": "gauges were not back at their first values after every client had left",
    "idle": "the server without clients was not quiet",
}


def _problem(operation: Operation) -> str:
    """What is wrong, with the endpoint and the way in which its readers left."""
    return _PROBLEMS[operation.function].format(**operation.argument)


def _broken(operation: Operation) -> tuple[Promise, ...]:
    if operation.function == "idle":
        return (promises.H5, promises.C11)
    if operation.function == "begin" or operation.outcome is not Outcome.OK:
        return (promises.C11,)
    left = operation.result["left"]
    is_of_readers = any(name.startswith(OF_READERS) for name in left)
    readers = operation.argument.get("readers")
    has_hung = readers is not None and operation.result["ended"] != readers
    if not left and not has_hung and operation.function == "leave_stalled":
        return (promises.H4, promises.C8)
    if operation.function == "rest":
        return (promises.H8, promises.C11) if is_of_readers else (promises.H8,)
    if is_of_readers or has_hung:
        return (promises.C11, promises.H8)
    return (promises.H8, promises.C11)
