"""Two clients and a background process: each tab hears of its own session, all of it, once.

Either client starts turns in either session; a process ends in between and wakes its session; a tab
loses its connection and goes on from what it saw last.
"""

from __future__ import annotations

import itertools

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from harness.checkers.conformance import conforms
from harness.contract.models.notifications import ENDED, STARTED, TabsModel
from harness.core.history import History
from harness.core.promises import Promise
from harness.engine.scenario import Expectation, Mode, Scenario
from harness.workloads.stateful import Machine, explore
from scenarios.conftest import Judge

SESSIONS = st.sampled_from(["s1", "s2"])
TABS = st.sampled_from(["a", "b"])
SERVED_MAX = 10
STEPS = 15


class TabsMachine(Machine):
    """Two sessions, two tabs, and processes that end when they end."""

    model = TabsModel()
    served_max = SERVED_MAX

    def __init__(self) -> None:
        super().__init__()
        self.numbers = itertools.count(1)
        self.watched: dict[str, str] = {}
        self.unheard: dict[str, tuple[str, str]] = {}  # by tab: the last that it has yet to hear
        self.with_cursor: set[str] = set()  # tabs that have heard something

    @initialize()
    def found(self) -> None:
        for session in ("s1", "s2"):
            self.ask("new", session=session)
        for tab, session in (("a", "s1"), ("b", "s1")):
            self.open(tab, session)
        self.start_a_process("s1", "0")

    @rule(tab=TABS, session=SESSIONS)
    def open(self, tab: str, session: str) -> None:
        self.ask("open", tab=tab, session=session)
        self.watched[tab] = session
        self.unheard.pop(tab, None)
        self.with_cursor.discard(tab)

    @precondition(lambda self: self.watched)
    @rule(tab=TABS)
    def open_again(self, tab: str) -> None:
        self.ask("open_again", tab=tab)
        if tab not in self.with_cursor:
            self.unheard.pop(tab, None)

    def talk(self, session: str, script: str) -> None:
        """Begin a turn once nobody is in its way; whoever watches will hear of it."""
        run = f"r{next(self.numbers)}"
        self.ask("wait_idle", session=session)
        sent = self.ask("send", session=session, run=run, text=f"{run} {script}")
        if sent.result and sent.result["status"] == 200:
            self.expect(session, STARTED, run)

    def expect(self, session: str, name: str, subject: str) -> None:
        """Whoever watches the session will hear of this."""
        for tab, watched in self.watched.items():
            if watched == session:
                self.unheard[tab] = (name, subject)

    @rule(session=SESSIONS)
    def talk_shortly(self, session: str) -> None:
        self.talk(session, "[tokens=2]")

    @rule(session=SESSIONS, seconds=st.sampled_from(["0", "0.05"]))
    def start_a_process(self, session: str, seconds: str) -> None:
        output = f"p{next(self.numbers)}"
        self.talk(session, f"[process={seconds}:{output}]")
        self.hear_all()
        self.expect(session, ENDED, output)
        self.hear_all()
        self.ask("wakeups", session=session, outputs=[output])
        self.ask("wait_idle", session=session)

    @rule(tab=TABS)
    def hear(self, tab: str) -> None:
        if expected := self.unheard.pop(tab, None):
            self.ask("hear", tab=tab, name=expected[0], subject=expected[1])
            self.with_cursor.add(tab)

    def hear_all(self) -> None:
        """Let every tab listen to the last that it has yet to hear."""
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
        listened = (op for op in history.happened if op.function == "hear")
        return sum(what == name for op in listened for _, what, _ in op.result)

    return Expectation(f"a tab heard of a {name}", count)


def _count(name: str, function: str) -> Expectation:
    return Expectation(name, lambda history: sum(op.function == function for op in history))


WATCHED = Scenario(
    name="server-two-clients",
    mode=Mode.HTTP,
    ability="tabs",
    promises=(
        *(Promise.C1, Promise.C2, Promise.C3, Promise.C5, Promise.S2, Promise.T1, Promise.T3),
        *(Promise.W1, Promise.W2, Promise.W6, Promise.W7, Promise.W11),
    ),
    workload=explore(TabsMachine, steps=STEPS),
    checker=conforms(TabsMachine.model),
    expectations=(
        _heard(STARTED),
        _heard(ENDED),
        _count("a tab lost its connection", "open_again"),
        _count("an end was acknowledged", "acknowledge"),
    ),
    examples=10,
)


def test_each_tab_hears_of_its_own_session(judge: Judge) -> None:
    """What two clients and a process do in between, whoever watches."""
    assert judge(WATCHED).is_valid
