"""Model of memory boundaries over HTTP: which sessions reach the provider, when, and how often.

Operations are those of the *memory* ability. A session with a completed turn that was not committed
is *dirty*. A boundary commits it once: a new session that names it as the previous one, clear,
delete, eviction from the cache of agents, shutdown. No other call does. What the provider refuses
stays dirty; a shutdown that cannot commit it says so in the log.

Each completed turn reaches the provider once, in order and before its session is extracted, by
itself; one that was cancelled, failed or asked aside never does. What the provider refuses of turns
it gets with the next turn or boundary of their session, and until then the session is not
extracted. `turns` says which it accepted.

A session whose agent has gone while the provider refused its turns gets another agent with its next
turn, so these turns have two owners: the next boundary reaches the provider once for each.

A shutdown beside an agent that ignores its cancel commits all the same, in the time that is left of
its deadline. Where that is tight, a slow machine may need more: what its log names stays dirty.

The client does not wait for a boundary of clear or of a new session, so the next turn of the same
session may be committed with it; a workload starts one such turn at most.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from harness.contract import promises
from harness.core.history import Operation, Outcome
from harness.core.model import Refusal

_ANSWERED = ("stop", "requests", "turns", "refused_turns")
CACHE_MAX = 2  # agents that the server keeps
TIGHT_S, AMPLE_S = 3.0, 20.0  # deadlines of a shutdown


@dataclass(frozen=True, slots=True)
class State:
    """The dirty sessions, the cached agents, and the requests to come, by session."""

    dirty: frozenset[str] = frozenset()
    cached: tuple[str, ...] = ()  # the least recently used first
    owed: tuple[str, ...] = ()  # requests that the provider must get
    refused: frozenset[str] = frozenset()  # sessions that the provider refuses
    takes_turns: bool = False  # whether it refuses to extract them only
    orphaned: frozenset[str] = frozenset()  # dirty sessions whose agent has gone
    earlier: tuple[str, ...] = ()  # of each owner of dirty turns before the last one: its session
    closing: frozenset[str] = frozenset()  # sessions whose boundary may commit a later turn too
    retried: tuple[str, ...] = ()  # requests that a shutdown may repeat
    unsent: tuple[tuple[str, str], ...] = ()  # turns that the provider refused: session and text
    turns: tuple[tuple[str, str], ...] = ()  # turns that the provider must get
    drain_s: float = AMPLE_S  # the deadline of a shutdown
    hangs: bool = False  # whether an agent ignores its cancel
    way: str = ""  # the last call that could be a boundary

    def synchronised(self, session: str, *texts: str) -> State:
        """This state after turns of the session were sent, if the provider takes them."""
        if session in self.refused and not self.takes_turns:
            return replace(self, unsent=(*self.unsent, *((session, text) for text in texts)))
        late = [turn for turn in self.unsent if turn[0] == session]
        return replace(
            self,
            unsent=tuple(turn for turn in self.unsent if turn[0] != session),
            turns=(*self.turns, *late, *((session, text) for text in texts)),
        )

    def at_boundary(self, session: str) -> State:
        """This state after a boundary of the session."""
        if session not in self.dirty:
            return self
        if session in self.refused and any(turn[0] == session for turn in self.unsent):
            return self
        self = self.synchronised(session)  # noqa: PLW0642 - the same state, a little later
        if session in self.refused:
            return replace(self, owed=(*self.owed, session))
        owners = self.earlier.count(session) + 1
        return replace(
            self,
            dirty=self.dirty - {session},
            owed=(*self.owed, *[session] * owners),
            orphaned=self.orphaned - {session},
            earlier=tuple(other for other in self.earlier if other != session),
        )

    def close(self, session: str) -> State:
        """This state, with the session's boundary on a thread of its own."""
        return replace(self, closing=self.closing | {session})

    def evicted(self, session: str) -> State:
        """This state after the session's agent has left the cache."""
        if session not in self.cached:
            return self
        cached = tuple(other for other in self.cached if other != session)
        after = self.at_boundary(session)
        return replace(after, cached=cached, orphaned=after.orphaned | ({session} & after.dirty))

    def talked(self, session: str, text: str, end: str) -> State:
        """This state after a turn of the session, whose agent is the latest now."""
        cached = (*(other for other in self.cached if other != session), session)
        state = replace(self, cached=cached)
        for oldest in cached[:-CACHE_MAX]:
            state = state.evicted(oldest)
        if end != "done":
            return state
        if session in state.orphaned:
            orphaned = state.orphaned - {session}
            state = replace(state, earlier=(*state.earlier, session), orphaned=orphaned)
        return replace(state.synchronised(session, text), dirty=state.dirty | {session})


class MemoryBoundariesModel:
    """What a memory provider gets from a server."""

    name = "memory-boundaries"

    def initial(self) -> State:
        """No session, and a provider that answers."""
        return State()

    def step(  # noqa: C901, PLR0911, PLR0912 - one case for each function
        self, state: State, operation: Operation
    ) -> tuple[State] | Refusal:
        """The state after the operation, or the promise that it breaks."""
        if operation.outcome is not Outcome.OK:
            return Refusal(
                promises.L15, f"{operation.call} failed", expected="an answer", also=(promises.H3,)
            )
        argument = operation.argument
        if operation.result is not None and operation.function not in _ANSWERED:
            return Refusal(
                promises.L15, f"{operation.function}() returned a value", expected="None"
            )
        match operation.function:
            case "provider":
                takes_turns = argument.get("takes_turns", False)
                refused = frozenset(argument["refuses"])
                return (replace(state, refused=refused, takes_turns=takes_turns),)
            case "talk":
                end = argument.get("end", "done")
                after = state.talked(argument["session"], argument.get("text", ""), end)
                return (replace(after, way="a turn"),)
            case "boot":
                return (replace(state, drain_s=argument.get("drain_s", AMPLE_S)),)
            case "hang":
                return (replace(state.talked(argument["session"], "", "hang"), hangs=True),)
            case "new":
                previous = argument["previous"] or ""
                state = replace(state, way="a new session") if previous else state
                return (state.at_boundary(previous).close(previous),)
            case "clear":
                session = argument["session"]
                return (replace(state.evicted(session).close(session), way="a clear"),)
            case "delete":
                return (replace(state.evicted(argument["session"]), way="a delete"),)
            case "stop":
                return _stopped(state, operation)
            case "requests":
                return _requested(state, operation)
            case "turns":
                return _synchronised(state, operation)
            case "refused_turns" if operation.result < argument["expected"]:
                return Refusal(
                    promises.L15,
                    f"{operation.call}: a turn was not offered at the end of it, and at a boundary",
                    expected=f"at least {argument['expected']}",
                    observed=f"{operation.result}",
                )
        return (state,)

    def adopt(self, state: State, operation: Operation) -> tuple[State]:
        """What was owed came or not: it is not awaited again."""
        if operation.function == "stop":
            return (_after_stop(state, frozenset()),)
        return (replace(state, owed=(), turns=()),)


def _requested(state: State, operation: Operation) -> tuple[State] | Refusal:
    """Judge the requests that the provider got since the last time."""
    wanted, found = Counter(state.owed), Counter(operation.result)
    is_less, more = bool(wanted - found), found - wanted
    unsent = {session for session, _ in state.unsent}
    allowed = Counter((state.closing & state.dirty) - unsent) + Counter(state.retried)
    if not is_less and more <= allowed:
        return (replace(state, owed=(), retried=(), dirty=state.dirty - frozenset(more)),)
    lacks_turns = not {*more} - unsent
    return Refusal(
        promises.L15 if is_less or lacks_turns else promises.L12,
        f"{operation.call}: other requests than boundaries were reached, behind {state.way}",
        also=() if is_less else (promises.L6, promises.L7),
        expected=f"{sorted(state.owed)}",
        observed=f"{operation.result}",
    )


def _synchronised(state: State, operation: Operation) -> tuple[State] | Refusal:
    """Judge the turns that the provider accepted: the completed ones, each session's in order."""
    wanted = sorted(([session, text, "whole"] for session, text in state.turns), key=_of_session)
    if sorted(operation.result, key=_of_session) == wanted:
        return (replace(state, turns=()),)
    return Refusal(
        promises.L15,
        f"{operation.call}: the provider got other turns than were completed",
        expected=f"{wanted}",
        observed=f"{operation.result}",
    )


def _of_session(row: list[str]) -> str:
    return row[0]


def _stopped(state: State, operation: Operation) -> tuple[State] | Refusal:
    """Judge the log of a shutdown: it names the sessions that stay uncommitted, and no other."""
    left = sorted(state.dirty & state.refused)
    late: frozenset[str] = frozenset()
    if state.hangs and state.drain_s < AMPLE_S:
        late = state.dirty.intersection(operation.result["left"]).difference(left)
    if operation.result == {"code": 0, "left": sorted({*left, *late})}:
        return (_after_stop(state, late),)
    return Refusal(
        promises.L15 if operation.result["code"] == 0 else promises.H3,
        f"{operation.call}: the log names other sessions than stayed uncommitted",
        also=(promises.L11,),
        expected=f"{{'code': 0, 'left': {left}}}",
        observed=operation.answer,
    )


def _after_stop(state: State, late: frozenset[str]) -> State:
    """The state after a shutdown, whose requests are to come; some sessions came too late."""
    left, after = sorted(state.dirty & state.refused), state
    for session in sorted(state.dirty - late):
        after = after.at_boundary(session)
    # Each pass of a shutdown tries all that is left, as long as one was committed in the last.
    passes = len(state.dirty) - len(left)
    unsent = {session for session, _ in state.unsent}
    again = tuple(session for session in left if session not in unsent)
    retried = (*again * passes, *sorted(late))
    return State(
        owed=after.owed,
        refused=state.refused,
        takes_turns=state.takes_turns,
        retried=retried,
        turns=after.turns,
        way="a stop",
    )
