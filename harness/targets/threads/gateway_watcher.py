"""The *watcher_threads* ability: a gateway watcher that is stopped while readers come."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

PATIENCE_S = 3600.0  # of virtual time, and twelve looks a minute


class WatcherThreadsAdapter:
    """A watcher of a database that is not there; readers who wait for the end."""

    def __init__(self, folder: Path, rooms: Callable[[str], Any]) -> None:
        """`rooms(name)` gives a module of the reference."""
        self._watcher = rooms("live.gateway_watcher").GatewayWatcher(
            folder / "state.db", poll_s=PATIENCE_S / 3
        )

    def start(self) -> None:
        """Let it look from time to time."""
        self._watcher.start()

    def stop(self) -> None:
        """Stop it."""
        self._watcher.stop()

    def read(self) -> bool:
        """Subscribe, and read until it is over; False if that never comes."""
        woken = threading.Event()
        subscription = self._watcher.subscribe(woken.set)
        try:
            while True:
                while subscription.take():
                    pass
                if subscription.is_over:
                    return True
                if not woken.wait(PATIENCE_S):
                    return False
                woken.clear()
        finally:
            subscription.close()

    def readers(self) -> int:
        """How many readers there are."""
        size: int = self._watcher.gauges()["watcher_subscribers"]
        return size

    def close(self) -> None:
        """Stop it, if nobody has."""
        self._watcher.stop()
