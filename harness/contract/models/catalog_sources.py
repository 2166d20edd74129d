"""Model of a model catalog whose sources, cache file and providers misbehave.

Operations are those of the *catalog_sources* ability (`harness.targets`). A catalog is known for
the meaning of config and auth, in memory and on disk, for a day. It predicts whole answers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from harness.contract import promises
from harness.contract.models.model_catalog import meaning_of
from harness.core.history import Operation, Outcome
from harness.core.model import Refusal

TTL_S = 86_400


def catalog(provider: str, *models: str) -> dict[str, Any]:
    """The catalog of one provider, whose first model is the default."""
    listed = [{"id": model, "label": model} for model in models]
    return {
        "active_provider": provider,
        "default_model": models[0],
        "groups": [{"provider": provider, "models": listed}],
    }


MINIMAL = catalog("static", "minimal")


@dataclass(frozen=True, slots=True)
class Known:
    """A catalog by the number of its request, what it is for, and when it was cached."""

    number: int
    sources: tuple[str, str]
    saved_s: float


@dataclass(frozen=True, slots=True)
class State:
    """The meaning of the sources, the two caches, the providers and the time."""

    config: str = "missing"
    auth: str = "missing"
    memory: Known | None = None
    disk: Known | None = None
    is_obstructed: bool = False  # the cache cannot be written
    provider: str = "ok"
    requests: int = 0
    writes: int = 0
    now_s: float = 0

    @property
    def known(self) -> Known | None:
        """The catalog that is valid now; memory goes first."""
        for found in (self.memory, self.disk):
            is_for_now = found is not None and found.sources == (self.config, self.auth)
            if found is not None and is_for_now and 0 <= self.now_s - found.saved_s < TTL_S:
                return found
        return None


class CatalogSourcesModel:
    """What a catalog may answer, whatever its files and providers do."""

    name = "catalog-sources"

    def initial(self) -> State:
        """No source and no cache."""
        return State()

    def step(self, state: State, operation: Operation) -> tuple[State] | Refusal:
        """The state after the operation, or the promise it broke."""
        if operation.outcome is not Outcome.OK:
            return Refusal(
                promises.M1,
                f"{operation.call} of the model catalog raised",
                expected="an answer, whatever files and providers do",
                observed=operation.error,
            )
        match operation.function:
            case "shown":
                return _shown(state, operation)
            case "rebuilt":
                return _rebuilt(state, operation)
        after, expected = _changed(state, operation.function, operation.argument)
        if operation.result == expected:
            return (after,)
        return Refusal(
            promises.H4 if operation.function == "gauges" else promises.M1,
            f"{operation.call} returned another answer",
            (expected,),
            also=(promises.H8, promises.M3) if operation.function == "gauges" else (),
            expected=f"{expected}",
        )


def _changed(  # noqa: PLR0911  one answer a function
    state: State, function: str, argument: Mapping[str, Any]
) -> tuple[State, Any]:
    """The state after a change of files, providers or time, and what it returns."""
    if argument.get("file") == "cache" or function == "edit_cache":
        return replace(state, disk=None, is_obstructed=function == "obstruct"), None
    if "file" in argument:
        return _with_source(state, function, **argument), None
    match function:
        case "provide":
            return replace(state, provider=argument["how"]), None
        case "wait":
            return replace(state, now_s=state.now_s + argument["seconds"]), None
        case "restart":
            return replace(state, memory=None), None
        case "gauges":
            kept = int(state.memory is not None)
            return state, {"catalogs_kept": kept, "catalog_flights": 0}
    return state, None  # spoil


def _with_source(state: State, function: str, file: str, text: str = "") -> State:
    """The state after a change of config or auth. An unreadable file counts by its stat."""
    before = state.config if file == "config" else state.auth
    writes = state.writes + 1
    after = {
        "write": _meaning(file, text, writes),
        "remove": "missing",
        "obstruct": f"unreadable {writes}",
        "touch": f"unreadable {writes}" if before.startswith("unreadable") else before,
    }[function]
    is_config = file == "config"
    return replace(
        state,
        config=after if is_config else state.config,
        auth=state.auth if is_config else after,
        writes=writes,
        now_s=state.now_s + (function == "touch"),
    )


def _meaning(file: str, text: str, writes: int) -> str:
    if file == "config":
        return f"text {text}"
    try:
        return f"json {meaning_of(json.loads(text))}"
    except (ValueError, RecursionError):
        return f"unreadable {writes} {text}"


def _shown(state: State, operation: Operation) -> tuple[State] | Refusal:
    known = state.known
    after = replace(state, memory=known or state.memory)
    return _compared(after, operation, known, 0)


def _rebuilt(state: State, operation: Operation) -> tuple[State] | Refusal:
    known = state.known
    if known is not None:
        return _compared(replace(state, memory=known), operation, known, 0)
    number = state.requests + 1
    after = replace(state, requests=number)
    if state.provider != "ok":
        return _compared(after, operation, None, 1)
    live = Known(number, (state.config, state.auth), state.now_s)
    disk = None if state.is_obstructed else live
    return _compared(replace(after, memory=live, disk=disk), operation, live, 1)


def _compared(
    after: State, operation: Operation, known: Known | None, requests: int
) -> tuple[State] | Refusal:
    right = MINIMAL if known is None else catalog("live", f"model-{known.number}", "other")
    expected = {"catalog": right, "asked": requests}
    if operation.result == expected:
        return (after,)
    result = operation.result
    is_display = operation.function == "shown" and result.get("asked") != 0
    first = promises.M1 if is_display or not result.get("catalog") else promises.M3
    also = [promises.M3 if first is promises.M1 else promises.M1]
    if operation.function == "rebuilt" and result.get("asked") == 0 < requests:
        also.append(promises.M2)  # a rebuild that is over may still stand in its way
    return Refusal(
        first,
        f"{operation.call} is not the catalog that is known for the present config and auth",
        (expected,),
        also=tuple(also),
        expected=f"{expected}",
    )
