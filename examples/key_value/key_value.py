"""A key-value store on SQLite that threads share: counters that each caller adds to."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path


class Store:
    """Numbers by key, each 0 at first. Every method may be called from any thread."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._database.execute("CREATE TABLE IF NOT EXISTS numbers (key TEXT PRIMARY KEY, n INT)")

    def get(self, key: str) -> int:
        """The number under this key."""
        with self._lock:
            return self._read(key)

    def add(self, key: str, amount: int) -> int:
        """Add to the number, and return the sum."""
        with self._lock:
            total = self._read(key) + amount
            self._write(key, total)
        return total

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def _read(self, key: str) -> int:
        row = self._database.execute("SELECT n FROM numbers WHERE key = ?", (key,)).fetchone()
        return row[0] if row else 0

    def _write(self, key: str, number: int) -> None:
        self._database.execute("INSERT OR REPLACE INTO numbers VALUES (?, ?)", (key, number))
