"""Settings from the environment: a sound value, or the default; garbage never stops the server."""

from __future__ import annotations

import math
import os


def env_int(name: str, default: int, *, minimum: int = 1) -> int:
    """Read a whole number from the environment; anything else, or too small, is the default."""
    try:
        value = int(os.environ.get(name, ""))
    except ValueError:
        return default
    return value if value >= minimum else default


def env_seconds(name: str, default: float) -> float:
    """Read a time span from the environment; anything that is no positive number is the default."""
    try:
        value = float(os.environ.get(name, ""))
    except ValueError:
        return default
    return value if 0 < value < math.inf else default
