"""The *sessions_threads* ability: one session store, called by concurrent threads.

The store holds one idle session in memory; `held` names those that it holds. A second list has one
row, in memory only: its schedules are short, so few of them meet every moment of a list being made.
"""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

_numbers = itertools.count()  # one folder for each schedule


class SessionsThreadsAdapter:
    """One folder of sessions; runs register and end, copies are loaded, changed and saved."""

    def __init__(self, folder: Path, modules: Callable[[str], Any]) -> None:
        """`modules(name)` imports a module of the reference implementation."""
        ticks = itertools.count(1_000)
        own = folder / f"{next(_numbers)}"

        def opened() -> Any:
            return modules("sessions.store").SessionStore(
                own, clock=lambda: float(next(ticks)), cap=1
            )

        self._opened, self._store = opened, opened()
        listed = modules("sessions.list").SessionList
        self._unknown = modules("sessions.session_files").UnknownSessionError
        self._list = listed(self._store.rows, lambda _: None)
        self._row: dict[str, Any] = {"session_id": "row", "message_count": 0}
        self._row_lock = threading.Lock()
        self._short_list = listed(self._short_rows, lambda _: None)
        self._live: set[str] = set()

    def new(self, session: str) -> None:
        """Create a session."""
        self._store.new(session)

    def append(self, session: str, text: str) -> None:
        """Append a message, as the server does."""
        self._store.append(session, {"role": "user", "content": text})

    def delete(self, session: str) -> None:
        """Remove the session."""
        self._store.delete(session)

    def clear(self, session: str) -> None:
        """Remove all messages, as the user asked."""
        self._store.clear(session)

    def save_copy(self, session: str, text: str) -> None:
        """Load a copy, add a message, and save it; raises if the copy became stale."""
        copy = self._store.load(session)
        self._store.save(copy.appended({"role": "user", "content": text}))

    def start_run(self, session: str, stream: str) -> None:
        """Register a run, then mark the session with it."""
        self._live.add(stream)
        self._store.maintain(session, lambda found: replace(found, active_stream_id=stream))

    def leave_behind(self, session: str, stream: str) -> None:
        """Mark the session with a run that is not alive."""
        self._store.maintain(session, lambda found: replace(found, active_stream_id=stream))

    def cleanup(self, session: str) -> None:
        """Remove the mark of a stream without a live run."""
        self._store.clean_stale_stream(session, lambda stream: stream in self._live)

    def messages(self, session: str) -> list[str] | None:
        """The texts; None for a session that does not exist."""
        try:
            found = self._store.load(session)
        except self._unknown:
            return None
        return [message["content"] for message in found.messages]

    def listed(self) -> dict[str, int]:
        """The number of messages of each session in the list that clients read."""
        rows = json.loads(self._list.now().rows)
        return {row["session_id"]: row["message_count"] for row in rows}

    def listed_elsewhere(self) -> dict[str, int]:
        """The same in another process, which has only the files of the list."""
        return {row["session_id"]: row["message_count"] for row in self._opened().rows()}

    def _short_rows(self) -> tuple[dict[str, Any]]:
        with self._row_lock:
            return (self._row,)

    def count_up(self) -> None:
        """Let the row in memory have one message more."""
        with self._row_lock:
            self._row = {**self._row, "message_count": self._row["message_count"] + 1}

    def counted(self) -> int:
        """The number of messages of the row in memory, in the list that clients read."""
        (row,) = json.loads(self._short_list.now().rows)
        count: int = row["message_count"]
        return count

    def held(self) -> list[str]:
        """The sessions in memory."""
        return sorted(self._store._held)  # noqa: SLF001  its gauge tells only their number

    def active(self, session: str) -> str | None:
        """The stream that the session is marked with."""
        stream: str | None = self._store.load(session).active_stream_id
        return stream

    def close(self) -> None:
        """Do nothing: the store holds no resource."""
