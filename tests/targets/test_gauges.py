"""Tests of the comparison of gauges with their first values, once all clients have left."""

from __future__ import annotations

import pytest

from harness.targets.server import epilogue, leaving_readers

FIRST = {"streams_taken": 1, "sse_streams": 1, "threads": 9, "turn_journal": 0}


@pytest.mark.parametrize(
    ("now", "left"),
    [
        ({}, {}),
        ({"sse_streams": 3}, {"sse_streams": 2}),
        ({"streams_taken": 0}, {"streams_taken": -1}),
        ({"threads": 9 + leaving_readers.THREADS_MAX}, {}),
        ({"threads": 2}, {}),
    ],
)
def test_slot_given_back_twice_is_left(now: dict[str, int], left: dict[str, int]) -> None:
    """The reader that stays has its slot; other gauges may fall, such as threads of pools."""
    assert leaving_readers._off(FIRST, FIRST | now) == left


@pytest.mark.parametrize(
    ("now", "left"),
    [
        ({}, {}),
        ({"streams_taken": 2}, {"streams_taken": 1}),
        ({"streams_taken": 0}, {}),
        ({"streams_taken": -1}, {"streams_taken": -1}),
        ({"turn_journal": epilogue.ALLOWED["turn_journal"]}, {}),
    ],
)
def test_size_below_zero_is_left(now: dict[str, int], left: dict[str, int]) -> None:
    """A session of the first values may be gone, but no container has less than nothing."""
    assert epilogue._off(FIRST, FIRST | now) == left
