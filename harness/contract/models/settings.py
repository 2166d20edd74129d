"""Model of settings: which of them a server accepts, what it warns of, and which texts it takes.

A server starts with any setting. One that is out of its range has its default and one warning, and
every other one has no warning. The first boot, without settings, says what the defaults are.

Operations: `boot(settings, password)` reports whether the server `serves`, its `warnings` by
setting, and its `limits`; `knock(scheme, word)` reports the status of a request with a password.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from harness.contract import promises
from harness.core.errors import UsageError
from harness.core.history import Operation, Outcome
from harness.core.model import Refusal

INTS = ("HERMES_WEBUI_STREAMS_MAX", "HERMES_WEBUI_SESSIONS_MAX", "HERMES_WEBUI_AGENT_CACHE_MAX")
SECONDS = (
    *("HERMES_SSE_WRITE_DEADLINE", "HERMES_WEBUI_SSE_WRITE_DEADLINE"),
    *("HERMES_WEBUI_COLLECT_PERIOD", "HERMES_WEBUI_CHANNEL_GRACE", "HERMES_WEBUI_GATEWAY_POLL"),
    *("HERMES_WEBUI_MODELS_REBUILD_BUDGET", "HERMES_WEBUI_DRAIN_DEADLINE"),
    *("HERMES_WEBUI_REQUEST_PATIENCE", "HERMES_WEBUI_CHANNEL_TTL"),
)
SWITCHES = ("HERMES_WEBUI_IDLE_WAKEUPS", "HERMES_WEBUI_NEXT_TURN_DRAIN")
SWITCH_WORDS = ("1", "on", "true", "yes", "0", "off", "false", "no")
LIMITS = {"streams": "HERMES_WEBUI_STREAMS_MAX", "sessions": "HERMES_WEBUI_SESSIONS_MAX"}
INT_MAX = 1_000_000
SECONDS_MIN, SECONDS_MAX = 0.001, 366 * 86_400.0
OK, UNAUTHORISED = 200, 401


def is_valid(name: str, text: str) -> bool:
    """Whether a setting has a value of its range."""
    if name in SWITCHES:
        return text.strip().lower() in SWITCH_WORDS
    with suppress(ValueError):
        if name in INTS:
            return 1 <= int(text) <= INT_MAX
        return SECONDS_MIN <= float(text) <= SECONDS_MAX
    return False


@dataclass(frozen=True, slots=True)
class State:
    """The limits of a server without settings, once known, and the password of the present one."""

    defaults: tuple[tuple[str, int], ...] = ()
    password: str = ""
    serves: bool = False


class SettingsModel:
    """What a server makes of its settings."""

    name = "settings"

    def initial(self) -> State:
        """No server has been booted."""
        return State()

    def step(self, state: State, operation: Operation) -> tuple[State] | Refusal:
        """The server after the operation, or the promise it broke."""
        if operation.outcome is not Outcome.OK:
            return Refusal(
                promises.H7, f"{operation.function}() got no answer", expected="an answer"
            )
        match operation.function:
            case "boot":
                return _booted(state, operation)
            case "knock":
                return _knocked(state, operation)
        raise UsageError(f"{self.name} has no function {operation.function!r}")

    def adopt(self, state: State, operation: Operation) -> tuple[State, ...]:
        """Go on with the server that was refused."""
        if operation.function == "boot" and operation.outcome is Outcome.OK:
            serves = bool(operation.result["serves"])
            return (State(state.defaults, operation.argument["password"], serves),)
        return (state,)


def _booted(state: State, operation: Operation) -> tuple[State] | Refusal:
    settings: Mapping[str, str] = operation.argument["settings"]
    result = operation.result
    limits: dict[str, Any] = dict(state.defaults)
    if not settings and not state.defaults:  # it says what the defaults are
        limits = {name: value for name, value in result["limits"].items() if value > 0}
    state = State(tuple(sorted(limits.items())), operation.argument["password"], serves=True)
    for limit, name in LIMITS.items():
        if is_valid(name, settings.get(name, "")):
            limits[limit] = int(settings[name])
    wanted = {
        "serves": True,
        "warnings": {name: 1 for name, text in settings.items() if not is_valid(name, text)},
        "limits": limits,
    }
    if result == wanted and set(limits) == set(LIMITS):
        return (state,)
    unknown = {name: "a positive number" for name in LIMITS if name not in limits}
    wanted = {**wanted, "limits": {**limits, **unknown}}
    return Refusal(
        promises.H7,
        f"boot() with {_shown(settings)}: {_problem(wanted, result)}",
        expected=f"{wanted}",
        observed=f"{result}",
    )


def _problem(wanted: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    if not result["serves"]:
        return "the server did not start"
    if result["warnings"] != wanted["warnings"]:
        return "another setting than each bad one has one warning"
    return "a limit is neither the setting's nor the default"


def _shown(settings: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={text[:20]!r}" for name, text in settings.items()) or "no settings"


def _knocked(state: State, operation: Operation) -> tuple[State] | Refusal:
    word, status = operation.argument["word"], operation.result
    if not state.serves:
        return (state,)
    wanted = UNAUTHORISED if state.password and word != state.password else OK
    if status == wanted:
        return (state,)
    return Refusal(
        promises.H1 if wanted == UNAUTHORISED else promises.H7,
        f"knock() with the password {word!r} of a server with {state.password!r}"
        f" was answered with {status}",
        also=() if state.password.isascii() and wanted == OK else (promises.H1, promises.H7),
        expected=f"{wanted}",
        observed=f"{status}",
    )
