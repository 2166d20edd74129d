"""Any life that sessions can have, over HTTP: what was said, shown and removed stays so.

A turn is either held, until somebody ends it, or over at a moment that nobody knows. So whoever
asks never has to wait for a while, and the model knows what may hold meanwhile.
"""

from __future__ import annotations

import itertools

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from harness.checkers.conformance import conforms
from harness.contract.models.run_stream import BEYOND
from harness.contract.models.server import GONE, ServerModel
from harness.core.history import History
from harness.core.promises import Promise
from harness.engine.scenario import Expectation, Mode, Scenario
from harness.targets.server.http import CURSORS, FOREIGN
from harness.workloads.stateful import Machine, explore
from scenarios.conftest import Judge
from scenarios.server.test_http import FAILS, HELD, TALKS, TOKENS

NAMES = ("s1", "s2")
SESSIONS = st.sampled_from(NAMES)
SHORT = st.sampled_from([*TALKS, FAILS.replace("[sleep=0.3]", "")])
KEEPS = st.integers(0, 2)
WHICH = st.integers(0, 3)
SERVED_MAX = 12  # examples by one server
STEPS = 20


class SessionsMachine(Machine):
    """Two sessions: users talk, cancel, remove and read again; the server dies in between."""

    model = ServerModel()
    served_max = SERVED_MAX

    def __init__(self) -> None:
        super().__init__()
        self.numbers = itertools.count(1)
        self.there: set[str] = set()
        self.held: dict[str, str] = {}
        self.over: list[str] = []

    @initialize(session=SESSIONS)
    def first(self, session: str) -> None:
        self.new(session)
        self.talk(session, TALKS[0])

    @rule(session=SESSIONS)
    def new(self, session: str) -> None:
        if session in self.there:
            self.delete(session)
        self.there.add(session)
        self.ask("new", session=session)

    @rule(session=SESSIONS, title=st.sampled_from(["plans", "notes"]))
    def rename(self, session: str, title: str) -> None:
        self.ask("rename", session=session, title=title)

    # Turns

    def send(self, session: str, script: str) -> str | None:
        """Begin a turn; the run's name, None where there is none."""
        run = f"r{next(self.numbers)}"
        sent = self.ask("send", session=session, run=run, text=f"{run} {script}")
        return run if sent.result and sent.result["status"] == 200 else None

    @rule(session=SESSIONS, script=SHORT)
    def talk(self, session: str, script: str) -> None:
        if run := self.send(session, script):
            self.over.append(run)
            self.ask("disk", session=session)

    @rule(session=SESSIONS, script=SHORT)
    def talk_on(self, session: str, script: str) -> None:
        self.talk(session, script)
        if session not in self.held:
            self.ask("wait_idle", session=session)

    @rule(session=SESSIONS)
    def hold(self, session: str) -> None:
        if run := self.send(session, HELD):
            self.held[session] = run
            self.ask("shown", run=run, tokens=TOKENS)

    @precondition(lambda self: self.held)
    @rule(which=WHICH)
    def cancel(self, which: int) -> None:
        run = self.release(sorted(self.held)[which % len(self.held)])
        self.ask("cancel", run=run)

    @precondition(lambda self: self.over)
    @rule(which=WHICH)
    def cancel_late(self, which: int) -> None:
        self.ask("cancel", run=self.over[-1 - which % len(self.over)])

    def release(self, session: str) -> str:
        """The run that is over from now on."""
        self.over.append(self.held.pop(session))
        return self.over[-1]

    # Removing

    @rule(session=SESSIONS)
    def clear(self, session: str) -> None:
        self.ask("clear", session=session)

    @rule(session=SESSIONS, keep=KEEPS)
    def truncate(self, session: str, keep: int) -> None:
        self.ask("truncate", session=session, keep=keep)

    @rule(session=SESSIONS)
    def undo(self, session: str) -> None:
        self.ask("undo", session=session)

    @rule(session=SESSIONS)
    def delete(self, session: str) -> None:
        self.there.discard(session)
        self.held.pop(session, None)
        self.ask("delete", session=session)

    # Reading

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
    @rule(which=WHICH, after=st.integers(0, TOKENS + 3), by=st.sampled_from(CURSORS))
    def read(self, which: int, after: int, by: str) -> None:
        self.ask("events", run=self.over[-1 - which % len(self.over)], after=after, by=by)

    @precondition(lambda self: self.over)
    @rule(which=WHICH, cursor=st.sampled_from(sorted(FOREIGN)))
    def read_from(self, which: int, cursor: str) -> None:
        self.ask("events_from", run=self.over[-1 - which % len(self.over)], cursor=cursor)

    # Deaths

    @rule(how=st.sampled_from(["kill", "kill", "terminate"]))
    def die(self, how: str) -> None:
        for session in sorted(self.there):  # so that there is something to lose
            self.hold(session)
        for session in sorted(self.held):
            self.release(session)
        self.ask(how)
        self.ask("titles")
        for session in sorted(self.there):
            self.ask("messages", session=session)

    def finish(self) -> None:
        for session in sorted(self.held):
            self.ask("cancel", run=self.release(session))
        for session in NAMES:
            self.ask("messages", session=session)
            self.ask("disk", session=session)
        for run in self.over[-2:]:
            self.ask("events", run=run, after=0)
            self.ask("events_from", run=run, cursor="another run")
            for by in CURSORS:
                self.ask("events", run=run, after=1, by=by)
        for session in sorted(self.there):
            self.delete(session)
            self.ask("title", session=session)


def _count(name: str, *functions: str) -> Expectation:
    return Expectation(name, lambda history: sum(op.function in functions for op in history))


def _refused(history: History) -> int:
    return sum(GONE in op.error for op in history)


def _snapshots(history: History) -> int:
    foreign = (op for op in history if op.function == "events_from" and op.result)
    return sum(op.argument["cursor"] != BEYOND for op in foreign)


ANY_LIFE = Scenario(
    name="server-any-sequence",
    mode=Mode.HTTP,
    ability="http",
    promises=(
        *(Promise.S2, Promise.S6, Promise.S11, Promise.S13),
        *(Promise.T1, Promise.T2, Promise.T3, Promise.T4),
        *(Promise.C1, Promise.C2, Promise.C3, Promise.C4, Promise.C6, Promise.C7, Promise.H3),
    ),
    workload=explore(SessionsMachine, steps=STEPS),
    checker=conforms(SessionsMachine.model),
    expectations=(
        _count("the server died", "kill", "terminate"),
        _count("something was removed", "clear", "truncate", "undo", "delete"),
        _count("a run was cancelled", "cancel"),
        Expectation("a session that is no more was asked", _refused),
        Expectation("a relay was resumed from a foreign cursor", _snapshots),
    ),
    examples=28,
)


def test_any_life_of_a_session_is_remembered(judge: Judge) -> None:
    """New, renamed, talked to, cancelled, cut, read again and killed, in any order."""
    assert judge(ANY_LIFE).is_valid
