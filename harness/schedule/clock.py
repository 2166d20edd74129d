"""The virtual clock: it stands still while anybody can act, and jumps when all wait.

The time of day and the monotonic clock are one here; only their origins differ, and both origins
are read from the machine once, so that a file's age still makes sense to code under test.
"""

from __future__ import annotations

import math
from time import monotonic_ns, time_ns

PATIENCE = 1_000  # reads of the clock in a row, before we take the reader for a spinning one
SPIN_NS = 1_000_000


def nanoseconds(seconds: float) -> int:
    """A duration, rounded up: who waits for less than one must still see time pass."""
    return math.ceil(seconds * 1e9)


class Clock:
    """Nanoseconds since the schedule began, and the two origins."""

    __slots__ = ("epoch_ns", "now_ns", "origin_ns", "reads")

    def __init__(self) -> None:
        """Take the origins from the machine."""
        self.now_ns = 0
        self.reads = 0
        self.epoch_ns = time_ns()
        self.origin_ns = monotonic_ns()

    def rewind(self) -> None:
        """Begin a schedule."""
        self.now_ns = 0
        self.reads = 0

    def read(self) -> int:
        """The time since the schedule began.

        Code that spins on the clock, and never waits, would stand still for ever: after
        `PATIENCE` reads in a row each read lets a millisecond pass.
        """
        self.reads += 1
        if self.reads > PATIENCE:
            self.now_ns += SPIN_NS
        return self.now_ns
