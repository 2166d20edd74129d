"""The virtual clock: it stands still while anybody can act, and jumps when all wait.

The time of day and the monotonic clock are one here; only their origins differ. The time of day is
the machine's, so that a file's age still makes sense to code under test. The monotonic clock begins
at a power of two beyond the machine's: a wait of whole seconds is then exactly so long when it is
measured in floats, whenever a schedule is played, and time never goes back for what was measured
before.
"""

from __future__ import annotations

import math
from time import monotonic_ns, time_ns

PATIENCE = 1_000  # reads of the clock in a row, before we take the reader for a spinning one
SPIN_NS = 1_000_000
ORIGIN_MIN_S = 1 << 20


def nanoseconds(seconds: float) -> int:
    """A duration, rounded up: who waits for less than one must still see time pass."""
    return math.ceil(seconds * 1e9)


class Clock:
    """Nanoseconds since the schedule began, and the two origins."""

    __slots__ = ("epoch_ns", "now_ns", "origin_ns", "reads")

    def __init__(self) -> None:
        """Take the time of day from the machine, and an origin beyond its uptime."""
        self.now_ns = 0
        self.reads = 0
        self.epoch_ns = time_ns()
        self.origin_ns = _origin_s(monotonic_ns() // 10**9) * 10**9

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


def _origin_s(uptime_s: int) -> int:
    """The same for nearly every machine; floats from here on are equally coarse for days."""
    return max(ORIGIN_MIN_S, 1 << uptime_s.bit_length())
