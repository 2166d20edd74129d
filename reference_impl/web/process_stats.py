"""What the kernel says of this process: its threads, its open files, its memory.

To ask takes longer than all else that health tells, and whoever asks may ask often; so an answer
is told again for a twentieth of a second.
"""

from __future__ import annotations

import os
import threading
import time

from reference_impl.storage import files

FRESH_S = 0.05


class Vitals:
    """The process's own measures. For one thread."""

    def __init__(self) -> None:
        """Ask nothing yet."""
        self._asked_at = 0.0
        self._told: dict[str, int] = {}

    def now(self) -> dict[str, int]:
        """How many threads and open files it has, and the bytes of its memory that are in RAM."""
        now = time.monotonic()
        if not self._told or now - self._asked_at >= FRESH_S:
            self._told = {
                "threads": threading.active_count(),
                "fds": _open_files(),
                "rss_bytes": _resident_pages() * os.sysconf("SC_PAGE_SIZE"),
            }
            self._asked_at = now
        return self._told


def _resident_pages() -> int:
    return int(files.read_whole("/proc/self/statm").split()[1])


def _open_files() -> int:
    folder = "/proc/self/fd"  # since Linux 6.2 its size says how many; before that it was zero
    return os.stat(folder).st_size or len(files.names(folder))
