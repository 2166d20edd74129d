"""The virtual clock: it stands still while any task can act, and jumps when all tasks wait.

The time of day and the monotonic clock advance together and differ in their origins. The time of
day starts at the machine's, so that the age of a file makes sense to code under test. The monotonic
clock starts at a power of two beyond the machine's: a wait of whole seconds then has exactly that
length in floats in every schedule, and the clock does not go back relative to earlier readings.
"""

from __future__ import annotations

import math
from time import monotonic_ns, time_ns

SPIN_READS = 1_000  # consecutive reads of the clock after which the reader counts as spinning
SPIN_NS = 1_000_000
ORIGIN_MIN_S = 1 << 20


def nanoseconds(seconds: float) -> int:
    """Convert seconds, rounded up: a wait of less than a nanosecond must still take time."""
    return math.ceil(seconds * 1e9)


class Clock:
    """The nanoseconds since the schedule began, and the two origins."""

    __slots__ = ("epoch_ns", "now_ns", "origin_ns", "reads")

    def __init__(self) -> None:
        """Take the time of day from the machine, and an origin beyond its uptime."""
        self.now_ns = 0
        self.reads = 0
        self.epoch_ns = time_ns()
        self.origin_ns = _origin_s(monotonic_ns() // 10**9) * 10**9

    def rewind(self) -> None:
        """Reset the clock for the next schedule."""
        self.now_ns = 0
        self.reads = 0

    def read(self) -> int:
        """Return the time since the schedule began.

        On a clock that stands still, code that spins on it would not end: after `SPIN_READS`
        consecutive reads each further read advances it by a millisecond.
        """
        self.reads += 1
        if self.reads > SPIN_READS:
            self.now_ns += SPIN_NS
        return self.now_ns

    def monotonic_s(self) -> float:
        """Return the seconds of the monotonic clock."""
        self.reads += 1
        if self.reads > SPIN_READS:
            self.now_ns += SPIN_NS
        return (self.now_ns + self.origin_ns) / 1e9


def _origin_s(uptime_s: int) -> int:
    """Return an origin that is equal on nearly all machines, so floats are equally coarse."""
    return max(ORIGIN_MIN_S, 1 << uptime_s.bit_length())
