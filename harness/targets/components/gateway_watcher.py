"""The *watcher* ability: a gateway watcher, and another process that writes its database.

`poll` polls twice, as the contract allows, and returns what was announced and how often the list
was projected; `poll_beside` does the same while the writer writes during the first projection, and
says whether it wrote; `poll_without` does it while the file is away, and puts it back; `shown`
returns the list that a new subscriber receives. The writer's clock is the number of its call, so
that each time in a list is known. `facts` are the fields of the announced list in its order: id,
source, title, why it ended, and the calls of its start, end and latest activity.
"""

from __future__ import annotations

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

POLLS = 2


class ProjectionError(Exception):
    """The projection fails, as the script says."""


class ScriptedWatcher(ABC):
    """A watcher whose projections fail, or meet a write of the other process, as the script says.

    Each write is a function of the adapter. `_scripted` runs a projection. The database is at
    `path`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._projections = 0
        self._failure = ""
        self._meanwhile: dict[str, Any] | None = None

    def _scripted(self, project: Callable[[], Any]) -> Any:
        self._projections += 1
        match self._failure:
            case "raises":
                raise ProjectionError("the projection is scripted to fail")
            case "none":
                return None
        projected = project()
        if (write := self._meanwhile) is not None:
            self._meanwhile = None
            function, *arguments = write.values()
            getattr(self, function)(*arguments)
        return projected

    def fail(self, how: str) -> None:
        """Let the projection raise ("raises"), return None ("none") or work again ("")."""
        self._failure = how

    @abstractmethod
    def poll(self) -> dict[str, Any]:
        """Poll twice; what was announced, and how often the list was projected."""

    def poll_beside(self, write: dict[str, Any]) -> dict[str, Any]:
        """Poll twice; the other process writes during the first projection, if there is one."""
        self._meanwhile = write
        polled = self.poll()
        written, self._meanwhile = self._meanwhile is None, None
        return {**polled, "written": written}

    def poll_without(self) -> dict[str, Any]:
        """Poll twice while the database is away, and put it back as it was."""
        here = list(self._path.parent.glob(f"{self._path.name}*"))
        away = self._path.with_name("away")
        away.mkdir()
        for file in here:
            file.rename(away / file.name)
        try:
            return self.poll()
        finally:
            for file in here:
                (away / file.name).replace(file)
            away.rmdir()


class WatcherAdapter(ScriptedWatcher):
    """One database, a writer with a connection of its own, and a watcher of it."""

    def __init__(self, folder: Path, modules: Callable[[str], Any]) -> None:
        """`modules(name)` imports a module of the reference implementation."""
        super().__init__(folder / "state.db")
        self._calls = 0
        self._state_db = modules("state_db.state_db").StateDb
        self._writer = self._opened()
        self._draft = modules("state_db.state_db").Draft
        self._project = modules("live.gateway_watcher").project
        self._watcher = modules("live.gateway_watcher").GatewayWatcher(
            self._path, project=self._projected
        )
        self._subscription = self._watcher.subscribe(lambda: None)

    def _opened(self) -> Any:
        return self._state_db(self._path, clock=lambda: float(self._calls))

    def _projected(self, connection: Any) -> Any:
        return self._scripted(lambda: self._project(connection))

    # Calls of the other process

    def create(self, session: str, source: str) -> None:
        """Create a session."""
        self._calls += 1
        self._writer.create_session(session, source)

    def append(self, session: str, text: str) -> None:
        """Add a message."""
        self._calls += 1
        self._writer.append_message(session, "user", text)

    def rewrite(self, session: str, texts: list[str]) -> None:
        """Replace all messages."""
        self._calls += 1
        self._writer.replace_messages(session, [self._draft("user", text) for text in texts])

    def rename(self, session: str, title: str) -> None:
        """Set the title."""
        self._calls += 1
        self._writer.set_title(session, title)

    def end(self, session: str) -> None:
        """End the session."""
        self._calls += 1
        self._writer.end_session(session, "done")

    def delete(self, session: str) -> None:
        """Delete the session."""
        self._calls += 1
        self._writer.delete_session(session)

    def restore(self, session: str) -> None:
        """Put a copy without the session in the place of the file."""
        self._calls += 1
        self._writer.close()
        copy = self._path.with_suffix(".copy")
        source, target = sqlite3.connect(self._path), sqlite3.connect(copy)
        source.backup(target)
        source.close()
        target.close()
        for suffix in ("-wal", "-shm"):
            self._path.with_name(f"{self._path.name}{suffix}").unlink(missing_ok=True)
        copy.replace(self._path)
        self._writer = self._opened()
        self._writer.delete_session(session)

    # Calls of the watcher

    def poll(self) -> dict[str, Any]:
        """Poll twice."""
        self._projections = 0
        for _ in range(POLLS):
            self._watcher.look()
        frames = self._subscription.take()
        facts = [_facts(row) for row in frames[-1].data["sessions"]] if frames else None
        return {"announced": _rows(frames), "projections": self._projections, "facts": facts}

    def shown(self) -> list[list[Any]] | None:
        """The list that a new subscriber receives."""
        subscription = self._watcher.subscribe(lambda: None)
        rows = _rows(subscription.take())
        subscription.close()
        return rows

    def close(self) -> None:
        """Stop the watcher, and close the writer."""
        self._watcher.stop()
        self._writer.close()


def _facts(row: Any) -> list[Any]:
    """The fields of a row: id, source, title, and times by the calls in which they lie."""
    times = [row["started_at"], row["ended_at"], row["last_active_at"]]
    calls = [None if time is None else round(time) for time in times]
    return [row["session_id"], row["source"], row["title"], row["end_reason"], *calls]


def _rows(frames: Any) -> list[list[Any]] | None:
    """The newest list of some frames; None where there is none."""
    if not frames:
        return None
    return sorted(
        [row["session_id"], row["title"], row["message_count"], row["ended_at"] is not None]
        for row in frames[-1].data["sessions"]
    )
