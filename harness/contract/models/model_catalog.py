"""Model of the model catalog: which models are cached, and for which meaning of config and auth.

Operations are those of the *catalog* ability (`harness.targets`). The *meaning* of config and auth
is their content without the volatile keys at any depth (M3). Which keys are volatile is decided
here by what a key is for, read from its name; no list of an implementation is used.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from harness.contract import promises
from harness.core.history import Operation, Outcome
from harness.core.model import Refusal

MINIMAL = ("minimal",)


@dataclass(frozen=True, slots=True)
class VolatileKind:
    """Keys that change while the provider and its models stay the same, and why they do.

    `pattern` matches the whole name of such a key; `examples` are names that auth stores use.
    """

    reason: str
    pattern: re.Pattern[str]
    examples: tuple[str, ...]


VOLATILE_KINDS: Mapping[str, VolatileKind] = {
    "credential": VolatileKind(
        "a refresh or a rotation replaces it for the same account",
        re.compile(r"(\w+_)?(token|secret)|api_key"),
        ("access_token", "refresh_token", "id_token", "api_key", "secret", "client_secret"),
    ),
    "expiry": VolatileKind(
        "every refresh moves it",
        re.compile(r"expires_(at|in)(_\w+)?"),
        ("expires_at", "expires_at_ms", "expires_in"),
    ),
    "status": VolatileKind(
        "every request to the provider overwrites the outcome of the one before",
        re.compile(r"last_(status|error)(_\w+)?"),
        (
            *("last_status", "last_status_at"),
            *("last_error_code", "last_error_reason", "last_error_message"),
            "last_error_reset_at",
        ),
    ),
    "counter": VolatileKind(
        "every request to the provider raises it", re.compile(r"\w+_count"), ("request_count",)
    ),
    "time of change": VolatileKind(
        "any write of the store moves it", re.compile(r"updated_at"), ("updated_at",)
    ),
}
VOLATILE_EXAMPLES = tuple(name for kind in VOLATILE_KINDS.values() for name in kind.examples)


def is_volatile(key: str) -> bool:
    """Whether a key of the auth store changes without a change of meaning."""
    return any(kind.pattern.fullmatch(key) for kind in VOLATILE_KINDS.values())


@dataclass(frozen=True, slots=True)
class State:
    """The present meaning of the sources; the cached models, and the meaning they are for."""

    config: str | None = None
    auth: str | None = None
    known: tuple[str, ...] | None = None
    known_for: tuple[str | None, str | None] = (None, None)
    requests: int = 0
    failing: bool = False

    @property
    def meaning(self) -> tuple[str | None, str | None]:
        """The meaning of config and auth."""
        return self.config, self.auth

    @property
    def current(self) -> tuple[str, ...] | None:
        """The models that are cached for the present meaning."""
        return self.known if self.known_for == self.meaning else None


class ModelCatalogModel:
    """What the model catalog may answer."""

    name = "catalog"

    def initial(self) -> State:
        """No sources, and an empty cache."""
        return State()

    def step(  # noqa: PLR0911  one answer a function
        self, state: State, operation: Operation
    ) -> tuple[State] | Refusal:
        """The state after the operation, or the promise it broke."""
        argument = operation.argument
        if operation.outcome is not Outcome.OK:
            return Refusal(
                promises.M1,
                f"{operation.call} of the model catalog raised",
                expected="an answer with at least one model, whatever the provider does",
            )
        if operation.function not in ("shown", "rebuilt") and operation.result is not None:
            return Refusal(
                promises.M1,
                f"{operation.call} returned an answer",
                (None,),
                expected="no answer: it only changes what the catalog reads",
            )
        match operation.function:
            case "set_config":
                return (replace(state, config=argument["text"]),)
            case "set_auth":
                return (replace(state, auth=meaning_of(argument["auth"])),)
            case "remove_auth":
                return (replace(state, auth=None),)
            case "fail":
                return (replace(state, failing=argument["fails"]),)
            case "restart":
                return (state,)
            case "shown":
                return _shown(state, operation)
            case "rebuilt":
                return _rebuilt(state, operation)
        raise ValueError(f"the model catalog has no function {operation.function!r}")


def meaning_of(auth: Any) -> str:
    """The content of an auth store without its volatile keys."""

    def lasting(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: lasting(inner) for key, inner in value.items() if not is_volatile(key)}
        return [lasting(inner) for inner in value] if isinstance(value, list) else value

    return json.dumps(lasting(auth), sort_keys=True)


def _shown(state: State, operation: Operation) -> tuple[State] | Refusal:
    models, requests = tuple(operation.result["models"]), operation.result["asked"]
    if requests or not models:
        problem = "asked the provider" if requests else "answered an empty list"
        return Refusal(
            promises.M1,
            f"{operation.call}, a display path, {problem}",
            expected="no request to the provider, and at least one model",
        )
    return _compared(state, operation, models, state.current or MINIMAL)


def _rebuilt(state: State, operation: Operation) -> tuple[State] | Refusal:
    models, requests = tuple(operation.result["models"]), operation.result["asked"]
    if state.current is not None:
        if requests:
            return Refusal(
                promises.M3,
                f"{operation.call} asked the provider although config and auth mean the same",
                expected=f"no request, and the cached models {list(state.current)}",
            )
        return _compared(state, operation, models, state.current)
    if not requests:
        return Refusal(
            promises.M3,
            f"{operation.call} did not ask the provider although config or auth changed in meaning",
            expected="at least one request to the provider",
        )
    after = replace(state, requests=state.requests + requests)
    if state.failing:
        return _compared(after, operation, models, MINIMAL)
    live = (f"model-{after.requests}",)
    return _compared(replace(after, known=live, known_for=state.meaning), operation, models, live)


def _compared(
    after: State, operation: Operation, models: tuple[str, ...], right: tuple[str, ...]
) -> tuple[State] | Refusal:
    if models == right:
        return (after,)
    return Refusal(
        promises.M3 if models else promises.M1,
        f"{operation.call} answers other models than those of the present config and auth",
        ({**operation.result, "models": list(right)},),
        expected=f"models = {list(right)}",
    )
