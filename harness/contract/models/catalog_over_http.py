"""Model of the catalog over HTTP: when the server asks the provider, and what each client gets.

Operations are those of the *outside* ability. Showing the catalog sends no request to the provider,
nor does a turn or a session that resolves its model while tokens rotate. Rebuilding sends one for
all clients together, as long as no models are known. The provider offers one model, whose number is
that of the request.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from harness.contract import promises
from harness.core.history import Operation, Outcome
from harness.core.model import Refusal

MINIMAL = "scripted-agent"  # what a server without a provider offers
_PROMISES = {"shown": promises.M1, "resolved": promises.M4, "rebuilt": promises.M2}


@dataclass(frozen=True, slots=True)
class State:
    """The requests so far; the model that is known, by request; one that a late answer may add."""

    requests: int = 0
    known: int = 0
    late: int = 0


class CatalogOverHttpModel:
    """What the server answers to the clients that show or rebuild the catalog."""

    name = "catalog-over-http"

    def initial(self) -> State:
        """No request, and nothing known."""
        return State()

    def step(self, state: State, operation: Operation) -> tuple[State, ...] | Refusal:
        """The states after the answer, or the promise that it breaks."""
        promise = _PROMISES.get(operation.function)
        if promise is None or operation.outcome is Outcome.INFO:
            return (state,)
        if operation.outcome is Outcome.FAIL:
            return Refusal(
                promise, f"{operation.call} failed", expected="an answer with a list of models"
            )
        if refusal := _unanswered(operation):
            return refusal
        requests = operation.result["asked"]
        requests_max = int(operation.function == "rebuilt")
        if requests > requests_max:
            return Refusal(
                promise,
                f"{operation.call} sent too many requests to the provider",
                expected=f"at most {requests_max} requests",
                observed=f"{requests} requests",
            )
        answers = [
            (after, expected)
            for before in _before(state)
            for after, expected in _expected(before, operation)
        ]
        states = tuple(after for after, expected in answers if expected == operation.result)
        if states:
            return states
        accepted = tuple(dict.fromkeys(str(expected) for _, expected in answers))
        return Refusal(
            promise if requests == answers[0][1]["asked"] else promises.M3,
            f"{operation.call} answered other models than the server knows",
            also=(promises.M1, promises.M3),
            expected=" or ".join(accepted),
        )


def _before(state: State) -> tuple[State, ...]:
    """The states that may hold before the next call: a late answer may have arrived."""
    if not state.late:
        return (state,)
    return state, State(state.requests, known=state.late)


def _expected(state: State, operation: Operation) -> list[tuple[State, dict[str, Any]]]:
    """The answers that are right in a state, each with the state behind it."""
    callers = operation.argument.get("askers", 0)
    models = [f"model-{state.known}"] if state.known else [MINIMAL]
    if operation.function in ("shown", "resolved"):
        return [(state, {"models": models, "asked": 0})]
    if state.known:
        return [(state, {"models": [models] * callers, "asked": 0})]
    number = state.requests + 1
    if operation.argument["hangs"]:  # the provider answers after the budget
        late = replace(state, requests=number, late=number)
        return [(late, {"models": [models] * callers, "asked": 1})]
    live = [f"model-{number}"]
    return [(State(number, known=number), {"models": [live] * callers, "asked": 1})]


def _unanswered(operation: Operation) -> Refusal | None:
    """The refusal of an answer without models, or of none at all."""
    models = operation.result["models"]
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
    return None
