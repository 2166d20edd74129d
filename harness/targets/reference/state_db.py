"""The *state_db* ability over the reference's database module.

Stand-alone, like every adapter that also runs in a process of its own: it imports the standard
library and the package `reference_impl`, found on the path.
"""

import contextlib
import importlib
import os
import sqlite3
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

DAY_S = 86_400.0
COLUMNS = (
    *("source", "title", "message_count", "tool_call_count"),
    *("input_tokens", "output_tokens"),
)
PATIENCE_S = 30.0  # of a write, unless the environment says otherwise

Names = list[str]
Rows = list[list[str]]  # [role, text] or [session, text]


class Clock:
    """Seconds of the epoch, some days ahead. A file stores the offset."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._days = float(file.read_text()) if file.exists() else 0.0

    def __call__(self) -> float:
        """The current time, moved by the offset."""
        return time.time() + self._days * DAY_S

    def advance(self, days: float) -> None:
        """Let days pass."""
        self._days += days
        self._file.write_text(str(self._days))


class StateDbAdapter:
    """`StateDb` on the file `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._clock = Clock(path.with_name("clock"))
        self._module = importlib.import_module("reference_impl.state_db.state_db")
        self._db = self._open()

    def _open(self) -> Any:
        patience_s = float(os.environ.get("HARNESS_PATIENCE_S", PATIENCE_S))
        return self._module.StateDb(self.path, clock=self._clock, patience_s=patience_s)

    def create(self, session: str, source: str) -> None:
        """Create the session, unless it exists."""
        self._db.create_session(session, source)

    def end(self, session: str, reason: str) -> None:
        """End the session."""
        self._db.end_session(session, reason)

    def reopen(self, session: str) -> None:
        """Undo its end."""
        self._db.reopen_session(session)

    def set_title(self, session: str, title: str | None) -> bool:
        """Set or clear the title; whether the session exists."""
        return bool(self._db.set_title(session, title))

    def set_system_prompt(self, session: str, text: str) -> None:
        """Store the system prompt."""
        self._db.set_system_prompt(session, text)

    def add_tokens(self, session: str, input: int, output: int) -> None:  # noqa: A002  the wire's
        """Add to the counts."""
        self._db.add_tokens(session, input, output)

    def set_tokens(self, session: str, input: int, output: int) -> None:  # noqa: A002  the wire's
        """Set the counts."""
        self._db.set_tokens(session, input, output)

    def append(self, session: str, role: str, text: str, tool_calls: int = 0) -> None:
        """Append a message that made `tool_calls` tool calls."""
        calls = [{"id": f"call-{number}"} for number in range(tool_calls)]
        self._db.append_message(session, role, text, calls)

    def replace(self, session: str, messages: Rows) -> None:
        """Replace all messages."""
        drafts = [self._module.Draft(role, text) for role, text in messages]
        self._db.replace_messages(session, drafts)

    def clear(self, session: str) -> None:
        """Drop all messages of the session."""
        self._db.clear_messages(session)

    def get(self, session: str) -> dict[str, Any] | None:
        """The session's columns; None if it is unknown."""
        found = self._db.get_session(session)
        if found is None:
            return None
        row = {name: getattr(found, name) for name in COLUMNS}
        return row | {"ended": found.ended_at is not None}

    def details(self, session: str) -> dict[str, Any] | None:
        """What `get` and `messages` leave out; None if the session is unknown.

        The numbers of tool calls by message, and whether ids and times of the messages grow.
        """
        found = self._db.get_session(session)
        if found is None:
            return None
        messages = self._db.get_messages(session)
        places = [(message.id, message.timestamp) for message in messages]
        calls = [[call["id"] for call in message.tool_calls] for message in messages]
        return {
            "system_prompt": found.system_prompt,
            "end_reason": found.end_reason,
            "tool_calls": [_numbered(ids) for ids in calls],
            "in_order": all(one[0] < two[0] for one, two in pairwise(places)),
        }

    def list(self) -> Names:
        """Every session."""
        return sorted(session.id for session in self._db.list_sessions())

    def messages(self, session: str) -> Rows:
        """The session's messages, in order."""
        return [[message.role, message.content] for message in self._db.get_messages(session)]

    def search(self, word: str) -> Rows:
        """The messages that contain the word, each with its session."""
        return sorted([message.session, message.content] for message in self._db.search(word))

    def delete(self, session: str) -> bool:
        """Delete the session with its messages; whether it existed."""
        return bool(self._db.delete_session(session))

    def prune(self, days: float, source: str | None = None) -> int:
        """Delete ended sessions older than `days`, perhaps of one source only; their number."""
        return int(self._db.prune(days, source))

    def advance(self, days: float) -> None:
        """Let days pass."""
        self._clock.advance(days)

    def reopen_file(self) -> None:
        """Close the file and open it again."""
        self._db.close()
        self._db = self._open()

    def counters(self, session: str) -> dict[str, int | None]:
        """The stored count of messages and the number of rows, as another connection sees them."""
        count = "SELECT message_count FROM sessions WHERE id = ?"
        rows = "SELECT count(*) FROM messages WHERE session_id = ?"
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            stored = connection.execute(count, (session,)).fetchone()
            (true,) = connection.execute(rows, (session,)).fetchone()
        return {"message_count": None if stored is None else stored[0], "rows": true}

    def probe(self) -> dict[str, Any]:
        """Whether the write lock is held, and the result of SQLite's integrity check."""
        with contextlib.closing(
            sqlite3.connect(self.path, timeout=0.0, isolation_level=None)
        ) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("ROLLBACK")
                locked = False
            except sqlite3.OperationalError:
                locked = True
            (integrity,) = connection.execute("PRAGMA integrity_check").fetchone()
        return {"locked": locked, "integrity": integrity}

    def close(self) -> None:
        """Close the file."""
        self._db.close()


def _numbered(calls: list[str]) -> int:
    """The number of tool calls, if they are those that `append` made; else -1."""
    return len(calls) if calls == [f"call-{number}" for number in range(len(calls))] else -1


def open_adapter(folder: Path) -> StateDbAdapter:
    """A `StateDb` with its file in `folder`."""
    return StateDbAdapter(folder / "state.db")
