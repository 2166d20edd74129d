"""Measures a load generator: its work and its cost, second by second.

Latencies are in microseconds. The generator's own loop is measured too: the delay of a greenlet
that sleeps for a fixed time shows how late all other greenlets are.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from typing import Any

from harness.core.histogram import Histogram

US = 1_000_000


class Meter:
    """The counts and latencies of one generator process. `lag` and `late` take seconds."""

    def __init__(self) -> None:
        """Begin to measure."""
        self._latencies: defaultdict[str, Histogram] = defaultdict(Histogram)
        self._counts: Counter[str] = Counter()
        self._second_lags = Histogram()
        self._lags = Histogram()
        self._events = 0
        self.streams = 0
        self.users = 0
        self.start()

    def start(self) -> None:
        """Leave out what was used before: it is not the load's."""
        self._began_s = self._second_s = time.monotonic()
        self._cpu_began_s = self._cpu_second_s = time.process_time()

    def received(self, events: int, size: int) -> None:
        """Count received events and bytes."""
        self._counts["events"] += events
        self._counts["bytes"] += size
        self._events += events

    def count(self, name: str) -> None:
        """Count an occurrence."""
        self._counts[name] += 1

    def late(self, name: str, seconds: float) -> None:
        """Record the delay of something that was due."""
        self._latencies[name].record(round(seconds * US))

    def lag(self, seconds: float) -> None:
        """Record a delay of the generator's own loop."""
        self._second_lags.record(round(seconds * US))

    def second(self) -> dict[str, Any]:
        """Return the measurements since the last call, and begin anew."""
        now_s, cpu_s = time.monotonic(), time.process_time()
        self._lags.merge(self._second_lags)
        report = {
            "seconds": round(now_s - self._second_s, 3),
            "cpu_s": round(cpu_s - self._cpu_second_s, 4),
            "lag_ms": _quantiles(self._second_lags),
            "users": self.users,
            "streams": self.streams,
            "counts": dict(self._counts),
            "latencies": {name: histogram.to_json() for name, histogram in self._latencies.items()},
        }
        self._second_s, self._cpu_second_s = now_s, cpu_s
        self._counts.clear()
        self._latencies.clear()
        self._second_lags = Histogram()
        return report

    def account(self) -> dict[str, Any]:
        """Return the total cost since the start; to be called after the last `second`."""
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
