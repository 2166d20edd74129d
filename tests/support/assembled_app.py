"""An assembled app for tests: turns over a real store, a fake agent, and a recorder of events.

Nothing here sleeps: an agent waits for a gate that the test opens, and the test waits for facts.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from reference_impl.agents.agent import Agent, TurnOutput
from reference_impl.memory.lifecycle import Lifecycle
from reference_impl.sessions.sidecar import Message, Session
from reference_impl.sessions.store import SessionStore
from reference_impl.storage.json_log import Row
from reference_impl.turns.journal import RunJournal, TurnJournal
from reference_impl.turns.listeners import TurnListener
from reference_impl.turns.run import Run, Source
from reference_impl.turns.turns import Turns

LONG_S = 20.0

Act = Callable[[str, TurnOutput], str]


class Gate:
    """A gate that the test opens; `arrived` is set when a thread waits at it."""

    def __init__(self) -> None:
        self.arrived = threading.Event()
        self._open = threading.Event()

    def wait(self) -> None:
        """Wait until the gate is open."""
        self.arrived.set()
        assert self._open.wait(LONG_S), "the gate was never opened"

    def open(self) -> None:
        """Let all threads pass, from now on."""
        self._open.set()

    def reached(self) -> None:
        """Wait until a thread arrives."""
        assert self.arrived.wait(LONG_S), "no thread arrived at the gate"


def echo(message: str, output: TurnOutput) -> str:
    """A turn that echoes the message."""
    output.token(f"re: {message}")
    return f"re: {message}"


class FakeAgent:
    """An agent that runs one function per turn."""

    def __init__(self, act: Act) -> None:
        self.act = act
        self.closed = threading.Event()

    @property
    def system_prompt(self) -> str:
        """None is needed."""
        return ""

    def run_turn(self, message: str, history: Sequence[Message], output: TurnOutput) -> str:
        """Call the function."""
        assert not self.closed.is_set()
        assert isinstance(history, tuple)
        return self.act(message, output)

    def summarize(self, messages: Sequence[Message]) -> str:
        """Count them."""
        return f"{len(messages)} messages"

    def sync_turn(self, turn_id: str, request: str, reply: str) -> None:
        """Do nothing: the agent has no memory."""

    def commit_memory_session(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Set `closed`, which a hanging turn may wait for."""
        self.closed.set()


class RunRecorder(TurnListener):
    """Records the events of all runs, and lets tests wait for them."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []
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
            self.events.append((what, run.stream_id))
            self._changed.notify_all()

    def of(self, run: Run) -> list[str]:
        """The recorded events of a run."""
        with self._changed:
            return [what for what, stream_id in self.events if stream_id == run.stream_id]

    def until(self, what: str, run: Run) -> None:
        """Wait for an event of the run."""
        with self._changed:
            is_recorded = self._changed.wait_for(
                lambda: (what, run.stream_id) in self.events, LONG_S
            )
        assert is_recorded, f"{what!r} was never recorded, only {self.of(run)}"


class AssembledApp:
    """Everything that a turn needs, in one folder; can be opened anew after a kill."""

    def __init__(
        self, folder: Path, act: Act = echo, *, unwind_bound_s: float = LONG_S, **more: Any
    ) -> None:
        self.folder = folder
        self.act = act
        self.agents: dict[str, FakeAgent] = {}
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
        self.recorder = RunRecorder()
        self.turns.listen(self.recorder)

    def _agent(self, session_id: str) -> Agent:
        self.agents[session_id] = FakeAgent(self._do)
        return self.agents[session_id]

    def _do(self, message: str, output: TurnOutput) -> str:
        return self.act(message, output)  # `act` may be replaced meanwhile

    def run(self, session_id: str, message: str, source: Source = Source.USER, **more: Any) -> Run:
        """Run a turn to its end."""
        run = self.turns.start(session_id, message, source, **more)
        self.recorder.until("ended", run)
        return run

    def messages(self, session_id: str) -> list[tuple[str, str]]:
        """Role and content of the session's messages on disk."""
        store = SessionStore(self.folder / "sessions")
        return [(m["role"], m["content"]) for m in store.load(session_id).messages]

    def marks(self, session_id: str) -> list[set[str]]:
        """The marks of each message on disk."""
        names = {"interrupted", "cancelled", "error"}
        store = SessionStore(self.folder / "sessions")
        return [names & m.keys() for m in store.load(session_id).messages]

    def rows(self, run: Run) -> list[tuple[str, str | None]]:
        """Events and terminal states in a run's journal."""
        rows = self.runs.rows(run.session_id, run.stream_id)
        return [(row["event"], row["terminal_state"]) for row in rows]

    def is_quiet(self) -> bool:
        """Whether no registry has anything of a run."""
        gauges = {**self.turns.gauges(), **self.runs.gauges()}
        return not any(gauges.values()) and not self.journal.in_flight()

    def restarted(self) -> AssembledApp:
        """Leave everything as it is, and open a new app in the folder."""
        return AssembledApp(self.folder, self.act)

    def close(self) -> None:
        """End all runs."""
        for agent in self.agents.values():
            agent.close()
        assert self.turns.shut_down(LONG_S)
        self.journal.close()


@contextmanager
def assembled_app(folder: Path, act: Act = echo, **more: Any) -> Iterator[AssembledApp]:
    """An app that is closed in the end."""
    opened = AssembledApp(folder, act, **more)
    try:
        yield opened
    finally:
        opened.close()
