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
ON, OFF = ("1", "on", "true", "yes"), ("0", "off", "false", "no")
_TEXT_CHARS = 40
_Number = TypeVar("_Number", int, float)
_refused: set[str] = set()  # settings with a warning; at most as many as there are


def env_int(name: str, default: int, *, minimum: int = 1) -> int:
    """Read an integer from the environment; anything out of its range gives the default."""
    return _valid(name, int, minimum, INT_MAX, default)


def env_seconds(name: str, default: float) -> float:
    """Read a time span from the environment; anything out of its range gives the default."""
    return _valid(name, float, SECONDS_MIN, SECONDS_MAX, default)


def env_switch(name: str, *, default: bool) -> bool:
    """Read a switch from the environment, such as on or off; anything else gives the default."""
    text = os.environ.get(name)
    if text is None:
        return default
    for value, words in ((True, ON), (False, OFF)):
        if text.strip().lower() in words:
            return value
    _refuse(name, text, f"one of {', '.join((*ON, *OFF))}", default)
    return default


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
    _refuse(name, text, f"in {minimum} to {maximum}", default)
    return default


def _refuse(name: str, text: str, allowed: str, default: object) -> None:
    if name not in _refused:
        _refused.add(name)
        log.warning("%s: %r is not %s: it is %s", name, text[:_TEXT_CHARS], allowed, default)
