"""The *sessions* ability over the session store of a hermes-webui checkout, in its own process.

Calls of users go through the server's own routes, those of code through its `Session`. Its lists
hide a session without messages, so the adapter reads the rows of such sessions from the index.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

from harness.contract.models.session_store_values import HELD_MAX
from harness.faults.simulated_disk import Image
from harness.targets.components.session_store import (
    HOSTILE_LENGTH,
    NotRefusableError,
    SessionsAdapter,
    UnknownSessionError,
)
from harness.targets.hermes_webui import checkout

STREAM = "0123456789abcdef"  # a stream without a run
INDEX = "_index.json"


def open_adapter(folder: Path) -> WebuiSessionsAdapter:
    """Open a store with its files in `folder`."""
    return WebuiSessionsAdapter(folder, checkout.module)


class WebuiSessionsAdapter(SessionsAdapter):
    """One folder of sessions in one process, since the module has its store in globals."""

    def _begin(self) -> None:
        self._store = self._other = self._open()

    def _open(self) -> Any:
        """The store of a new process: the module, bound to the folder, with nothing in memory."""
        checkout.set_environment(self._folder.parent, HERMES_WEBUI_SESSIONS_MAX=str(HELD_MAX))
        models = checkout.module("models")
        checkout.module("routes")
        _await_index(models)
        checkout.reset_globals()
        checkout.bind("SESSION_DIR", self._folder)
        checkout.bind("SESSION_INDEX_FILE", self._folder / INDEX)
        checkout.bind("STATE_DIR", self._folder.parent)
        checkout.bind("SESSIONS_MAX", HELD_MAX)
        return models

    # Calls of users

    def new(self, session: str) -> None:
        """Create a session, and save it, which the server does with the first message only."""
        if self._path(session).exists():
            raise NotRefusableError(f"session {session!r} exists already")
        self._store.Session(session_id=session).save()

    def append(self, session: str, text: str) -> None:
        """Append a message, as a turn does."""
        found = self._found(session)
        found.messages.append({"role": "user", "content": text})
        found.save()

    def rename(self, session: str, title: str) -> None:
        """Set the title."""
        checkout.post("/api/session/rename", session_id=session, title=title)

    def clear(self, session: str) -> None:
        """Remove all messages, and set the title again, which the server drops with them."""
        title = self._found(session).title
        checkout.post("/api/session/clear", session_id=session)
        self.rename(session, title)

    def truncate(self, session: str, keep: int) -> None:
        """Keep the first messages."""
        checkout.post("/api/session/truncate", session_id=session, keep_count=keep)

    def undo(self, session: str) -> None:
        """Remove the last message, if there is one."""
        if self._found(session).messages:
            checkout.post("/api/session/undo", session_id=session)

    def delete(self, session: str) -> None:
        """Delete the session."""
        checkout.post("/api/session/delete", session_id=session)

    # Reads

    def messages(self, session: str) -> list[str] | None:
        """The texts, or None for an unknown session."""
        try:
            found = self._found(session)
        except UnknownSessionError:
            return None
        return [message["content"] for message in found.messages]

    def list(self) -> list[str]:
        """Ids, newest activity first."""
        return [row["session_id"] for row in indexed_rows(self._store, self._folder / INDEX)]

    def row(self, session: str) -> dict[str, Any] | None:
        """The session's row in the list."""
        shown = ("title", "message_count", "updated_at")
        rows = [
            row
            for row in indexed_rows(self._store, self._folder / INDEX)
            if row["session_id"] == session
        ]
        return {key: rows[0][key] for key in shown} if rows else None

    def backup(self, session: str) -> int | None:
        """The number of messages in the backup; -1 if it cannot be read."""
        path = self._path(session).with_suffix(".json.bak")
        if not path.exists():
            return None
        try:
            return len(json.loads(path.read_bytes())["messages"])
        except (ValueError, KeyError):
            return -1

    def held(self) -> int:
        """The number of sessions in memory."""
        return len(self._store.SESSIONS)

    # Calls of faulty code

    def shrink(self, session: str, keep: int) -> None:
        """Save only the first messages, without a request of the user."""
        found = self._found(session)
        found.messages = found.messages[:keep]
        found.save()

    def save_stub(self, session: str) -> None:
        """Save a session that was loaded without its messages."""
        stub = self._store.Session.load_metadata_only(session)
        if stub is None:
            raise UnknownSessionError(f"unknown session {session!r}")
        stub.save()

    def save_stale(self, session: str, text: str) -> None:
        """Save a copy that was loaded before a newer save."""
        stale, newer = self._loaded(session), self._loaded(session)
        newer.save()
        stale.messages.append({"role": "user", "content": text})
        stale.save()

    def save_refused(self, session: str) -> None:
        """Save a session, during a turn, without any of its messages."""
        found = self._loaded(session)
        if not found.messages:
            raise NotRefusableError(f"{session} has no messages to lose")
        found.active_stream_id = STREAM
        found.save(touch_updated_at=False)
        empty = self._loaded(session)
        empty.messages = []
        try:
            empty.save()
        finally:
            found.active_stream_id = None
            found.save(touch_updated_at=False)

    def cleanup(self, session: str) -> None:
        """Clean up a session whose stream has no run any more."""
        found = self._found(session)
        found.active_stream_id = STREAM
        found.save(touch_updated_at=False)
        checkout.module("routes")._clear_stale_stream_state(found)  # noqa: SLF001  what polls call

    def hostile(self, session_id: str) -> None:
        """Pass an invalid id to several calls. Raises, unless one of them accepts it."""
        _await_index(self._store)
        before = Image.of(self._folder)
        long = session_id.replace("LONG", "x" * HOSTILE_LENGTH)
        for call in (self._found, self.clear, self.delete):
            try:
                call(long)
            except (UnknownSessionError, ValueError, checkout.RefusedRequestError):
                continue
            return
        if Image.of(self._folder) == before:
            raise UnknownSessionError(f"{session_id!r} was refused, and changed no file")

    # Calls of the harness

    def recover(self) -> None:
        """Recover as at start-up; older releases have no recovery."""
        try:
            recovery = checkout.module("session_recovery")
        except ModuleNotFoundError:
            return
        recover = recovery.recover_all_sessions_on_startup
        takes = inspect.signature(recover).parameters
        recover(self._folder, **({"rebuild_index": True} if "rebuild_index" in takes else {}))
        _await_index(self._store)

    def _path(self, session: str) -> Path:
        return self._folder / f"{session}.json"

    def _found(self, session: str) -> Any:
        """The session as the server sees it, from memory if it is loaded."""
        try:
            return self._store.get_session(session)
        except KeyError:
            raise UnknownSessionError(f"unknown session {session!r}") from None

    def _loaded(self, session: str) -> Any:
        """The session as stored on disk."""
        found = self._store.Session.load(session)
        if found is None:
            raise UnknownSessionError(f"unknown session {session!r}")
        return found


def indexed_rows(store: Any, index: Path) -> list[dict[str, Any]]:
    """The rows of all sessions, newest activity first."""
    listed = {row["session_id"]: row for row in store.all_sessions()}
    _await_index(store)
    indexed = json.loads(index.read_bytes()) if index.exists() else []
    empty = {row["session_id"]: row for row in indexed if not row["message_count"]}
    rows = (empty | listed).values()
    return sorted(rows, key=lambda row: float(row["updated_at"]), reverse=True)


def _await_index(store: Any) -> None:
    """Wait for the background thread that writes the index."""
    thread = getattr(store, "_SESSION_INDEX_REBUILD_THREAD", None)
    if thread is not None:
        thread.join()
