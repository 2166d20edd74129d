"""Answer mutants: stored histories with one leaf of one answer changed.

A checker that ignores a field lets any value of it pass. An answer mutant changes one leaf
of what a target returned: a number by one, a flag, a text; a list loses, doubles or swaps
elements; an older answer of the same function stands in for this one; a success becomes a refusal
and a refusal a success. The scenario's own checker judges the mutant, without any target.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from random import Random
from typing import Any

from harness.core.history import History, Operation, Outcome

Path = tuple[str | int, ...]
REFUSED = "RuntimeError: refused"  # the error of a success that was turned into a refusal
FIELDS_MAX = 400  # leaves of one answer that are considered


class Change(StrEnum):
    """The kind of change of one answer."""

    NUMBER_UP = "number up"
    NUMBER_DOWN = "number down"
    FLAG = "flag"
    TEXT = "text"
    NULL = "null"
    DROPPED = "element dropped"
    DOUBLED = "element doubled"
    SWAPPED = "elements swapped"
    OLDER = "older answer"
    REFUSED = "ok to refusal"
    SUCCEEDED = "refusal to ok"


@dataclass(frozen=True, slots=True)
class AnswerMutant:
    """One change of one answer: operation `index` of a history, the leaf at `path`.

    An empty path changes the answer as a whole.
    """

    index: int
    function: str
    path: Path
    change: Change
    after: Operation

    @property
    def field(self) -> str:
        """The leaf without positions: `messages[*].text`; `-` for the answer as a whole."""
        return _field(self.path)

    def applied(self, history: History) -> History:
        """The history with this change in it."""
        operations = list(history.operations)
        operations[self.index] = self.after
        return replace(history, operations=tuple(operations))


def differing_fields(one: Any, other: Any) -> set[str]:
    """The fields in which two answers differ; `-` if they have different shapes."""
    mine, others = dict(_leaves(one, ())), dict(_leaves(other, ()))
    if mine.keys() != others.keys():
        return {"-"}
    return {_field(path) for path, value in mine.items() if value != others[path]}


def _field(path: Path) -> str:
    text = "".join("[*]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".") or "-"


def mutants_of(history: History, rng: Random, per_field: int) -> list[AnswerMutant]:
    """Answer mutants of a history: of each function, field and change at most `per_field`.

    Operations of unknown outcome are left out, because they have no answer.
    """
    found: dict[tuple[str, str, Change], list[AnswerMutant]] = {}
    indexes = [i for i, op in enumerate(history) if op.outcome is not Outcome.INFO]
    rng.shuffle(indexes)
    for index in indexes:
        for mutant in _changes(history.operations, index, rng):
            group = found.setdefault((mutant.function, mutant.field, mutant.change), [])
            if len(group) < per_field:
                group.append(mutant)
    return [mutant for group in found.values() for mutant in group]


def _changes(operations: Sequence[Operation], index: int, rng: Random) -> Iterator[AnswerMutant]:
    operation = operations[index]
    function = operation.function
    if operation.outcome is Outcome.FAIL:
        result = _answer_of_another(operations, index)
        succeeded = replace(operation, outcome=Outcome.OK, result=result, error="")
        yield AnswerMutant(index, function, (), Change.SUCCEEDED, succeeded)
        return
    refused = replace(operation, outcome=Outcome.FAIL, result=None, error=REFUSED)
    yield AnswerMutant(index, function, (), Change.REFUSED, refused)
    older = _older(operations, index)
    if older is not None:
        stale = replace(operation, result=older.result)
        yield AnswerMutant(index, function, (), Change.OLDER, stale)
    leaves = list(_leaves(operation.result, ()))
    if len(leaves) > FIELDS_MAX:
        leaves = rng.sample(leaves, FIELDS_MAX)
    for path, value in leaves:
        for change, new in _values(value, rng):
            changed = replace(operation, result=_with(operation.result, path, new))
            yield AnswerMutant(index, function, path, change, changed)


def _older(operations: Sequence[Operation], index: int) -> Operation | None:
    """The last different answer of the same function to the same argument before this one."""
    operation = operations[index]
    for other in reversed(operations[:index]):
        if other.function != operation.function or other.outcome is not Outcome.OK:
            continue
        if other.argument == operation.argument and other.result != operation.result:
            return other
    return None


def _answer_of_another(operations: Sequence[Operation], index: int) -> Any:
    """An answer that the same function gave elsewhere; None where it gave none."""
    operation = operations[index]
    for other in operations:
        if other.function == operation.function and other.outcome is Outcome.OK:
            return other.result
    return None


def _leaves(value: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    """Every leaf and every list below a value, with its path."""
    if isinstance(value, dict):
        for key, below in value.items():
            yield from _leaves(below, (*path, key))
    elif isinstance(value, list):
        yield path, value
        for position, below in enumerate(value):
            yield from _leaves(below, (*path, position))
    else:
        yield path, value


def _values(value: Any, rng: Random) -> Iterator[tuple[Change, Any]]:
    """Other values for a leaf or a list."""
    if isinstance(value, bool):
        yield Change.FLAG, not value
    elif isinstance(value, int | float):
        step = max(1.0, math.ulp(value)) if isinstance(value, float) else 1
        yield Change.NUMBER_UP, value + step
        yield Change.NUMBER_DOWN, value - step
    elif isinstance(value, str):
        yield Change.TEXT, value + "x"
    elif value is None:
        yield Change.NULL, "x"
    elif isinstance(value, list) and value:
        position = rng.randrange(len(value))
        yield Change.DROPPED, [*value[:position], *value[position + 1 :]]
        yield Change.DOUBLED, [*value[: position + 1], *value[position:]]
        others = [i for i in range(len(value)) if value[i] != value[position]]
        if others:
            other, swapped = rng.choice(others), list(value)
            swapped[position], swapped[other] = swapped[other], swapped[position]
            yield Change.SWAPPED, swapped


def _with(value: Any, path: Path, new: Any) -> Any:
    """A copy of a JSON value with the leaf at `path` replaced."""
    if not path:
        return new
    step, *rest = path
    if isinstance(value, dict):
        return {key: _with(v, tuple(rest), new) if key == step else v for key, v in value.items()}
    return [_with(v, tuple(rest), new) if i == step else v for i, v in enumerate(value)]
