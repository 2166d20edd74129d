"""Scenario of any sequence of calls to the agent cache against its model."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import rule

from harness.checkers.conformance import conforms
from harness.contract import promises
from harness.contract.models.agent_cache import CAP_DEFAULT, AgentCacheModel
from harness.core.history import History
from harness.engine.context import Context
from harness.engine.scenario import Expectation, Mode, Scenario
from harness.pytest_plugin import Judge
from harness.workloads.stateful import Machine, explore

CAP = 2
SESSIONS = st.sampled_from(["s1", "S1", "s10", "s4"])  # some differ in case, or share a prefix
FAILURES = ("fail", "exit", "abort", "close", "stuck")
PROVIDERS = st.sampled_from(["ok"] * 6 + [*FAILURES])
# The caps that the environment may set, and texts in it that set none.
CAPS = (None, "1", "2", "3", "24", "25", "26")
GARBAGE = ("", " ", "0", "-1", "-25", "two", "2.5", "1e1", "nan", "inf", "None", "3 4", "0x3", "3;")


class AgentCacheMachine(Machine):
    """Four sessions share a cache of two agents; runs start and end, providers may fail."""

    model = AgentCacheModel(CAP)

    @rule(session=SESSIONS, agent=st.sampled_from(["a", "b"]), provider=PROVIDERS)
    def put(self, session: str, agent: str, provider: str) -> None:
        self.ask("put", session=session, agent=agent, provider=provider)

    @rule(session=SESSIONS)
    def get(self, session: str) -> None:
        self.ask("get", session=session)

    @rule(session=SESSIONS, provider=PROVIDERS)
    def evict(self, session: str, provider: str) -> None:
        self.ask("evict", session=session, provider=provider)

    @rule(session=SESSIONS)
    def start_run(self, session: str) -> None:
        self.ask("start_run", session=session)

    @rule(session=SESSIONS, provider=PROVIDERS)
    def end_run(self, session: str, provider: str) -> None:
        self.ask("end_run", session=session, provider=provider)

    @rule(session=SESSIONS)
    def complete_turn(self, session: str) -> None:
        self.ask("complete_turn", session=session)

    @rule(session=SESSIONS, provider=PROVIDERS)
    def commit(self, session: str, provider: str) -> None:
        self.ask("commit", session=session, provider=provider)

    @rule()
    def look(self) -> None:
        self.ask("size")

    def finish(self) -> None:
        """End every run with healthy providers, drain, and read the size."""
        self.ask("size")
        for session in ("s1", "S1", "s10", "s4"):
            self.ask("end_run", session=session, provider="ok")
        self.ask("drain")
        self.ask("size")


# Lists that are walked completely -----------------------------------------------------------------


def walk(context: Context) -> None:
    """Fill a cache of every size; keep live agents beyond the cap; fail in each way."""
    for value in (*CAPS, *GARBAGE):
        fill(context, value)
    for value in ("1", "3"):
        exceed(context, value)
    for provider in FAILURES:
        fail_and_retry(context, provider)
        commit_beside_runs(context, provider)


def fill(context: Context, value: str | None) -> None:
    """Fill the cache up to its cap and beyond, with each kind of touch between."""
    cap = int(value) if value in CAPS and value is not None else CAP_DEFAULT
    sessions = [f"s{number}" for number in range(cap + 5)]
    with context.episode() as episode:
        ask = episode.client.ask
        ask("configure", {"value": value})
        for session in sessions[:cap]:
            ask("put", {"session": session, "agent": "a", "provider": "ok"})
            ask("complete_turn", {"session": session})
        ask("size", {})
        # A hit, the same agent again, and a replacement; a miss and a turn are no touch.
        ask("get", {"session": sessions[0]})
        ask("get", {"session": sessions[-1]})
        for session, agent in zip(sessions[1:cap], "ab", strict=False):
            ask("put", {"session": session, "agent": agent, "provider": "ok"})
        ask("complete_turn", {"session": sessions[min(3, cap - 1)]})
        for session in sessions[cap:]:
            ask("put", {"session": session, "agent": "a", "provider": "ok"})
            ask("size", {})
        for session in sessions[: cap + 1]:
            ask("get", {"session": session})


def exceed(context: Context, value: str) -> None:
    """Keep twice as many live agents as the cap; they go as their runs end."""
    sessions = [f"s{number}" for number in range(2 * int(value) + 1)]
    with context.episode() as episode:
        ask = episode.client.ask
        ask("configure", {"value": value})
        for session in sessions:
            ask("start_run", {"session": session})
            ask("put", {"session": session, "agent": "a", "provider": "ok"})
            ask("complete_turn", {"session": session})
            ask("size", {})
        ask("evict", {"session": sessions[1], "provider": "ok"})
        for session in sessions:
            ask("end_run", {"session": session, "provider": "ok"})
            ask("size", {})
            ask("get", {"session": session})


def fail_and_retry(context: Context, provider: str) -> None:
    """Fail as an agent is evicted in each way; every turn is committed later, by its owner."""
    with context.episode() as episode:
        ask = episode.client.ask
        for session in ("s1", "s2", "s3", "s4"):
            ask("put", {"session": session, "agent": "a", "provider": provider})
            ask("complete_turn", {"session": session})
        ask("put", {"session": "s3", "agent": "b", "provider": provider})
        ask("complete_turn", {"session": "s3"})
        ask("start_run", {"session": "s4"})
        ask("evict", {"session": "s4", "provider": provider})
        ask("size", {})
        ask("end_run", {"session": "s4", "provider": provider})
        ask("put", {"session": "s4", "agent": "a", "provider": provider})
        ask("evict", {"session": "s3", "provider": provider})
        ask("put", {"session": "s1", "agent": "b", "provider": "ok"})
        ask("evict", {"session": "s1", "provider": "ok"})
        ask("evict", {"session": "s3", "provider": "ok"})
        ask("drain", {})
        ask("size", {})


def commit_beside_runs(context: Context, provider: str) -> None:
    """Commit what an eviction could not, while its session has a run with another agent."""
    with context.episode() as episode:
        ask = episode.client.ask
        for session in ("s1", "s2"):
            ask("put", {"session": session, "agent": "a", "provider": "ok"})
            ask("complete_turn", {"session": session})
            ask("evict", {"session": session, "provider": provider})
            ask("size", {})
            ask("start_run", {"session": session})
            ask("put", {"session": session, "agent": "b", "provider": "ok"})
            ask("commit", {"session": session, "provider": "ok"})
            ask("commit", {"session": session, "provider": "ok"})
        ask("put", {"session": "s3", "agent": "a", "provider": "ok"})
        ask("size", {})
        ask("complete_turn", {"session": "s2"})
        ask("commit", {"session": "s2", "provider": provider})
        for session in ("s2", "s1"):
            ask("end_run", {"session": session, "provider": "ok"})
            ask("size", {})
        ask("put", {"session": "s1", "agent": "a", "provider": "ok"})
        ask("put", {"session": "s2", "agent": "c", "provider": "ok"})
        ask("drain", {})
        ask("size", {})


def walk_and_explore(context: Context) -> None:
    """Walk through the lists, then call in any order."""
    walk(context)
    explore(AgentCacheMachine)(context)


def _evictions_with_live_runs(history: History) -> int:
    """Count the calls that closed an agent while another session had a live run."""
    live: set[str] = set()
    met = 0
    for op in history:
        if op.function == "start_run":
            live.add(op.argument["session"])
        if op.function == "end_run":
            live.discard(op.argument["session"])
        closed = [event for event in (op.result or {}).get("events", []) if event[0] == "close"]
        met += bool(closed and live)
    return met


def _failed_evictions(history: History) -> int:
    return sum(
        bool(op.result and op.result.get("events")) and op.argument.get("provider") in FAILURES
        for op in history
    )


BOUNDED_AND_COMMITTED = Scenario(
    name="agent-cache-bounded-and-committed",
    mode=Mode.MODEL,
    ability="agent_cache",
    promises=(
        *(promises.A1, promises.A2, promises.A3, promises.A4, promises.A5),
        *(promises.L14, promises.H4),
    ),
    workload=walk_and_explore,
    checker=conforms(AgentCacheMachine.model),
    expectations=(
        Expectation("an eviction met a live run", _evictions_with_live_runs),
        Expectation("a provider failed during an eviction", _failed_evictions),
    ),
    examples=150,
)


def test_agents_close_idle_and_committed(judge: Judge) -> None:
    """Agents are closed once, idle and committed, least recently used first."""
    assert judge(BOUNDED_AND_COMMITTED).is_valid
