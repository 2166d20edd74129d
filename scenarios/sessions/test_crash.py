"""Scenarios of the session store on a disk that fails, with damaged files and kills."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import rule

from harness.checkers.conformance import Fold, conforms
from harness.contract import promises
from harness.contract.models.disk_faults import DiskFaultsModel
from harness.contract.models.session_store import SessionStoreModel
from harness.core.history import History, Outcome
from harness.engine.context import Context
from harness.engine.scenario import Expectation, Mode, Scenario
from harness.pytest_plugin import Judge
from harness.workloads.stateful import explore

from .test_model import SESSIONS, SessionsMachine

# Crashes, damage, and saves that shrink -----------------------------------------------------------

FAULTS = st.sampled_from(
    ["kill", "kill torn", "power", "power torn", "full", "full once", "broken once"]
    + ["unreadable once"] * 2
)
FUNCTIONS = st.sampled_from(["new", "append", "clear", "undo", "shrink", "delete", "cleanup"])


class DamagedSessionsMachine(SessionsMachine):
    """The calls of the model scenario, and disk faults, torn files and saves that shrink."""

    @rule(session=SESSIONS)
    def corrupt(self, session: str) -> None:
        self.ask("corrupt", session=session)

    @rule(session=SESSIONS)
    def corrupt_and_append(self, session: str) -> None:
        self.ask("messages", session=session)  # so that a process has it in memory
        self.corrupt(session)
        self.append(session)
        self.ask("backup", session=session)

    @rule(session=SESSIONS, keeps=st.sampled_from([(3,), (1,), (3, 1), (2, 0), (3, 2, 1)]))
    def shrink(self, session: str, keeps: tuple[int, ...]) -> None:
        for _ in range(4):  # so that several shrinks lose something
            self.append(session)
        for keep in keeps:
            self.ask("shrink", session=session, keep=keep)
        self.ask("backup", session=session)

    @rule(session=SESSIONS)
    def backup(self, session: str) -> None:
        self.ask("backup", session=session)

    @rule(
        session=SESSIONS,
        function=FUNCTIONS,
        strike=FAULTS,
        at=st.integers(1, 10),
        image=st.integers(0, 5),
    )
    def strike(self, session: str, function: str, strike: str, at: int, image: int) -> None:
        self.new(session)  # so that every function has an effect
        self.append(session)
        argument = argument_of(function, session, self.text)
        faulty: dict[str, Any] = {"function": function, "argument": argument}
        operation = self.ask("striking", **faulty, strike=strike, at=at, image=image)
        if strike.startswith("power") or (strike != "full" and operation.outcome is Outcome.INFO):
            self.restart()


def argument_of(function: str, session: str, text: Callable[[], str]) -> dict[str, Any]:
    """The argument of a function on a session."""
    match function:
        case "append":
            return {"session": session, "text": text()}
        case "shrink":
            return {"session": session, "keep": 1}
    return {"session": session}


def _calls(function: str) -> Callable[[History], int]:
    return lambda history: sum(op.function == function for op in history.happened)


def _struck(history: History) -> int:
    return sum(op.function == "striking" and op.outcome is Outcome.INFO for op in history)


def _unread(history: History) -> int:
    return sum(
        op.function == "striking"
        and op.argument["strike"] == "unreadable once"
        and op.outcome is Outcome.INFO
        for op in history
    )


DAMAGE = Scenario(
    name="sessions-damaged",
    mode=Mode.CRASH,
    ability="sessions",
    promises=(promises.S1, promises.S2, promises.S4, promises.S5, promises.S6, promises.S11),
    workload=explore(DamagedSessionsMachine),
    checker=conforms(DamagedSessionsMachine.model),
    expectations=(
        Expectation("a disk fault hit a call", _struck),
        Expectation("a sidecar was damaged", _calls("corrupt")),
        Expectation("a save shrank a session", _calls("shrink")),
        Expectation("recovery ran", _calls("restart")),
    ),
    examples=60,
)


# A fault at every change of every call ------------------------------------------------------

Asked = tuple[str, dict[str, Any]]

BEFORE: tuple[Asked, ...] = (
    ("new", {"session": "s1"}),
    *(("append", {"session": "s1", "text": f"t{number}"}) for number in (1, 2, 3)),
)
EVERY: tuple[Asked, ...] = (
    ("append", {"session": "s1", "text": "t4"}),
    ("clear", {"session": "s1"}),
    ("shrink", {"session": "s1", "keep": 1}),
    ("delete", {"session": "s1"}),
    ("new", {"session": "s2"}),
    ("restart", {}),
)
SHRUNK: tuple[Asked, ...] = (  # so that there is a backup, and a newer message
    ("shrink", {"session": "s1", "keep": 2}),
    ("append", {"session": "s1", "text": "t6"}),
)
OTHERS: tuple[tuple[tuple[Asked, ...], Asked], ...] = (  # with what precedes them
    ((), ("undo", {"session": "s1"})),
    ((), ("rename", {"session": "s1", "title": "plans"})),
    (SHRUNK, ("shrink", {"session": "s1", "keep": 1})),
    (SHRUNK, ("delete", {"session": "s1"})),
)
LOSING = ("kill", "full once", "power")  # they separate what is done in order
AT_ONCE: tuple[Asked, ...] = (  # of an instance that survived the fault
    ("messages", {"session": "s1"}),
    ("row", {"session": "s1"}),
    ("list", {}),
)
AFTER: tuple[Asked, ...] = (
    ("restart", {}),
    ("messages", {"session": "s1"}),
    ("list", {}),
    ("row", {"session": "s1"}),
    ("append", {"session": "s1", "text": "t5"}),
    ("messages", {"session": "s1"}),
    ("row", {"session": "s1"}),
    ("swap", {}),
    ("row", {"session": "s1"}),
)
CALLS_MAX = 60


def fail_every_change(context: Context) -> None:
    """Fail change 1, 2, 3 ... of each call, until it completes; stop at the first anomaly."""
    every = [*faults(max(1, context.examples))]
    losing = [fault for fault in every if fault["strike"] in LOSING]
    runs = [*itertools.product([((), call) for call in EVERY], every)]
    for (first, call), fault in (*runs, *itertools.product(OTHERS, losing)):
        for at in range(1, CALLS_MAX):
            was_struck, was_refused = _run_once(context, first, call, {**fault, "at": at})
            if was_refused:
                return
            if not was_struck:
                break


def faults(images: int) -> Iterator[dict[str, Any]]:
    """Every kind of disk fault; of each power loss a number of disk images."""
    strikes = ("kill", "kill torn", "full", "full once", "broken once", "short write")
    for strike in (*strikes, "unreadable once"):
        yield {"strike": strike}
    for strike, image in itertools.product(("power", "power torn"), range(images)):
        yield {"strike": strike, "image": image}


def _run_once(
    context: Context, first: Iterable[Asked], call: Asked, fault: dict[str, Any]
) -> tuple[bool, bool]:
    """Run one episode; returns whether the fault hit, and whether the model rejected a result."""
    faulty = ("striking", {"function": call[0], "argument": call[1], **fault})
    survives = not fault["strike"].startswith(("kill", "power"))
    fold = Fold(DiskFaultsModel(SessionStoreModel()))
    was_struck = False
    with context.episode() as episode:
        for name, given in (*BEFORE, *first, faulty, *(AT_ONCE if survives else ()), *AFTER):
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
    promises=(promises.S1, promises.S2, promises.S5, promises.S6, promises.S11),
    workload=fail_every_change,
    checker=conforms(DiskFaultsModel(SessionStoreModel())),
    expectations=(
        Expectation("a disk fault hit a call", _struck, needed=100),
        Expectation("a read failed", _unread, needed=20),
    ),
    examples=3,
)


def test_damaged_sessions_are_recovered(judge: Judge) -> None:
    """What a backup or another process holds survives crashes, full disks and torn files."""
    assert judge(DAMAGE).is_valid


def test_fault_at_any_change_leaves_old_or_new(judge: Judge) -> None:
    """After a crash, a power loss or a full disk at a change, a call has no or its full effect."""
    assert judge(EVERYWHERE).is_valid
