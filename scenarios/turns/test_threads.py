"""Turns on trial by schedules: what a turn starts is its own, and no run leaves a wakeup behind."""

from __future__ import annotations

from itertools import combinations, product

from harness.contract.checkers.threads.wakeup_routing import sessions_are_woken
from harness.core.history import History
from harness.core.promises import Promise
from harness.engine.scenario import Mode, Scenario
from harness.schedule import Call
from harness.workloads.threads import Interleaving, Program
from scenarios.conftest import Judge

TURN_S = Call("turn", {"session": "s"})
SPAWN_S = Call("turn", {"session": "s", "spawns": "p1"})
SPAWN_T = Call("turn", {"session": "t", "spawns": "p2"})
P3 = Call("complete", {"session": "s", "process": "p3"})
DRAIN = Call("drain")
SETTLE = Call("settle")


def program(name: str, *threads: tuple[Call, ...]) -> Program:
    """Threads that meet, until nobody runs and nothing waits."""
    return Program(name, threads, Promise.W3, last=(SETTLE,))


def spawns_met(history: History) -> bool:
    """Turns of two sessions started a process at once."""
    spawns = [op for op in history if op.function == "spawn"]
    return any(one.meets(two) for one, two in combinations(spawns, 2))


def wakeup_was_deferred(history: History) -> bool:
    """A wakeup was started only after the drain had passed by."""
    drains = [op for op in history if op.function == "drain"]
    wakes = [op for op in history if op.function == "wake"]
    ended = [op for op in history if op.function == "complete"]
    late = (drain.precedes(wake) for drain, wake in product(drains, wakes))
    return bool(ended) and any(late)


MEETINGS = Interleaving(
    programs=(
        program("two turns that start processes", (SPAWN_S,), (SPAWN_T,)),
        program("a completion as a run leaves", (TURN_S,), (P3, DRAIN)),
        program("a completion of its own", (SPAWN_S, DRAIN), (P3, DRAIN)),
    ),
    check=sessions_are_woken,
    meetings={
        "two sessions started a process at once": spawns_met,
        "a wakeup waited for a run to leave": wakeup_was_deferred,
    },
)

TURNS_THREADS = Scenario(
    name="turns-threads",
    mode=Mode.SCHEDULE,
    ability="turns_threads",
    promises=(Promise.T7, Promise.W3, Promise.W6),
    workload=MEETINGS.explore,
    checker=MEETINGS.judge,
    expectations=tuple(MEETINGS.met(meeting) for meeting in MEETINGS.meetings),
    examples=900,
    replay=MEETINGS.replay,
)


def test_what_a_turn_starts_is_its_own_and_wakes_it(judge: Judge) -> None:
    """However many turns run at once, and whatever completes as one of them leaves."""
    assert judge(TURNS_THREADS).is_valid
