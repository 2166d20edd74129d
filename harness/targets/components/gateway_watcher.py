"""The *watcher* ability: a gateway watcher, and another process that writes its database.

`poll` polls twice, as the contract allows, and returns what was announced and how often the list
was projected; `shown` returns the list that a new subscriber receives.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

POLLS = 2


class ProjectionError(Exception):
    """The projection fails, as the script says."""


class WatcherAdapter:
    """One database, a writer with a connection of its own, and a watcher of it."""

    def __init__(self, folder: Path, modules: Callable[[str], Any]) -> None:
        """`modules(name)` imports a module of the reference implementation."""
        path = folder / "state.db"
        self._writer = modules("state_db.state_db").StateDb(path)
        self._draft = modules("state_db.state_db").Draft
        self._project = modules("live.gateway_watcher").project
        self._watcher = modules("live.gateway_watcher").GatewayWatcher(
            path, project=self._projected
        )
        self._subscription = self._watcher.subscribe(lambda: None)
        self._projections = 0
        self._failure = ""

    def _projected(self, connection: Any) -> Any:
        self._projections += 1
        match self._failure:
            case "raises":
                raise ProjectionError("the projection is scripted to fail")
            case "none":
                return None
        return self._project(connection)

    # Calls of the other process

    def create(self, session: str, source: str) -> None:
        """Create a session."""
        self._writer.create_session(session, source)

    def append(self, session: str, text: str) -> None:
        """Add a message."""
        self._writer.append_message(session, "user", text)

    def rewrite(self, session: str, texts: list[str]) -> None:
        """Replace all messages."""
        self._writer.replace_messages(session, [self._draft("user", text) for text in texts])

    def rename(self, session: str, title: str) -> None:
        """Set the title."""
        self._writer.set_title(session, title)

    def end(self, session: str) -> None:
        """End the session."""
        self._writer.end_session(session, "done")

    def delete(self, session: str) -> None:
        """Delete the session."""
        self._writer.delete_session(session)

    # Calls of the watcher

    def fail(self, how: str) -> None:
        """Let the projection raise ("raises"), return None ("none") or work again ("")."""
        self._failure = how

    def poll(self) -> dict[str, Any]:
        """Poll twice."""
        self._projections = 0
        for _ in range(POLLS):
            self._watcher.look()
        return {"announced": _rows(self._subscription), "projections": self._projections}

    def shown(self) -> list[list[Any]] | None:
        """The list that a new subscriber receives."""
        subscription = self._watcher.subscribe(lambda: None)
        rows = _rows(subscription)
        subscription.close()
        return rows

    def close(self) -> None:
        """Stop the watcher, and close the writer."""
        self._watcher.stop()
        self._writer.close()


def _rows(subscription: Any) -> list[list[Any]] | None:
    """The newest list of a subscription; None where it has none."""
    frames = subscription.take()
    if not frames:
        return None
    return sorted(
        [row["session_id"], row["title"], row["message_count"], row["ended_at"] is not None]
        for row in frames[-1].data["sessions"]
    )
