"""Lists of names that an answer gives: what the calls after it may ask for."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.contract.models.walks import Asked, Walks, walked
from harness.core.history import Operation, Outcome

LISTS = {"changes": Asked("kept", "change"), "lock": Asked("answered", "call")}


def op(function: str, result: Any = None, **argument: str) -> Operation:
    return Operation(0, function, argument, Outcome.OK, 0, 1, result, "")


def walk(names: Any, *asked: str) -> Walks | str:
    """What is left after these questions, or what is wrong."""
    state = walked((), op("changes", names), LISTS)
    for name in asked:
        if isinstance(state, str):
            return state
        state = walked(state, op("kept", change=name), LISTS)
    return state


@given(st.lists(st.text(max_size=2), unique=True), st.data())
def test_names_may_be_left_out(names: list[str], data: st.DataObject) -> None:
    """As in a minimal history; their order is kept."""
    asked = [name for name in names if data.draw(st.booleans())]

    assert not isinstance(walk(names, *asked), str)


@pytest.mark.parametrize(
    ("names", "asked"),
    [
        (["a", "b"], ["b", "a"]),  # swapped
        (["a"], ["a", "b"]),  # dropped
        (["x", "b"], ["a", "b"]),  # another text
        (["a", "a"], ["a"]),  # doubled
        (["a", 1], ["a"]),
        ("a", ["a"]),
    ],
)
def test_other_names_than_asked_for_are_wrong(names: Any, asked: list[str]) -> None:
    """Each change of a list shows when it is walked."""
    assert isinstance(walk(names, *asked), str)


def test_question_without_a_list_is_not_judged() -> None:
    """The answer that named it may have been left out."""
    assert walked((), op("kept", change="a"), LISTS) == ()
    assert walked((), op("other"), LISTS) == ()


def test_question_that_gives_names_is_judged_too() -> None:
    """A round is named by one list, and names its facts."""
    lists = {"rounds": Asked("round", "kind"), "round": Asked("fact", "name")}
    named = walked((), op("rounds", ["made", "changed"]), lists)
    assert not isinstance(named, str)

    assert not isinstance(walked(named, op("round", ["a"], kind="changed"), lists), str)
    assert isinstance(walked(named, op("round", ["a"], kind="deleted"), lists), str)
