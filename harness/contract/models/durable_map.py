"""Model of a durable map, in which a host keeps its processes and turns.

- `prime(values, spare)`: begin with this many values, in a file that is replaced once more than
  `spare` further rows are written; the first values are `k0`, `k1`, ..., each `{"at": number}`;
- `change(values)`: set these values, and remove those that are null;
- `look`: all values in order, what the other reads answer, and the number of rows in the file;
- `restart`: the next host opens the file, and `spoil` adds a row that is no change, before one;
- `striking(function, argument, strike, at)`: a call during a disk fault.

A change that failed has not happened, also for the next host. One whose host was killed may have
happened up to any of its values. The file is bounded by the number of values, unless the disk
refused to replace it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from harness.contract import promises
from harness.core.history import Operation, Outcome
from harness.core.model import Refusal

HISTORY_ROWS_MAX = 256


@dataclass(frozen=True, slots=True)
class State:
    """The values in order, and whether a fault may have kept the file from being replaced."""

    values: tuple[tuple[str, int], ...] = ()
    may_grow: bool = False

    def changed(self, values: Mapping[str, int | None]) -> State:
        """This state after a change."""
        after = dict(self.values)
        for key, value in values.items():
            if value is None:
                after.pop(key, None)
            else:
                after[key] = value
        return replace(self, values=tuple(after.items()))


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
            state = replace(state, may_grow=True)
            function, argument = argument["function"], argument["argument"]
        if function == "look":
            return self._look(state, operation)
        if operation.outcome is Outcome.FAIL and not struck:
            return Refusal(
                promises.W4,
                f"{operation.call} failed on a healthy disk",
                expected="the call returns",
                also=(promises.S13,),
            )
        if function == "prime":
            return (State(tuple((f"k{at}", at) for at in range(argument["values"]))),)
        if function != "change" or operation.outcome is Outcome.FAIL:
            return (state,)  # a refused change has changed nothing
        if operation.outcome is Outcome.OK:
            return (state.changed(argument["values"]),)
        return tuple(dict.fromkeys(_parts(state, argument["values"])))

    def _look(self, state: State, operation: Operation) -> tuple[State, ...] | Refusal:
        expected = [[key, value] for key, value in state.values]
        found = operation.result
        if operation.outcome is not Outcome.OK or found["values"] != expected:
            return _wrong_values(operation, expected)
        if found["length"] != len(expected) or not found["agrees"]:
            return Refusal(
                promises.W4,
                "look(): the length, or the answer for one key, differs from the values",
                expected=f"{len(expected)} values, each found by its key",
            )
        most = 2 * len(expected) + HISTORY_ROWS_MAX
        if found["rows"] > most and not state.may_grow:
            return Refusal(
                promises.W9,
                "look(): the file grows with the number of changes",
                expected=f"at most {most} rows for {len(expected)} values",
                observed=f"{found['rows']} rows",
            )
        return (state,)


def _parts(state: State, values: Mapping[str, int | None]) -> Iterator[State]:
    """The states after the first changes of several."""
    items = list(values.items())
    for count in range(len(items) + 1):
        yield state.changed(dict(items[:count]))


def _wrong_values(operation: Operation, expected: list[list[Any]]) -> Refusal:
    found = operation.result["values"] if operation.outcome is Outcome.OK else []
    right = dict(map(tuple, expected))
    observed = dict(map(tuple, found))
    missing = [key for key in right if key not in observed]
    stray = [key for key in observed if key not in right]
    if missing or not operation.result:
        promise, also, problem = promises.W4, (promises.W12, promises.S13), "lacks values"
    elif stray:
        promise, also, problem = promises.W1, (promises.W4, promises.S13), "has removed values"
    elif right == observed:
        promise, also, problem = promises.W3, (promises.W4,), "has its values in another order"
    else:
        promise, also, problem = promises.W4, (promises.T3, promises.S13), "has former values"
    keys = missing or stray or [key for key in right if observed[key] != right[key]]
    return Refusal(
        promise,
        f"look(): the map {problem}",
        expected=f"{len(right)} values",
        observed=f"{len(observed)} values; wrong are {', '.join(keys[:5])}",
        also=also,
    )
