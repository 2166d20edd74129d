"""Scenario of any sequence of calls on sessions over HTTP, through kills, against the model.

A turn is either held until it is cancelled, or ends at an unknown moment. So no call waits for a
time, and the model accepts every state that is possible meanwhile.
"""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from harness.checkers.conformance import conforms
from harness.contract import promises
from harness.contract.checkers.server.back_to_zero import resting
from harness.contract.models.run_stream import BEYOND
from harness.contract.models.server import GONE, ServerModel
from harness.core.history import History
from harness.engine.scenario import Expectation, Mode, Scenario
from harness.pytest_plugin import Judge
from harness.targets.server.http import CURSORS, FOREIGN
from harness.workloads.stateful import Machine, explore

from .test_http import FAILS, HELD, TALKS, TOKENS

NAMES = ("s1", "s2")
SESSIONS = st.sampled_from(NAMES)
SHORT = st.sampled_from([*TALKS, FAILS])
KEEPS = st.integers(0, 2)
INDEXES = st.integers(0, 3)
EXAMPLES_PER_SERVER = 12
STEPS = 20


class SessionsMachine(Machine):
    """Two sessions: turns, cancels, removals and reads, with kills of the server in between."""

    model = ServerModel()
    examples_per_instance = EXAMPLES_PER_SERVER

    def __init__(self) -> None:
        super().__init__()
        self.numbers = itertools.count(1)
        self.sessions: set[str] = set()
        self.held: dict[str, str] = {}
        self.over: list[str] = []

    @initialize(session=SESSIONS)
    def first(self, session: str) -> None:
        self.new(session)
        self.talk(session, TALKS[0])

    @rule(session=SESSIONS)
    def new(self, session: str) -> None:
        if session in self.sessions:
            self.delete(session)
        self.sessions.add(session)
        self.ask("new", session=session)

    @rule(session=SESSIONS, title=st.sampled_from(["plans", "notes"]))
    def rename(self, session: str, title: str) -> None:
        self.change(session, "rename", title=title)

    # Turns

    def send(self, session: str, script: str) -> str | None:
        """Begin a turn; returns the run's name, None where it was refused."""
        run = f"r{next(self.numbers)}"
        sent = self.ask("send", session=session, run=run, text=f"{run} {script}")
        return run if sent.result and sent.result["status"] == 200 else None

    @rule(session=SESSIONS, script=SHORT)
    def talk(self, session: str, script: str) -> None:
        if run := self.send(session, script):
            self.over.append(run)
            self.ask("disk", session=session)

    @rule(session=SESSIONS, script=SHORT)
    def talk_and_wait(self, session: str, script: str) -> None:
        self.talk(session, script)
        if session not in self.held:
            self.ask("wait_idle", session=session)

    @rule(session=SESSIONS)
    def hold(self, session: str) -> None:
        if run := self.send(session, HELD):
            self.held[session] = run
            self.ask("shown", run=run, tokens=TOKENS)

    @precondition(lambda self: self.held)
    @rule(index=INDEXES)
    def cancel(self, index: int) -> None:
        run = self.release(sorted(self.held)[index % len(self.held)])
        self.ask("cancel", run=run)

    @precondition(lambda self: self.over)
    @rule(index=INDEXES)
    def cancel_late(self, index: int) -> None:
        self.ask("cancel", run=self.over[-1 - index % len(self.over)])

    def release(self, session: str) -> str:
        """Note that a held run is over; returns it."""
        self.over.append(self.held.pop(session))
        return self.over[-1]

    # Removals

    @rule(session=SESSIONS)
    def clear(self, session: str) -> None:
        self.change(session, "clear")

    @rule(session=SESSIONS, keep=KEEPS)
    def truncate(self, session: str, keep: int) -> None:
        self.change(session, "truncate", keep=keep)

    @rule(session=SESSIONS)
    def undo(self, session: str) -> None:
        self.change(session, "undo")

    @rule(session=SESSIONS)
    def delete(self, session: str) -> None:
        self.sessions.discard(session)
        self.held.pop(session, None)
        self.ask("delete", session=session)

    def change(self, session: str, function: str, **argument: Any) -> None:
        """Change a session that every route has just shown, so that each cache holds the former."""
        self.ask("views", session=session)
        self.ask(function, session=session, **argument)
        self.see(session)

    # Reads

    def see(self, session: str) -> None:
        """Ask every route about the session, and compare all its copies if it is at rest."""
        self.ask("views", session=session)
        if session in self.sessions and session not in self.held:
            self.ask("wait_idle", session=session)
            self.ask("copies", session=session)

    @rule(session=SESSIONS)
    def look(self, session: str) -> None:
        self.ask("status", session=session)
        self.ask("title", session=session)
        self.ask("messages", session=session)

    @rule()
    def list(self) -> None:
        self.ask("titles")

    @rule(session=SESSIONS)
    def watch(self, session: str) -> None:
        self.ask("watch", session=session)

    @precondition(lambda self: self.over)
    @rule(index=INDEXES, after=st.integers(0, TOKENS + 3), by=st.sampled_from(CURSORS))
    def read(self, index: int, after: int, by: str) -> None:
        self.ask("events", run=self.over[-1 - index % len(self.over)], after=after, by=by)

    @precondition(lambda self: self.over)
    @rule(index=INDEXES, cursor=st.sampled_from(sorted(FOREIGN)))
    def read_from(self, index: int, cursor: str) -> None:
        self.ask("events_from", run=self.over[-1 - index % len(self.over)], cursor=cursor)

    # Kills

    @rule(function=st.sampled_from(["kill", "kill", "terminate"]))
    def end_server(self, function: str) -> None:
        for session in sorted(self.sessions):  # so that a kill may lose something
            self.hold(session)
        for session in sorted(self.held):
            self.release(session)
        self.ask(function)
        self.ask("titles")
        for session in sorted(self.sessions):
            self.ask("messages", session=session)
            self.see(session)

    def finish(self) -> None:
        for session in sorted(self.held):
            self.ask("cancel", run=self.release(session))
        for session in NAMES:
            self.ask("messages", session=session)
            self.ask("disk", session=session)
        for session in sorted(self.sessions):
            self.see(session)
        for run in self.over[-2:]:
            self.ask("events", run=run, after=0)
            self.ask("events_from", run=run, cursor="another run")
            for by in CURSORS:
                self.ask("events", run=run, after=1, by=by)
        for session in sorted(self.sessions):
            self.delete(session)
            self.ask("title", session=session)


def _count(name: str, *functions: str) -> Expectation:
    return Expectation(name, lambda history: sum(op.function in functions for op in history))


def _refused(history: History) -> int:
    return sum(GONE in op.error for op in history)


def _snapshots(history: History) -> int:
    foreign = (op for op in history if op.function == "events_from" and op.result)
    return sum(op.argument["cursor"] != BEYOND for op in foreign)


ANY_SEQUENCE = Scenario(
    name="server-any-sequence",
    mode=Mode.HTTP,
    ability="http",
    promises=(
        *(promises.S2, promises.S6, promises.S11, promises.S13, promises.S14, promises.S15),
        *(promises.T1, promises.T2, promises.T3, promises.T4),
        *(promises.C1, promises.C2, promises.C3, promises.C4, promises.C6, promises.C7),
        promises.H3,
    ),
    workload=explore(SessionsMachine, steps=STEPS),
    checker=resting(conforms(SessionsMachine.model)),
    expectations=(
        _count("the server was ended", "kill", "terminate"),
        _count("messages or a session were removed", "clear", "truncate", "undo", "delete"),
        _count("a run was cancelled", "cancel"),
        Expectation("a call named a deleted session", _refused),
        Expectation("a run was read from a foreign cursor", _snapshots),
    ),
    examples=20,
)


def test_sessions_over_http_conform_to_the_model(judge: Judge) -> None:
    """Sessions are made, renamed, used, cancelled, cut, read and killed, in any order."""
    assert judge(ANY_SEQUENCE).is_valid
