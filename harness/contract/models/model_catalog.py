"""The model catalog as a sequential specification: what is known, and for which meaning.

Operations are those of the *catalog* ability (`harness.targets`). What config and auth *mean* is
what they say without the keys that change by themselves, however deep these are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from harness.core.history import Operation, Outcome
from harness.core.model import Refusal
from harness.core.promises import Promise

MINIMAL = ("minimal",)
VOLATILE = frozenset(
    (
        "access_token",
        "refresh_token",
        "id_token",
        "api_key",
        "secret",
        "client_secret",
        "expires_at",
        "expires_at_ms",
        "expires_in",
        "last_status",
        "last_status_at",
        "last_error_code",
        "last_error_reason",
        "last_error_message",
        "last_error_reset_at",
        "request_count",
        "updated_at",
    )
)


@dataclass(frozen=True, slots=True)
class State:
    """What the sources mean now; what is known, and what they meant then; who was asked so far."""

    config: str | None = None
    auth: str | None = None
    known: tuple[str, ...] | None = None
    known_for: tuple[str | None, str | None] = (None, None)
    asked: int = 0
    failing: bool = False

    @property
    def meaning(self) -> tuple[str | None, str | None]:
        """What config and auth mean."""
        return self.config, self.auth

    @property
    def current(self) -> tuple[str, ...] | None:
        """What is known for this meaning."""
        return self.known if self.known_for == self.meaning else None


class CatalogModel:
    """What the catalog may answer."""

    name = "catalog"

    def initial(self) -> State:
        """No sources, and nothing known."""
        return State()

    def step(  # noqa: PLR0911  one answer a function
        self, state: State, operation: Operation
    ) -> tuple[State] | Refusal:
        """The state after the operation, or the promise it broke."""
        argument = operation.argument
        if operation.outcome is not Outcome.OK:
            return Refusal(Promise.M1, f"{operation}")
        match operation.function:
            case "set_config":
                return (replace(state, config=argument["text"]),)
            case "set_auth":
                return (replace(state, auth=_meaning(argument["auth"])),)
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
        raise ValueError(f"the catalog has no operation {operation.function!r}")


def _meaning(auth: Any) -> str:
    def lasting(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: lasting(each) for key, each in value.items() if key not in VOLATILE}
        return [lasting(each) for each in value] if isinstance(value, list) else value

    return json.dumps(lasting(auth), sort_keys=True)


def _shown(state: State, operation: Operation) -> tuple[State] | Refusal:
    models, asked = tuple(operation.result["models"]), operation.result["asked"]
    if asked or not models:
        return Refusal(Promise.M1, f"a display path went live, or shows nothing: {operation}")
    return _same(state, operation, models, state.current or MINIMAL)


def _rebuilt(state: State, operation: Operation) -> tuple[State] | Refusal:
    models, asked = tuple(operation.result["models"]), operation.result["asked"]
    if state.current is not None:
        if asked:
            message = f"it was known, and its meaning is the same, yet {operation}"
            return Refusal(Promise.M3, message)
        return _same(state, operation, models, state.current)
    if not asked:
        return Refusal(Promise.M3, f"its meaning is another one now, yet {operation}")
    after = replace(state, asked=state.asked + asked)
    if state.failing:
        return _same(after, operation, models, MINIMAL)
    live = (f"model-{after.asked}",)
    return _same(replace(after, known=live, known_for=state.meaning), operation, models, live)


def _same(
    after: State, operation: Operation, models: tuple[str, ...], expected: tuple[str, ...]
) -> tuple[State] | Refusal:
    if models == expected:
        return (after,)
    accepted = {**operation.result, "models": list(expected)}
    broken = Promise.M3 if models else Promise.M1
    return Refusal(broken, f"it should be {list(expected)}, yet {operation}", (accepted,))
