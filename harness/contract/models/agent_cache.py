"""Model of the agent cache: which agents are evicted and closed, and which turns that commits.

Where the contract is silent the model is lenient: an agent that could not be closed when it was
evicted (its session was live, or its provider failed) may be closed by any later call, once its
session is clean and idle. The `drain` that commits all waiting turns must close it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from harness.contract import promises
from harness.core.contract import Promise
from harness.core.history import Operation, Outcome
from harness.core.model import Refusal

CAP_DEFAULT = 25  # where the setting is absent or invalid
HEALTHY = frozenset({"ok", "stuck"})  # a handle that fails as it closes is closed all the same
Victim = tuple[str, str]  # a session, and the agent that it loses
CALM = {"blocked": False, "nested": False}


@dataclass(frozen=True, slots=True)
class State:
    """Cached agents, least recently used first; live sessions; uncommitted turns by owner.

    `leaving` were evicted under a live run; the end of that run closes them. `aside` are evicted
    agents whose turns could not be committed.
    """

    agents: tuple[Victim, ...] = ()
    live: frozenset[str] = frozenset()
    waiting: tuple[tuple[str, tuple[str, ...]], ...] = ()  # owners of segments, by session
    current: tuple[Victim, ...] = ()
    leaving: tuple[Victim, ...] = ()
    aside: frozenset[Victim] = frozenset()
    cap: int | None = None  # as configured; None for the model's

    def owners(self, session: str) -> tuple[str, ...]:
        """Owners of the session's uncommitted segments, oldest first."""
        return dict(self.waiting).get(session, ())

    def wait(self, session: str, owners: tuple[str, ...]) -> State:
        """This state with other uncommitted segments of the session."""
        waiting = {**dict(self.waiting), session: owners}
        left = tuple(sorted((key, value) for key, value in waiting.items() if value))
        return replace(self, waiting=left)


@dataclass(frozen=True, slots=True)
class Eviction:
    """What a call must have done when it returns."""

    after: State
    commits: tuple[Victim, ...]
    closes: frozenset[Victim]
    surplus: frozenset[Victim] = frozenset()  # agents beyond the cap, which this call evicts


class AgentCacheModel:
    """What a cache of at most `cap` idle agents may do."""

    name = "agent-cache"

    def __init__(self, cap: int) -> None:
        self._cap = cap

    def initial(self) -> State:
        """No agent is cached, and no session is live."""
        return State()

    def step(  # noqa: PLR0911  one answer a case
        self, state: State, operation: Operation
    ) -> tuple[State] | Refusal:
        """The state after the operation, or the promise it broke."""
        if operation.outcome is not Outcome.OK:
            return Refusal(
                promises.A5,
                f"{operation.call} of the agent cache raised",
                expected="the call returns, also when a provider fails",
            )
        argument, result = operation.argument, operation.result
        if result.get("blocked"):
            return Refusal(
                promises.A4,
                f"{operation.call} held the cache's lock while it committed or closed an agent",
                also=(promises.L14,),
                expected="the lock is free during a commit or a close (blocked = False)",
            )
        if result.get("nested"):
            return Refusal(
                promises.A3,
                f"{operation.call} looked up live sessions under the cache's lock",
                expected="live sessions are looked up before the lock is taken (nested = False)",
            )
        match operation.function:
            case "size":
                return self._size(state, operation)
            case "get":
                return self._get(state, argument["session"], operation)
            case "commit":
                return _commit(state, operation, **argument)
        return _judge(self._evictions(state, operation.function, **argument), operation)

    def _evictions(  # noqa: PLR0913  (the arguments of all calls)
        self,
        state: State,
        function: str,
        *,
        session: str = "",
        provider: str = "ok",
        agent: str = "",
        value: str | None = None,
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
            case "start_run" | "complete_turn" | "configure":
                return Eviction(_quiet(state, function, session, value), (), frozenset())
        raise ValueError(f"{self.name} has no function {function!r}")

    def _size(self, state: State, operation: Operation) -> tuple[State] | Refusal:
        result = operation.result
        if result["agents"] != len(state.agents):
            return Refusal(
                promises.A1,
                f"{operation.call} reports another number of cached agents",
                ({**result, "agents": len(state.agents)},),
                expected=f"{len(state.agents)} agents: {_names(state.agents)}",
                observed=f"{result['agents']} agents",
            )
        known = {
            session for session, _ in (*state.agents, *state.current, *state.leaving, *state.aside)
        }
        bound = len(known | dict(state.waiting).keys())
        if result["entries"] > bound:
            return Refusal(
                promises.L9,
                f"{operation.call}: the lifecycle keeps entries of sessions that are clean",
                expected=f"at most {bound} entries",
                observed=f"{result['entries']} entries",
            )
        needed = len(dict(state.agents).keys() | dict(state.waiting).keys())
        if result["entries"] < needed:
            return Refusal(
                promises.L9,
                f"{operation.call}: the lifecycle lacks sessions that are cached, or wait",
                expected=f"at least {needed} entries",
                observed=f"{result['entries']} entries",
            )
        return _held(state, operation)

    def _get(self, state: State, session: str, operation: Operation) -> tuple[State] | Refusal:
        cached = dict(state.agents).get(session)
        if operation.result["agent"] != cached:
            accepted: dict[str, Any] = {"agent": cached, "events": [], **CALM}
            return Refusal(
                promises.A1,
                f"{operation.call} answers another agent than the cached one",
                (accepted,),
                expected=f"agent = {cached!r}",
                observed=f"agent = {operation.result['agent']!r}",
            )
        used = tuple(pair for pair in state.agents if pair[0] == session)
        others = tuple(pair for pair in state.agents if pair[0] != session)
        after = replace(state, agents=(*others, *used))
        return _judge(Eviction(after, (), frozenset()), operation)

    def _put(self, state: State, session: str, agent: str, provider: str) -> Eviction:
        cached = dict(state.agents)
        replaced = cached.pop(session, None)
        agents = (*cached.items(), (session, agent))
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
        second = self._shrink(first.after, provider)
        return replace(
            second,
            commits=first.commits + second.commits,
            closes=first.closes | second.closes,
        )

    def _evict(self, state: State, session: str, provider: str) -> Eviction:
        victims = tuple(pair for pair in state.agents if pair[0] == session)
        left = tuple(pair for pair in state.agents if pair[0] != session)
        return _retired(replace(state, agents=left), victims, provider)

    def _drain(self, state: State) -> Eviction:
        """Commit all waiting turns; after that no agent has to stay aside."""
        commits: list[Victim] = []
        for session, _ in state.waiting:
            state, owners = _flushed(state, session, "ok")
            commits += [(session, owner) for owner in owners]
        shrunk = self._shrink(state, "ok")
        busy = shrunk.after.live | dict(shrunk.after.waiting).keys()
        closes = frozenset(pair for pair in shrunk.after.aside if pair[0] not in busy)
        return replace(shrunk, commits=(*commits, *shrunk.commits), closes=shrunk.closes | closes)

    def _shrink(self, state: State, provider: str) -> Eviction:
        cap = self._cap if state.cap is None else state.cap
        excess = max(0, len(state.agents) - cap)
        idle = [pair for pair in state.agents if pair[0] not in state.live]
        victims = tuple(idle[:excess])
        left = tuple(pair for pair in state.agents if pair not in victims)
        leaving = state.leaving
        state = replace(state, agents=left, leaving=())
        eviction = _retired(state, (*leaving, *victims), provider)
        return replace(eviction, surplus=frozenset(victims))


def _quiet(state: State, function: str, session: str, value: str | None) -> State:
    """The state after a call that evicts no agent."""
    if function == "configure":
        return State(cap=_configured(value))
    if function == "start_run":
        return replace(state, live=state.live | {session})
    return _completed(state, session)


def _configured(value: str | None) -> int:
    """The cap that a setting gives: a whole positive number, else the default."""
    is_number = value is not None and value.isascii() and value.isdigit() and int(value) > 0
    return int(value or 0) if is_number else CAP_DEFAULT


def _completed(state: State, session: str) -> State:
    owner = dict(state.current).get(session, "")
    owners = state.owners(session)
    return state if owners[-1:] == (owner,) else state.wait(session, (*owners, owner))


def _retired(state: State, victims: tuple[Victim, ...], provider: str) -> Eviction:
    """Commit the turns of the victims' sessions, and close the agents of those that end clean."""
    commits: list[Victim] = []
    idle = [pair for pair in victims if pair[0] not in state.live]
    live = [pair for pair in victims if pair[0] in state.live]
    for session, _ in idle:
        state, owners = _flushed(state, session, provider)
        commits += [(session, owner) for owner in owners]
    closes = frozenset(pair for pair in idle if not state.owners(pair[0]))
    cached = {session for session, _ in state.agents}
    gone = {session for session, _ in closes} - cached
    current = tuple(pair for pair in state.current if pair[0] not in gone)
    aside = state.aside | (frozenset(idle) - closes)
    after = replace(state, current=current, aside=aside, leaving=(*state.leaving, *live))
    return Eviction(after, tuple(commits), closes)


def _flushed(state: State, session: str, provider: str) -> tuple[State, tuple[str, ...]]:
    """Flush one session; turns without an owner adopt the current agent, if there is one."""
    current = dict(state.current).get(session, "")
    called: list[str] = []
    owners = [owner or current for owner in state.owners(session)]
    while owners and owners[0]:
        called.append(owners[0])
        if provider not in HEALTHY:
            break
        owners.pop(0)
    # Only the segment whose commit was tried keeps the owner that it adopted.
    untried = state.owners(session)[len(state.owners(session)) - len(owners) :]
    left = (*owners[:1], *untried[1:]) if called else untried
    return state.wait(session, left), tuple(called)


def _held(state: State, operation: Operation) -> tuple[State] | Refusal:
    """Compare the gauges, and what the cache holds in all, with the agents that it has to know."""
    result = operation.result
    if "gauges" not in result:
        return (state,)
    sizes = {
        "agents_kept": len(state.agents),
        "agents_leaving": len(state.leaving),
        "agents_aside": len(state.aside),
    }
    expected = {name: size for name, size in sizes.items() if name in result["gauges"]}
    if not expected.items() <= result["gauges"].items():
        return Refusal(
            promises.H4,
            f"{operation.call}: the gauges are not the sizes of the containers",
            ({**result, "gauges": {**result["gauges"], **expected}},),
            expected=f"{expected}",
            observed=f"{result['gauges']}",
        )
    is_calm = not state.leaving and not state.aside
    others = sum(result["gauges"].values()) - result["gauges"].get("agents_kept", 0)
    if is_calm and (result["held"] != len(state.agents) or others):
        return Refusal(
            promises.H4,
            f"{operation.call}: the cache still holds agents that it has closed",
            ({**result, "held": len(state.agents)},),
            also=(promises.H8,),
            expected=f"{len(state.agents)} entries in all its containers",
            observed=f"{result['held']} entries",
        )
    return (state,)


def _commit(
    state: State, operation: Operation, session: str, provider: str
) -> tuple[State] | Refusal:
    """Judge a commit at another boundary: the oldest turns, by their owner, and nothing else."""
    owners = state.owners(session)
    owner = owners[0] if owners and owners[0] else dict(state.current).get(session, "")
    is_tried = bool(owners and owner)
    is_done = is_tried and provider in HEALTHY
    left = owners[1:] if is_done else (owner, *owners[1:]) if is_tried else owners
    calls = ((session, owner),) if is_tried else ()
    step = _judge(Eviction(state.wait(session, left), calls, frozenset()), operation)
    if not isinstance(step, Refusal) and operation.result["committed"] is not is_done:
        return Refusal(
            promises.L6 if operation.result["committed"] else promises.L3,
            f"{operation.call} does not say whether a provider committed",
            ({**operation.result, "committed": is_done},),
            expected=f"committed = {is_done}",
        )
    return step


def _judge(eviction: Eviction, operation: Operation) -> tuple[State] | Refusal:
    """Compare the events of a call with those that it had to cause, and those that it might."""
    events = [(kind, (session, agent)) for kind, session, agent in operation.result["events"]]
    commits = [victim for kind, victim in events if kind == "commit"]
    closes = [victim for kind, victim in events if kind == "close"]
    after = eviction.after
    allowed = eviction.closes | after.aside
    # Without a commit and a close it may be that the agent was not evicted at all.
    seen = {victim for _, victim in events}
    also = (promises.A1,) if eviction.surplus - seen else ()

    def refuse(promise: Promise, problem: str, expected: str) -> Refusal:
        observed = ", ".join(f"{kind} {_name(victim)}" for kind, victim in events) or "no event"
        message = f"{operation.call} {problem}"
        return Refusal(promise, message, also=also, expected=expected, observed=observed)

    for victim in closes:
        session = victim[0]
        if session in after.live:
            return refuse(
                promises.A2,
                f"closed {_name(victim)} under a live run",
                f"no close of an agent of the live sessions {sorted(after.live)}",
            )
        if closes.count(victim) > 1 or victim not in allowed:
            return refuse(
                promises.A1 if victim in after.agents else promises.A5,
                f"closed {_name(victim)} that it must not close now",
                f"closes of {_names(allowed)}, each at most once",
            )
        late = ("commit", session) in [
            (kind, v[0]) for kind, v in events[events.index(("close", victim)) :]
        ]
        if late or after.owners(session):
            return refuse(
                promises.A5,
                f"closed {_name(victim)} before its turns were committed",
                f"every turn of {session} is committed before the close",
            )
    if sorted(commits) != sorted(eviction.commits):
        waits = any(after.owners(session) for session, _ in commits)
        promise = promises.L12 if waits else promises.L6
        if Counter(eviction.commits) - Counter(commits):
            promise = promises.A5
        problem = "committed other turns than the waiting ones of the evicted sessions"
        return refuse(promise, problem, f"commits of {_names(eviction.commits)}")
    if missing := eviction.closes - set(closes):
        return refuse(
            promises.A5,
            f"evicted {_names(missing)} without a close",
            f"closes of {_names(eviction.closes)}",
        )
    return (replace(after, aside=after.aside - set(closes)),)


def _name(victim: Victim) -> str:
    return f"agent {victim[1]} of {victim[0]}"


def _names(victims: Iterable[Victim]) -> str:
    return ", ".join(map(_name, sorted(victims))) or "no agent"
