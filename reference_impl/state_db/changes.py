"""Changes of one session in the state database, all in one transaction.

Each is checked and encoded as it is added, before the transaction begins.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple
from typing import Any, NoReturn, Self

from reference_impl.sessions.titles import sanitized
from reference_impl.state_db.errors import SessionUnknownError, TitleTakenError
from reference_impl.state_db.records import (
    COUNTED,
    INSERT_MESSAGE,
    NAMED,
    Draft,
    Usage,
    row_of,
)
from reference_impl.state_db.write_queue import Act

_KEEP_NAMES = ", ".join(f"{name} = ifnull({name}, ?)" for name in NAMED)
_ADD_COUNTS = ", ".join(f"{name} = ifnull({name}, 0) + ?" for name in COUNTED)
_SET_COUNTS = ", ".join(f"{name} = ?" for name in COUNTED)
_ADD_USAGE = f"UPDATE sessions SET {_ADD_COUNTS}, {_KEEP_NAMES} WHERE id = ?"  # noqa: S608  likewise
_SET_USAGE = f"UPDATE sessions SET {_SET_COUNTS}, {_KEEP_NAMES} WHERE id = ?"  # noqa: S608  likewise


class Changes:
    """Changes of one session, in order. An instance is the act of a transaction.

    The act gives what its last change gives, and raises what a change names below; then none of
    them happened. `StateDb` has methods of the same names, which write one change each.
    """

    def __init__(self, session: str, path: str, clock: Callable[[], float]) -> None:
        """`path` is the database's, for errors; `clock` gives seconds of the epoch."""
        self._session = session
        self._path = path
        self._clock = clock
        self._acts: list[Act[Any]] = []

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        return bool(self._acts)

    def __call__(self, connection: sqlite3.Connection) -> Any:
        """Make the changes in the connection's transaction."""
        result = None
        for act in self._acts:
            result = act(connection)
        return result

    def create_session(  # noqa: PLR0913 - the columns of a session
        self,
        source: str,
        *,
        model: str | None = None,
        model_config: Mapping[str, Any] | None = None,
        system_prompt: str | None = None,
        user_id: str | None = None,
        parent_session_id: str | None = None,
    ) -> Self:
        """Ensure that the session exists; an existing one is not changed.

        Raises SessionUnknownError if its parent does not exist.
        """
        config = None if model_config is None else json.dumps(model_config)
        about = (model, config, system_prompt, user_id, parent_session_id)
        row = (self._session, source, self._clock(), *about)

        def act(connection: sqlite3.Connection) -> None:
            if parent_session_id is not None:
                find = "SELECT 1 FROM sessions WHERE id = ?"
                if connection.execute(find, (parent_session_id,)).fetchone() is None:
                    self._raise_unknown(parent_session_id)
            connection.execute(
                "INSERT INTO sessions(id, source, started_at, model, model_config, system_prompt,"
                " user_id, parent_session_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
                " ON CONFLICT(id) DO NOTHING",
                row,
            )

        return self._add(act)

    def end_session(self, reason: str, at: float | None = None) -> Self:
        """Note when and why the session ended, by default now; the first end stays.

        Raises SessionUnknownError.
        """
        return self._update(
            "UPDATE sessions SET end_reason = iif(ended_at IS NULL, ?, end_reason),"
            " ended_at = ifnull(ended_at, ?) WHERE id = ?",
            (reason, self._clock() if at is None else at),
        )

    def reopen_session(self) -> Self:
        """Let an ended session go on. Raises SessionUnknownError."""
        return self._update("UPDATE sessions SET ended_at = NULL, end_reason = NULL WHERE id = ?")

    def set_title(self, title: str | None) -> Self:
        """Set or remove the session's title; gives False if there is no such session.

        Raises TitleTakenError if another session has that title.
        """
        name = sanitized(title)

        def act(connection: sqlite3.Connection) -> bool:
            others = "SELECT id FROM sessions WHERE title = ? AND id <> ?"
            taken = connection.execute(others, (name, self._session)).fetchone()
            if taken is not None:
                raise TitleTakenError(f"{self._path}: session {taken[0]} is called {name!r}")
            set_title = "UPDATE sessions SET title = ? WHERE id = ?"
            return connection.execute(set_title, (name, self._session)).rowcount > 0

        return self._add(act)

    def set_system_prompt(self, text: str) -> Self:
        """Store the session's initial prompt. Raises SessionUnknownError."""
        return self._update("UPDATE sessions SET system_prompt = ? WHERE id = ?", (text,))

    def add_tokens(self, usage: Usage) -> Self:
        """Add the usage of one call; the first model and billing mode stay.

        Raises SessionUnknownError.
        """
        return self._update(_ADD_USAGE, astuple(usage))

    def set_tokens(self, usage: Usage) -> Self:
        """Store totals that the caller counted; the first model and billing mode stay.

        Raises SessionUnknownError.
        """
        return self._update(_SET_USAGE, astuple(usage))

    def append_message(self, draft: Draft) -> Self:
        """Add a message at the end; gives its id. Raises SessionUnknownError."""
        row = row_of(self._session, draft, self._clock())

        def act(connection: sqlite3.Connection) -> int:
            counted = connection.execute(
                "UPDATE sessions SET message_count = message_count + 1,"
                " tool_call_count = tool_call_count + ? WHERE id = ?",
                (len(draft.tool_calls), self._session),
            )
            self._check_known(counted)
            return connection.execute(INSERT_MESSAGE, row).lastrowid or 0

        return self._add(act)

    def replace_messages(self, drafts: Sequence[Draft]) -> Self:
        """Replace all messages of the session. Raises SessionUnknownError."""
        rows = [row_of(self._session, draft, self._clock()) for draft in drafts]
        tool_calls = sum(len(draft.tool_calls) for draft in drafts)

        def act(connection: sqlite3.Connection) -> None:
            counted = connection.execute(
                "UPDATE sessions SET message_count = ?, tool_call_count = ? WHERE id = ?",
                (len(rows), tool_calls, self._session),
            )
            self._check_known(counted)
            connection.execute("DELETE FROM messages WHERE session_id = ?", (self._session,))
            connection.executemany(INSERT_MESSAGE, rows)

        return self._add(act)

    def clear_messages(self) -> Self:
        """Delete all messages of the session. Raises SessionUnknownError."""
        return self.replace_messages(())

    def _add(self, act: Act[Any]) -> Self:
        self._acts.append(act)
        return self

    def _update(self, update: str, values: tuple[Any, ...] = ()) -> Self:
        def act(connection: sqlite3.Connection) -> None:
            self._check_known(connection.execute(update, (*values, self._session)))

        return self._add(act)

    def _check_known(self, cursor: sqlite3.Cursor) -> None:
        if cursor.rowcount == 0:
            self._raise_unknown(self._session)

    def _raise_unknown(self, session: str) -> NoReturn:
        raise SessionUnknownError(f"{self._path}: there is no session {session!r}")
