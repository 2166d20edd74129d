"""The *watcher* ability: a gateway watcher, and another process that writes what it watches.

`poll` looks twice, as the contract allows, and tells what was announced and how often the list was
projected; `shown` is what somebody who subscribes now is given.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

POLLS = 2


class ProjectionError(Exception):
    """The list could not be had, as told."""


class WatcherAdapter:
    """One database, a writer with a connection of its own, and a watcher of it."""

    def __init__(self, folder: Path, rooms: Callable[[str], Any]) -> None:
        """`rooms(name)` gives a module of the reference."""
        path = folder / "state.db"
        self._writer = rooms("state_db.state_db").StateDb(path)
        self._draft = rooms("state_db.state_db").Draft
        self._project = rooms("live.gateway_watcher").project
        self._watcher = rooms("live.gateway_watcher").GatewayWatcher(path, project=self._projected)
        self._subscription = self._watcher.subscribe(lambda: None)
        self._projections = 0
        self._failure = ""

    def _projected(self, connection: Any) -> Any:
        self._projections += 1
        match self._failure:
            case "raises":
                raise ProjectionError("as told")
            case "none":
                return None
        return self._project(connection)

    # What another process does

    def create(self, session: str, source: str) -> None:
        """Make a session."""
        self._writer.create_session(session, source)

    def append(self, session: str, text: str) -> None:
        """Add a message."""
        self._writer.append_message(session, "user", text)

    def rewrite(self, session: str, texts: list[str]) -> None:
        """Put other messages in place of those that are there."""
        self._writer.replace_messages(session, [self._draft("user", text) for text in texts])

    def rename(self, session: str, title: str) -> None:
        """Give it a title."""
        self._writer.set_title(session, title)

    def end(self, session: str) -> None:
        """End it."""
        self._writer.end_session(session, "done")

    def delete(self, session: str) -> None:
        """Remove it."""
        self._writer.delete_session(session)

    # What the watcher does

    def fail(self, how: str) -> None:
        """From now on the projection raises, gives none, or works again (empty)."""
        self._failure = how

    def poll(self) -> dict[str, Any]:
        """Look twice."""
        self._projections = 0
        for _ in range(POLLS):
            self._watcher.look()
        return {"announced": self._told(self._subscription), "projections": self._projections}

    def shown(self) -> list[list[Any]] | None:
        """What a new subscriber is given."""
        subscription = self._watcher.subscribe(lambda: None)
        told = self._told(subscription)
        subscription.close()
        return told

    def _told(self, subscription: Any) -> list[list[Any]] | None:
        frames = subscription.take()
        if not frames:
            return None
        rows = frames[-1].data["sessions"]
        return sorted(
            [row["session_id"], row["title"], row["message_count"], row["ended_at"] is not None]
            for row in rows
        )

    def close(self) -> None:
        """Stop watching, and writing."""
        self._watcher.stop()
        self._writer.close()
