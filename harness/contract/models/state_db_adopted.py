"""The state that follows a wrong answer of the state database, which is taken for the truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from harness.contract.models.state_db_values import ABOUT, USAGE, State, as_json
from harness.core.history import Operation


def _adopt_get(state: State, operation: Operation) -> tuple[State, ...]:
    name, seen = operation.argument["session"], operation.result
    found = state.get(name)
    if seen is None:
        return (state.drop([name]),)
    if found is None:
        return ()
    ended_day = (found.ended_day or state.day) if seen["ended"] else None
    after = replace(
        found,
        source=seen["source"],
        title=seen["title"],
        ended_day=ended_day,
        tool_calls=seen["tool_call_count"],
        input_tokens=seen["input_tokens"],
        output_tokens=seen["output_tokens"],
        drift=seen["message_count"] - len(found.messages),
    )
    return (state.put(name, after),)


def _adopt_details(state: State, operation: Operation) -> tuple[State, ...]:
    name, seen = operation.argument["session"], operation.result
    found = state.get(name)
    if seen is None:
        return (state.drop([name]),)
    if found is None or not seen["in_order"]:
        return ()
    after = replace(
        found,
        system_prompt=seen["system_prompt"],
        end_reason=seen["end_reason"],
        calls=tuple(seen["tool_calls"]),
    )
    return (state.put(name, after),)


def _adopt_columns(state: State, operation: Operation) -> tuple[State, ...]:
    name, seen = operation.argument["session"], operation.result
    found = state.get(name)
    if seen is None:
        return (state.drop([name]),)
    if found is None or len(seen["messages"]) != len(found.messages):
        return ()
    config = seen["model_config"]
    after = replace(
        found,
        about=(
            seen["model"],
            None if config is None else as_json(config),
            *(seen[name] for name in ABOUT[2:]),
        ),
        usage=tuple(seen[name] for name in USAGE),
        billing_mode=seen["billing_mode"],
        details=tuple(map(as_json, seen["messages"])),
    )
    return (state.put(name, after),)


def _adopt_messages(state: State, operation: Operation) -> tuple[State, ...]:
    """Other messages; the count may be that of before, or that of the rows; as may tool calls."""
    name = operation.argument["session"]
    found = state.get(name)
    rows = tuple((role, text) for role, text in operation.result)
    if found is None or len(rows) != len(found.messages):
        return ()  # it is unknown which calls of tools remain
    return (state.put(name, replace(found, messages=rows)),)


def _adopt_list(state: State, operation: Operation) -> tuple[State, ...]:
    names = {name for name, _ in state.sessions}
    if set(operation.result) - names:
        return ()
    return (state.drop(names - set(operation.result)),)


def _adopt_counters(state: State, operation: Operation) -> tuple[State, ...]:
    name, seen = operation.argument["session"], operation.result
    found = state.get(name)
    if found is None or seen["message_count"] is None or seen["rows"] != len(found.messages):
        return ()
    drift = seen["message_count"] - seen["rows"]
    return (state.put(name, replace(found, drift=drift)),)


def _adopt_title(state: State, operation: Operation) -> tuple[State, ...]:
    name, title = operation.argument["session"], operation.argument["title"]
    found = state.get(name)
    return () if found is None else (state, state.put(name, replace(found, title=title)))


def _adopt_delete(state: State, operation: Operation) -> tuple[State, ...]:
    return state, state.drop([operation.argument["session"]])


def _adopt_prune(state: State, operation: Operation) -> tuple[State, ...]:
    """It is unknown which sessions are gone, except where there are none."""
    return (state,) if operation.result == 0 else ()


ADOPTS: Mapping[str, Callable[[State, Operation], tuple[State, ...]]] = {
    "get": _adopt_get,
    "details": _adopt_details,
    "columns": _adopt_columns,
    "messages": _adopt_messages,
    "list": _adopt_list,
    "counters": _adopt_counters,
    "set_title": _adopt_title,
    "delete": _adopt_delete,
    "prune": _adopt_prune,
}
