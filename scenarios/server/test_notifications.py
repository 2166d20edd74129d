"""Scenario of two clients and a background process: each reader gets its session's notices, once.

Either client starts turns in either session; a process prints a watched line, ends or is killed
meanwhile and wakes its session, also when it was started by a thread that lost its turn; a reader
loses its connection and resumes with its last cursor.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from harness.checkers.conformance import conforms
from harness.contract import promises
from harness.contract.agent_script import KILL, Process, Tokens
from harness.contract.checkers.server.back_to_zero import resting
from harness.contract.models.notifications import ENDED, SEEN, STARTED, NotificationsModel
from harness.core.history import History
from harness.engine.scenario import Expectation, Mode, Scenario
from harness.pytest_plugin import Judge
from harness.workloads.stateful import Machine, explore

SESSIONS = st.sampled_from(["s1", "s2"])
KINDS = st.sampled_from(["plain", "watched", "killed", "lost"])
READERS = st.sampled_from(["a", "b"])
EXAMPLES_PER_SERVER = 10
STEPS = 15


class ReadersMachine(Machine):
    """Two sessions, two readers of notices, and processes that end at any time."""

    model = NotificationsModel()
    examples_per_instance = EXAMPLES_PER_SERVER

    def __init__(self) -> None:
        super().__init__()
        self.numbers = itertools.count(1)
        self.watched: dict[str, str] = {}
        self.unheard: dict[str, tuple[str, str]] = {}  # by reader: the last notice that it will get
        self.bound: set[str] = set()  # sessions that a process is known to belong to
        self.with_cursor: set[str] = set()  # readers that have received a notice

    @initialize()
    def begin(self) -> None:
        for session in ("s1", "s2"):
            self.ask("new", session=session)
        for tab, session in (("a", "s1"), ("b", "s1")):
            self.open(tab, session)
        self.start_process("s1", 0, "watched")

    @rule(tab=READERS, session=SESSIONS)
    def open(self, tab: str, session: str) -> None:
        self.ask("open", tab=tab, session=session)
        self.watched[tab] = session
        self.unheard.pop(tab, None)
        self.with_cursor.discard(tab)

    @precondition(lambda self: self.watched)
    @rule(tab=READERS)
    def open_again(self, tab: str) -> None:
        self.ask("open_again", tab=tab)
        if tab not in self.with_cursor:
            self.unheard.pop(tab, None)

    def talk(self, session: str, script: str) -> None:
        """Begin a turn once no other is active; readers of the session will get a notice."""
        run = f"r{next(self.numbers)}"
        self.ask("wait_idle", session=session)
        sent = self.ask("send", session=session, run=run, text=f"{run} {script}")
        if sent.result and sent.result["status"] == 200:
            self.expect(session, STARTED, run)

    def expect(self, session: str, name: str, subject: str) -> None:
        """Note that readers of the session will get this notice."""
        for tab, watched in self.watched.items():
            if watched == session:
                self.unheard[tab] = (name, subject)

    @rule(session=SESSIONS)
    def talk_shortly(self, session: str) -> None:
        self.talk(session, f"{Tokens(2).directive}")

    @rule(session=SESSIONS, seconds=st.sampled_from([0, 0.05]), kind=KINDS)
    def start_process(self, session: str, seconds: float, kind: str) -> None:
        output = f"p{next(self.numbers)}"
        process = Process(900 if kind == "killed" else seconds, output)
        if kind == "watched":
            process = replace(process, watch=output)
        if kind == "lost" and session in self.bound:
            process = replace(process, is_lost=True)
        self.talk(session, f"{process.directive}")
        self.hear_all()
        if kind == "killed":
            self.talk(session, f"{KILL}")
            self.hear_all()
        if kind == "lost":  # what goes to no session is announced to none
            self.ask("wakeups", session=session, outputs=[*process.reports])
        self.expect(session, ENDED, output)
        self.hear_all()
        self.ask("wakeups", session=session, outputs=[*process.reports])
        self.ask("wait_idle", session=session)
        self.bound.add(session)

    @rule(tab=READERS)
    def hear(self, tab: str) -> None:
        if expected := self.unheard.pop(tab, None):
            self.ask("hear", tab=tab, name=expected[0], subject=expected[1])
            self.with_cursor.add(tab)

    def hear_all(self) -> None:
        """Let every reader read up to its last expected notice."""
        for tab in sorted(self.unheard):
            self.hear(tab)

    @rule(session=st.sampled_from(["s1", "s2", "never there"]))
    def acknowledge(self, session: str) -> None:
        self.ask("acknowledge", session=session, task=f"p{next(self.numbers)}")

    def finish(self) -> None:
        self.hear_all()
        self.open_again("a")
        self.acknowledge("s1")
        for session in ("s1", "s2"):
            self.ask("wait_idle", session=session)
            self.ask("messages", session=session)


def _heard(name: str) -> Expectation:
    def count(history: History) -> int:
        reads = history.happened.of("hear")
        return sum(kind == name for op in reads for _, kind, _ in op.result)

    return Expectation(f"a reader got a notice: {name}", count)


def _count(name: str, function: str) -> Expectation:
    return Expectation(name, lambda history: len(history.of(function)))


TWO_CLIENTS = Scenario(
    name="server-two-clients",
    mode=Mode.HTTP,
    ability="tabs",
    promises=(
        *(
            promises.C1,
            promises.C2,
            promises.C3,
            promises.C5,
            promises.C7,
            promises.S2,
            promises.T1,
        ),
        *(promises.T3, promises.W1, promises.W2, promises.W6, promises.W7, promises.W11),
        *(promises.W13,),
    ),
    workload=explore(ReadersMachine, steps=STEPS),
    checker=resting(conforms(ReadersMachine.model)),
    expectations=(
        _heard(STARTED),
        _heard(ENDED),
        _heard(SEEN),
        _count("a reader lost its connection", "open_again"),
        _count("an end was acknowledged", "acknowledge"),
    ),
    examples=10,
)


def test_readers_get_notices_of_their_session(judge: Judge) -> None:
    """Turns of two clients, and the end of a process in between."""
    assert judge(TWO_CLIENTS).is_valid
