"""Tests of shares: disjoint, together all, and the same on every machine."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core.partition import part_of


@settings(max_examples=30)
@given(st.lists(st.text("abc", max_size=3), max_size=12), st.integers(1, 9))
def test_every_name_is_in_one_part(names: list[str], shares: int) -> None:
    """The order of the names does not matter, and no part is much larger than another."""
    parts = [part_of(names, (number, shares)) for number in range(1, shares + 1)]

    assert sorted(name for part in parts for name in part) == sorted(set(names))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    names.reverse()
    assert parts == [part_of(names, (number, shares)) for number in range(1, shares + 1)]
