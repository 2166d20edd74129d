"""Scenario of any sequence of calls to the memory lifecycle against its model."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from harness.checkers.conformance import conforms
from harness.contract.models.lifecycle import LifecycleModel
from harness.contract.promises import SESSION_SERVER
from harness.core.history import History
from harness.engine.scenario import Expectation, Mode, Scenario
from harness.pytest_plugin import Judge
from harness.workloads.stateful import Machine, explore

SESSIONS = st.sampled_from(["s1", "s2"])
AGENTS = st.sampled_from(["a", "b"])
PROVIDERS = st.sampled_from(["ok", "fail", "exit"])
MAYBE = st.none() | AGENTS


class LifecycleMachine(Machine):
    """Two sessions and two agents each; providers succeed, fail, exit or hang."""

    model = LifecycleModel()

    def __init__(self) -> None:
        super().__init__()
        self.hanging: list[str] = []

    @rule(session=SESSIONS, agent=AGENTS)
    def register(self, session: str, agent: str) -> None:
        self.ask("register", session=session, agent=agent)

    @rule(session=SESSIONS)
    def unregister(self, session: str) -> None:
        self.ask("unregister", session=session)

    @rule(session=SESSIONS, agent=MAYBE)
    def complete_turn(self, session: str, agent: str | None) -> None:
        self.ask("complete_turn", session=session, agent=agent)

    @rule(session=SESSIONS, agent=MAYBE, provider=PROVIDERS)
    def commit(self, session: str, agent: str | None, provider: str) -> None:
        self.ask("commit", session=session, agent=agent, provider=provider)

    @precondition(lambda self: self.hanging)
    @rule(agent=MAYBE)
    def wait_for_commit(self, agent: str | None) -> None:
        session = self.hanging[0]
        self.ask("commit", session=session, agent=agent, provider="ok", wait=True)

    @precondition(lambda self: not self.hanging)
    @rule(session=SESSIONS, agent=MAYBE)
    def begin_commit(self, session: str, agent: str | None) -> None:
        begun = self.ask("begin_commit", session=session, agent=agent)
        if begun.result["committed"] is None:
            self.hanging.append(session)

    @precondition(lambda self: self.hanging)
    @rule(provider=PROVIDERS)
    def finish_commit(self, provider: str) -> None:
        self.ask("finish_commit", session=self.hanging.pop(), provider=provider)

    @rule(session=SESSIONS)
    def discard(self, session: str) -> None:
        self.ask("discard", session=session)

    @rule(session=st.sampled_from(["", None]))
    def falsy(self, session: str | None) -> None:
        self.ask("register", session=session, agent="a")
        self.ask("unregister", session=session)
        self.ask("complete_turn", session=session, agent="a")
        self.ask("commit", session=session, agent="a", provider="ok")
        self.ask("discard", session=session)
        self.ask("dirty", session=session)

    @precondition(lambda self: not self.hanging)
    @rule(provider=st.sampled_from(["ok", "fail"]))
    def drain(self, provider: str) -> None:
        self.ask("drain", provider=provider, deadline_s=5.0)

    @rule(session=SESSIONS)
    def look(self, session: str) -> None:
        self.ask("dirty", session=session)

    def finish(self) -> None:
        """Read the state; a provider that hangs must not delay a shutdown past its deadline."""
        self.ask("dirty", session="s1")
        self.ask("dirty", session="s2")
        self.ask("entries")
        if self.hanging:
            self.ask("drain", provider="ok", deadline_s=0.02)


def _commits(provider: str) -> Expectation:
    def count(history: History) -> int:
        return sum(
            op.function in ("commit", "finish_commit")
            and op.argument["provider"] == provider
            and bool(op.result)
            and bool(op.result.get("called", True))
            for op in history
        )

    return Expectation(f"a provider was called: {provider}", count)


def _late_turns(history: History) -> int:
    """Count the turns completed while a commit of their session was in flight."""
    hanging: set[str] = set()
    late = 0
    for op in history:
        match op.function:
            case "begin_commit" if op.result and op.result["committed"] is None:
                hanging.add(op.argument["session"])
            case "finish_commit":
                hanging.discard(op.argument["session"])
            case "complete_turn" if op.argument["session"] in hanging:
                late += 1
    return late


def _wedged_shutdowns(history: History) -> int:
    """Count the shutdowns that began while a commit was in flight."""
    functions = [op.function for op in history]
    called = [
        op for op in history.happened if op.function == "begin_commit" and op.result["called"]
    ]
    return int("drain" in functions[-1:] and len(called) > functions.count("finish_commit"))


OWNERS_AND_FAILURES = Scenario(
    name="lifecycle-owners-and-failures",
    mode=Mode.MODEL,
    ability="lifecycle",
    promises=tuple(SESSION_SERVER.promise(f"L{number}") for number in range(1, 15)),
    workload=explore(LifecycleMachine),
    checker=conforms(LifecycleMachine.model),
    expectations=(
        _commits("ok"),
        _commits("fail"),
        _commits("exit"),
        Expectation("a turn completed during a commit", _late_turns),
        Expectation("a provider hung through a shutdown", _wedged_shutdowns),
    ),
    examples=200,
)


def test_turns_are_committed_once_by_their_owner(judge: Judge) -> None:
    """Providers may succeed, fail, exit or hang."""
    assert judge(OWNERS_AND_FAILURES).is_valid
