"""Model of the catalog over HTTP: when the server asks the provider; judges each answer by itself.

Operations are those of the *outside* ability. Whatever is known already, showing the catalog sends
no request to the provider, and rebuilding sends one for all clients together.
"""

from __future__ import annotations

from harness.contract import promises
from harness.core.history import Operation, Outcome
from harness.core.model import Refusal

_PROMISES = {"shown": promises.M1, "rebuilt": promises.M2}


class CatalogOverHttpModel:
    """A model without state: each answer is judged by itself."""

    name = "catalog-over-http"

    def initial(self) -> None:
        """No state."""

    def step(self, state: None, operation: Operation) -> tuple[None] | Refusal:
        """Judge one answer."""
        promise = _PROMISES.get(operation.function)
        if promise is None or operation.outcome is Outcome.INFO:
            return (state,)
        if operation.outcome is Outcome.FAIL:
            return Refusal(
                promise, f"{operation.call} failed", expected="an answer with a list of models"
            )
        models, requests = operation.result["models"], operation.result["asked"]
        requests_max = int(operation.function == "rebuilt")
        if operation.function == "rebuilt" and None in models:
            return Refusal(
                promises.M2,
                f"{operation.call}: a client waited without end for a silent provider",
                expected="a list of models for every client within the budget",
            )
        if not models or not all(models):
            return Refusal(
                promises.M1,
                f"{operation.call} answered an empty list of models",
                expected="at least one model for every client",
            )
        if requests > requests_max:
            return Refusal(
                promise,
                f"{operation.call} sent too many requests to the provider",
                expected=f"at most {requests_max} requests",
                observed=f"{requests} requests",
            )
        return (state,)
