"""The histogram keeps what it promises: no value is off by more than one part in 128."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from harness.core.histogram import Histogram, merged

values = st.lists(st.integers(0, 10**10), min_size=1, max_size=200)
shares = st.floats(0.001, 1.0)


def true_quantile(values: list[int], share: float) -> int:
    """The smallest value that `share` of all do not exceed, from all of them."""
    rank = next(rank for rank in range(1, len(values) + 1) if rank >= share * len(values))
    return sorted(values)[rank - 1]


@given(values, shares)
def test_a_quantile_is_never_below_the_truth_and_at_most_a_128th_above(
    values: list[int], share: float
) -> None:
    truth, told = true_quantile(values, share), Histogram(values).quantile(share)

    assert truth <= told <= truth + truth / 128


@given(values)
def test_count_mean_and_maximum_are_exact(values: list[int]) -> None:
    histogram = Histogram(values)

    assert histogram.count == len(values)
    assert histogram.mean == sum(values) / len(values)
    assert histogram.quantile(1.0) == histogram.maximum == max(values)


@given(st.lists(values, max_size=5))
def test_a_merge_is_the_union(parts: list[list[int]]) -> None:
    """Whoever counted, and in whatever order it is put together."""
    union = Histogram(value for part in parts for value in part)

    assert merged(Histogram(part) for part in parts) == union
    assert merged(Histogram(part) for part in reversed(parts)) == union


@given(values)
def test_json_keeps_all(values: list[int]) -> None:
    histogram = Histogram(values)

    assert Histogram.from_json(json.loads(json.dumps(histogram.to_json()))) == histogram


@given(st.integers(1, 1000), st.integers(1, 1000), st.integers(1, 50))
def test_a_stall_counts_for_all_who_would_have_waited(
    interval: int, quick: int, asked: int
) -> None:
    """A client that asks every `interval` and hangs for 20 of them hides 19 waits, each shorter."""
    corrected, honest = Histogram(), Histogram()
    stall = 20 * interval
    for _ in range(asked):
        corrected.record_corrected(min(quick, interval), interval)
        honest.record(min(quick, interval))
    corrected.record_corrected(stall, interval)
    for waited in range(interval, stall + 1, interval):
        honest.record(waited)

    assert corrected == honest


def test_nothing_has_no_latency() -> None:
    assert Histogram().quantile(0.99) == 0
    assert Histogram().mean == 0.0


def test_clocks_that_disagree_make_no_negative_latency() -> None:
    assert Histogram([-5]).maximum == 0
