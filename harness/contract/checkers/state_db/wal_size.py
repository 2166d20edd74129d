"""Log growth: the write-ahead log stays bounded while readers come and go.

For histories with `log_bytes`, looks at the log's length from outside, and `pin`s, readers that
hold a snapshot for a while. SQLite can start its log over only when no reader needs its end; so
while one reader stays, the log may grow, and when it has gone it must not go on growing.
"""

from __future__ import annotations

from harness.core.checker import Checker
from harness.core.history import History
from harness.core.promises import Promise
from harness.core.verdict import Anomaly, Verdict


def log_stays_below(limit_bytes: int) -> Checker:
    """Make the checker of D6. The limit bounds the log while no single reader stays for long."""

    def check(history: History) -> Verdict:
        looks = [op for op in history.happened if op.function == "log_bytes"]
        if not looks:
            return Verdict(unknowns=("nobody looked at the log",))
        highest = max(looks, key=lambda op: int(op.result))
        if highest.result <= limit_bytes:
            return Verdict()
        pins = [op for op in history.happened if op.function == "pin"]
        message = (
            f"the log reached {highest.result} bytes, of {limit_bytes} that are allowed, while"
            f" {len(pins)} readers came and went"
        )
        evidence = (*pins[:1], highest)
        return Verdict((Anomaly(Promise.D6, message, evidence, "unbounded-log"),))

    return check


def log_high_water_bytes(history: History) -> int:
    """How long the log was at most, as far as anybody looked; a stated number."""
    looks = (op.result for op in history.happened if op.function == "log_bytes")
    return max(looks, default=0)
