"""The lifecycle as a sequential specification: whose turns a commit takes, and when it must not.

Operations are those of the *lifecycle* ability (`harness.target`). Each names the one promise that
its outcome broke; where several could be blamed, the one whose story the history tells: a segment
remembers whether it failed before (L3), came while a commit was in flight (L2), survived a
provider's exit (L13) or was adopted (L8).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from harness.history import Operation, Outcome
from harness.models.model import Refusal
from harness.promises import Promise

Agent = str
Call = list[str]  # a provider's call, as [session, agent]


@dataclass(frozen=True, slots=True)
class Segment:
    """Completed turns up to `end` that one owner has to commit, and what happened to them."""

    end: int
    owner: Agent | None
    failed: bool = False  # a commit of it was tried, and the provider failed
    exited: bool = False  # ... with something that is no Exception
    adopted: bool = False  # it had no owner at first
    late: bool = False  # it began while a commit was in flight


@dataclass(frozen=True, slots=True)
class Entry:
    """One session. `captured` is the end of the segment being committed; 0: no commit."""

    agent: Agent | None = None
    generation: int = 0
    captured: int = 0
    segments: tuple[Segment, ...] = ()


@dataclass(frozen=True, slots=True)
class State:
    """All sessions that have an entry, by id, in order of id."""

    entries: tuple[tuple[str, Entry], ...] = ()

    def get(self, session: str) -> Entry | None:
        """The session's entry, if it has one."""
        return dict(self.entries).get(session)

    def put(self, session: str, entry: Entry | None) -> State:
        """This state with one entry changed, or dropped (None)."""
        entries = dict(self.entries)
        entries.pop(session, None)
        if entry is not None:
            entries[session] = entry
        return State(tuple(sorted(entries.items())))


class LifecycleModel:
    """What the lifecycle may answer. Deterministic: every accepted step has one successor."""

    name = "lifecycle"

    def initial(self) -> State:
        """No session is known."""
        return State()

    def step(self, state: State, operation: Operation) -> tuple[State] | Refusal:
        """The state after the operation, or the promise it broke."""
        argument = operation.argument or {}
        session = argument.get("session")
        if operation.outcome is not Outcome.OK:
            return Refusal(_blame(operation), f"{operation}")
        result = operation.result
        if result.get("blocked"):
            message = "a lock was held while the provider ran: another thread could not ask"
            return Refusal(Promise.L14, message, ({**result, "blocked": False},))
        if "session" in argument and not session:
            return self._falsy(state, operation)
        entry = state.get(session) or Entry() if session else Entry()
        match operation.function:
            case "register":
                return (state.put(session, replace(entry, agent=argument["agent"])),)
            case "unregister":
                if state.get(session) is None:
                    return (state,)
                return (state.put(session, replace(entry, agent=None)),)
            case "complete_turn":
                return self._complete_turn(state, session, entry, operation)
            case "discard":
                return self._discard(state, session, entry, operation)
            case "dirty":
                return self._dirty(state, entry, operation)
            case "commit" | "begin_commit":
                return self._commit(state, session, entry, operation)
            case "finish_commit":
                return self._finish_commit(state, session, entry, operation)
            case "entries":
                return _expect(
                    state, operation, {"entries": len(state.entries)}, Promise.L9, "entries remain"
                )
            case "drain":
                return self._drain(state, operation)
        raise ValueError(f"the lifecycle has no operation {operation.function!r}")

    def _falsy(self, state: State, operation: Operation) -> tuple[State] | Refusal:
        nothing: dict[str, Any] = {
            "complete_turn": {"generation": 0, "called": []},
            "discard": {"gone": False},
            "dirty": {"dirty": False},
            "commit": {"committed": False, "called": [], "blocked": False},
        }.get(operation.function, {})
        return _expect(state, operation, nothing, Promise.L10, "a falsy id is no no-op")

    def _complete_turn(
        self, state: State, session: str, entry: Entry, operation: Operation
    ) -> tuple[State] | Refusal:
        agent = operation.argument["agent"] or entry.agent
        generation = entry.generation + 1
        expected = {"generation": generation, "called": []}
        if operation.result != expected:
            broken = Promise.L12 if operation.result["called"] else Promise.L1
            return Refusal(broken, f"completing a turn: {operation.result}", (expected,))
        *older, last = entry.segments or (None,)
        if last is not None and last.owner == agent and not entry.captured:
            segments = (*older, replace(last, end=generation))
        else:
            fresh = Segment(generation, agent, late=bool(entry.captured))
            segments = (*entry.segments, fresh)
        after = replace(entry, agent=agent, generation=generation, segments=segments)
        return (state.put(session, after),)

    def _discard(
        self, state: State, session: str, entry: Entry, operation: Operation
    ) -> tuple[State] | Refusal:
        gone = not entry.segments and not entry.captured
        story = "a clean entry was kept" if gone else "work waits in the entry"
        after = state.put(session, None) if gone else state
        return _expect(after, operation, {"gone": gone}, Promise.L9, story)

    def _dirty(self, state: State, entry: Entry, operation: Operation) -> tuple[State] | Refusal:
        expected = {"dirty": bool(entry.segments)}
        broken, story = Promise.L7, "committed turns count as dirty"
        if entry.segments:
            broken, story = _story(entry.segments[0])
        return _expect(state, operation, expected, broken, story)

    def _commit(
        self, state: State, session: str, entry: Entry, operation: Operation
    ) -> tuple[State] | Refusal:
        argument, result = operation.argument, operation.result
        hangs = operation.function == "begin_commit"
        idle = {"committed": False, "called": [], "blocked": False}
        if entry.captured:
            return _expect(state, operation, idle, Promise.L5, "a commit was already in flight")
        if not entry.segments:
            broken = Promise.L6 if entry.generation else Promise.L1
            return _expect(state, operation, idle, broken, "there was nothing to commit")
        segment = entry.segments[0]
        owner = segment.owner or argument["agent"] or entry.agent
        if owner is None:
            return _expect(state, operation, idle, Promise.L8, "nobody owned the turns")
        segment = replace(segment, owner=owner, adopted=segment.adopted or segment.owner is None)
        entry = replace(entry, segments=(segment, *entry.segments[1:]))
        succeeds = argument.get("provider") == "ok"
        expected = {
            "committed": None if hangs else succeeds,
            "called": [[session, owner]],
            "blocked": False,
        }
        if result != expected:
            return Refusal(*_blame_commit(segment, expected, result), (expected,))
        if hangs:
            return (state.put(session, replace(entry, captured=segment.end)),)
        settle = _settled if succeeds else _failed
        return (state.put(session, settle(entry, segment.end, argument["provider"])),)

    def _finish_commit(
        self, state: State, session: str, entry: Entry, operation: Operation
    ) -> tuple[State] | Refusal:
        provider = operation.argument["provider"]
        succeeds = provider == "ok"
        settle = _settled if succeeds else _failed
        after = settle(replace(entry, captured=0), entry.captured, provider)
        broken = Promise.L7 if succeeds else Promise.L3
        expected = {"committed": succeeds}
        story = "the provider's answer was not passed on"
        return _expect(state.put(session, after), operation, expected, broken, story)

    def _drain(self, state: State, operation: Operation) -> tuple[State] | Refusal:
        provider = operation.argument["provider"]
        expected: list[Call] = []
        after = state
        for session, entry in state.entries:
            if entry.captured:
                continue
            calls, drained = _drained(session, entry, provider)
            expected += calls
            after = after.put(session, drained)
        called = sorted(operation.result["called"])
        if called == sorted(expected) and operation.result["returned"]:
            return (after,)
        accepted = {**operation.result, "called": expected, "returned": True}
        message = f"shutdown called {called}, and should have called {sorted(expected)}"
        if not operation.result["returned"]:
            message = "shutdown did not end by its deadline"
        return Refusal(Promise.L11, message, (accepted,))


def _drained(session: str, entry: Entry, provider: str) -> tuple[list[Call], Entry]:
    """What shutdown asks of one session's providers, and what is left of the session."""
    calls: list[Call] = []
    while entry.segments:
        segment = entry.segments[0]
        owner = segment.owner or entry.agent
        if owner is None:
            break
        adopted = replace(segment, owner=owner, adopted=segment.adopted or segment.owner is None)
        entry = replace(entry, segments=(adopted, *entry.segments[1:]))
        calls.append([session, owner])
        if provider != "ok":
            return calls, _failed(entry, segment.end, provider)
        entry = _settled(entry, segment.end, provider)
    return calls, entry


def _settled(entry: Entry, end: int, provider: str) -> Entry:  # noqa: ARG001  (one shape for both)
    left = tuple(segment for segment in entry.segments if segment.end > end)
    return replace(entry, segments=left)


def _failed(entry: Entry, end: int, provider: str) -> Entry:
    tried = tuple(
        replace(segment, failed=True, exited=segment.exited or provider == "exit")
        if segment.end == end
        else segment
        for segment in entry.segments
    )
    return replace(entry, segments=tried)


def _expect(
    after: State, operation: Operation, expected: dict[str, Any], broken: Promise, story: str
) -> tuple[State] | Refusal:
    if operation.result == expected:
        return (after,)
    return Refusal(broken, f"{story}, yet {operation}", (expected,))


def _story(segment: Segment) -> tuple[Promise, str]:
    """Which promise keeps this segment dirty, and why."""
    if segment.exited:
        return Promise.L13, "the provider's exit wedged the session"
    if segment.failed:
        return Promise.L3, "a failed commit was forgotten"
    if segment.late:
        return Promise.L2, "a turn completed during a commit was taken for committed"
    if segment.adopted:
        return Promise.L8, "the turns had adopted their owner"
    return Promise.L7, "completed turns wait for their owner"


def _blame_commit(
    segment: Segment, expected: dict[str, Any], result: dict[str, Any]
) -> tuple[Promise, str]:
    """Whose promise a commit broke that should have called the segment's owner once."""
    called, owner = result["called"], expected["called"][0]
    message = f"expected {expected}, saw {result}"
    if len(called) > 1:
        return Promise.L7, f"one commit, several calls: {message}"
    if called and called != [owner]:
        broken, _ = _story(segment)
        stolen = broken if broken in (Promise.L3, Promise.L8) else Promise.L4
        return stolen, f"{called[0][1]!r} committed what {owner[1]!r} owns: {message}"
    if not called:
        broken, story = _story(segment)
        return broken, f"{story}, and its owner was not called: {message}"
    broken = Promise.L7 if expected["committed"] else Promise.L3
    return broken, f"the provider's answer was not passed on: {message}"


def _blame(operation: Operation) -> Promise:
    """Whose promise it is that this operation does not raise, and comes back."""
    session = operation.argument.get("session", "-")
    if not session:
        return Promise.L10
    return {
        "commit": Promise.L13,
        "begin_commit": Promise.L13,
        "finish_commit": Promise.L13,
        "discard": Promise.L9,
        "drain": Promise.L11,
    }.get(operation.function, Promise.L1)
