"""The *sessions_threads* ability over the session store of a hermes-webui checkout.

Calls of a user go through the server's own routes, a clean-up through what its polls call, and a
message is added as a turn does it: under the session's lock, to the session that `get_session`
returns. A copy is what `Session.load` returns. Lists hide a session without messages, so the
adapter reads the rows of such sessions from the index.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.targets.hermes_webui import checkout
from harness.targets.hermes_webui.session_store import INDEX, indexed_rows
from harness.targets.hermes_webui.threads import modules

_numbers = itertools.count()  # one folder for each schedule


class UnknownSessionError(Exception):
    """There is no such session."""


class WebuiSessionsThreadsAdapter:
    """One folder of sessions, whose calls meet."""

    # The state database and the cap of the cache are asked over HTTP, and no list is a row here.
    LACKS = frozenset({"copied_new", "count_up", "counted", "held"})

    def __init__(self, folder: Path) -> None:
        modules.reset()
        own = folder / f"{next(_numbers)}"
        self._folder = own / "sessions"
        self._folder.mkdir(parents=True)
        self._models: Any = checkout.module("models")
        self._config: Any = checkout.module("config")
        self._routes: Any = checkout.module("routes")
        checkout.bind("SESSION_DIR", self._folder)
        checkout.bind("SESSION_INDEX_FILE", self._folder / INDEX)
        checkout.bind("STATE_DIR", own)

    def new(self, session: str) -> None:
        """Create a session, and save it, which the server does with the first message only."""
        made = self._models.Session(session_id=session)
        with self._models.LOCK:
            self._models.SESSIONS[session] = made
        made.save()

    def append(self, session: str, text: str) -> None:
        """Append a message, as a turn does."""
        self._change(session, lambda found: found.messages.append(_message(text)))

    def delete(self, session: str) -> None:
        """Delete the session."""
        checkout.post("/api/session/delete", session_id=session)

    def clear(self, session: str) -> None:
        """Remove all messages."""
        checkout.post("/api/session/clear", session_id=session)

    def save_copy(self, session: str, text: str) -> None:
        """Load a copy, add a message, and save it; raises if the copy became stale."""
        copy = self._models.Session.load(session)
        if copy is None:
            raise UnknownSessionError(session)
        copy.messages.append(_message(text))
        copy.save()

    def start_run(self, session: str, stream: str) -> None:
        """Register a run, then mark the session with it."""
        with self._config.STREAMS_LOCK:
            self._config.STREAMS[stream] = object()
        register = getattr(self._config, "register_active_run", None)  # older releases have none
        if register is not None:
            register(stream, session_id=session)
        self._mark(session, stream)

    def leave_behind(self, session: str, stream: str) -> None:
        """Mark the session with a run that is not alive."""
        self._mark(session, stream)

    def _mark(self, session: str, stream: str) -> None:
        self._change(session, lambda found: setattr(found, "active_stream_id", stream))

    def _change(self, session: str, act: Callable[[Any], None]) -> None:
        with self._config._get_session_agent_lock(session):  # noqa: SLF001  the session's lock
            found = self._found(session)
            act(found)
            found.save()

    def cleanup(self, session: str) -> None:
        """Remove the mark of a stream without a live run."""
        self._routes._clear_stale_stream_state(self._found(session))  # noqa: SLF001  as polls do

    def messages(self, session: str) -> list[str] | None:
        """The texts; None for a session that does not exist."""
        try:
            found = self._found(session)
        except UnknownSessionError:
            return None
        return [message["content"] for message in found.messages]

    def listed(self) -> dict[str, int]:
        """The number of messages of each session in the list that clients read."""
        rows = indexed_rows(self._models, self._folder / INDEX)
        return {row["session_id"]: row["message_count"] for row in rows}

    def listed_elsewhere(self) -> dict[str, int]:
        """The same in another process, which has only the files of the list."""
        rows = json.loads((self._folder / INDEX).read_bytes())
        return {row["session_id"]: row["message_count"] for row in rows}

    def active(self, session: str) -> str | None:
        """The stream that the session is marked with."""
        stream: str | None = self._found(session).active_stream_id
        return stream

    def _found(self, session: str) -> Any:
        try:
            return self._models.get_session(session)
        except KeyError:
            raise UnknownSessionError(session) from None

    def close(self) -> None:
        """Do nothing: the store holds no resource."""


def _message(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}
