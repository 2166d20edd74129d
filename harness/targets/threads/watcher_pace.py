"""The *watcher_pace* ability: a gateway watcher at work, and a database that fails for a while.

Time is virtual, so what a client waits for an announcement is exact, however busy the machine is.
"""

from __future__ import annotations

import itertools
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

POLL_S = 5.0
PATIENCE_S = 3600.0  # of virtual time
GARBAGE = b"no database " * 512
_SCHEMA = (
    """CREATE TABLE sessions(id TEXT PRIMARY KEY, source TEXT, title TEXT, started_at REAL,
    ended_at REAL, end_reason TEXT, message_count INTEGER NOT NULL DEFAULT 0)""",
    "CREATE TABLE messages(id INTEGER PRIMARY KEY, session_id TEXT, content TEXT, timestamp REAL)",
    "INSERT INTO sessions(id, source, started_at) VALUES ('s1', 'cli', 1.0)",
)

_numbers = itertools.count()  # one folder for each schedule


class ProjectionError(Exception):
    """The projection fails, as the script says."""


class DatabaseAway:
    """A database that a watcher follows, and that fails for a while; with what a reader is shown.

    A target adds the watcher, its reader, and the other program that writes.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / f"{next(_numbers)}.db"
        self._aside = self._path.with_suffix(".aside")  # where the file is while it is not there
        self._changed = threading.Condition()
        self._how = ""
        self._title = 0
        self._since_s = 0.0  # since when the last title can be announced
        self._announced: list[tuple[float, str | None]] = []  # when, and the title in the list
        self.projections = 0

    def break_off(self, how: str) -> None:
        """Let each look fail: `raises`, `none` (of the projection), `damaged`, `missing`."""
        self._how = how
        if how in ("damaged", "missing"):
            os.replace(self._path, self._aside)  # noqa: PTH105  as other programs do it
        if how == "damaged":
            self._path.write_bytes(GARBAGE)

    def heal(self) -> None:
        """Let looks succeed again."""
        if self._how in ("damaged", "missing"):
            os.replace(self._aside, self._path)  # noqa: PTH105  as other programs do it
        self._how = ""
        self._since_s = time.monotonic()

    def wait(self, seconds: float) -> dict[str, int]:
        """Let time pass; the numbers of announcements and of projections meanwhile."""
        before = len(self._announced), self.projections
        time.sleep(seconds)
        announcements = len(self._announced) - before[0]
        return {"announcements": announcements, "projections": self.projections - before[1]}

    def announced(self, patience_s: float = PATIENCE_S) -> float | None:
        """How long a reader waits for the last title, since it can be read; None if none comes."""
        title = f"{self._title}"
        with self._changed:
            is_there = self._changed.wait_for(
                lambda: bool(self._announced) and self._announced[-1][1] == title, patience_s
            )
        return round(self._announced[-1][0] - self._since_s, 3) if is_there else None

    def _projected(self, project: Callable[[], Any]) -> Any:
        """The answer of a projection, or its failure as the script says."""
        self.projections += 1
        if self._how == "raises":
            raise ProjectionError("the projection is scripted to fail")
        return None if self._how == "none" else project()


class WatcherPaceAdapter(DatabaseAway):
    """A watcher, one reader of it, and another program that writes one session's title."""

    def __init__(self, folder: Path, modules: Callable[[str], Any]) -> None:
        """`modules(name)` imports a module of the reference implementation."""
        super().__init__(folder)
        module = modules("live.gateway_watcher")
        self._project = module.project
        self._watcher = module.GatewayWatcher(self._path, poll_s=POLL_S, project=self._look)
        self._subscription = self._watcher.subscribe(self._take)

    def start(self) -> None:
        """Start the watcher."""
        self._take()
        self._watcher.start()

    def write(self) -> None:
        """Let the other program set another title; it makes the file if there is none."""
        path = self._path if not self._aside.exists() else self._aside
        is_new = not path.exists()
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous = OFF")  # no power is lost here
            for statement in _SCHEMA if is_new else ():
                connection.execute(statement)
            self._title += 1
            connection.execute("UPDATE sessions SET title = ?", (f"{self._title}",))
        self._since_s = time.monotonic()

    def _look(self, connection: Any) -> Any:
        return self._projected(lambda: self._project(connection))

    def _take(self) -> None:
        with self._changed:
            while frames := self._subscription.take():
                rows = frames[-1].data["sessions"]
                title = rows[0]["title"] if rows else None
                self._announced.append((time.monotonic(), title))
            self._changed.notify_all()

    def close(self) -> None:
        """Stop the watcher."""
        self._watcher.stop()
