"""Waiting for a fact about another process that nothing announces."""

from __future__ import annotations

import time
from collections.abc import Callable

POLL_S = 0.01


def came_true(is_so: Callable[[], bool], patience_s: float) -> bool:
    """Ask again and again whether a fact is so; whether it came true within `patience_s`."""
    ends_at = time.monotonic() + patience_s
    while not is_so():
        if time.monotonic() > ends_at:
            return False
        time.sleep(POLL_S)
    return True
