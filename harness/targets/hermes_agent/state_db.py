"""The *state_db* ability over the released package `hermes-agent`.

Stand-alone: it imports the standard library and the package, as `hermes_state`, which
`pip install --no-deps hermes-agent==VERSION` puts on the path. It changes nothing of the package
but its clock, so that sessions grow old.
"""

import contextlib
import json
import sqlite3
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import hermes_state  # the target, which is not a dependency

EVERYTHING = 1_000_000  # a limit above every count
DAY_S = 86_400.0
ABOUT = ("model", "user_id", "parent_session_id", "billing_mode")
USAGE = ("cache_read_tokens", "cache_write_tokens", "reasoning_tokens")
DETAILS = (
    *("tool_call_id", "tool_name", "token_count", "finish_reason", "reasoning"),
    "reasoning_details",
)
COLUMNS = (
    *("source", "title", "message_count", "tool_call_count"),
    *("input_tokens", "output_tokens"),
)

Names = list[str]
Fields = dict[str, Any]
Rows = list[list[str]]  # [role, text] or [session, text]


class Clock:
    """The module `time` as the package sees it, some days ahead. A file stores the offset."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._days = float(file.read_text()) if file.exists() else 0.0

    def time(self) -> float:
        """Seconds of the epoch, moved by the offset."""
        return time.time() + self._days * DAY_S

    def advance(self, days: float) -> None:
        """Let days pass."""
        self._days += days
        self._file.write_text(str(self._days))

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


class StateDbAdapter:
    """`SessionDB` on the file `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._clock = Clock(path.with_name("clock"))
        hermes_state.time = self._clock
        self._db = hermes_state.SessionDB(path)

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
        return bool(self._db.set_session_title(session, title))

    def set_system_prompt(self, session: str, text: str) -> None:
        """Store the system prompt."""
        self._db.update_system_prompt(session, text)

    def add_tokens(
        self,
        session: str,
        input: int,  # noqa: A002  the wire's
        output: int,
        more: Fields | None = None,
    ) -> None:
        """Add to the counts; `more` has the other counts, and whose they are."""
        self._db.update_token_counts(
            session, input_tokens=input, output_tokens=output, **_usage(more)
        )

    def set_tokens(
        self,
        session: str,
        input: int,  # noqa: A002  the wire's
        output: int,
        more: Fields | None = None,
    ) -> None:
        """Set the counts."""
        self._db.update_token_counts(
            session, input_tokens=input, output_tokens=output, absolute=True, **_usage(more)
        )

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
        self._db.append_message(session, role, text, tool_calls=calls or None, **(more or {}))

    def replace(self, session: str, messages: Rows, more: list[Fields] | None = None) -> None:
        """Replace all messages; `more` has the further columns of each."""
        rows = [
            {"role": role, "content": text, **columns}
            for (role, text), columns in zip(messages, more or [{}] * len(messages), strict=True)
        ]
        self._db.replace_messages(session, rows)

    def clear(self, session: str) -> None:
        """Drop all messages of the session."""
        self._db.clear_messages(session)

    def get(self, session: str) -> dict[str, Any] | None:
        """The session's columns; None if it is unknown."""
        row = self._db.get_session(session)
        if row is None:
            return None
        return {name: row[name] for name in COLUMNS} | {"ended": row["ended_at"] is not None}

    def details(self, session: str) -> dict[str, Any] | None:
        """What `get` and `messages` leave out; None if the session is unknown.

        The numbers of tool calls by message, and whether the ids of the messages grow.
        """
        row = self._db.get_session(session)
        if row is None:
            return None
        messages = self._db.get_messages(session)
        calls = [message.get("tool_calls") or [] for message in messages]
        parsed = [json.loads(call) if isinstance(call, str) else call for call in calls]
        parsed = [[call] if isinstance(call, dict) else call for call in parsed]
        return {
            "system_prompt": row["system_prompt"],
            "end_reason": row["end_reason"],
            "tool_calls": [_numbered([call["id"] for call in of_message]) for of_message in parsed],
            "in_order": all(one["id"] < two["id"] for one, two in pairwise(messages)),
        }

    def columns(self, session: str) -> Fields | None:
        """The columns that no other function shows; None if the session is unknown."""
        row = self._db.get_session(session)
        if row is None:
            return None
        return {
            **{name: row[name] for name in ABOUT},
            **{name: row[name] or 0 for name in USAGE},
            "model_config": _parsed(row["model_config"]),
            "cost_usd": row["estimated_cost_usd"] or 0,
            "messages": [
                {
                    name: _parsed(message[name]) if name == "reasoning_details" else message[name]
                    for name in DETAILS
                    if message.get(name)
                }
                for message in self._db.get_messages(session)
            ],
        }

    def list(self) -> Names:
        """Every session."""
        return sorted(row["id"] for row in self._db.search_sessions(limit=EVERYTHING))

    def messages(self, session: str) -> Rows:
        """The session's messages, in order."""
        return [[row["role"], row["content"]] for row in self._db.get_messages(session)]

    def search(self, word: str) -> Rows:
        """The messages that contain the word, each with its session."""
        found = self._db.search_messages(word, limit=EVERYTHING)
        texts = {
            row["id"]: row["content"]
            for session in {match["session_id"] for match in found}
            for row in self._db.get_messages(session)
        }
        # Another process may have deleted a message between the two queries.
        present = (match for match in found if match["id"] in texts)
        return sorted([match["session_id"], texts[match["id"]]] for match in present)

    def delete(self, session: str) -> bool:
        """Delete the session with its messages; whether it existed."""
        return bool(self._db.delete_session(session))

    def prune(self, days: float, source: str | None = None) -> int:
        """Delete ended sessions older than `days`, perhaps of one source only; their number."""
        return int(self._db.prune_sessions(older_than_days=days, source=source))

    def advance(self, days: float) -> None:
        """Let days pass."""
        self._clock.advance(days)

    def reopen_file(self) -> None:
        """Close the file and open it again."""
        self._db.close()
        self._db = hermes_state.SessionDB(self.path)

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


def _usage(more: Fields | None) -> Fields:
    """Counts by the names of the package."""
    given = dict(more or {})
    if "cost_usd" in given:
        given["estimated_cost_usd"] = given.pop("cost_usd")
    return given


def _parsed(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


def _numbered(calls: list[str]) -> int:
    """The number of tool calls, if they are those that `append` made; else -1."""
    return len(calls) if calls == [f"call-{number}" for number in range(len(calls))] else -1


def open_adapter(folder: Path) -> StateDbAdapter:
    """A `SessionDB` with its file in `folder`."""
    return StateDbAdapter(folder / "state.db")
