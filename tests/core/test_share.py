"""Tests of the interval of a share."""

from __future__ import annotations

import math

from harness.core.share import wilson


def test_the_interval_is_wilsons() -> None:
    """Values of the score interval without continuity correction, from its formula."""
    assert wilson(0, 0) == (0.0, 1.0)
    low, high = wilson(8, 10)
    assert math.isclose(low, 0.4902, abs_tol=1e-4)
    assert math.isclose(high, 0.9433, abs_tol=1e-4)
    assert wilson(0, 10)[0] == 0.0
    assert wilson(10, 10)[1] == 1.0
