"""The agent cache on trial: bounded, never under a live run, committed before closed."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import rule

from harness.checkers.conformance import conforms
from harness.contract.models.agent_cache import AgentCacheModel
from harness.core.history import History
from harness.core.promises import Promise
from harness.engine.scenario import Expectation, Mode, Scenario
from harness.workloads.stateful import Machine, explore
from scenarios.conftest import Judge

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
        """Ask once more, with every run over and every provider well."""
        for session in ("s1", "s2", "s3", "s4"):
            self.ask("end_run", session=session, provider="ok")
        self.ask("drain")
        self.ask("size")


def _evictions_with_live_runs(history: History) -> int:
    """Calls that closed an agent while another session had a live run."""
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
    promises=(*(Promise[f"A{number}"] for number in range(1, 6)), Promise.L14),
    workload=explore(AgentCacheMachine),
    checker=conforms(AgentCacheMachine.model),
    expectations=(
        Expectation("an eviction met a live run", _evictions_with_live_runs),
        Expectation("a provider failed during an eviction", _failed_evictions),
    ),
    examples=200,
)


def test_no_agent_is_closed_live_or_uncommitted(judge: Judge) -> None:
    """Agents go when they are idle and committed, least recently used first, closed once."""
    assert judge(BOUNDED_AND_COMMITTED).is_valid
