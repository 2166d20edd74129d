"""Statistics of this process from the kernel: its threads, its open files, its memory.

Reading them takes longer than the rest of a health response, and health may be read often; so the
values are cached for a twentieth of a second.
"""

from __future__ import annotations

import os
import threading
import time

from reference_impl.storage import files

FRESH_S = 0.05


class ProcessStats:
    """Cached statistics of the process. For one thread."""

    def __init__(self) -> None:
        """Do not read yet."""
        self._read_at = 0.0
        self._stats: dict[str, int] = {}

    def now(self) -> dict[str, int]:
        """Number of threads and open files, and the resident bytes."""
        now = time.monotonic()
        if not self._stats or now - self._read_at >= FRESH_S:
            self._stats = {
                "threads": threading.active_count(),
                "fds": _open_files(),
                "rss_bytes": _resident_pages() * os.sysconf("SC_PAGE_SIZE"),
            }
            self._read_at = now
        return self._stats


def _resident_pages() -> int:
    return int(files.read_whole("/proc/self/statm").split()[1])


def _open_files() -> int:
    folder = "/proc/self/fd"  # since Linux 6.2 its size says how many; before that it was zero
    return os.stat(folder).st_size or len(files.names(folder))
