"""Notes in SQLite."""

import sqlite3
from pathlib import Path


class Notes:
    """A table of notes in a file that several processes share."""

    def __init__(self, path: Path, patience_s: float = 30.0) -> None:
        self._db = sqlite3.connect(path, timeout=patience_s, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("CREATE TABLE IF NOT EXISTS notes (text TEXT)")

    def add(self, text: str) -> None:
        """Add a note."""
        self._db.execute("INSERT INTO notes VALUES (?)", (text,))

    def close(self) -> None:
        """Close the file."""
        self._db.close()
