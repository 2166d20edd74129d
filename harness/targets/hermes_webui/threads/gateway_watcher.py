"""The abilities *watcher_threads* and *watcher_pace* over the gateway watcher of a checkout.

Its readers are queues, which a handler of the server reads until it takes None; so does a reader
here. Looks fail as in the reference: in the function that reads the rows, or in the file.
"""

from __future__ import annotations

import inspect
import queue
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from harness.targets.hermes_webui import checkout
from harness.targets.hermes_webui.gateway_watcher import SCHEMA
from harness.targets.hermes_webui.threads import modules
from harness.targets.threads.watcher_pace import POLL_S, DatabaseAway

SESSION = "s1"
MESSAGES = 5  # a session of fewer may be hidden
READ = "read_importable_agent_session_rows"
PATIENCE_S = 12 * POLL_S  # of virtual time, in which the watcher sleeps ten times a second
# A look takes the fingerprint before the rows, so the next one may find the same change again.
SEEN_TWICE_S = 1.1 * POLL_S


def _watcher_of(path: Path) -> Any:
    """A watcher of this database."""
    module = checkout.module("gateway_watcher")
    checkout.bind("_get_state_db_path", lambda *_: path)  # the only way in older releases
    takes = inspect.signature(module.GatewayWatcher).parameters
    return module.GatewayWatcher(**({"state_db_path": path} if "state_db_path" in takes else {}))


class WebuiWatcherThreadsAdapter:
    """A watcher of a missing database, and readers that wait for its end."""

    def __init__(self, folder: Path) -> None:
        modules.reset()
        self._watcher = _watcher_of(folder / "state.db")

    def start(self) -> None:
        """Start the watcher."""
        self._watcher.start()

    def stop(self) -> None:
        """Stop the watcher."""
        self._watcher.stop()

    def read(self) -> bool:
        """Subscribe, and read to the end of the stream; False if the end does not come."""
        subscribed = self._watcher.subscribe()
        try:
            while subscribed.get(timeout=PATIENCE_S) is not None:
                pass
        except queue.Empty:
            return False
        finally:
            self._watcher.unsubscribe(subscribed)
        return True

    def readers(self) -> int:
        """The number of readers."""
        return len(self._watcher._subscribers)  # noqa: SLF001  it has no public gauge

    def close(self) -> None:
        """Stop the watcher, if it still runs."""
        self._watcher.stop()


class WebuiWatcherPaceAdapter(DatabaseAway):
    """A watcher at work, one reader of it, and another program that writes in a session."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        modules.reset()
        watcher = checkout.module("gateway_watcher")
        self._read = modules.replace(watcher, READ, self._look)
        self._watcher = _watcher_of(self._path)
        self._subscribed = self._watcher.subscribe()

    def start(self) -> None:
        """Start the watcher."""
        threading.Thread(target=self._take, daemon=True).start()
        self._watcher.start()

    def write(self) -> None:
        """Let the other program add a message and set another title; it may make the file.

        A title alone is asked of the ability *watcher*: here the pace counts.
        """
        path = self._path if not self._aside.exists() else self._aside
        is_new = not path.exists()
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous = OFF")  # no power is lost here
            if is_new:
                self._furnish(connection)
            self._add_message(connection)
            self._title += 1
            connection.execute(  # as the agent does: two messages may have the same time
                "UPDATE sessions SET title = ?, message_count = message_count + 1",
                (f"{self._title}",),
            )
        self._since_s = time.monotonic()

    def _furnish(self, connection: sqlite3.Connection) -> None:
        for statement in SCHEMA.split(";"):
            connection.execute(statement)
        connection.execute(
            "INSERT INTO sessions (id, source, started_at, message_count) VALUES (?, 'cli', 1, ?)",
            (SESSION, MESSAGES),
        )
        for _ in range(MESSAGES):
            self._add_message(connection)

    @staticmethod
    def _add_message(connection: sqlite3.Connection) -> None:
        connection.execute(
            "INSERT INTO messages (session_id, role, content, timestamp)"
            " VALUES (?, 'user', 'hello', ?)",
            (SESSION, time.time()),
        )

    def announced(self, patience_s: float = PATIENCE_S) -> float | None:
        """As in the reference; time passes then until the same change cannot come again."""
        waited_s = super().announced(patience_s)
        time.sleep(SEEN_TWICE_S)
        return waited_s

    def _look(self, *given: Any, **named: Any) -> Any:
        if self._how in ("damaged", "missing"):  # there is nothing that could be projected
            return self._read(*given, **named)
        return self._projected(lambda: self._read(*given, **named))

    def _take(self) -> None:
        while (event := self._subscribed.get()) is not None:
            rows = event["sessions"]
            with self._changed:
                self._announced.append((time.monotonic(), rows[0]["title"] if rows else None))
                self._changed.notify_all()

    def close(self) -> None:
        """Stop the watcher."""
        self._watcher.stop()
