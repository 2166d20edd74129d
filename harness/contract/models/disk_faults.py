"""Model of a component on a failing disk: a call that was hit by a fault happened, or it did not.

`striking(function, argument, ...)` asks a function of the inner model while the disk fails or the
process dies. A call that returned happened, and its result is `{"struck": ..., "result": ...}`.
How many changes a call makes is known within bounds: a killed process returns nothing, and a save
makes at least the changes that S1 names, none of which can fail on a disk that stays full.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Generic

from harness.contract import promises
from harness.core.history import Operation, Outcome
from harness.core.model import Model, Refusal, State

SAVES = ("new", "append")
SAVE_CHANGES = 4  # the temporary file, its sync, the rename, the sync of the directory
WRITES = 3  # of these, what needs space: it cannot succeed while the disk is full


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
        if operation.outcome is Outcome.OK and (
            wrong := _impossible(argument, was_struck=result["struck"])
        ):
            return Refusal(promises.S1, f"{operation.call} {wrong}", expected="the change, whole")
        step = self._inner.step(state, inner)
        if isinstance(step, Refusal) and not step.observed:
            return replace(step, observed=inner.answer)
        return step


def _impossible(argument: dict[str, Any], *, was_struck: bool) -> str:
    """Why a call that returned cannot have been struck, or must have been; "" if neither."""
    strike, at = argument["strike"], argument["at"]
    is_save = argument["function"] in SAVES
    if was_struck and strike.startswith(("kill", "power")):
        return "returned although its process had died"
    if was_struck and is_save and strike == "full" and at < WRITES:
        return "returned as if done, on a full disk"
    if (
        not was_struck
        and is_save
        and strike in ("kill", "power", "broken once")
        and at <= SAVE_CHANGES
    ):
        return "returned before its file was written, synced and renamed"
    return ""
