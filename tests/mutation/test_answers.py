"""Tests of answer mutants: each differs from its history in one answer, and there in one leaf."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.history import History, Operation, Outcome
from harness.mutation.answers import REFUSED, AnswerMutant, Change, differing_fields, mutants_of
from harness.testing import fails, history, ok, unknown

NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
LEAVES = st.none() | st.booleans() | NUMBERS | st.text(max_size=3)
ANSWERS = st.recursive(
    LEAVES,
    lambda below: (
        st.lists(below, max_size=3) | st.dictionaries(st.sampled_from("abc"), below, max_size=3)
    ),
    max_leaves=6,
)
NAMES = st.sampled_from(["read", "write"])
OPERATIONS = st.one_of(
    st.builds(lambda name, answer: ok(name, result=answer), NAMES, ANSWERS),
    st.builds(fails, NAMES),
    st.builds(unknown, NAMES),
)
HISTORIES = st.lists(OPERATIONS, min_size=1, max_size=5).map(lambda found: history(*found))
WHOLE = {Change.REFUSED, Change.SUCCEEDED, Change.OLDER}  # changes of an answer as a whole


def answer_of(operation: Operation) -> tuple[Outcome, Any, str]:
    """All of an operation that its target decides."""
    return operation.outcome, operation.result, operation.error


def leaf(value: Any, path: tuple[str | int, ...]) -> Any:
    """The value at a path."""
    for step in path:
        value = value[step]
    return value


def without(value: Any, path: tuple[str | int, ...]) -> Any:
    """A copy of a value with the leaf at `path` removed from the comparison."""
    if not path:
        return None
    value = copy.deepcopy(value)
    *parents, last = path
    leaf(value, tuple(parents))[last] = None
    return value


@given(HISTORIES, st.integers(0, 99), st.integers(1, 3))
def test_a_mutant_differs_in_exactly_one_answer(
    original: History, seed: int, per_field: int
) -> None:
    """Every other operation is the same, and so are function, argument and times of this one."""
    for mutant in mutants_of(original, Random(seed), per_field):
        mutated = mutant.applied(original)
        pairs = list(zip(original, mutated, strict=True))
        differing = [
            index for index, (before, after) in enumerate(pairs) if repr(before) != repr(after)
        ]
        assert differing == [mutant.index]
        before, after = pairs[mutant.index]
        assert repr(answer_of(before)) != repr(answer_of(after))
        assert before.function == after.function == mutant.function
        assert before.argument == after.argument
        assert (before.invoked_ns, before.completed_ns) == (after.invoked_ns, after.completed_ns)
        assert mutated.notes == original.notes


@given(HISTORIES, st.integers(0, 99))
def test_a_leaf_mutant_differs_in_that_leaf(original: History, seed: int) -> None:
    """All else in the answer stays, and what replaces the leaf is of its kind."""
    for mutant in mutants_of(original, Random(seed), 3):
        if mutant.change in WHOLE:
            assert mutant.path == ()
            assert mutant.field == "-"
            continue
        before = original.operations[mutant.index].result
        old, new = leaf(before, mutant.path), leaf(mutant.after.result, mutant.path)
        assert without(before, mutant.path) == without(mutant.after.result, mutant.path)
        assert old is None or type(old) is type(new)
        if isinstance(old, list):
            lengths = {Change.DROPPED: -1, Change.DOUBLED: 1, Change.SWAPPED: 0}
            assert len(new) - len(old) == lengths[mutant.change]


@given(HISTORIES, st.integers(0, 99), st.integers(1, 2))
def test_per_field_bounds_the_mutants(original: History, seed: int, per_field: int) -> None:
    """For each function, field and change; unknown operations have no answer to change."""
    mutants = mutants_of(original, Random(seed), per_field)

    counts = Counter((mutant.function, mutant.field, mutant.change) for mutant in mutants)
    assert max(counts.values(), default=0) <= per_field
    outcomes = {original.operations[mutant.index].outcome for mutant in mutants}
    assert Outcome.INFO not in outcomes


@given(HISTORIES, st.integers(0, 99))
def test_every_known_answer_has_a_mutant(original: History, seed: int) -> None:
    """A success can become a refusal, and a refusal a success."""
    mutants = mutants_of(original, Random(seed), len(original))

    known = {i for i, operation in enumerate(original) if operation.outcome is not Outcome.INFO}
    assert {mutant.index for mutant in mutants if mutant.change in WHOLE} >= known


def mutants(*operations: Operation) -> Iterator[AnswerMutant]:
    """All mutants of a history of these operations."""
    yield from mutants_of(history(*operations), Random(1), 9)


def test_fields_have_no_positions() -> None:
    """Elements of a list share a field."""
    answer = {"rows": [{"id": 1}, {"id": 2}], "ok": True}

    fields = {mutant.field for mutant in mutants(ok("read", result=answer))}
    assert fields == {"-", "rows", "rows[*].id", "ok"}


@pytest.mark.parametrize(
    ("value", "changes"),
    [
        (3, {Change.NUMBER_UP: 4, Change.NUMBER_DOWN: 2}),
        (True, {Change.FLAG: False}),
        ("a", {Change.TEXT: "ax"}),
        (None, {Change.NULL: "x"}),
        ([7], {Change.DROPPED: [], Change.DOUBLED: [7, 7]}),
        ([], {}),
    ],
)
def test_a_value_has_its_changes(value: Any, changes: dict[Change, Any]) -> None:
    """By its type; an empty list has none."""
    found = {
        mutant.change: mutant.after.result["x"]
        for mutant in mutants(ok("read", result={"x": value}))
        if mutant.path == ("x",)
    }
    assert found == changes


def test_an_older_answer_is_of_the_same_call() -> None:
    """The last different answer to the same argument, before this one."""
    calls = (
        ok("read", key="a", result=1),
        ok("read", key="b", result=2),
        ok("read", key="a", result=1),
        ok("read", key="a", result=3),
    )
    older = [mutant for mutant in mutants(*calls) if mutant.change is Change.OLDER]

    assert [(mutant.index, mutant.after.result) for mutant in older] == [(3, 1)]


def test_a_refusal_becomes_an_answer_of_its_function() -> None:
    """And a success a refusal, without a result."""
    changed = {
        mutant.index: mutant.after
        for mutant in mutants(ok("read", result=5), fails("read"))
        if mutant.change in {Change.REFUSED, Change.SUCCEEDED}
    }

    assert answer_of(changed[0]) == (Outcome.FAIL, None, REFUSED)
    assert answer_of(changed[1]) == (Outcome.OK, 5, "")


def test_differing_fields_are_named_without_positions() -> None:
    one = {"a": [1, {"b": 2}], "c": 3}

    assert differing_fields(one, {"a": [1, {"b": 4}], "c": 5}) == {"a[*].b", "c"} | {"a"}
    assert differing_fields(one, one) == set()
    assert differing_fields(one, {"c": 3}) == {"-"}
