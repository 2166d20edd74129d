"""Settings from the environment: a valid value, or the default; bad ones never stop the server."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

log = logging.getLogger(__name__)

INT_MAX = 1_000_000
SECONDS_MIN, SECONDS_MAX = 0.001, 366 * 86_400.0  # threads cannot wait much longer
_TEXT_CHARS = 40
_Number = TypeVar("_Number", int, float)
_refused: set[str] = set()  # settings with a warning; at most as many as there are


def env_int(name: str, default: int, *, minimum: int = 1) -> int:
    """Read an integer from the environment; anything out of its range gives the default."""
    return _valid(name, int, minimum, INT_MAX, default)


def env_seconds(name: str, default: float) -> float:
    """Read a time span from the environment; anything out of its range gives the default."""
    return _valid(name, float, SECONDS_MIN, SECONDS_MAX, default)


def _valid(
    name: str, parse: Callable[[str], _Number], minimum: float, maximum: float, default: _Number
) -> _Number:
    text = os.environ.get(name)
    if text is None:
        return default
    with suppress(ValueError):
        value = parse(text)
        if minimum <= value <= maximum:
            return value
    if name not in _refused:
        _refused.add(name)
        shown = repr(text[:_TEXT_CHARS])
        log.warning("%s: %s is not in %s to %s: it is %s", name, shown, minimum, maximum, default)
    return default
