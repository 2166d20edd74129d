"""The *upkeep* ability of a hermes-webui server, whose sizes and locks a probe inside it shows.

An agent's database lies beside the server, in which another writer adds a session now and then, so
that the server's list has something to read there.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

from harness.engine.http import Web
from harness.processes.probe import cost_of
from harness.processes.server import Launch
from harness.targets.hermes_webui.scripted_agent import PARTS, WITHOUT
from harness.targets.hermes_webui.scripted_database import SCHEMA
from harness.targets.server.probe import ask_probe
from harness.targets.server.upkeep import CALLERS, CHANGES, READS, TIMES, UpkeepAdapter

PACKAGE = "api"
OWN = ("personality", "update", "toolsets")  # changes that only this server has
MESSAGES = 3  # of each session of the other writer


class WebuiUpkeepAdapter(UpkeepAdapter):
    """One server and its folder, through all its boots."""

    calls = tuple(CHANGES)
    reads = (
        *READS,
        "/api/session/usage?session_id={id}",
        "/api/sessions/search?q=hello",
        "/api/session?session_id={id}&messages=0",
        "/health?deep=1",
        "/api/session/recovery/audit",
        "/api/sessions/gateway/stream?probe=1",
    )

    streams = (
        "/api/chat/stream?stream_id={run}",
        "/api/chat/stream?stream_id={run}&after_event_id={run}:1",
        "/api/session/stream?session_id={id}&known_count=0",
        "/api/sessions/{id}/events",
        "/api/sessions/{id}/events?after_event_id={run}:1",
        "/api/sessions/{id}/events?after_event_id=another:1",
        "/api/sessions/events",
        "/api/sessions/gateway/stream",
        "/api/approval/stream?session_id={id}",
        "/api/clarify/stream?session_id={id}",
    )
    kinds = ("process", "silence", "failure", "streams", "changes")
    changing = (
        *UpkeepAdapter.changing,
        "draft",
        "pin",
        "archive",
        "move",
        "branch",
        "duplicate",
        *OWN,
    )

    def __init__(self, folder: Path, launch: Launch) -> None:
        """Boot nothing yet."""
        super().__init__(folder, launch)
        self._home = folder

    def churn(self, rounds: int, sessions: int) -> list[str]:
        """Use and delete sessions beside another writer; names of what has a size."""
        with closing(sqlite3.connect(self._home / "state.db")) as connection:
            connection.executescript(SCHEMA)
        return super().churn(rounds, sessions)

    def sizes(self, web: Web) -> Mapping[str, float]:  # noqa: ARG002  the probe knows them
        """The sizes of all global containers, and what the process holds."""
        state = self._server.state
        cost = cost_of(self._server.boot()["pid"])
        sizes: dict[str, float] = ask_probe(state, "sizes", package=PACKAGE)
        objects: dict[str, float] = ask_probe(state, "census", package=PACKAGE)
        return {**sizes, **objects, "threads": cost.threads, "fds": cost.fds}

    def beside(self, number: int, sessions: int) -> None:  # noqa: ARG002  one for each round
        """Let another writer add a session with some messages to the database."""
        name, now = f"outside-{number}", time.time()
        row = (name, "cli", now, name, MESSAGES)
        texts = [(name, "user", f"hello {count}", now + count) for count in range(MESSAGES)]
        with closing(sqlite3.connect(self._home / "state.db")) as connection, connection:
            connection.execute(
                "INSERT INTO sessions (id, source, started_at, title, message_count)"
                " VALUES (?, ?, ?, ?, ?)",
                row,
            )
            connection.executemany(
                "INSERT INTO messages (session_id, role, content, timestamp) VALUES (?, ?, ?, ?)",
                texts,
            )

    @contextmanager
    def holding(self, session: str) -> Iterator[None]:
        """Hold the lock of the session inside the server."""
        state, argument = self._server.state, {"module": "api.config", "argument": [session]}
        ask_probe(state, "hold", function="_get_session_agent_lock", **argument)
        try:
            yield
        finally:
            ask_probe(state, "release")

    def parts(self) -> list[str]:
        """Every part of the agent, and none."""
        return ["", *PARTS]

    def lacking(self, part: str) -> Mapping[str, str]:
        """The setting that the scripted agent reads."""
        return {WITHOUT: part} if part else {}

    def starters(self) -> list[str]:
        """The functions that start threads of the server and can stop them again."""
        self._booted()
        starters: list[str] = ask_probe(self._server.state, "starters", package=PACKAGE)
        return starters

    def started_at_once(self, starter: str) -> int:
        """Call it by several threads at once; how many threads it started."""
        argument = {"starter": starter, "callers": CALLERS, "times": TIMES}
        started: int = ask_probe(self._server.state, "start_at_once", **argument)
        return started
