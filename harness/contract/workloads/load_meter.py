"""The meter: what a load generator did, second by second, and what it cost to do it.

Latencies are in microseconds. Its own loop is measured like anything else: a greenlet that asks to
be woken every so often, and is not, shows how late all others are.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from typing import Any

from harness.core.histogram import Histogram

US = 1_000_000


class Meter:
    """Counts and latencies of one generator process. `lag` and `late` take seconds."""

    def __init__(self) -> None:
        """Begin now."""
        self._latencies: defaultdict[str, Histogram] = defaultdict(Histogram)
        self._counts: Counter[str] = Counter()
        self._second_lags = Histogram()
        self._lags = Histogram()
        self._events = 0
        self.streams = 0
        self.users = 0
        self.start()

    def start(self) -> None:
        """What was used before this is not the load's."""
        self._began_s = self._second_s = time.monotonic()
        self._cpu_began_s = self._cpu_second_s = time.process_time()

    def heard(self, events: int, size: int) -> None:
        """Some events came, in so many bytes."""
        self._counts["events"] += events
        self._counts["bytes"] += size
        self._events += events

    def count(self, name: str) -> None:
        """Something happened."""
        self._counts[name] += 1

    def late(self, name: str, seconds: float) -> None:
        """Something came so long after it was due."""
        self._latencies[name].record(round(seconds * US))

    def lag(self, seconds: float) -> None:
        """Our own loop was so late."""
        self._second_lags.record(round(seconds * US))

    def second(self) -> dict[str, Any]:
        """What happened since the last time, and begin anew."""
        now_s, cpu_s = time.monotonic(), time.process_time()
        self._lags.merge(self._second_lags)
        told = {
            "seconds": round(now_s - self._second_s, 3),
            "cpu_s": round(cpu_s - self._cpu_second_s, 4),
            "lag_ms": _quantiles(self._second_lags),
            "users": self.users,
            "streams": self.streams,
            "counts": dict(self._counts),
            "latencies": {name: each.to_json() for name, each in self._latencies.items()},
        }
        self._second_s, self._cpu_second_s = now_s, cpu_s
        self._counts.clear()
        self._latencies.clear()
        self._second_lags = Histogram()
        return told

    def account(self) -> dict[str, Any]:
        """What all of it cost, since the start; after the last `second`."""
        wall_s = time.monotonic() - self._began_s
        cpu_s = time.process_time() - self._cpu_began_s
        return {
            "wall_s": round(wall_s, 3),
            "cpu_s": round(cpu_s, 3),
            "cpu_share": round(cpu_s / max(wall_s, 1e-9), 4),
            "events": self._events,
            "lag_ms": _quantiles(self._lags),
        }


def _quantiles(histogram: Histogram) -> dict[str, float]:
    in_ms = {f"p{share * 100:g}": histogram.quantile(share) / 1e3 for share in (0.5, 0.99)}
    return {**in_ms, "max": histogram.maximum / 1e3}
