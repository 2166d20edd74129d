"""The *watcher_threads* ability: a gateway watcher that stops while readers subscribe."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

PATIENCE_S = 3600.0  # of virtual time; it covers three polls


class WatcherThreadsAdapter:
    """A watcher of a missing database, and readers that wait for its end."""

    def __init__(self, folder: Path, modules: Callable[[str], Any]) -> None:
        """`modules(name)` imports a module of the reference implementation."""
        self._watcher = modules("live.gateway_watcher").GatewayWatcher(
            folder / "state.db", poll_s=PATIENCE_S / 3
        )

    def start(self) -> None:
        """Start the watcher."""
        self._watcher.start()

    def stop(self) -> None:
        """Stop the watcher."""
        self._watcher.stop()

    def read(self) -> bool:
        """Subscribe, and read to the end of the stream; False if the end does not come."""
        changed = threading.Event()
        subscription = self._watcher.subscribe(changed.set)
        try:
            while True:
                while subscription.take():
                    pass
                if subscription.is_over:
                    return True
                if not changed.wait(PATIENCE_S):
                    return False
                changed.clear()
        finally:
            subscription.close()

    def readers(self) -> int:
        """The number of readers."""
        size: int = self._watcher.gauges()["watcher_subscribers"]
        return size

    def close(self) -> None:
        """Stop the watcher, if it still runs."""
        self._watcher.stop()
