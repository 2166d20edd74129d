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
ABOUT = ("model_config", "user_id", "parent_session_id")
USAGE = (
    *("cache_read_tokens", "cache_write_tokens", "reasoning_tokens", "cost_usd"),
    *("model", "billing_mode"),
)
DETAILS = (
    *("tool_call_id", "tool_name", "token_count", "finish_reason", "reasoning"),
    "reasoning_details",
)
NEWER = {  # than the first schema
    "sessions": (
        *("model", "model_config", "user_id", "cache_read_tokens", "cache_write_tokens"),
        *("reasoning_tokens", "estimated_cost_usd", "billing_mode"),
    ),
    "messages": DETAILS,
}
PATIENCE_S = 30.0  # of a write, unless the environment says otherwise

Names = list[str]
Fields = dict[str, Any]
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

    def create(self, session: str, source: str, about: Fields | None = None) -> None:
        """Create the session, unless it exists; `about` has further columns."""
        self._db.create_session(session, source, **(about or {}))

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

    def add_tokens(
        self,
        session: str,
        input: int,  # noqa: A002  the wire's
        output: int,
        more: Fields | None = None,
    ) -> None:
        """Add to the counts; `more` has the other counts, and whose they are."""
        self._db.add_tokens(session, self._module.Usage(input, output, **(more or {})))

    def set_tokens(
        self,
        session: str,
        input: int,  # noqa: A002  the wire's
        output: int,
        more: Fields | None = None,
    ) -> None:
        """Set the counts."""
        self._db.set_tokens(session, self._module.Usage(input, output, **(more or {})))

    def append(
        self,
        session: str,
        role: str,
        text: str,
        tool_calls: int | Fields = 0,
        more: Fields | None = None,
    ) -> None:
        """Append a message that made a number of tool calls, or one that is not in a list."""
        calls: Any = tool_calls
        if isinstance(tool_calls, int):
            calls = [{"id": f"call-{number}"} for number in range(tool_calls)]
        self._db.append_message(session, role, text, calls, **_draft(more))

    def replace(self, session: str, messages: Rows, more: list[Fields] | None = None) -> None:
        """Replace all messages; `more` has the further columns of each."""
        drafts = [
            self._module.Draft(role, text, **_draft(columns))
            for (role, text), columns in zip(messages, more or [{}] * len(messages), strict=True)
        ]
        self._db.replace_messages(session, drafts)

    def clear(self, session: str) -> None:
        """Drop all messages of the session."""
        self._db.clear_messages(session)

    def get(self, session: str) -> dict[str, Any] | None:
        """The session's columns; None if it is unknown."""
        found = self._db.get_session(session)
        if found is None:
            return None
        row = {name: getattr(found, name, None) for name in COLUMNS}
        row |= {name: getattr(found.usage, name) for name in COLUMNS[-2:]}
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
        calls = [list(map(_id, message.tool_calls)) for message in messages]
        return {
            "system_prompt": found.system_prompt,
            "end_reason": found.end_reason,
            "tool_calls": [_numbered(ids) for ids in calls],
            "in_order": all(one[0] < two[0] for one, two in pairwise(places)),
        }

    def columns(self, session: str) -> Fields | None:
        """The columns that no other function shows; None if the session is unknown."""
        found = self._db.get_session(session)
        if found is None:
            return None
        messages = self._db.get_messages(session)
        return {
            **{name: getattr(found, name) for name in ABOUT},
            **{name: getattr(found.usage, name) for name in USAGE},
            "messages": [
                {
                    name: list(value) if name == "reasoning_details" else value
                    for name in DETAILS
                    if (value := getattr(message, name)) not in (None, ())
                }
                for message in messages
            ],
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

    def reopen_older(self) -> None:
        """Close the file, take out what an older schema did not have, and open it again."""
        self._db.close()
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            for table, columns in NEWER.items():
                for column in columns:
                    connection.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
            connection.execute("PRAGMA user_version = 1")
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


def _draft(columns: Fields | None) -> Fields:
    """Columns of a message as the database takes them."""
    given = columns or {}
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in given.items()
    }


def _id(call: Any) -> Any:
    return call.get("id") if isinstance(call, dict) else call


def _numbered(calls: list[str]) -> int:
    """The number of tool calls, if they are those that `append` made; else -1."""
    return len(calls) if calls == [f"call-{number}" for number in range(len(calls))] else -1


def open_adapter(folder: Path) -> StateDbAdapter:
    """A `StateDb` with its file in `folder`."""
    return StateDbAdapter(folder / "state.db")
