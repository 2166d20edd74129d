"""Scenario of a watcher on virtual time: a change is announced as quickly after failures."""

from __future__ import annotations

from harness.contract import promises
from harness.contract.checkers.threads.plain_answers import with_plain_answers
from harness.contract.checkers.threads.watcher_pace import announced_within
from harness.core.history import History
from harness.pytest_plugin import Judge
from harness.schedule import Call
from harness.targets.threads.watcher_pace import POLL_S
from harness.workloads.threads import Interleaving, Program

START, WRITE, HEAL, ANNOUNCED = Call("start"), Call("write"), Call("heal"), Call("announced")
CHANGE = (WRITE, ANNOUNCED)
QUIET = Call("wait", {"seconds": 8 * POLL_S})
LONG = Call("wait", {"seconds": 6 * POLL_S})  # for so long looks fail
SHORT = Call("wait", {"seconds": 1.5 * POLL_S})


def failing(how: str) -> tuple[Call, ...]:
    """Looks fail for a while, and a change is announced in time afterwards, and so is the next."""
    return (Call("break_off", {"how": how}), WRITE, LONG, HEAL, ANNOUNCED, *CHANGE, SHORT, *CHANGE)


def program(name: str, first: tuple[Call, ...], *parts: tuple[Call, ...]) -> Program:
    """One client of a watcher at work."""
    steps = tuple(call for part in parts for call in part)
    return Program(name, (steps,), promises.G1, first)


def late(history: History) -> bool:
    """A change was announced after looks had failed."""
    functions = [op.function for op in history.happened]
    return "heal" in functions and "announced" in functions[functions.index("heal") :]


def quiet(history: History) -> bool:
    """A change was announced after a long quiet."""
    waits = [op for op in history.happened.of("wait") if op.argument == QUIET.argument]
    last = history.happened.of("announced")[-1:]
    return any(wait.precedes(op) for wait in waits for op in last)


ACCEPTED = ("start", "write", "break_off", "heal", "wait", "announced")
SILENT = ("start", "write", "break_off", "heal")

PACE = Interleaving(
    programs=(
        program(
            "no file at first, and projections fail",
            (START,),
            (LONG, *CHANGE),
            failing("raises"),
            failing("none"),
        ),
        program(
            "a long quiet, and the file fails",
            (WRITE, START),
            (*CHANGE, QUIET, *CHANGE),
            failing("damaged"),
            failing("missing"),
        ),
    ),
    check=with_plain_answers(
        announced_within(POLL_S), promises.G1, accepted=ACCEPTED, silent=SILENT
    ),
    meetings={
        "a change was announced after failures": late,
        "a change was announced after a long quiet": quiet,
    },
    schedules=1,
)

WATCHER_PACE = PACE.scenario(
    "watcher-pace",
    ability="watcher_pace",
    promises=(promises.G1, promises.G2, promises.G3),
    examples=2,
)


def test_watcher_announces_in_time_after_failures(judge: Judge) -> None:
    """Within two polls, whatever failed before, and however long nothing happened."""
    assert judge(WATCHER_PACE).is_valid
