"""Checks that the write-ahead log stays bounded while readers begin and end.

For histories with `log_bytes`, samples of the log's length, and `pin`s, readers that hold a
snapshot for a while. SQLite restarts its log only when no reader needs its end; so the log may grow
while one reader stays, and must stop growing once it has ended.
"""

from __future__ import annotations

from harness.contract import promises
from harness.core.checker import Checker
from harness.core.history import History
from harness.core.verdict import Anomaly, Verdict


def wal_stays_below(limit_bytes: int) -> Checker:
    """Make the checker of D6. The limit holds while no single reader stays for long."""

    def check(history: History) -> Verdict:
        samples = history.happened.of("log_bytes")
        if not samples:
            return Verdict(unknowns=("no sample of the log's length",))
        highest = max(samples, key=lambda op: int(op.result))
        if highest.result <= limit_bytes:
            return Verdict()
        pins = history.happened.of("pin")
        return Verdict(
            (
                Anomaly(
                    promises.D6,
                    f"log_bytes() exceeded the limit while {len(pins)} readers began and ended",
                    (*pins[:1], highest),
                    "unbounded-log",
                    expected=f"at most {limit_bytes} bytes",
                    observed=f"{highest.result} bytes",
                ),
            )
        )

    return check


def wal_high_water_bytes(history: History) -> int:
    """The greatest sampled length of the log; 0 without a sample."""
    samples = (op.result for op in history.happened.of("log_bytes"))
    return max(samples, default=0)
