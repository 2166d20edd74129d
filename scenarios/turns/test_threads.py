"""Scenario of concurrent turns: their processes belong to them, and no wakeup is lost."""

from __future__ import annotations

from itertools import combinations, product

from harness.contract import promises
from harness.contract.checkers.threads.plain_answers import with_plain_answers
from harness.contract.checkers.threads.wakeup_routing import check_wakeup_routing
from harness.core.history import History
from harness.pytest_plugin import Judge
from harness.schedule import Call
from harness.workloads.threads import Interleaving, Program

TURN_S = Call("turn", {"session": "s"})
SPAWN_S = Call("turn", {"session": "s", "spawns": "p1"})
SPAWN_T = Call("turn", {"session": "t", "spawns": "p2"})
P3 = Call("complete", {"session": "s", "process": "p3"})
DRAIN = Call("drain")
SETTLE = Call("settle")


def program(name: str, *threads: tuple[Call, ...]) -> Program:
    """Concurrent threads, until no run is active and no wakeup is pending."""
    return Program(name, threads, promises.W3, last=(SETTLE,))


def spawns_met(history: History) -> bool:
    """Turns of two sessions started a process at once."""
    spawns = history.of("spawn")
    return any(one.meets(other) for one, other in combinations(spawns, 2))


def wakeup_was_deferred(history: History) -> bool:
    """A wakeup started only after a drain had ended."""
    drains = history.of("drain")
    wakes = history.of("wake")
    ended = history.of("complete")
    late = (drain.precedes(wake) for drain, wake in product(drains, wakes))
    return bool(ended) and any(late)


def joined_a_turn(history: History) -> bool:
    """A user's turn took a wakeup along."""
    return any("by" in wake.argument for wake in history.of("wake"))


# Calls that nothing may refuse, and calls that return nothing.
ACCEPTED = ("complete", "drain", "spawn", "wake")
SILENT = ("complete", "drain", "spawn", "turn", "wake")

MEETINGS = Interleaving(
    programs=(
        program("two turns that start processes", (SPAWN_S,), (SPAWN_T,)),
        program("a completion as a run leaves", (TURN_S,), (P3, DRAIN)),
        program("a completion of its own", (SPAWN_S, DRAIN), (P3, DRAIN)),
    ),
    check=with_plain_answers(check_wakeup_routing, promises.W1, accepted=ACCEPTED, silent=SILENT),
    meetings={
        "two sessions started a process at once": spawns_met,
        "a wakeup waited for a run to leave": wakeup_was_deferred,
        "a user's turn took a wakeup along": joined_a_turn,
    },
)

TURNS_THREADS = MEETINGS.scenario(
    "turns-threads",
    ability="turns_threads",
    promises=(promises.T3, promises.T7, promises.W1, promises.W3, promises.W6),
    examples=900,
)


def test_processes_of_concurrent_turns_wake_their_session(judge: Judge) -> None:
    """Processes complete while turns run, and as one of them ends."""
    assert judge(TURNS_THREADS).is_valid
