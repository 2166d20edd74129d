"""Wakeups on trial by schedules: two paths that meet deliver each completion, and only once."""

from __future__ import annotations

from itertools import product

from harness.contract.checkers.threads.wakeup_routing import sessions_are_woken
from harness.core.history import History
from harness.core.promises import Promise
from harness.engine.scenario import Mode, Scenario
from harness.schedule import Call
from harness.workloads.threads import Interleaving, Program
from scenarios.conftest import Judge

S = {"session": "s"}
BEGIN = Call("begin_run", S)
END = Call("end_run", S)
P1 = Call("complete", {**S, "process": "p1"})
P1_TWICE = Call("complete", {**S, "process": "p1", "times": 2})
P2 = Call("complete", {**S, "process": "p2"})
DRAIN = Call("drain")
SETTLE = Call("settle")


def program(name: str, first: tuple[Call, ...], *threads: tuple[Call, ...]) -> Program:
    """Threads that meet after `first`, until nothing waits."""
    return Program(name, threads, Promise.W3, first, (SETTLE,))


def completion_met_end(history: History) -> bool:
    """A process ended while a run left."""
    return _met(history, "complete", "end_run")


def drain_met_end(history: History) -> bool:
    """The drain passed by while a run left."""
    return _met(history, "drain", "end_run")


def _met(history: History, one: str, other: str) -> bool:
    calls = ([op for op in history if op.function == name] for name in (one, other))
    return any(op.meets(another) for op, another in product(*calls))


MEETINGS = Interleaving(
    programs=(
        program("a completion as a run leaves", (BEGIN,), (END,), (P1, DRAIN)),
        program("both paths for one completion", (BEGIN, P1), (END,), (DRAIN, END)),
        program("told twice", (BEGIN,), (P1_TWICE, DRAIN), (END, END), (P2, DRAIN)),
        program("two drains", (), (P1, DRAIN), (P2, DRAIN, END)),
        program("a user meanwhile", (P1,), (DRAIN, END), (P2, DRAIN), (BEGIN, END)),
    ),
    check=sessions_are_woken,
    meetings={
        "a process ended as a run left": completion_met_end,
        "a drain met a run that left": drain_met_end,
    },
)

WAKEUPS_THREADS = Scenario(
    name="wakeups-threads",
    mode=Mode.SCHEDULE,
    ability="wakeups_threads",
    promises=(Promise.W1, Promise.W2, Promise.W3),
    workload=MEETINGS.explore,
    checker=MEETINGS.judge,
    expectations=tuple(MEETINGS.met(meeting) for meeting in MEETINGS.meetings),
    examples=4_000,
    replay=MEETINGS.replay,
)


def test_threads_that_meet_wake_each_session_once(judge: Judge) -> None:
    """Whoever comes by first, the idle drain or the run that leaves, and whoever comes second."""
    assert judge(WAKEUPS_THREADS).is_valid
