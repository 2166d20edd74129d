"""The lifecycle on trial by schedules: threads that meet lose no turn and steal none."""

from __future__ import annotations

from itertools import combinations, combinations_with_replacement

from harness.checkers.commitment import commits_are_kept
from harness.history import History
from harness.interleaving import Interleaving, Program
from harness.promises import Promise
from harness.scenario import Mode, Scenario
from harness.schedule import Call, LockRules
from scenarios.conftest import Judge

S = {"session": "s"}
TURN_A = Call("complete_turn", {**S, "agent": "a"})
TURN_B = Call("complete_turn", {**S, "agent": "b"})
TURN_FLAKY = Call("complete_turn", {**S, "agent": "flaky"})
TURN_EXITS = Call("complete_turn", {**S, "agent": "exits"})
REPLACE = Call("register", {**S, "agent": "b"})
UNREGISTER = Call("unregister", S)
COMMIT = Call("commit", S)
COMMIT_WAITING = Call("commit", {**S, "wait": True})
DISCARD = Call("discard", S)
DRAIN = Call("drain")

# Two shutdowns, because the first may be the retry of an agent that fails once.
QUIET = (DRAIN, DRAIN)


def program(name: str, first: tuple[Call, ...], *threads: tuple[Call, ...]) -> Program:
    """Threads that meet after `first`, and a shutdown when all is quiet."""
    return Program(name, threads, Promise.L5, first, QUIET, held=(Promise.L14,))


def turn_during_commit(history: History) -> bool:
    """A turn was completed while a provider was at work."""
    calls = [op for op in history if op.function == "provide"]
    turns = [op for op in history if op.function == "complete_turn"]
    return any(call.meets(turn) for call in calls for turn in turns)


def commits_met(history: History) -> bool:
    """Two commits of the session overlapped."""
    commits = [op for op in history if op.function == "commit"]
    return any(one.meets(two) for one, two in combinations(commits, 2))


MEETINGS = Interleaving(
    programs=(
        program("a turn during a commit", (TURN_A,), (COMMIT,), (TURN_A,), (COMMIT,)),
        program("two commits", (TURN_A,), (COMMIT,), (COMMIT,)),
        program("a commit that waits", (TURN_A,), (COMMIT,), (TURN_A, COMMIT_WAITING)),
        program("a replacement", (TURN_A,), (COMMIT,), (REPLACE, TURN_B), (COMMIT,)),
        program("a discard", (TURN_A,), (COMMIT,), (DISCARD,), (TURN_A,)),
        program("a shutdown", (TURN_A,), (DRAIN,), (TURN_A,), (COMMIT_WAITING,)),
        program("a failure", (TURN_FLAKY,), (COMMIT,), (TURN_FLAKY,), (COMMIT_WAITING,)),
        program("an exit", (TURN_EXITS,), (COMMIT,), (COMMIT_WAITING,), (UNREGISTER,)),
    ),
    check=commits_are_kept,
    rules=LockRules(free_during=(("provider", "*"),)),
    meetings={
        "a turn was completed during a commit": turn_during_commit,
        "two commits of a session met": commits_met,
    },
)

LIFECYCLE_THREADS = Scenario(
    name="lifecycle-threads",
    mode=Mode.SCHEDULE,
    ability="lifecycle_threads",
    promises=(
        *(Promise.L2, Promise.L3, Promise.L4, Promise.L5, Promise.L6),
        *(Promise.L9, Promise.L11, Promise.L13, Promise.L14),
    ),
    workload=MEETINGS.explore,
    checker=MEETINGS.judge,
    expectations=tuple(MEETINGS.met(meeting) for meeting in MEETINGS.meetings),
    examples=8_000,
    replay=MEETINGS.replay,
)

ALPHABET = (TURN_A, TURN_B, REPLACE, UNREGISTER, COMMIT, COMMIT_WAITING, DISCARD, DRAIN)


def small_scope() -> tuple[Program, ...]:
    """Every 2 and 3 calls of the lifecycle's API, each on a thread of its own."""
    chosen = [
        *combinations_with_replacement(ALPHABET, 2),
        *combinations_with_replacement(ALPHABET, 3),
    ]
    return tuple(
        program(
            " | ".join(call.function for call in calls), (TURN_A,), *((call,) for call in calls)
        )
        for calls in chosen
    )


def test_threads_that_meet_lose_no_turn(judge: Judge) -> None:
    """Whatever threads do at once, each turn is committed, once at a time, by its owner."""
    assert judge(LIFECYCLE_THREADS).is_valid
