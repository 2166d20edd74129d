"""Tests of promises and contracts as values that a user defines."""

from __future__ import annotations

import pytest

from harness.core.contract import Contract, Promise
from harness.core.errors import UnknownPromiseError, UsageError

R1 = Promise("R1", "A read returns the last write.", "register")
R2 = Promise("R2", "A write that failed is never read.", "register")
Q1 = Promise("Q1", "An item is taken once.", "queue")
CONTRACT = Contract("objects", (R1, R2, Q1))


def test_promises_are_equal_by_their_ids() -> None:
    """A stored verdict is compared with a contract whose sentence was reworded."""
    assert Promise("R1", "reworded") == R1
    assert hash(Promise("R1")) == hash(R1)
    assert R1 != R2


def test_contract_finds_a_promise_by_id() -> None:
    assert [CONTRACT.promise(promise.id) for promise in CONTRACT] == [R1, R2, Q1]
    assert len(CONTRACT) == 3


def test_contract_family_has_the_promises_of_a_prefix() -> None:
    assert CONTRACT.family("R") == (R1, R2)


@pytest.mark.parametrize("id_", ["R3", "r1", "", "R1 ", "R1, R2"])
def test_unknown_id_is_a_usage_error(id_: str) -> None:
    with pytest.raises(UnknownPromiseError) as caught:
        CONTRACT.promise(id_)

    assert repr(id_) in str(caught.value)
    assert isinstance(caught.value, UsageError)


def test_unknown_id_error_suggests_similar_ids() -> None:
    with pytest.raises(UnknownPromiseError, match="did you mean"):
        CONTRACT.promise("R12")


def test_contract_with_a_repeated_id_is_rejected() -> None:
    with pytest.raises(ValueError, match="R1"):
        Contract("objects", (R1, Promise("R1", "another sentence")))
