"""The gateway watcher: announces changes by other processes to the sessions in state.db.

A poll is cheap and a projection is not, so one look asks three questions, each only if the previous
answer was yes. Did another connection commit (`PRAGMA data_version`, some microseconds)? Did a
listed session change (`cron` and `webui` are not listed)? What is the list now? A failed projection
announces nothing and is tried again at the next look. A change is announced within two polls.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from reference_impl.live.event_buffer import EventBuffer, Subscription, sizes
from reference_impl.storage.files import StrPath

log = logging.getLogger(__name__)

POLL_S = 5.0
SHARE_MAX = 0.02  # of one core, for looks: on a large and busy file, looks become rarer
_STOP_PATIENCE_S = 2.0

Shown = Sequence[Mapping[str, Any]]

_SHOWN = """FROM sessions AS s LEFT JOIN messages AS m ON m.session_id = s.id
    WHERE s.source NOT IN ('cron', 'webui') GROUP BY s.id"""

# A rewrite gives new ids, or at least new times or another length, in any session, not only in the
# latest one. SQLite computes the sums itself, and other threads run meanwhile.
_COLUMNS = "s.id, s.source, s.title, s.started_at, s.ended_at, s.end_reason, s.message_count"
_MARKS = f"""SELECT {_COLUMNS}, count(m.id), max(m.id), total(m.timestamp),
    total(length(m.content)) {_SHOWN} ORDER BY s.id"""
_LIST = f"""SELECT {_COLUMNS}, ifnull(max(m.timestamp), s.started_at) AS last_active_at {_SHOWN}
    ORDER BY last_active_at DESC, s.id"""
_FIELDS = (
    "session_id",
    "source",
    "title",
    "started_at",
    "ended_at",
    "end_reason",
    "message_count",
    "last_active_at",
)


def project(connection: sqlite3.Connection) -> Shown:
    """Read the listed sessions, the latest activity first. Raises sqlite3.Error."""
    rows = connection.execute(_LIST).fetchall()
    return [dict(zip(_FIELDS, row, strict=True)) for row in rows]


class GatewayWatcher:
    """Watches one state.db, which may be missing; the watcher only reads it."""

    def __init__(
        self,
        path: StrPath,
        *,
        poll_s: float = POLL_S,
        project: Callable[[sqlite3.Connection], Shown | None] = project,
    ) -> None:
        """Do not watch yet. `project` may be slow, may raise, and returns None for a failure."""
        self._path = os.fspath(path)
        self._uri = f"{Path(path).absolute().as_uri()}?mode=ro"
        self._poll_s = poll_s
        self._project = project
        self._buffer = EventBuffer("gateway", frames_max=1)
        self._connection: sqlite3.Connection | None = None
        self._inode = 0
        self._seen: tuple[int, int] | None = None  # data version, and hash of the marks
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="gateway-watcher", daemon=True)

    # Reading

    def subscribe(self, wake: Callable[[], None]) -> Subscription:
        """Receive the list as last announced, and again whenever it changes.

        After `stop`, the subscription is over from the start. `wake` is as for any buffer.
        """
        return self._buffer.subscribe(wake, max(0, self._buffer.last - 1))

    @property
    def is_running(self) -> bool:
        """Whether the watcher thread looks at the file."""
        return self._thread.is_alive() and not self._stopping.is_set()

    def gauges(self) -> dict[str, int]:
        """Sizes of the long-lived containers."""
        total = sizes([self._buffer])
        return {"watcher_subscribers": total.readers, "watcher_bytes_kept": total.bytes}

    # Watching

    def start(self) -> None:
        """Look periodically, on a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """Stop looking; ends every subscriber, including concurrent ones."""
        self._stopping.set()
        self._buffer.end()
        if self._thread.is_alive():
            self._thread.join(_STOP_PATIENCE_S)
        else:
            self._disconnect()

    def _watch(self) -> None:
        wait_s = 0.0
        while not self._stopping.wait(wait_s):
            began_at = time.monotonic()
            self.look()
            wait_s = max(self._poll_s, (time.monotonic() - began_at) / SHARE_MAX)
        self._disconnect()

    def look(self) -> bool:
        """Look once; returns whether a change was announced. One thread at a time."""
        try:
            return self._look()
        except Exception as error:  # noqa: BLE001 - the next look may succeed
            log.warning("%s: look failed, so the last list stays valid: %r", self._path, error)
            self._disconnect()
            return False

    def _look(self) -> bool:
        connection = self._connected()
        if connection is None:
            return False
        version = connection.execute("PRAGMA data_version").fetchone()[0]
        if self._seen is not None and self._seen[0] == version:
            return False
        connection.execute("BEGIN")  # so that marks and list come from one snapshot
        try:
            marks = hash(tuple(connection.execute(_MARKS)))
            if self._seen is not None and self._seen[1] == marks:
                self._seen = (version, marks)
                return False
            shown = self._project(connection)
        finally:
            connection.execute("ROLLBACK")
        if shown is None:
            log.warning("%s: no list could be projected; the last list stays valid", self._path)
            return False
        self._seen = (version, marks)
        self._buffer.publish("sessions_changed", {"type": "sessions_changed", "sessions": shown})
        return True

    def _connected(self) -> sqlite3.Connection | None:
        """Connect to the file that is there now; None where there is none."""
        try:
            inode = os.stat(self._path).st_ino
        except FileNotFoundError:
            return None
        if self._connection is None or inode != self._inode:
            self._disconnect()
            self._connection = sqlite3.connect(
                self._uri,
                uri=True,
                timeout=0.0,
                isolation_level=None,
                check_same_thread=False,
            )
            self._inode = inode
        return self._connection

    def _disconnect(self) -> None:
        """Close the connection; a new one counts versions anew, but the marks stay valid."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._seen is not None:
            self._seen = (-1, self._seen[1])
