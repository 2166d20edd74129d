"""The *measured* ability of a hermes-webui server: its agent's database lies beside its state."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path

from harness.processes.server import Launch
from harness.targets.hermes_webui.scripted_database import SCHEMA
from harness.targets.server.measured import SOURCE, MeasuredAdapter, text_of

DATABASE = "state.db"


class WebuiMeasuredAdapter(MeasuredAdapter):
    """One server, and the database of its scripted agent."""

    def __init__(self, folder: Path, launch: Launch) -> None:
        """Boot nothing yet."""
        super().__init__(folder, launch, folder / DATABASE, _fill)


def _fill(folder: Path, sessions: int, messages: int) -> None:
    now = time.time()
    names = [f"outside-{number}" for number in range(sessions)]
    with closing(sqlite3.connect(folder / DATABASE)) as connection, connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.executescript(SCHEMA)
        connection.executemany(
            "INSERT INTO sessions (id, source, started_at, title, message_count)"
            " VALUES (?, ?, ?, ?, ?)",
            [(name, SOURCE, now, name, messages) for name in names],
        )
        connection.executemany(
            "INSERT INTO messages (session_id, role, content, timestamp) VALUES (?, ?, ?, ?)",
            [
                (name, "user", text_of(number), now + number)
                for name in names
                for number in range(messages)
            ],
        )
