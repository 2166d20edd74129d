"""The lifecycle on trial by schedules: threads that meet lose no turn and steal none."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

from harness.contract.checkers.threads.memory_commits import commits_are_kept
from harness.core.history import History
from harness.core.promises import Promise
from harness.core.verdict import Verdict
from harness.engine.context import Stage
from harness.engine.scenario import Mode, Scenario
from harness.schedule import Call, LockRules, small_scope
from harness.workloads.threads import Interleaving, Program
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

# Every small program ------------------------------------------------------------------------------

BOUND = 2  # preemptions; with as many, most known races of two or three threads show
PAIRS = (TURN_A, TURN_B, REPLACE, UNREGISTER, COMMIT, COMMIT_WAITING, DISCARD, DRAIN)
TRIPLES = PAIRS[:-1]  # a shutdown starts threads of its own: two, or it and two, are too many

# Every 2 calls of the lifecycle's API, and then every 3, each on a thread of its own.
CHOSEN = (
    *(threads for threads in small_scope(PAIRS, 2) if threads != ((DRAIN,), (DRAIN,))),
    *small_scope(TRIPLES, 3),
)
PAIRS_COUNT = sum(len(threads) == 2 for threads in CHOSEN)


def small_programs() -> tuple[Program, ...]:
    """The chosen threads, after a turn that one agent owns."""
    return tuple(
        program(" | ".join(str(call) for (call,) in threads), (TURN_A,), *threads)
        for threads in CHOSEN
    )


SMALL = Interleaving(
    programs=small_programs(),
    check=commits_are_kept,
    rules=MEETINGS.rules,
    strategies=(f"bounded-{BOUND}",),
    schedules=20_000,
)


def explore_small_scope(stage: Stage) -> None:
    """Exhaust so many of the small programs as there are examples; the pairs come first."""
    replace(SMALL, programs=SMALL.programs[: stage.examples]).explore(stage)


def judge_exhausted(history: History) -> Verdict:
    """Judge a program that must have been run under every schedule within the bound."""
    verdict = SMALL.judge(history)
    if verdict.is_valid and (history.notes.get("bound") or 0) < BOUND:
        return Verdict(unknowns=(f"{history.notes['program']}: not exhausted",))
    return verdict


SMALL_SCOPE = Scenario(
    name="lifecycle-small-scope",
    mode=Mode.SCHEDULE,
    ability="lifecycle_threads",
    promises=LIFECYCLE_THREADS.promises,
    workload=explore_small_scope,
    checker=judge_exhausted,
    examples=PAIRS_COUNT,
    replay=SMALL.replay,
)


def test_threads_that_meet_lose_no_turn(judge: Judge) -> None:
    """Whatever threads do at once, each turn is committed, once at a time, by its owner."""
    assert judge(LIFECYCLE_THREADS).is_valid


def test_every_small_program_is_exhausted(judge: Judge) -> None:
    """Every two calls, and with more budget every three, under all schedules within the bound."""
    assert judge(SMALL_SCOPE).is_valid
