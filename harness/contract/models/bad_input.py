"""Bad input as a sequential specification: refused with a sentence, and nothing has changed.

Who asks says of each request whether it is *bad*, by the server's own description or by HTTP's
rules, and which promise then stands. A bad one gets a 4xx and touches no file; any other is
answered too, in whatever way, but by no 5xx and no stack trace. A bystander's files never change.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from harness.core.history import Operation, Outcome
from harness.core.model import Refusal
from harness.core.promises import Promise, promise

REFUSED, FAILED = 400, 500  # statuses, and those above
Files = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class State:
    """Every file by its name, as it was when nothing but refusals came after; None for unknown."""

    files: Files | None = None
    bystanders: Files | None = None


class HostileModel:
    """What a server may answer to whatever comes in."""

    name = "hostile"

    def initial(self) -> State:
        """Nothing is known of the files."""
        return State()

    def step(self, state: State, operation: Operation) -> tuple[State] | Refusal:
        """What is known after the operation, or the promise it broke."""
        if operation.outcome is Outcome.INFO:
            return Refusal(Promise.H2, f"the connection was lost: {operation}")
        if operation.outcome is Outcome.FAIL:
            return Refusal(Promise.H2, f"{operation}")
        match operation.function:
            case "ask_badly" | "send_bytes":
                return _answered(state, operation)
            case "files":
                return _unchanged(state, operation)
            case "dawdle":
                return _attended(state, operation)
        return (State(),)


def _answered(state: State, operation: Operation) -> tuple[State] | Refusal:
    """An answer to one request, or to the bytes that may be several."""
    statuses = operation.result["statuses"]
    if refusal := _answered_badly(operation, statuses):
        return refusal
    if not operation.argument["bad"]:
        return (replace(state, files=None) if _did(statuses) else state,)
    if _did(statuses):
        blamed = promise(operation.argument["promise"])
        return Refusal(blamed, f"it is bad, and was done: {operation}", also=_also(blamed))
    if len(statuses) > 1:
        return Refusal(Promise.H2, f"it was read as several requests: {operation}")
    return (state,)


def _answered_badly(operation: Operation, statuses: list[int]) -> Refusal | None:
    """What no answer may be, whatever was asked."""
    if operation.result["traced"]:
        return Refusal(Promise.H2, f"the answer shows the server's inside: {operation}")
    if any(status >= FAILED for status in statuses):
        blamed = promise(operation.argument["promise"])
        return Refusal(blamed, f"the server broke: {operation}", also=_also(blamed))
    if any(status >= REFUSED for status in statuses) and operation.result["told"] is None:
        return Refusal(Promise.H2, f"refused without a word: {operation}")
    return None


def _also(blamed: Promise) -> tuple[Promise, ...]:
    return () if blamed is Promise.H2 else (Promise.H2,)


def _did(statuses: list[int]) -> bool:
    return any(status < REFUSED for status in statuses)


def _unchanged(state: State, operation: Operation) -> tuple[State] | Refusal:
    """What lies on the disk."""
    files, bystanders = (_pairs(operation.result[name]) for name in ("files", "bystanders"))
    for before, after in ((state.bystanders, bystanders), (state.files, files)):
        if before is not None and before != after:
            changed = sorted({name for name, _ in set(before) ^ set(after)})
            message = f"refused requests changed {changed}: {operation.function}()"
            return Refusal(Promise.H2, message, also=(Promise.S12, Promise.S2))
    return (State(files, bystanders),)


def _pairs(told: dict[str, Any]) -> Files:
    return tuple(sorted(told.items()))


def _attended(state: State, operation: Operation) -> tuple[State] | Refusal:
    """Others are answered while some clients take for ever to ask."""
    if operation.result == {"health": 200, "sessions": 200}:
        return (state,)
    return Refusal(Promise.C10, f"others were not answered: {operation}", also=(Promise.H2,))
