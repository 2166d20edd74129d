"""Every promise has one ID and one sentence, and nobody can name one that was never made."""

from __future__ import annotations

import re

import pytest

from harness.core.errors import UnknownPromiseError, UsageError
from harness.core.promises import FAMILIES, Promise, promise


def test_every_promise_is_one_sentence_under_an_id_of_its_family() -> None:
    """An ID is a family's letter and a number; what it stands for is one line."""
    for member in Promise:
        assert re.fullmatch(r"[A-Z][1-9][0-9]?", member.name)
        assert member.family in FAMILIES
        assert re.fullmatch(r"[^\n]{20,100}\.", member.value)


def test_no_two_promises_say_the_same() -> None:
    """A repeated sentence would make the second ID an alias, and anomalies would name the first."""
    assert len(Promise) == len(Promise.__members__)


@pytest.mark.parametrize("letter", FAMILIES)
def test_a_family_counts_from_one_without_gaps(letter: str) -> None:
    """A missing number would be a promise of the contract that nobody can be held to."""
    numbers = [int(member.name[1:]) for member in Promise if member.family == letter]

    assert numbers == list(range(1, len(numbers) + 1))
    assert numbers


def test_a_promise_is_found_by_its_id() -> None:
    """The name in a patch's header or a stored verdict is the member's."""
    assert all(promise(member.name) is member for member in Promise)


@pytest.mark.parametrize("name", ["L99", "l1", "", "L1 ", "L1, L2"])
def test_an_id_that_was_never_made_is_an_error(name: str) -> None:
    """A typo is a wrong question, and the error repeats it."""
    with pytest.raises(UnknownPromiseError, match=re.escape(repr(name))) as caught:
        promise(name)

    assert isinstance(caught.value, UsageError)
