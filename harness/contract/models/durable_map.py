"""Model of a durable map, in which a host keeps its processes and turns.

- `prime(values, spare)`: begin with this many values, in a file that is replaced once more than
  `spare` further rows are written; the first values are `k0`, `k1`, ..., each `{"at": number}`;
- `change(values)`: set these values, and remove those that are null;
- `look`: all values in order, as `key=number` with spaces between, what the other reads answer, and
  the number of rows in the file;
- `restart`: the next host opens the file, and `spoil` adds a row that is no change, before one;
- `striking(function, argument, strike, at)`: a call during a disk fault.

A change that failed has not happened, also for the next host. One whose host was killed may have
happened up to any of its values. The file has a row for each change of a value, and is replaced by
one with a row for each value when it has too many; after a fault its rows cannot be predicted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from harness.contract import promises
from harness.core.contract import Promise
from harness.core.history import Operation, Outcome
from harness.core.model import Refusal

HISTORY_ROWS_MAX = 256


@dataclass(frozen=True, slots=True)
class State:
    """The values in order, and the rows in the file; None after a fault."""

    values: tuple[tuple[str, int], ...] = ()
    rows: int | None = 0

    def changed(self, values: Mapping[str, int | None]) -> State:
        """This state after a change."""
        after, rows = dict(self.values), self.rows
        for key, value in values.items():
            if value is None:
                after.pop(key, None)
            else:
                after[key] = value
        is_needless = len(values) == 1 and not {*values} & {*after, *dict(self.values)}
        if rows is not None and not is_needless:
            rows += len(values)
            rows = len(after) if rows > rows_max(len(after)) else rows
        return State(tuple(after.items()), rows)


def rows_max(values: int) -> int:
    """The rows that a file with this many values may have."""
    return 2 * values + HISTORY_ROWS_MAX


class DurableMapModel:
    """What a durable map holds. A killed change leaves several states."""

    name = "durable-map"

    def initial(self) -> State:
        """No value."""
        return State()

    def step(self, state: State, operation: Operation) -> tuple[State, ...] | Refusal:
        """The states that may hold after the operation, or the promise that it broke."""
        function, argument = operation.function, operation.argument or {}
        struck = function == "striking"
        if struck:
            state = replace(state, rows=None)
            function, argument = argument["function"], argument["argument"]
        if function == "look":
            return self._look(state, operation)
        if operation.outcome is Outcome.FAIL and struck:
            return (state,)  # it was refused, so nothing changed
        is_silent = operation.outcome is not Outcome.OK or operation.result is None or struck
        if operation.outcome is Outcome.FAIL or not is_silent:
            return Refusal(
                promises.W4,
                f"{function}() failed on a healthy disk, or returned a value",
                expected="the call returns None",
                also=(promises.S13,),
            )
        if function == "change" and operation.outcome is Outcome.INFO:
            return tuple(dict.fromkeys(_parts(state, argument["values"])))
        return (_after(state, function, argument),)

    def _look(self, state: State, operation: Operation) -> tuple[State, ...] | Refusal:
        expected = " ".join(f"{key}={value}" for key, value in state.values)
        found = operation.result
        if operation.outcome is not Outcome.OK or found["values"] != expected:
            return _wrong_values(operation, dict(state.values))
        count = len(state.values)
        if found["length"] != count or not found["agrees"]:
            return Refusal(
                promises.W4,
                "look(): the length, or the answer for one key, differs from the values",
                expected=f"{count} values, each found by its key",
            )
        if found["rows"] != state.rows:
            return Refusal(
                promises.W9,
                "look(): the file has other rows than its changes, or was not replaced in time",
                expected=f"{state.rows} rows for {count} values",
                observed=f"{found['rows']} rows",
            )
        return (state,)


def _after(state: State, function: str, argument: Mapping[str, Any]) -> State:
    match function:
        case "prime":
            count = argument["values"]
            values = tuple((f"k{at}", at) for at in range(count))
            return State(values, rows_max(count) - argument["spare"])
        case "spoil":
            return state if state.rows is None else replace(state, rows=state.rows + 1)
        case "change":
            return state.changed(argument["values"])
    return state


def _parts(state: State, values: Mapping[str, int | None]) -> Iterator[State]:
    """The states after the first changes of several."""
    items = list(values.items())
    for count in range(len(items) + 1):
        yield state.changed(dict(items[:count]))


def _wrong_values(operation: Operation, right: Mapping[str, int]) -> Refusal:
    found = operation.result["values"].split() if operation.outcome is Outcome.OK else []
    pairs = [pair.partition("=") for pair in found]
    observed = {key: value for key, _, value in pairs}
    missing = [key for key in right if key not in observed]
    stray = [key for key in observed if key not in right]
    also: tuple[Promise, ...]
    if missing or not operation.result:
        promise, also, problem = promises.W4, (promises.W12, promises.S13), "lacks values"
    elif stray:
        promise, also, problem = promises.W1, (promises.W4, promises.S13), "has removed values"
    elif all(observed[key] == f"{value}" for key, value in right.items()):
        promise, also, problem = promises.W3, (promises.W4,), "has its values in another order"
    else:
        promise, also, problem = promises.W4, (promises.S13,), "has former values"
    keys = missing or stray or [key for key in right if observed[key] != f"{right[key]}"]
    return Refusal(
        promise,
        f"look(): the map {problem}",
        expected=f"{len(right)} values",
        observed=f"{len(observed)} values; wrong are {', '.join(keys[:5])}",
        also=also,
    )
