"""The *sessions_threads* ability: one session store, called by concurrent threads.

The store holds one idle session in memory; `held` names those that it holds. A second list has one
row, in memory only: its schedules are short, so few of them meet every moment of a list being made.

The `copied` calls change one session as a server does, which copies it into a state database. Store
and database are in memory here, and each call of them is a moment of its own.
"""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

_numbers = itertools.count()  # one folder for each schedule
COPIED = "copied"  # the session of a server, and its first title


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
        self._modules = modules
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

    def reopen(self) -> None:
        """Start another host, which has no session in memory."""
        self._store = self._opened()
        self._list = self._modules("sessions.list").SessionList(self._store.rows, lambda _: None)

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

    # A session and its copy in the state database

    def copied_new(self) -> None:
        """Create a session of a server, which copies it."""
        self._copies = _Copies(self._modules)

    def copied_rename(self, title: str) -> None:
        """Rename the session."""
        self._copies.change(lambda found: replace(found, title=title))

    def copied_append(self, text: str) -> None:
        """Append a message."""
        self._copies.change(lambda found: found.appended({"role": "user", "content": text}))

    def copied_delete(self) -> None:
        """Delete the session."""
        self._copies.delete()

    def copies(self) -> dict[str, Any]:
        """Title and texts of the session in its sidecar and in the database; None for none."""
        return self._copies.content()

    def close(self) -> None:
        """Do nothing: the store holds no resource."""


class _Copies:
    """The part of a server that copies a session, between a store and a database in memory."""

    def __init__(self, modules: Callable[[str], Any]) -> None:
        app = modules("app")
        self._lock = threading.Lock()
        self._session = modules("sessions.sidecar").Session(session_id=COPIED, title=COPIED)
        self._is_there = True
        self._unknown = modules("sessions.session_files").UnknownSessionError
        self._database = _Database(modules)
        self._app = object.__new__(app.App)  # without its files
        self._app.store = self
        self._app._db = self._database  # noqa: SLF001 - in place of a file
        self._app._sync_locks = [threading.Lock() for _ in range(app._SYNC_LOCKS)]  # noqa: SLF001
        self._app.channels = SimpleNamespace(forget=_nothing, sessions_changed=_nothing)
        self._app.runs = SimpleNamespace(remove_session=_nothing)
        self._app.wakeups = SimpleNamespace(forget_session=_nothing)
        agents = SimpleNamespace(evict=_nothing)
        self._app.turns = SimpleNamespace(runs=tuple, end=lambda *_: True, agents=agents)

    def change(self, act: Callable[[Any], Any]) -> None:
        """Change the session, as a call of a client or the end of a turn does."""
        with self._lock:
            self._session = changed = act(self._found())
        self._app.changed(changed, "changed")

    def delete(self, session: str = "") -> bool:
        """Delete the session: as a client, or with its name as the server in the store."""
        if not session:
            return bool(self._app.delete(COPIED))
        with self._lock:
            was_there, self._is_there = self._is_there, False
            return was_there

    def load(self, _session: str) -> Any:
        """The session, as the server reads it from the store."""
        with self._lock:
            return self._found()

    def _found(self) -> Any:
        if not self._is_there:
            raise self._unknown(COPIED)
        return self._session

    def content(self) -> dict[str, Any]:
        """Title and texts of both copies; None for one that is not there."""
        texts = [message["content"] for message in self._session.messages]
        sidecar = [self._session.title, *texts] if self._is_there else None
        return {"sidecar": sidecar, "database": self._database.content()}


def _nothing(*_: Any) -> None:
    """Do nothing."""


class _Database:
    """A state database in memory, with the calls that a server makes of it."""

    def __init__(self, modules: Callable[[str], Any]) -> None:
        self._usage = modules("state_db.state_db").Usage
        self._unknown = modules("state_db.errors").SessionUnknownError
        self._lock = threading.Lock()
        self._title: str | None = None
        self._drafts: list[Any] | None = None  # None for no session

    def content(self) -> list[str | None] | None:
        """Title and texts of the session; None for none."""
        if self._drafts is None:
            return None
        return [self._title, *(draft.content for draft in self._drafts)]

    def delete_session(self, _session: str, _source: str | None = None) -> None:
        with self._lock:
            self._drafts = None

    def get_session(self, _session: str) -> Any:
        with self._lock:
            if self._drafts is None:
                return None
            about = {"system_prompt": None, "ended_at": None, "end_reason": None}
            return SimpleNamespace(title=self._title, usage=self._usage(), **about)

    def get_messages(self, _session: str) -> list[Any]:
        with self._lock:
            drafts = self._drafts or ()
            return [SimpleNamespace(draft=lambda draft=draft: draft) for draft in drafts]

    def changes(self, _session: str) -> _Changes:
        """Begin a set of changes."""
        return _Changes()

    def write(self, changes: _Changes) -> None:
        """Make them all, or none."""
        with self._lock:
            if changes.creates and self._drafts is None:
                self._title, self._drafts = None, []
            if self._drafts is None:
                raise self._unknown(COPIED)
            for change in changes.drafts:
                change(self._drafts)
            if changes.titles:
                self._title = changes.titles[-1]


class _Changes:
    """What a transaction is to change."""

    def __init__(self) -> None:
        self.creates = False
        self.titles: list[str | None] = []
        self.drafts: list[Callable[[list[Any]], None]] = []

    def create_session(self, _source: str, **_: Any) -> None:
        self.creates = True

    def set_title(self, title: str | None) -> None:
        self.titles.append(title)

    def append_message(self, draft: Any) -> None:
        self.drafts.append(lambda drafts: drafts.append(draft))

    def replace_messages(self, drafts: Sequence[Any]) -> None:
        self.drafts.append(lambda old: old.__setitem__(slice(None), drafts))

    def clear_messages(self) -> None:
        self.replace_messages(())

    def __bool__(self) -> bool:
        return self.creates or bool(self.titles or self.drafts)
