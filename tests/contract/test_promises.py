"""Tests that the session-server contract has one sentence for each ID of its families."""

from __future__ import annotations

import re
from collections import defaultdict

import pytest

from harness.contract.promises import SESSION_SERVER
from harness.core.contract import Promise

BY_PREFIX: defaultdict[str, list[Promise]] = defaultdict(list)
for _promise in SESSION_SERVER:
    BY_PREFIX[_promise.prefix].append(_promise)


@pytest.mark.parametrize("promise", SESSION_SERVER.promises, ids=str)
def test_promise_is_one_sentence_of_one_line(promise: Promise) -> None:
    assert re.fullmatch(r"[A-Z][1-9][0-9]?", promise.id)
    assert re.fullmatch(r"[^\n]{20,100}\.", promise.sentence)


def test_sentences_are_distinct() -> None:
    assert len({promise.sentence for promise in SESSION_SERVER}) == len(SESSION_SERVER)


@pytest.mark.parametrize("prefix", BY_PREFIX)
def test_family_counts_upwards_from_one(prefix: str) -> None:
    numbers = [int(promise.id[1:]) for promise in BY_PREFIX[prefix]]

    assert numbers[0] == 1
    assert numbers == sorted(set(numbers))  # a promise arrives with the scenario that tries it
    assert len({promise.family for promise in BY_PREFIX[prefix]}) == 1
