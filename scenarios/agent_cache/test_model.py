"""Scenario of any sequence of calls to the agent cache against its model."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import rule

from harness.checkers.conformance import conforms
from harness.contract import promises
from harness.contract.models.agent_cache import AgentCacheModel
from harness.core.history import History
from harness.engine.scenario import Expectation, Mode, Scenario
from harness.pytest_plugin import Judge
from harness.workloads.stateful import Machine, explore

CAP = 2
SESSIONS = st.sampled_from(["s1", "s2", "s3", "s4"])
PROVIDERS = st.sampled_from(["ok", "ok", "fail"])


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

    def finish(self) -> None:
        """End every run with healthy providers, drain, and read the size."""
        for session in ("s1", "s2", "s3", "s4"):
            self.ask("end_run", session=session, provider="ok")
        self.ask("drain")
        self.ask("size")


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
        bool(op.result and op.result.get("events")) and op.argument.get("provider") == "fail"
        for op in history
    )


BOUNDED_AND_COMMITTED = Scenario(
    name="agent-cache-bounded-and-committed",
    mode=Mode.MODEL,
    ability="agent_cache",
    promises=(promises.A1, promises.A2, promises.A3, promises.A4, promises.A5, promises.L14),
    workload=explore(AgentCacheMachine),
    checker=conforms(AgentCacheMachine.model),
    expectations=(
        Expectation("an eviction met a live run", _evictions_with_live_runs),
        Expectation("a provider failed during an eviction", _failed_evictions),
    ),
    examples=200,
)


def test_agents_close_idle_and_committed(judge: Judge) -> None:
    """Agents are closed once, idle and committed, least recently used first."""
    assert judge(BOUNDED_AND_COMMITTED).is_valid
