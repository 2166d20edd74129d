"""Scenario of concurrent calls to the agent cache: no agent closes in use or before its commit."""

from __future__ import annotations

from harness.contract import promises
from harness.contract.checkers.threads.memory_commits import check_agent_closes
from harness.core.history import History
from harness.engine.scenario import Mode, Scenario
from harness.pytest_plugin import Judge
from harness.schedule import Call, LockRules
from harness.workloads.threads import Interleaving, Program

TURN_S = Call("turn", {"session": "s"})
TURN_T = Call("turn", {"session": "t"})
EVICT_S = Call("evict", {"session": "s"})
COMMIT_S = Call("commit", {"session": "s"})
SHRINK = Call("shrink")


def program(name: str, first: tuple[Call, ...], *threads: tuple[Call, ...]) -> Program:
    """Threads that share a cache of one agent, and a shrink when all is quiet."""
    return Program(name, threads, promises.A5, first, (SHRINK,), held=(promises.A4, promises.L14))


def eviction_met_live_run(history: History) -> bool:
    """A session with a live run was evicted, or another one needed its place."""
    uses = history.of("use")
    rivals = [op for op in history if op.function in ("evict", "turn")]
    return any(
        use.meets(rival)
        and (rival.function == "evict" or rival.argument["session"] != use.argument["session"])
        for use in uses
        for rival in rivals
    )


def eviction_met_commit(history: History) -> bool:
    """An eviction was under way while a commit of its session was in flight."""
    calls = history.of("provide")
    evictions = history.of("evict")
    return any(call.meets(eviction) for call in calls for eviction in evictions)


MEETINGS = Interleaving(
    programs=(
        program("two sessions for one place", (), (TURN_S,), (TURN_T,)),
        program("an eviction during a turn", (TURN_S,), (TURN_S,), (EVICT_S,)),
        program("an eviction during a commit", (TURN_S,), (COMMIT_S,), (EVICT_S,)),
        program("all at once", (TURN_S,), (TURN_S,), (TURN_T,), (EVICT_S,)),
    ),
    check=check_agent_closes,
    rules=LockRules(
        free_during=(("provider", "*"), ("close", "*")),
        never_nested=(("AgentCache._lock", "*._live_lock"),),
    ),
    meetings={
        "an eviction met a live run": eviction_met_live_run,
        "an eviction met a commit in flight": eviction_met_commit,
    },
)

AGENT_CACHE_THREADS = Scenario(
    name="agent-cache-threads",
    mode=Mode.SCHEDULE,
    ability="agent_cache_threads",
    promises=(promises.A1, promises.A2, promises.A3, promises.A4, promises.A5, promises.L14),
    workload=MEETINGS.explore,
    checker=MEETINGS.judge,
    expectations=tuple(MEETINGS.met(meeting) for meeting in MEETINGS.meetings),
    examples=4_500,
    replay=MEETINGS.replay,
)


def test_concurrent_calls_close_no_agent_in_use(judge: Judge) -> None:
    """Under every schedule an agent is closed idle, committed, and once."""
    assert judge(AGENT_CACHE_THREADS).is_valid
