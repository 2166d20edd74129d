"""The session store on trial: what was acknowledged stays, and what was removed stays gone."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from harness.checkers.conformance import Fold, conforms
from harness.contract.models.disk_faults import StrikingModel
from harness.contract.models.session_store import SessionModel
from harness.core.history import History, Outcome
from harness.core.promises import Promise
from harness.engine.context import Stage
from harness.engine.scenario import Expectation, Mode, Scenario
from harness.workloads.stateful import Machine, explore
from scenarios.conftest import Judge

NAMES = ("s1", "s2")
SESSIONS = st.sampled_from(NAMES)
KEEPS = st.integers(0, 3)
LENGTHS = st.sampled_from([None, 0, 4, 4])
HOSTILE = st.sampled_from(["../s1", "a/b", "", "s1\0", "LONG", ".", "s1.json", "sé"])

# Any sequence of operations -----------------------------------------------------------------------


class SessionsMachine(Machine):
    """Two sessions, two processes; users talk and remove, programmers blunder, all restarts."""

    model = StrikingModel(SessionModel())

    def __init__(self) -> None:
        super().__init__()
        self.numbers = itertools.count(1)

    def text(self) -> str:
        """A text that nobody said before."""
        return f"t{next(self.numbers)}"

    @initialize(lengths=st.tuples(LENGTHS, LENGTHS), is_long=st.sampled_from([True, False, False]))
    def begin(self, lengths: tuple[int | None, int | None], *, is_long: bool) -> None:
        for session, length in zip(NAMES, lengths, strict=True):
            if length is not None:
                self.new(session)
                for _ in range(length):
                    self.append(session)
        if is_long:
            self.rename(NAMES[0], "epic")

    @rule(session=SESSIONS)
    def new(self, session: str) -> None:
        self.ask("new", session=session)

    @rule(session=SESSIONS)
    def append(self, session: str) -> None:
        self.ask("append", session=session, text=self.text())

    @rule(session=SESSIONS, title=st.sampled_from(["plans", "notes", "epic"]))
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


def _count(name: str, *functions: str, outcome: Outcome = Outcome.OK) -> Expectation:
    def count(history: History) -> int:
        return sum(op.function in functions and op.outcome is outcome for op in history)

    return Expectation(name, count)


SESSIONS_MODEL = Scenario(
    name="sessions-any-sequence",
    mode=Mode.MODEL,
    ability="sessions",
    promises=(
        *(Promise.S2, Promise.S3, Promise.S6, Promise.S8),
        *(Promise.S9, Promise.S10, Promise.S11, Promise.S12, Promise.A6),
    ),
    workload=explore(SessionsMachine),
    checker=conforms(SessionsMachine.model),
    expectations=(
        _count("the user removed something", "clear", "truncate", "undo", "delete"),
        _count("a stub's save was refused", "save_stub", outcome=Outcome.FAIL),
        _count("a stale save was refused", "save_stale", outcome=Outcome.FAIL),
        _count("a hostile id was refused", "hostile", outcome=Outcome.FAIL),
        _count("maintenance was done", "cleanup"),
        _count("another process went on", "swap"),
    ),
    examples=120,
)


# Crashes, damage, and shrinks that nobody asked for -----------------------------------------------

STRIKES = st.sampled_from(["kill", "kill torn", "power", "power torn", "full", "full once"])
STRUCK = st.sampled_from(["new", "append", "clear", "undo", "shrink", "delete", "cleanup"])


class DamagedSessionsMachine(SessionsMachine):
    """The same, on a disk that fails, with files that are cut and saves that shrink."""

    @rule(session=SESSIONS)
    def corrupt(self, session: str) -> None:
        self.ask("corrupt", session=session)

    @rule(session=SESSIONS)
    def corrupt_and_go_on(self, session: str) -> None:
        self.ask("messages", session=session)  # so that somebody knows it by heart
        self.corrupt(session)
        self.append(session)
        self.ask("backup", session=session)

    @rule(session=SESSIONS, keeps=st.sampled_from([(3,), (1,), (3, 1), (2, 0), (3, 2, 1)]))
    def shrink(self, session: str, keeps: tuple[int, ...]) -> None:
        for _ in range(4):  # so that there is something to lose, more than once
            self.append(session)
        for keep in keeps:
            self.ask("shrink", session=session, keep=keep)
        self.ask("backup", session=session)

    @rule(session=SESSIONS)
    def backup(self, session: str) -> None:
        self.ask("backup", session=session)

    @rule(
        session=SESSIONS,
        function=STRUCK,
        strike=STRIKES,
        at=st.integers(1, 10),
        image=st.integers(0, 5),
    )
    def strike(self, session: str, function: str, strike: str, at: int, image: int) -> None:
        self.new(session)  # so that there is something to strike
        self.append(session)
        argument = asked(function, session, self.text)
        struck: dict[str, Any] = {"function": function, "argument": argument}
        operation = self.ask("striking", **struck, strike=strike, at=at, image=image)
        if strike.startswith("power") or (strike != "full" and operation.outcome is Outcome.INFO):
            self.restart()


def asked(function: str, session: str, text: Any) -> dict[str, Any]:
    """The argument of a function on a session."""
    match function:
        case "append":
            return {"session": session, "text": text()}
        case "shrink":
            return {"session": session, "keep": 1}
    return {"session": session}


def _struck(history: History) -> int:
    return sum(op.function == "striking" and op.outcome is Outcome.INFO for op in history)


DAMAGE = Scenario(
    name="sessions-damaged",
    mode=Mode.CRASH,
    ability="sessions",
    promises=(Promise.S1, Promise.S2, Promise.S4, Promise.S5, Promise.S6, Promise.S11),
    workload=explore(DamagedSessionsMachine),
    checker=conforms(DamagedSessionsMachine.model),
    expectations=(
        Expectation("a strike hit", _struck),
        _count("a sidecar was damaged", "corrupt"),
        _count("a save shrank a session", "shrink"),
        _count("recovery ran", "restart"),
    ),
    examples=150,
)


# A strike at every change of every operation ------------------------------------------------------

BEFORE: tuple[tuple[str, dict[str, Any]], ...] = (
    ("new", {"session": "s1"}),
    *(("append", {"session": "s1", "text": f"t{number}"}) for number in (1, 2, 3)),
)
EVERY: tuple[tuple[str, dict[str, Any]], ...] = (
    ("append", {"session": "s1", "text": "t4"}),
    ("clear", {"session": "s1"}),
    ("undo", {"session": "s1"}),
    ("shrink", {"session": "s1", "keep": 1}),
    ("rename", {"session": "s1", "title": "plans"}),
    ("delete", {"session": "s1"}),
    ("new", {"session": "s2"}),
    ("restart", {}),
)
AFTER: tuple[tuple[str, dict[str, Any]], ...] = (
    ("restart", {}),
    ("messages", {"session": "s1"}),
    ("list", {}),
    ("append", {"session": "s1", "text": "t5"}),
    ("messages", {"session": "s1"}),
    ("row", {"session": "s1"}),
)
CALLS_MAX = 60


def strike_everywhere(stage: Stage) -> None:
    """Strike change 1, 2, 3 ... of each operation, until it completes clean; stop at a proof."""
    images = max(1, stage.examples)
    for (function, argument), strike in itertools.product(EVERY, strikes(images)):
        for at in range(1, CALLS_MAX):
            was_struck, was_refused = _struck_once(stage, function, argument, {**strike, "at": at})
            if was_refused:
                return
            if not was_struck:
                break


def strikes(images: int) -> Iterator[dict[str, Any]]:
    """Every kind of strike, and of power losses so many images."""
    for strike in ("kill", "kill torn", "full", "full once", "broken once", "short write"):
        yield {"strike": strike}
    for strike, image in itertools.product(("power", "power torn"), range(images)):
        yield {"strike": strike, "image": image}


def _struck_once(
    stage: Stage, function: str, argument: dict[str, Any], strike: dict[str, Any]
) -> tuple[bool, bool]:
    """One episode; whether the operation had so many changes, and whether an answer was refused."""
    struck = ("striking", {"function": function, "argument": argument, **strike})
    fold = Fold(StrikingModel(SessionModel()))
    was_struck = False
    with stage.episode() as episode:
        for name, given in (*BEFORE, struck, *AFTER):
            operation = episode.client.ask(name, given)
            if fold.step(operation):
                return was_struck, True
            if name == "striking":
                was_struck = operation.outcome is Outcome.INFO or operation.result["struck"]
    return was_struck, False


EVERYWHERE = Scenario(
    name="sessions-struck-everywhere",
    mode=Mode.CRASH,
    ability="sessions",
    promises=(Promise.S1, Promise.S2, Promise.S5, Promise.S6, Promise.S11),
    workload=strike_everywhere,
    checker=conforms(StrikingModel(SessionModel())),
    expectations=(Expectation("a strike hit", _struck, needed=100),),
    examples=3,
)


def test_what_was_acknowledged_stays_and_what_was_removed_stays_gone(judge: Judge) -> None:
    """Whatever users and clumsy programmers do, in whatever order."""
    assert judge(SESSIONS_MODEL).is_valid


def test_damage_costs_nothing_that_a_backup_or_another_process_knows(judge: Judge) -> None:
    """Crashes, full disks, cut files and unasked shrinks are recovered from."""
    assert judge(DAMAGE).is_valid


def test_a_strike_at_any_change_leaves_the_old_or_the_new(judge: Judge) -> None:
    """A crash, a power loss or a full disk, at every change of every operation."""
    assert judge(EVERYWHERE).is_valid
