"""What every endpoint works with: the app, and the figures of the server around it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from reference_impl.app import App
from reference_impl.web.process_stats import ProcessStats


@dataclass(eq=False, slots=True)
class Service:
    """The app as it is served. `gauges` and `counters` are those of the HTTP server."""

    app: App
    gauges: Callable[[], Mapping[str, int]] = dict
    counters: Callable[[], Mapping[str, Any]] = dict
    started_at: float = field(default_factory=time.time)
    is_draining: bool = False
    process_stats: ProcessStats = field(default_factory=ProcessStats)
