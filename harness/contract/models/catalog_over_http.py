"""Who is asked for models, and when, as facts: each answer of the *outside* ability by itself."""

from __future__ import annotations

from harness.core.history import Operation, Outcome
from harness.core.model import Refusal
from harness.core.promises import Promise

_BLAMED = {"shown": Promise.M1, "rebuilt": Promise.M2}


class OffersModel:
    """No state: whatever is known by now, showing asks nobody, and asking is for one alone."""

    name = "offers"

    def initial(self) -> None:
        """Nothing."""

    def step(self, state: None, operation: Operation) -> tuple[None] | Refusal:
        """Judge one answer."""
        blamed = _BLAMED.get(operation.function)
        if blamed is None or operation.outcome is Outcome.INFO:
            return (state,)
        if operation.outcome is Outcome.FAIL:
            return Refusal(blamed, f"{operation}")
        models, asked = operation.result["models"], operation.result["asked"]
        if operation.function == "rebuilt" and None in models:
            return Refusal(Promise.M2, f"nobody answers while the provider does not: {operation}")
        if not models or not all(models):
            return Refusal(Promise.M1, f"nothing to choose from: {operation}")
        if asked > (operation.function == "rebuilt"):
            return Refusal(blamed, f"the provider was asked {asked} times: {operation}")
        return (state,)
