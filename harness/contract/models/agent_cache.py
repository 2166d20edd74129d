"""The agent cache as a sequential specification: who must go, who must not, and in what order.

What the contract leaves open is left open here: an agent that could not be closed when it left
(its session was live, or its provider failed) may be closed by any later call, once its session is
clean and idle; it has to be by the `drain` that commits all that waits.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from harness.core.history import Operation, Outcome
from harness.core.model import Refusal
from harness.core.promises import Promise

Victim = tuple[str, str]  # a session, and the agent that it loses
CALM = {"blocked": False, "nested": False}


@dataclass(frozen=True, slots=True)
class State:
    """Agents kept, least recently used first; who is live; whose turns wait, by owner.

    `leaving` were evicted under a live run, which will be the end of them; those `aside` could not
    be committed.
    """

    agents: tuple[Victim, ...] = ()
    live: frozenset[str] = frozenset()
    waiting: tuple[tuple[str, tuple[str, ...]], ...] = ()  # owners of segments, by session
    current: tuple[Victim, ...] = ()
    leaving: tuple[Victim, ...] = ()
    aside: frozenset[Victim] = frozenset()

    def owners(self, session: str) -> tuple[str, ...]:
        """Owners of the session's uncommitted segments, oldest first."""
        return dict(self.waiting).get(session, ())

    def wait(self, session: str, owners: tuple[str, ...]) -> State:
        """This state with other uncommitted segments."""
        waiting = {**dict(self.waiting), session: owners}
        left = tuple(sorted((key, value) for key, value in waiting.items() if value))
        return replace(self, waiting=left)


@dataclass(frozen=True, slots=True)
class Eviction:
    """What must have happened by the end of a call."""

    after: State
    commits: tuple[Victim, ...]
    closes: frozenset[Victim]


class AgentCacheModel:
    """What a cache of `cap` agents may do."""

    name = "agent-cache"

    def __init__(self, cap: int) -> None:
        self._cap = cap

    def initial(self) -> State:
        """Nothing is kept, nobody is live."""
        return State()

    def step(self, state: State, operation: Operation) -> tuple[State] | Refusal:
        """The state after the operation, or the promise it broke."""
        if operation.outcome is not Outcome.OK:
            return Refusal(Promise.A5, f"{operation}")
        argument, result = operation.argument, operation.result
        if result.get("blocked"):
            message = "the cache's lock was held while an agent was committed or closed"
            return Refusal(Promise.A4, message, also=(Promise.L14,))
        if result.get("nested"):
            return Refusal(Promise.A3, "live sessions were looked up under the cache's lock")
        match operation.function:
            case "size":
                return self._size(state, result)
            case "get":
                return self._get(state, argument["session"], operation)
        return _judge(self._evictions(state, operation.function, **argument), operation)

    def _evictions(
        self, state: State, function: str, session: str = "", provider: str = "ok", agent: str = ""
    ) -> Eviction:
        match function:
            case "put":
                return self._put(state, session, agent, provider)
            case "evict":
                return self._evict(state, session, provider)
            case "end_run":
                return self._shrink(replace(state, live=state.live - {session}), provider)
            case "drain":
                return self._drain(state)
            case "start_run":
                return Eviction(replace(state, live=state.live | {session}), (), frozenset())
            case "complete_turn":
                return Eviction(_completed(state, session), (), frozenset())
        raise ValueError(f"the agent cache has no operation {function!r}")

    def _size(self, state: State, result: dict[str, Any]) -> tuple[State] | Refusal:
        if result["agents"] != len(state.agents):
            accepted = ({**result, "agents": len(state.agents)},)
            message = f"{result['agents']} agents are kept, not {len(state.agents)}"
            return Refusal(Promise.A1, message, accepted)
        known = {
            session for session, _ in (*state.agents, *state.current, *state.leaving, *state.aside)
        }
        bound = len(known | dict(state.waiting).keys())
        if result["entries"] > bound:
            message = f"the lifecycle remembers {result['entries']} sessions, not {bound}"
            return Refusal(Promise.L9, message)
        return (state,)

    def _get(self, state: State, session: str, operation: Operation) -> tuple[State] | Refusal:
        kept = dict(state.agents).get(session)
        if operation.result["agent"] != kept:
            expected: dict[str, Any] = {"agent": kept, "events": [], **CALM}
            return Refusal(Promise.A1, f"{kept!r} was kept, yet {operation}", (expected,))
        used = tuple(pair for pair in state.agents if pair[0] == session)
        others = tuple(pair for pair in state.agents if pair[0] != session)
        after = replace(state, agents=(*others, *used))
        return _judge(Eviction(after, (), frozenset()), operation)

    def _put(self, state: State, session: str, agent: str, provider: str) -> Eviction:
        kept = dict(state.agents)
        replaced = kept.pop(session, None)
        agents = (*kept.items(), (session, agent))
        current = {**dict(state.current), session: agent}
        state = replace(
            state,
            agents=agents,
            current=tuple(sorted(current.items())),
            leaving=tuple(pair for pair in state.leaving if pair != (session, agent)),
            aside=state.aside - {(session, agent)},
        )
        if replaced in (None, agent):
            return self._shrink(state, provider)
        first = _retired(state, ((session, str(replaced)),), provider)
        then = self._shrink(first.after, provider)
        return Eviction(then.after, first.commits + then.commits, first.closes | then.closes)

    def _evict(self, state: State, session: str, provider: str) -> Eviction:
        gone = tuple(pair for pair in state.agents if pair[0] == session)
        left = tuple(pair for pair in state.agents if pair[0] != session)
        return _retired(replace(state, agents=left), gone, provider)

    def _drain(self, state: State) -> Eviction:
        """All that waits is committed; so nothing keeps those aside any more."""
        commits: list[Victim] = []
        for session, _ in state.waiting:
            state, owners = _tried(state, session, "ok")
            commits += [(session, owner) for owner in owners]
        then = self._shrink(state, "ok")
        busy = then.after.live | dict(then.after.waiting).keys()
        closes = frozenset(pair for pair in then.after.aside if pair[0] not in busy)
        return Eviction(then.after, (*commits, *then.commits), then.closes | closes)

    def _shrink(self, state: State, provider: str) -> Eviction:
        excess = max(0, len(state.agents) - self._cap)
        idle = [pair for pair in state.agents if pair[0] not in state.live]
        victims = tuple(idle[:excess])
        left = tuple(pair for pair in state.agents if pair not in victims)
        leaving = state.leaving
        state = replace(state, agents=left, leaving=())
        return _retired(state, (*leaving, *victims), provider)


def _completed(state: State, session: str) -> State:
    owner = dict(state.current).get(session, "")
    owners = state.owners(session)
    return state if owners[-1:] == (owner,) else state.wait(session, (*owners, owner))


def _retired(state: State, victims: tuple[Victim, ...], provider: str) -> Eviction:
    """Commit what the victims' sessions have, and close the agents of those that end up clean."""
    commits: list[Victim] = []
    idle = [pair for pair in victims if pair[0] not in state.live]
    live = [pair for pair in victims if pair[0] in state.live]
    for session, _ in idle:
        state, owners = _tried(state, session, provider)
        commits += [(session, owner) for owner in owners]
    closes = frozenset(pair for pair in idle if not state.owners(pair[0]))
    kept = {session for session, _ in state.agents}
    gone = {session for session, _ in closes} - kept
    current = tuple(pair for pair in state.current if pair[0] not in gone)
    aside = state.aside | (frozenset(idle) - closes)
    after = replace(state, current=current, aside=aside, leaving=(*state.leaving, *live))
    return Eviction(after, tuple(commits), closes)


def _tried(state: State, session: str, provider: str) -> tuple[State, tuple[str, ...]]:
    """Flush one session; turns without an owner adopt the current agent, if there is one."""
    current = dict(state.current).get(session, "")
    called: list[str] = []
    owners = [owner or current for owner in state.owners(session)]
    while owners and owners[0]:
        called.append(owners[0])
        if provider != "ok":
            break
        owners.pop(0)
    # Only the segment that was tried has adopted its owner for good.
    untried = state.owners(session)[len(state.owners(session)) - len(owners) :]
    left = (*owners[:1], *untried[1:]) if called else untried
    return state.wait(session, left), tuple(called)


def _judge(eviction: Eviction, operation: Operation) -> tuple[State] | Refusal:
    """Hold what happened against what had to, and what could."""
    events = [(kind, (session, agent)) for kind, session, agent in operation.result["events"]]
    commits = [victim for kind, victim in events if kind == "commit"]
    closes = [victim for kind, victim in events if kind == "close"]
    after = eviction.after
    for victim in closes:
        session = victim[0]
        if session in after.live:
            return Refusal(Promise.A2, f"{victim} was closed under a live run: {operation}")
        if closes.count(victim) > 1 or victim not in eviction.closes | after.aside:
            broken = Promise.A1 if victim in after.agents else Promise.A5
            return Refusal(broken, f"{victim} should not have been closed: {operation}")
        late = ("commit", session) in [
            (kind, v[0]) for kind, v in events[events.index(("close", victim)) :]
        ]
        if late or after.owners(session):
            return Refusal(Promise.A5, f"{victim} was closed before it was committed: {operation}")
    if sorted(commits) != sorted(eviction.commits):
        wanted = sorted(eviction.commits)
        waits = any(after.owners(session) for session, _ in commits)
        broken = Promise.L12 if waits else Promise.L6
        if Counter(wanted) - Counter(commits):
            broken = Promise.A5
        return Refusal(broken, f"commits should have been {wanted}: {operation}")
    if missing := eviction.closes - set(closes):
        return Refusal(Promise.A5, f"{sorted(missing)} left, and stayed open: {operation}")
    return (replace(after, aside=after.aside - set(closes)),)
