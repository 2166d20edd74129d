"""A house of rooms for tests: turns over a real store, an agent that does as told, and a watcher.

Nothing here sleeps: an agent waits for a gate that the test opens, and the test waits for facts.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from reference_impl.agents.agent import Agent, Stage
from reference_impl.memory.lifecycle import Lifecycle
from reference_impl.sessions.sidecar import Message, Session
from reference_impl.sessions.store import SessionStore
from reference_impl.storage.json_log import Row
from reference_impl.turns.journal import RunJournal, TurnJournal
from reference_impl.turns.turns import Run, Source, TurnListener, Turns

LONG_S = 20.0

Act = Callable[[str, Stage], str]


class Gate:
    """Closed until somebody opens it; who comes to it is counted as arrived."""

    def __init__(self) -> None:
        self.arrived = threading.Event()
        self._open = threading.Event()

    def wait(self) -> None:
        """Stand before it."""
        self.arrived.set()
        assert self._open.wait(LONG_S), "the gate was never opened"

    def open(self) -> None:
        """Let everybody through, from now on."""
        self._open.set()

    def reached(self) -> None:
        """Wait until somebody stands before it."""
        assert self.arrived.wait(LONG_S), "nobody came"


def echo(message: str, stage: Stage) -> str:
    """The most ordinary turn."""
    stage.token(f"re: {message}")
    return f"re: {message}"


class Puppet:
    """An agent whose every turn is one act."""

    def __init__(self, act: Act) -> None:
        self.act = act
        self.closed = threading.Event()

    def run_turn(self, message: str, history: Sequence[Message], stage: Stage) -> str:
        """Do it."""
        assert not self.closed.is_set()
        assert isinstance(history, tuple)
        return self.act(message, stage)

    def commit_memory_session(self) -> None:
        """Learn nothing."""

    def close(self) -> None:
        """Let a turn that hangs know."""
        self.closed.set()


class Watcher(TurnListener):
    """Writes down what it is told, and lets tests wait for it."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self.rows: list[Row] = []
        self._changed = threading.Condition()

    def user_refused(self, run: Run) -> None:
        self._note("refused", run)

    def started(self, run: Run) -> None:
        self._note("started", run)

    def shown(self, run: Run, row: Row) -> None:
        with self._changed:
            self.rows.append(row)
        self._note(row["event"], run)

    def ended(self, run: Run) -> None:
        self._note("ended", run)

    def _note(self, what: str, run: Run) -> None:
        with self._changed:
            self.told.append((what, run.stream_id))
            self._changed.notify_all()

    def of(self, run: Run) -> list[str]:
        """What was told of a run."""
        with self._changed:
            return [what for what, stream_id in self.told if stream_id == run.stream_id]

    def until(self, what: str, run: Run) -> None:
        """Wait until that is told of the run."""
        with self._changed:
            told = self._changed.wait_for(lambda: (what, run.stream_id) in self.told, LONG_S)
        assert told, f"{what!r} was never told, only {self.of(run)}"


class House:
    """Everything that a turn needs, in one folder; opened anew after a death."""

    def __init__(
        self, folder: Path, act: Act = echo, *, unwind_bound_s: float = LONG_S, **more: Any
    ) -> None:
        self.folder = folder
        self.act = act
        self.agents: dict[str, Puppet] = {}
        self.synced: list[Session] = []
        self.store = SessionStore(folder / "sessions")
        self.runs = RunJournal(folder / "sessions" / "_run_journal")
        self.journal = TurnJournal(folder / "sessions" / "_turn_journal.jsonl")
        self.lifecycle = Lifecycle()
        self.turns = Turns(
            self.store,
            self.runs,
            self.journal,
            self.lifecycle,
            self._agent,
            sync=self.synced.append,
            unwind_bound_s=unwind_bound_s,
            **more,
        )
        self.watcher = Watcher()
        self.turns.listen(self.watcher)

    def _agent(self, session_id: str) -> Agent:
        self.agents[session_id] = Puppet(self._do)
        return self.agents[session_id]

    def _do(self, message: str, stage: Stage) -> str:
        return self.act(message, stage)  # what it is by then

    def run(self, session_id: str, message: str, source: Source = Source.USER, **more: Any) -> Run:
        """Run a turn to its end."""
        run = self.turns.start(session_id, message, source, **more)
        self.watcher.until("ended", run)
        return run

    def messages(self, session_id: str) -> list[tuple[str, str]]:
        """Who said what in the session, on disk."""
        store = SessionStore(self.folder / "sessions")
        return [(m["role"], m["content"]) for m in store.load(session_id).messages]

    def marks(self, session_id: str) -> list[set[str]]:
        """How each message on disk is marked."""
        names = {"interrupted", "cancelled", "error"}
        store = SessionStore(self.folder / "sessions")
        return [names & m.keys() for m in store.load(session_id).messages]

    def rows(self, run: Run) -> list[tuple[str, str | None]]:
        """Events and terminal states in a run's journal."""
        rows = self.runs.rows(run.session_id, run.stream_id)
        return [(row["event"], row["terminal_state"]) for row in rows]

    def is_quiet(self) -> bool:
        """Whether nothing is left of any run in any registry."""
        gauges = {**self.turns.gauges(), **self.runs.gauges()}
        return not any(gauges.values()) and not self.journal.in_flight()

    def die(self) -> House:
        """Leave everything as it is, and open a new house in the folder."""
        return House(self.folder, self.act)

    def close(self) -> None:
        """End what runs."""
        for agent in self.agents.values():
            agent.close()
        assert self.turns.shut_down(LONG_S)
        self.journal.close()


@contextmanager
def house(folder: Path, act: Act = echo, **more: Any) -> Iterator[House]:
    """A house that is closed in the end."""
    opened = House(folder, act, **more)
    try:
        yield opened
    finally:
        opened.close()
