"""Tests of change points: a changed level is found where it is, and noise has none."""

from __future__ import annotations

from random import Random

import pytest

from harness.core.change_points import changes

ALPHA = 0.001


def noise(seed: int, nights: int, level: float = 100.0) -> list[float]:
    rng = Random(seed)
    return [level * (1 + rng.gauss(0, 0.03)) for _ in range(nights)]


def test_changed_level_is_found_at_its_night() -> None:
    """With both levels, and the share."""
    (change,) = changes([*noise(1, 30), *noise(2, 8, 120)], ALPHA)
    assert abs(change.at - 30) <= 1
    assert change.before == pytest.approx(100, rel=0.03)
    assert change.after == pytest.approx(120, rel=0.03)
    assert change.share == pytest.approx(0.2, abs=0.05)


def test_two_changes_are_found_in_order() -> None:
    """A level that rises and falls again."""
    found = changes([*noise(1, 20), *noise(2, 20, 150), *noise(3, 20)], ALPHA)
    assert [round(change.at / 20) for change in found] == [1, 2]
    assert found[0].share > 0 > found[1].share


@pytest.mark.parametrize("seed", range(4))
def test_noise_has_no_change(seed: int) -> None:
    assert changes(noise(seed, 60), ALPHA) == []


def test_one_bad_night_is_no_change() -> None:
    """However bad."""
    readings = noise(1, 40)
    readings[30] *= 50
    assert changes(readings, ALPHA) == []


def test_small_change_does_not_matter() -> None:
    """It is certain, and below 5 % of the level."""
    assert changes([100.0 + 0.01 * n for n in range(20)] + [103.0] * 20, ALPHA) == []


@pytest.mark.parametrize("readings", [[], [1.0] * 40, [1.0, 2.0] * 4])
def test_too_little_says_nothing(readings: list[float]) -> None:
    """No readings, equal ones, and too few."""
    assert changes(readings, ALPHA) == []


def test_change_from_zero_counts() -> None:
    """A share of nothing has no number, and yet the level moved."""
    (change,) = changes([0.0] * 20 + [3.0] * 20, ALPHA)
    assert change.share == float("inf")
