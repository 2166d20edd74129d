"""The *server* ability: one server on one folder, through all its restarts.

It serves workloads with clients of their own: concurrent clients, a load, a soak. It reads the
session files under the server's own ids, to settle calls whose reply was lost.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from harness.processes.server import Launch, ServerProcess
from harness.targets.server.epilogue import Gauges, left_by

UNTITLED = "Untitled"
ABSENT_ID = "0" * 12  # the id of no session
_RECOVERED = re.compile(r"recovery: (\d+) sessions scanned, (\d+) restored, (\d+) settled")


def _with_row(data: bytes, **fields: Any) -> bytes:
    """The index with a copy of its first row, in which these fields differ."""
    rows = json.loads(data)
    return json.dumps([*rows, *({**row, **fields} for row in rows[:1])]).encode()


INDEX_DAMAGES: Mapping[str, Callable[[bytes], bytes]] = {
    "missing": bytes,
    "cut": lambda data: data[: len(data) // 2],
    "twice": _with_row,
    "ghost": lambda data: _with_row(data, session_id=ABSENT_ID),
}


class ServerAdapter:
    """Boots, kills, terminates and pauses a server, and reads its sidecars."""

    def __init__(self, folder: Path, launch: Launch, *, notes_gauges: bool = False) -> None:
        """Boot nothing yet; an epilogue needs the first values of the gauges."""
        self.state = folder / "state"
        self._launch = launch
        self._server: ServerProcess | None = None
        self._settings: dict[str, str] = {}
        self._notes_gauges = notes_gauges
        self._gauges: Gauges | None = None

    def boot(self, **settings: str) -> dict[str, int]:
        """Boot with these settings, or the last ones if none; a running server keeps running."""
        if self._server is None:
            self._settings = settings or self._settings
            self._server = ServerProcess(self._launch, self.state, self._settings)
            if self._notes_gauges:
                self._gauges = Gauges(self._server.port, self._server.pid, self.state)
        return {"port": self._server.port, "pid": self._server.pid}

    @property
    def listened_at(self) -> float:
        """A time before the first request, at which the server listened."""
        assert self._server is not None, "the server runs"
        return self._server.listened_at

    def epilogue(self) -> dict[str, Any]:
        """Let all clients leave; what is above its first value after that."""
        if self._server is None or self._gauges is None:
            return {"left": {}}
        return {"left": left_by(self._gauges)}

    def kill(self) -> None:
        """Kill the server with kill -9."""
        if self._server is not None:
            self._server.kill()
            self._server = None

    def terminate(self) -> int | None:
        """End the server by SIGTERM; the exit code, None if it hung."""
        assert self._server is not None, "the server runs"
        code = self._server.terminate()
        self._server = None
        return code

    def pause(self) -> None:
        """Suspend the server with SIGSTOP."""
        assert self._server is not None, "the server runs"
        self._server.pause()

    def resume(self) -> None:
        """Resume the server."""
        assert self._server is not None, "the server runs"
        self._server.resume()

    def log(self) -> str:
        """What all servers of this folder have logged."""
        return self.state.with_suffix(".log").read_text(encoding="utf-8", errors="replace")

    def recovery_logged(self) -> dict[str, int]:
        """What the last start logged of its recovery; empty for nothing."""
        found = _RECOVERED.findall(self.log())
        names = ("scanned", "restored", "settled")
        return dict(zip(names, map(int, found[-1]), strict=True)) if found else {}

    def kept(self, session_id: str) -> dict[str, Any] | None:
        """The messages and the pending text in the session's sidecar; None if there is no file."""
        path = self.state / "sessions" / f"{session_id}.json"
        try:
            sidecar = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        return {"messages": sidecar["messages"], "pending": sidecar.get("pending_user_message")}

    def damage_index(self, kind: str) -> None:
        """Damage the index of a server that does not run, if it has one."""
        path = self.state / "sessions" / "_index.json"
        if not path.exists():
            return
        data = path.read_bytes()
        if kind == "missing":
            path.unlink()
        else:
            path.write_bytes(INDEX_DAMAGES[kind](data))

    def age_database(self) -> None:
        """Give each session an older last reply in state.db, or without one an older title.

        No server runs. One of both: a server that finds an older title copies the reply too.
        """
        with closing(sqlite3.connect(self.state / "state.db")) as connection, connection:
            connection.execute(
                "UPDATE messages SET content = 'older: ' || content WHERE role = 'assistant'"
                " AND id IN (SELECT max(id) FROM messages GROUP BY session_id)"
            )
            connection.execute(
                "UPDATE sessions SET title = 'older: ' || title WHERE title IS NOT NULL"
                " AND id NOT IN (SELECT session_id FROM messages WHERE role = 'assistant')"
            )

    def write_database(self, statement: str, session_id: str) -> None:
        """Execute a statement about a session on state.db. No server runs."""
        with closing(sqlite3.connect(self.state / "state.db")) as connection, connection:
            connection.execute(statement, (session_id,))

    # Copies of the sessions, for comparisons at rest

    def sidecar(self, session_id: str) -> dict[str, Any]:
        """The session's sidecar. Raises OSError, ValueError."""
        path = self.state / "sessions" / f"{session_id}.json"
        sidecar: dict[str, Any] = json.loads(path.read_bytes())
        return sidecar

    def index_row(self, session_id: str) -> dict[str, Any] | None:
        """The session's row in the index file and the log of its changes; None for no row."""
        folder = self.state / "sessions"
        rows = {row["session_id"]: row for row in json.loads((folder / "_index.json").read_bytes())}
        with suppress(FileNotFoundError):
            _, *changes = (folder / "_index.log").read_text().splitlines()
            rows |= dict(map(json.loads, changes))
        row: dict[str, Any] | None = rows.get(session_id)
        return row

    def database(self, session_id: str) -> dict[str, dict[str, Any]]:
        """The session in state.db, and what the full-text search has of it; empty copies for none.

        A found row without its message has the role `removed`.
        """
        path = self.state / "state.db"
        row, texts, words = (None, 0), [], []
        if path.exists():
            with closing(sqlite3.connect(path)) as connection:
                find = "SELECT title, message_count FROM sessions WHERE id = ?"
                row = connection.execute(find, (session_id,)).fetchone() or row
                read = "SELECT id, role, content FROM messages WHERE session_id = ? ORDER BY id"
                messages = connection.execute(read, (session_id,)).fetchall()
                connection.execute(
                    "CREATE VIRTUAL TABLE temp.terms USING fts5vocab('main', 'words', 'instance')"
                )
                docs = {doc for (doc,) in connection.execute("SELECT DISTINCT doc FROM temp.terms")}
                known = {at for (at,) in connection.execute("SELECT id FROM messages")}
                texts = [[role, text] for _, role, text in messages]
                words = [[role, text] for at, role, text in messages if at in docs or not text]
                words += [["removed", ""] for _ in docs - known]
        title, count = row
        return {
            "database": {"title": title or UNTITLED, "count": count, "texts": texts},
            "search": {"title": title or UNTITLED, "count": count, "texts": words},
        }

    def tool_calls(self, session_id: str) -> dict[str, Any]:
        """The tool calls that state.db counts for a session, and those of its messages."""
        path = self.state / "state.db"
        if not path.exists():
            return {"count": 0, "calls": []}
        with closing(sqlite3.connect(path)) as connection:
            find = "SELECT tool_call_count FROM sessions WHERE id = ?"
            (count,) = connection.execute(find, (session_id,)).fetchone() or (0,)
            read = "SELECT tool_calls FROM messages WHERE session_id = ? ORDER BY id"
            rows = [calls for (calls,) in connection.execute(read, (session_id,)) if calls]
        return {"count": count, "calls": [json.loads(calls) for calls in rows]}

    def details(self, session_id: str) -> list[list[Any]]:
        """The finish reason, reasoning and token count of each message in state.db."""
        path = self.state / "state.db"
        if not path.exists():
            return []
        with closing(sqlite3.connect(path)) as connection:
            read = (
                "SELECT finish_reason, reasoning, token_count FROM messages"
                " WHERE session_id = ? ORDER BY id"
            )
            return [[*row] for row in connection.execute(read, (session_id,))]

    def copies(self, session_id: str) -> dict[str, Any]:
        """Each copy of a session: texts with their roles, and counts. Empty for no session.

        A wakeup has a role of its own, as clients see it.
        """
        try:
            messages = self.sidecar(session_id)["messages"]
        except FileNotFoundError:
            return {}
        row = self.index_row(session_id)
        texts = [[_role(message), message["content"]] for message in messages]
        found = self.database(session_id)
        copies: dict[str, Any] = {
            "sidecar": texts,
            "index": None if row is None else row["message_count"],
            "database_count": found["database"]["count"],
        }
        for name, copy in found.items():
            # These copies know no wakeups: their roles are those of the sidecar.
            roles = [role for role, _ in texts] if len(texts) == len(copy["texts"]) else []
            plain = [
                [role if role == "removed" or not roles else roles[at], text]
                for at, (role, text) in enumerate(copy["texts"])
            ]
            copies[name] = plain
        return copies

    def journal(self, session_id: str) -> dict[str, str]:
        """The tokens of the session's runs in the run journal, by stream."""
        folder = self.state / "sessions" / "_run_journal" / session_id
        runs = {}
        for path in folder.glob("*.jsonl"):
            rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
            tokens = [row["payload"]["text"] for row in rows if row["event"] == "token"]
            runs[path.stem] = "".join(tokens)
        return runs

    def close(self) -> None:
        """Kill the server."""
        self.kill()


def _role(message: Mapping[str, Any]) -> str:
    is_wakeup = message["role"] == "user" and message.get("source") == "process_wakeup"
    return "wakeup" if is_wakeup else str(message["role"])
