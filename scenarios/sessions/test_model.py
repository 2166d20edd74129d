"""Scenario of any sequence of calls to the session store against its model."""

from __future__ import annotations

import itertools

from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from harness.checkers.conformance import conforms
from harness.contract import promises
from harness.contract.models.disk_faults import DiskFaultsModel
from harness.contract.models.session_store import SessionStoreModel
from harness.core.history import History, Outcome
from harness.engine.scenario import Expectation, Mode, Scenario
from harness.pytest_plugin import Judge
from harness.targets.components.session_store import EPIC
from harness.workloads.stateful import Machine, explore

NAMES = ("s1", "s2")
SESSIONS = st.sampled_from(NAMES)
KEEPS = st.integers(0, 3)
LENGTHS = st.sampled_from([None, 0, 4, 4])
HOSTILE = st.sampled_from(["../s1", "a/b", "", "s1\0", "LONG", ".", "s1.json", "sé"])

# Any sequence of operations -----------------------------------------------------------------------


class SessionsMachine(Machine):
    """Two sessions and two processes: appends, removals, stale saves, restarts."""

    model = DiskFaultsModel(SessionStoreModel())

    def __init__(self) -> None:
        super().__init__()
        self.numbers = itertools.count(1)

    def text(self) -> str:
        """Make a unique text."""
        return f"t{next(self.numbers)}"

    @initialize(lengths=st.tuples(LENGTHS, LENGTHS), is_long=st.sampled_from([True, False, False]))
    def begin(self, lengths: tuple[int | None, int | None], *, is_long: bool) -> None:
        for session, length in zip(NAMES, lengths, strict=True):
            if length is not None:
                self.new(session)
                for _ in range(length):
                    self.append(session)
        if is_long:
            self.rename(NAMES[0], EPIC)

    @rule(session=SESSIONS)
    def new(self, session: str) -> None:
        self.ask("new", session=session)

    @rule(session=SESSIONS)
    def append(self, session: str) -> None:
        self.ask("append", session=session, text=self.text())

    @rule(session=SESSIONS, title=st.sampled_from(["plans", "notes", EPIC]))
    def rename(self, session: str, title: str) -> None:
        self.ask("rename", session=session, title=title)

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
        self.ask("delete", session=session)

    @rule(session=SESSIONS)
    def save_stub(self, session: str) -> None:
        self.ask("save_stub", session=session)

    @rule(session=SESSIONS)
    def save_stale(self, session: str) -> None:
        self.ask("save_stale", session=session, text=self.text())

    @rule(session=SESSIONS)
    def save_refused(self, session: str) -> None:
        self.ask("save_refused", session=session)

    @rule(session=SESSIONS)
    def cleanup(self, session: str) -> None:
        self.ask("row", session=session)
        self.ask("cleanup", session=session)
        self.ask("row", session=session)

    @rule(session_id=HOSTILE)
    def hostile(self, session_id: str) -> None:
        self.ask("hostile", session_id=session_id)

    @rule(session=SESSIONS)
    def look(self, session: str) -> None:
        self.ask("messages", session=session)
        self.ask("row", session=session)

    @rule()
    def list(self) -> None:
        self.ask("list")

    @rule()
    def swap(self) -> None:
        self.list()
        self.ask("swap")
        self.list()

    @rule()
    def restart(self) -> None:
        self.ask("restart")

    @rule()
    def held(self) -> None:
        self.ask("held")

    def finish(self) -> None:
        """Restart, and read everything back."""
        self.held()
        for session in NAMES:
            self.ask("backup", session=session)
            self.look(session)
        self.restart()
        self.list()
        for session in NAMES:
            self.look(session)


def _called(name: str, *functions: str, outcome: Outcome = Outcome.OK) -> Expectation:
    def count(history: History) -> int:
        return sum(op.function in functions and op.outcome is outcome for op in history)

    return Expectation(name, count)


SESSIONS_MODEL = Scenario(
    name="sessions-any-sequence",
    mode=Mode.MODEL,
    ability="sessions",
    promises=(
        *(promises.S2, promises.S3, promises.S6, promises.S8),
        *(promises.S9, promises.S10, promises.S11, promises.S12, promises.A6),
    ),
    workload=explore(SessionsMachine),
    checker=conforms(SessionsMachine.model),
    expectations=(
        _called("messages or a session were removed", "clear", "truncate", "undo", "delete"),
        _called("a save of a stub was refused", "save_stub", outcome=Outcome.FAIL),
        _called("a stale save was refused", "save_stale", outcome=Outcome.FAIL),
        _called("a hostile id was refused", "hostile", outcome=Outcome.FAIL),
        _called("a cleanup ran", "cleanup"),
        _called("another process took over", "swap"),
    ),
    examples=80,
)


def test_session_store_conforms_to_its_model(judge: Judge) -> None:
    """Acknowledged messages stay and removed ones stay removed, in any order of calls."""
    assert judge(SESSIONS_MODEL).is_valid
