"""Settings from the environment: a valid value, or the default; bad ones never stop the server."""

from __future__ import annotations

import math
import os


def env_int(name: str, default: int, *, minimum: int = 1) -> int:
    """Read an integer from the environment; an invalid or too small one gives the default."""
    try:
        value = int(os.environ.get(name, ""))
    except ValueError:
        return default
    return value if value >= minimum else default


def env_seconds(name: str, default: float) -> float:
    """Read a time span from the environment; anything but a positive number gives the default."""
    try:
        value = float(os.environ.get(name, ""))
    except ValueError:
        return default
    return value if 0 < value < math.inf else default
