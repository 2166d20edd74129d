"""Scenario of any sequence of calls to the memory lifecycle against its model."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from itertools import product
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from harness.checkers.conformance import conforms
from harness.contract.models.lifecycle import LifecycleModel
from harness.contract.promises import SESSION_SERVER
from harness.core.errors import UsageError
from harness.core.history import History
from harness.engine.context import Context
from harness.engine.scenario import Expectation, Mode, Scenario
from harness.pytest_plugin import Judge
from harness.workloads.stateful import Machine, explore

SESSIONS = st.sampled_from(["s1", "S1"])  # they differ in case only
AGENTS = st.sampled_from(["a", "b"])
FAILURES = ("fail", "exit", "abort", "close", "interrupt")
PROVIDERS = st.sampled_from(["ok", "ok", *FAILURES])
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
    def drain_and_finish(self, provider: str) -> None:
        self.ask("drain_and_finish", session=self.hanging.pop(), provider=provider)

    @precondition(lambda self: self.hanging)
    @rule(provider=PROVIDERS)
    def finish_commit(self, provider: str) -> None:
        self.ask("finish_commit", session=self.hanging.pop(), provider=provider)

    @rule(session=SESSIONS)
    def discard(self, session: str) -> None:
        self.ask("discard", session=session)

    @rule(session=st.sampled_from(["", None, 0, False]))
    def falsy(self, session: Any) -> None:
        self.ask("register", session=session, agent="a")
        self.ask("unregister", session=session)
        self.ask("complete_turn", session=session, agent="a")
        self.ask("commit", session=session, agent="a", provider="ok")
        self.ask("discard", session=session)
        self.ask("dirty", session=session)

    @precondition(lambda self: not self.hanging)
    @rule(provider=PROVIDERS)
    def drain(self, provider: str) -> None:
        self.ask("drain", provider=provider, deadline_s=5.0)

    @rule(session=SESSIONS)
    def look(self, session: str) -> None:
        self.ask("dirty", session=session)
        self.ask("entries")

    def finish(self) -> None:
        """Read the state; a provider that hangs must not delay a shutdown past its deadline."""
        self.ask("dirty", session="s1")
        self.ask("dirty", session="S1")
        self.ask("entries")
        if self.hanging:
            self.ask("drain", provider="ok", deadline_s=0.02)


# Lists that are walked completely -----------------------------------------------------------------

# Around the workers of a shutdown, and far beyond.
CROWDS = (1, 7, 8, 9, 16, 17, 40)
# Ids that share a prefix, differ in case or form only, or are of other scripts.
NAMES = (
    "s",
    "S",
    "s1",
    "s10",
    "s1 ",
    "S1",
    "é",
    "e\u0301",
    "日本",
    "ς",
    "\u03c3",
    "0",
    "False",
    "None",
)
TURNS_MANY = 300


def walk(context: Context) -> None:
    """Shut down many sessions; fail in each way; own many segments; wait beside each commit."""
    for number, provider in product(CROWDS, ("ok", "fail", "interrupt")):
        shut_down_many(context, [f"s{count}" for count in range(number)], provider)
    shut_down_many(context, NAMES, "ok")
    for provider in FAILURES:
        fail_and_retry(context, provider)
    own_many_segments(context)


def shut_down_many(context: Context, sessions: Sequence[str], provider: str) -> None:
    """Complete a turn in each session, unregister every other one, and shut down."""
    with context.episode() as episode, suppress(UsageError):  # a wrong answer allows no next call
        ask = episode.client.ask
        for number, session in enumerate(sessions):
            ask("complete_turn", {"session": session, "agent": f"a{number % 3}"})
            if number % 2:
                ask("unregister", {"session": session})
        ask("drain", {"provider": provider, "deadline_s": 5.0})
        for session in sessions:
            ask("dirty", {"session": session})
        ask("drain", {"provider": "ok", "deadline_s": 5.0})
        for session in sessions[::2]:
            ask("discard", {"session": session})
            ask("entries", {})
        for session in sessions:
            ask("complete_turn", {"session": session, "agent": None})


def fail_and_retry(context: Context, provider: str) -> None:
    """Fail at every kind of commit, beside a waiting one, and then succeed with the owner."""
    s, quiet = {"session": "s1"}, {"session": "s1", "agent": None}
    with context.episode() as episode, suppress(UsageError):  # a wrong answer allows no next call
        ask = episode.client.ask
        for agent in ("a", "b", None):
            ask("complete_turn", {**s, "agent": agent})
            ask("unregister", s)
        for wait in (False, True):
            ask("commit", {**s, "agent": "c", "provider": provider, "wait": wait})
            ask("discard", s)
        ask("begin_commit", quiet)
        ask("complete_turn", {**s, "agent": "b"})
        ask("commit", {**quiet, "provider": "ok", "wait": True})
        ask("discard", s)
        ask("drain_and_finish", {**s, "provider": provider})
        ask("begin_commit", quiet)
        ask("finish_commit", {**s, "provider": provider})
        for agent in ("d", None, "d", "d", None):
            ask("commit", {**s, "agent": agent, "provider": "ok", "wait": True})
        ask("discard", s)
        ask("entries", {})


def own_many_segments(context: Context) -> None:
    """Complete many turns of one owner, and then of two in turn; commit each segment once."""
    s = {"session": "s1"}
    with context.episode() as episode, suppress(UsageError):  # a wrong answer allows no next call
        ask = episode.client.ask
        for _ in range(TURNS_MANY):
            ask("complete_turn", {**s, "agent": "a"})
        ask("commit", {**s, "agent": None, "provider": "ok"})
        ask("commit", {**s, "agent": None, "provider": "ok"})
        for number in range(TURNS_MANY):
            ask("complete_turn", {**s, "agent": "ab"[number % 2]})
        ask("commit", {**s, "agent": None, "provider": "ok"})
        ask("drain", {"provider": "ok", "deadline_s": 20.0})
        ask("dirty", s)


def walk_and_explore(context: Context) -> None:
    """Walk through the lists, then call in any order."""
    walk(context)
    explore(LifecycleMachine)(context)


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
            case "finish_commit" | "drain_and_finish":
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
    finished = functions.count("finish_commit") + functions.count("drain_and_finish")
    return int("drain" in functions[-1:] and len(called) > finished)


def _waiting_shutdowns(history: History) -> int:
    """Count the shutdowns that committed more after a commit in flight came back."""
    return sum(
        op.function == "drain_and_finish" and bool(op.result and op.result["called"])
        for op in history
    )


OWNERS_AND_FAILURES = Scenario(
    name="lifecycle-owners-and-failures",
    mode=Mode.MODEL,
    ability="lifecycle",
    promises=tuple(SESSION_SERVER.promise(f"L{number}") for number in range(1, 15)),
    workload=walk_and_explore,
    checker=conforms(LifecycleMachine.model),
    expectations=(
        _commits("ok"),
        *(_commits(failure) for failure in FAILURES),
        Expectation("a turn completed during a commit", _late_turns),
        Expectation("a provider hung through a shutdown", _wedged_shutdowns),
        Expectation("a shutdown waited for a commit in flight", _waiting_shutdowns),
    ),
    examples=260,
)


def test_turns_are_committed_once_by_their_owner(judge: Judge) -> None:
    """Providers may succeed, fail, exit or hang."""
    assert judge(OWNERS_AND_FAILURES).is_valid
