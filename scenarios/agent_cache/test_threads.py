"""Scenario of concurrent calls to the agent cache: no agent closes in use or before its commit."""

from __future__ import annotations

from harness.contract import promises
from harness.contract.checkers.threads.memory_commits import PATIENCE_S, check_agent_closes
from harness.contract.checkers.threads.memory_orders import memory_orders
from harness.contract.checkers.threads.plain_answers import with_plain_answers
from harness.core.history import History
from harness.core.verdict import Verdict
from harness.pytest_plugin import Judge
from harness.schedule import Call, LockRules
from harness.workloads.threads import Interleaving, Program

TURN_S = Call("turn", {"session": "s"})
TURN_T = Call("turn", {"session": "t"})
TURN_NEW = Call("turn", {"session": "s", "new": "another"})
TURN_FLAKY = Call("turn", {"session": "s", "new": "flaky"})
TURN_CANCELLED = Call("turn", {"session": "s", "cancelled": True})
TURN_EXITS = Call("turn", {"session": "s", "new": "exits"})
EVICT_S = Call("evict", {"session": "s"})
COMMIT_S = Call("commit", {"session": "s"})
SHRINK = Call("shrink")
PAUSE = Call("pause")  # while an agent commits
DRAIN = Call("drain")

# The cached agent owns the turns that name none. A shutdown retries what a provider failed, so that
# every agent of no cached session can be closed.
QUIET = (Call("own_turn", {"session": "s"}), DRAIN, SHRINK)

SILENT = ("close", "complete_turn", "evict", "own_turn", "pause", "provide", "turn", "use")
explain_commits = memory_orders(PATIENCE_S, evicting=("evict", "shrink", "turn"))


def check_agents_and_commits(history: History) -> Verdict:
    """Judge the closes of agents, and then which turns each commit passed on."""
    verdict = check_agent_closes(history)
    return explain_commits(history) if verdict.is_valid else verdict


def program(name: str, first: tuple[Call, ...], *threads: tuple[Call, ...]) -> Program:
    """Threads that share a cache of one agent, and a shrink when all is quiet."""
    held, nested = (promises.A4, promises.L14), (promises.A3,)
    return Program(name, threads, promises.A5, first, QUIET, held=held, nested=nested)


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
        program("evictions that meet", (TURN_S,), (EVICT_S, TURN_S), (EVICT_S,), (SHRINK,)),
        program("a return during its eviction", (TURN_S,), (TURN_S,), (EVICT_S, EVICT_S)),
        program(
            "an eviction before a cancelled turn", (TURN_S,), (EVICT_S,), (PAUSE, TURN_CANCELLED)
        ),
        program("a replacement", (TURN_S,), (TURN_NEW,), (EVICT_S,)),
        program("a failure as it is evicted", (TURN_FLAKY,), (EVICT_S,), (TURN_S,)),
        program("an exit as it is replaced", (TURN_EXITS,), (TURN_NEW,), (TURN_T,)),
    ),
    check=with_plain_answers(
        check_agents_and_commits, promises.A5, accepted=(*SILENT, "commit"), silent=SILENT
    ),
    rules=LockRules(
        free_during=(("provider", "*"), ("close", "*")),
        never_nested=(("AgentCache._lock", "*._live_lock"),),
    ),
    meetings={
        "an eviction met a live run": eviction_met_live_run,
        "an eviction met a commit in flight": eviction_met_commit,
    },
)

AGENT_CACHE_THREADS = MEETINGS.scenario(
    "agent-cache-threads",
    ability="agent_cache_threads",
    promises=(
        *(promises.A1, promises.A2, promises.A3, promises.A4, promises.A5),
        *(promises.L8, promises.L14),
    ),
    examples=3_800,
)


def test_concurrent_calls_close_no_agent_in_use(judge: Judge) -> None:
    """Under every schedule an agent is closed idle, committed, and once."""
    assert judge(AGENT_CACHE_THREADS).is_valid
