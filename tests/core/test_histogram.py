"""Tests of the histogram: no quantile is off by more than one part in 128."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from harness.core.histogram import Histogram, merged

values = st.lists(st.integers(0, 10**10), min_size=1, max_size=200)
shares = st.floats(0.001, 1.0)


def true_quantile(values: list[int], share: float) -> int:
    """The exact quantile: the smallest value that a `share` of all values does not exceed."""
    rank = next(rank for rank in range(1, len(values) + 1) if rank >= share * len(values))
    return sorted(values)[rank - 1]


@given(values, shares)
def test_quantile_exceeds_the_exact_one_by_a_128th(values: list[int], share: float) -> None:
    exact, reported = true_quantile(values, share), Histogram(values).quantile(share)

    assert exact <= reported <= exact + exact / 128


@given(values)
def test_count_mean_and_maximum_are_exact(values: list[int]) -> None:
    histogram = Histogram(values)

    assert histogram.count == len(values)
    assert histogram.mean == sum(values) / len(values)
    assert histogram.quantile(1.0) == histogram.maximum == max(values)


@given(st.lists(values, max_size=5))
def test_merge_is_the_union_in_any_order(parts: list[list[int]]) -> None:
    union = Histogram(value for part in parts for value in part)

    assert merged(Histogram(part) for part in parts) == union
    assert merged(Histogram(part) for part in reversed(parts)) == union


@given(values)
def test_histogram_equals_its_json_round_trip(values: list[int]) -> None:
    histogram = Histogram(values)

    assert Histogram.from_json(json.loads(json.dumps(histogram.to_json()))) == histogram


@given(st.integers(1, 1000), st.integers(1, 1000), st.integers(1, 50))
def test_corrected_record_adds_the_omitted_latencies(interval: int, quick: int, calls: int) -> None:
    """A client that calls every `interval` and stalls for 20 of them omits 19 shorter latencies."""
    corrected, honest = Histogram(), Histogram()
    stall = 20 * interval
    for _ in range(calls):
        corrected.record_corrected(min(quick, interval), interval)
        honest.record(min(quick, interval))
    corrected.record_corrected(stall, interval)
    for latency in range(interval, stall + 1, interval):
        honest.record(latency)

    assert corrected == honest


def test_empty_histogram_has_zero_latency() -> None:
    assert Histogram().quantile(0.99) == 0
    assert Histogram().mean == 0.0


def test_negative_value_counts_as_zero() -> None:
    assert Histogram([-5]).maximum == 0
