"""Tests of the growth checker: leaks are invalid, other series are not; rates by simulation."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.checkers.growth import Controls, GrowsWithin, Limit
from harness.contract import promises
from harness.core.history import History, Operation, Outcome
from harness.core.trend import BLOCKS, READINGS_MIN, floors_of, trend_of
from harness.core.verdict import Validity, Verdict

EVERY = 20  # operations from sample to sample
SAMPLES = 100
WARM_UP = 400
OPERATIONS_A_SESSION = 10
ENTRY = 0.01
LIMITS = (
    Limit("containers/lifecycle_entries", promises.L9, ENTRY),
    Limit("process/uss_bytes", promises.H4, 100.0, slack=1e6),
    Limit("containers/*", promises.H4, ENTRY),
)
CHECK = GrowsWithin(LIMITS, WARM_UP, Controls("sessions", "cached", ENTRY))

Read = Callable[[int], float]
Readings = dict[str, Read]


def sample(operations: int, readings: Readings, controls: Readings) -> Operation:
    result = {name: read(operations) for name, read in readings.items()}
    values = {name: read(operations) for name, read in controls.items()}
    argument = {"operations": operations, **values}
    return Operation(0, "sample", argument, Outcome.OK, operations, operations + 1, result)


def samples_of(
    readings: Readings, operations: int = WARM_UP + SAMPLES * EVERY, **controls: Read
) -> History:
    """Samples of a host whose readings are functions of the operations, with the controls."""
    right: Readings = {
        "sessions": lambda done: done // OPERATIONS_A_SESSION,
        "cached": lambda done: min(done, WARM_UP - EVERY),
    }
    every = range(0, operations, EVERY)
    return History(tuple(sample(done, readings, {**right, **controls}) for done in every))


def judged(read: Callable[[int], float], name: str = "containers/any") -> Verdict:
    return CHECK(samples_of({name: read}))


def noise(seed: int, size: float) -> Callable[[int], float]:
    return lambda done: random.Random(f"{seed}/{done}").gauss(0, size)


# Growth


def test_one_entry_a_session_is_reported() -> None:
    verdict = judged(lambda done: 3 + done // OPERATIONS_A_SESSION, "containers/lifecycle_entries")

    (anomaly,) = verdict.anomalies
    assert anomaly.promise == promises.L9
    assert anomaly.message.startswith("containers/lifecycle_entries +0.1 (")
    assert [set(operation.result) for operation in anomaly.evidence] == [
        {"containers/lifecycle_entries"}
    ] * 3


@given(st.integers(0, 1 << 30), st.floats(1.0, 20.0), st.floats(0.0, 30.0))
@settings(max_examples=30, deadline=None)
def test_leak_under_bursts_is_invalid(seed: int, every: float, burst: float) -> None:
    """One entry every few operations, beside bursts."""
    rng = random.Random(seed)
    bursts = {done: rng.choice((0.0, 0.0, burst)) for done in range(0, 100_000, EVERY)}

    assert judged(lambda done: done // every + bursts[done]).validity is Validity.INVALID


def test_first_limit_is_reported_with_the_others() -> None:
    leak = {
        "process/uss_bytes": lambda done: 5e7 + done * 1000.0,
        "containers/lifecycle_entries": lambda done: done / 10,
    }

    (anomaly,) = CHECK(samples_of(leak)).anomalies
    assert anomaly.promise == promises.L9
    assert "with it process/uss_bytes +1e+03" in anomaly.message


# Series without growth


@given(st.integers(0, 1 << 30), st.floats(0.0, 1e6))
@settings(max_examples=30, deadline=None)
def test_noise_is_valid(seed: int, size: float) -> None:
    assert judged(noise(seed, size)).is_valid


@given(st.lists(st.integers(WARM_UP, WARM_UP + SAMPLES * EVERY), max_size=2), st.floats(0.1, 1e6))
@settings(max_examples=50, deadline=None)
def test_one_or_two_steps_are_valid(steps: Sequence[int], height: float) -> None:
    assert judged(lambda done: sum(height for at in steps if done >= at)).is_valid


@given(st.integers(EVERY, SAMPLES * EVERY // 4), st.integers(0, 1000), st.floats(1.0, 1e6))
@settings(max_examples=50, deadline=None)
def test_sawtooth_is_valid(period: int, phase: int, height: float) -> None:
    """The reading rises and falls at least four times."""
    assert judged(lambda done: height * ((done + phase) % period) / period).is_valid


@given(st.integers(1, WARM_UP))
@settings(max_examples=20, deadline=None)
def test_cache_filled_in_the_warm_up_is_valid(cap: int) -> None:
    assert judged(lambda done: min(done, cap)).is_valid


@given(st.integers(WARM_UP, WARM_UP + SAMPLES * EVERY // 2))
@settings(max_examples=20, deadline=None)
def test_cache_that_is_full_halfway_is_valid(cap: int) -> None:
    assert judged(lambda done: min(done, cap)).is_valid


def test_shrinking_reading_is_valid() -> None:
    assert judged(lambda done: -done).is_valid


@pytest.mark.parametrize(("bytes_in_all", "valid"), [(0.9e6, True), (2e6, False)])
def test_late_growth_is_valid_within_its_slack(bytes_in_all: float, *, valid: bool) -> None:
    slope = bytes_in_all / (SAMPLES * EVERY)

    assert judged(lambda done: done * slope, "process/uss_bytes").is_valid is valid


def test_reading_without_a_limit_is_ignored() -> None:
    assert judged(lambda done: done, "process/requests").is_valid


# Unknown


@pytest.mark.parametrize("missing", [0, 1])
def test_too_few_samples_are_not_judged(missing: int) -> None:
    short = samples_of({"containers/any": float}, WARM_UP + (READINGS_MIN - missing) * EVERY)

    assert CHECK.judgeable(short) == 1 - missing
    assert bool(CHECK(short).anomalies) is not bool(missing)


def test_too_few_sessions_are_unknown() -> None:
    """A leak would not have shown in this few operations."""
    verdict = CHECK(samples_of({}, sessions=lambda done: done // 1000))

    assert verdict.validity is Validity.UNKNOWN
    assert "sessions grows, but shows no growth" in verdict.unknowns[0]


def test_too_short_warm_up_is_unknown() -> None:
    verdict = CHECK(samples_of({}, cached=lambda done: done / 2))

    assert verdict.validity is Validity.UNKNOWN
    assert "the warm-up is too short" in verdict.unknowns[0]


# The rates, by simulation with fixed seeds


def walk(rng: random.Random, resemblance: float) -> list[float]:
    """Autocorrelated readings; a resemblance of 1 is a random walk."""
    value, readings = 0.0, []
    for _ in range(SAMPLES):
        value = resemblance * value + rng.gauss(0, 1)
        readings.append(value)
    return readings


AT = [float(done) for done in range(EVERY, (SAMPLES + 1) * EVERY, EVERY)]


@pytest.mark.parametrize("resemblance", [0.0, 0.5, 0.8, 0.95])
def test_false_alarm_rate_is_below_one_percent(resemblance: float) -> None:
    """Also of autocorrelated readings, with a limit of zero."""
    rng = random.Random(f"walk/{resemblance}")
    alarms = sum(trend_of(AT, walk(rng, resemblance)).exceeds(0.0) for _ in range(100))

    assert alarms <= 1


def test_one_entry_a_session_is_nearly_always_detected() -> None:
    """Sessions begin at random, one in ten operations."""
    rng = random.Random("sessions")

    def counted() -> list[float]:
        made, readings = 0, []
        for _ in range(SAMPLES):
            made += sum(rng.random() < 1 / OPERATIONS_A_SESSION for _ in range(EVERY))
            readings.append(float(made))
        return readings

    assert sum(trend_of(AT, counted()).exceeds(ENTRY) for _ in range(100)) >= 99


def test_slope_lies_within_its_bounds() -> None:
    rng = random.Random("bounds")
    trend = trend_of(AT, [0.5 * done + rng.gauss(0, 10) for done in AT])

    assert trend.low < 0.5 < trend.high
    assert trend.low < trend.slope < trend.high


@given(st.integers(READINGS_MIN, 500))
def test_every_reading_is_in_one_block(count: int) -> None:
    """The lowest reading is the floor of some block, at every position."""
    readings = [100.0] * count
    readings[count // 3] = 1.0
    at, floors = floors_of([float(number) for number in range(count)], readings)

    assert len(at) == len(floors) == BLOCKS
    assert sorted(floors)[:2] == [1.0, 100.0]
    assert at == sorted(at)
