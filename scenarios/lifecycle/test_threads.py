"""Scenarios of concurrent calls to the memory lifecycle: each turn is committed by its owner."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

from harness.contract import promises
from harness.contract.checkers.threads.memory_commits import PATIENCE_S, check_memory_commits
from harness.contract.checkers.threads.memory_orders import memory_orders
from harness.contract.checkers.threads.plain_answers import with_plain_answers
from harness.core.history import History
from harness.core.verdict import Verdict
from harness.engine.context import Context
from harness.engine.scenario import Mode, Scenario
from harness.pytest_plugin import Judge
from harness.schedule import Call, LockRules, small_scope
from harness.workloads.threads import Interleaving, Program

S, T = {"session": "s"}, {"session": "t"}
TURN_A = Call("complete_turn", {**S, "agent": "a"})
TURN_B = Call("complete_turn", {**S, "agent": "b"})
TURN_FLAKY = Call("complete_turn", {**S, "agent": "flaky"})
TURN_EXITS = Call("complete_turn", {**S, "agent": "exits"})
TURN_SLOW = Call("complete_turn", {**S, "agent": "slow"})
TURN_HANGS = Call("complete_turn", {**S, "agent": "hangs"})
TURN_UNOWNED = Call("complete_turn", {**S, "agent": None})
TURN_T = Call("complete_turn", {**T, "agent": "a"})
TURN_SLOW_T = Call("complete_turn", {**T, "agent": "slow"})
TURN_HANGS_T = Call("complete_turn", {**T, "agent": "hangs"})
REPLACE = Call("register", {**S, "agent": "b"})
UNREGISTER = Call("unregister", S)
COMMIT = Call("commit", S)
COMMIT_WAITING = Call("commit", {**S, "wait": True})
COMMIT_BY_B = Call("commit", {**S, "agent": "b"})
COMMIT_AT_LENGTH = Call("commit", {**S, "wait": True, "timeout": None})
COMMIT_AT_ONCE = Call("commit", {**S, "wait": True, "timeout": 0})
COMMIT_BRIEFLY = Call("commit", {**S, "wait": True, "timeout": 1})
COMMIT_T = Call("commit", {**T, "wait": True})
DISCARD = Call("discard", S)
DIRTY = Call("dirty", S)
DRAIN = Call("drain")

# Two shutdowns, because the first may be the retry of an agent that fails once, and because one may
# reach its deadline while a provider hangs.
QUIET = (DRAIN, DRAIN, DIRTY)

SILENT = ("provide", "register", "unregister")
explain_answers = memory_orders(PATIENCE_S)


def check_calls_and_answers(history: History) -> Verdict:
    """Judge the calls of providers, and then every answer."""
    verdict = check_memory_commits(history)
    return explain_answers(history) if verdict.is_valid else verdict


check = with_plain_answers(check_calls_and_answers, promises.L13, accepted=(), silent=SILENT)


def program(name: str, first: tuple[Call, ...], *threads: tuple[Call, ...]) -> Program:
    """Concurrent threads after `first`, and a shutdown when all is quiet."""
    return Program(name, threads, promises.L5, first, QUIET, held=(promises.L14,))


def turn_during_commit(history: History) -> bool:
    """A turn was completed during a call of a provider."""
    calls = history.of("provide")
    turns = history.of("complete_turn")
    return any(call.meets(turn) for call in calls for turn in turns)


def waited_long(function: str) -> Callable[[History], bool]:
    """Whether a call of this function waited for a provider that is slow or hangs."""

    def met(history: History) -> bool:
        return any(op.result["took_s"] > 1 for op in history.happened.of(function))

    return met


def two_hung(history: History) -> bool:
    """A shutdown left before the providers of two sessions had returned."""
    calls = [call for call in history.of("provide") if call.argument["agent"] == "hangs"]
    return any(
        sum(call.meets(drain) and not call.precedes(drain) for call in calls) > 1
        for drain in history.of("drain")
    )


def commits_met(history: History) -> bool:
    """Two commits of the session overlapped."""
    commits = history.of("commit")
    return any(one.meets(other) for one, other in combinations(commits, 2))


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
        program("a shutdown beside a slow commit", (TURN_SLOW,), (COMMIT,), (TURN_A, DRAIN)),
        program("a shutdown that meets a hang", (TURN_HANGS, TURN_T), (COMMIT,), (DRAIN,)),
        program("a shutdown that meets two", (TURN_HANGS, TURN_HANGS_T), (DRAIN,), (DIRTY,)),
        program("a failure beside a shutdown", (TURN_FLAKY, TURN_T), (COMMIT,), (TURN_B, DRAIN)),
        program("a wait for a slow commit", (TURN_SLOW,), (COMMIT,), (TURN_A, COMMIT_WAITING)),
        program("a wait for one that hangs", (TURN_HANGS,), (COMMIT,), (TURN_A, COMMIT_WAITING)),
        program("a wait without a limit", (TURN_SLOW,), (COMMIT,), (TURN_A, COMMIT_AT_LENGTH)),
        program(
            "no time to wait", (TURN_SLOW,), (COMMIT,), (COMMIT_AT_ONCE, TURN_A, COMMIT_BRIEFLY)
        ),
        program("two waits", (TURN_SLOW,), (COMMIT,), (COMMIT_WAITING,), (COMMIT_WAITING,)),
        program("another session", (TURN_SLOW, TURN_T), (COMMIT,), (COMMIT_T,), (COMMIT,)),
        program(
            "waits of two sessions",
            (TURN_HANGS, TURN_SLOW_T),
            (COMMIT,),
            (COMMIT_T,),
            (COMMIT_WAITING,),
            (TURN_T, COMMIT_T),
        ),
        program("a turn beside a shutdown", (TURN_SLOW,), (DRAIN,), (TURN_T, DIRTY)),
        program("turns without an owner", (TURN_UNOWNED,), (COMMIT_BY_B,), (TURN_FLAKY, COMMIT)),
        program("an adoption", (TURN_UNOWNED,), (COMMIT_BY_B,), (REPLACE, COMMIT), (DIRTY,)),
    ),
    check=check,
    rules=LockRules(free_during=(("provider", "*"),)),
    timers=0,  # the checker judges how long a call waited, so no deadline may pass early
    meetings={
        "a turn was completed during a commit": turn_during_commit,
        "two commits of a session met": commits_met,
        "a shutdown waited for a provider": waited_long("drain"),
        "a shutdown met two providers that hang": two_hung,
        "a commit waited for a provider": waited_long("commit"),
    },
)

LIFECYCLE_THREADS = MEETINGS.scenario(
    "lifecycle-threads",
    ability="lifecycle_threads",
    promises=(
        *(promises.L2, promises.L3, promises.L4, promises.L5, promises.L6),
        *(promises.L9, promises.L11, promises.L13, promises.L14),
    ),
    examples=5_200,
)

# Every small program ------------------------------------------------------------------------------

BOUND = 2  # preemptions; most known races of two or three threads need no more
PAIRS = (TURN_A, TURN_B, REPLACE, UNREGISTER, COMMIT, COMMIT_WAITING, DISCARD, DRAIN)
TRIPLES = PAIRS[:-1]  # a shutdown starts too many threads of its own

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
    check=check,
    rules=MEETINGS.rules,
    timers=MEETINGS.timers,
    strategies=(f"bounded-{BOUND}",),
    schedules=20_000,
)


def explore_small_scope(context: Context) -> None:
    """Exhaust one small program for each example, the pairs first."""
    replace(SMALL, programs=SMALL.programs[: context.examples]).explore(context)


def judge_exhausted(history: History) -> Verdict:
    """Judge a program, unknown unless every schedule within the bound was run."""
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


def test_concurrent_calls_lose_no_turn(judge: Judge) -> None:
    """Under every schedule each turn is committed by its owner, one commit at a time."""
    assert judge(LIFECYCLE_THREADS).is_valid


def test_small_programs_are_exhausted(judge: Judge) -> None:
    """Every two calls, and with more budget every three, under all schedules within the bound."""
    assert judge(SMALL_SCOPE).is_valid
