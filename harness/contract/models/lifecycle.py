"""The lifecycle as a sequential specification: whose turns a commit takes, and when it must not.

Operations are those of the *lifecycle* ability (`harness.targets`). Each refusal names the promise
that its outcome broke, and those that the same evidence breaks as well: a segment remembers
whether it failed before (L3), came while a commit was in flight (L2), survived a provider's exit
(L13) or was adopted (L8).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from harness.core.history import Operation, Outcome
from harness.core.model import Refusal
from harness.core.promises import Promise

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
    late: bool = False  # a commit of older turns was in flight meanwhile


@dataclass(frozen=True, slots=True)
class Entry:
    """One session. `captured` is the end of the segment being committed; 0: no commit.

    `settled` is the last segment that was committed: what still shows of it is its story's doing.
    """

    agent: Agent | None = None
    generation: int = 0
    captured: int = 0
    segments: tuple[Segment, ...] = ()
    settled: Segment | None = None

    @property
    def oldest(self) -> Segment | None:
        """The segment that is next to be committed, or else was the last."""
        return self.segments[0] if self.segments else self.settled


@dataclass(frozen=True, slots=True)
class State:
    """All sessions that have an entry, by id, in order of id.

    After a shutdown that a provider held up, nobody knows how far it came: the state `is_over`.
    """

    entries: tuple[tuple[str, Entry], ...] = ()
    is_over: bool = False

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
        return (state,) if state.is_over else self._step(state, operation)

    def _step(self, state: State, operation: Operation) -> tuple[State] | Refusal:
        argument = operation.argument or {}
        if operation.outcome is not Outcome.OK:
            return Refusal(_blame(operation), f"{operation}")
        if operation.result.get("blocked"):
            message = "a lock was held while the provider ran: another thread could not ask"
            return Refusal(Promise.L14, message, ({**operation.result, "blocked": False},))
        if "session" in argument and not argument["session"]:
            return self._falsy(state, operation)
        match operation.function:
            case "entries":
                expected = {"entries": len(state.entries)}
                return _expect(state, operation, expected, Promise.L9, "entries remain")
            case "drain":
                return self._drain(state, operation)
        session = argument["session"]
        return self._of_session(state, session, state.get(session) or Entry(), operation)

    def _of_session(
        self, state: State, session: str, entry: Entry, operation: Operation
    ) -> tuple[State] | Refusal:
        match operation.function:
            case "register":
                after = replace(entry, agent=operation.argument["agent"])
                return (state.put(session, after),)
            case "unregister":
                known = state.get(session) is not None
                return (state.put(session, replace(entry, agent=None)) if known else state,)
        judge = {
            "complete_turn": self._complete_turn,
            "discard": self._discard,
            "dirty": self._dirty,
            "commit": self._commit,
            "begin_commit": self._commit,
            "finish_commit": self._finish_commit,
        }[operation.function]
        return judge(state, session, entry, operation)

    def _falsy(self, state: State, operation: Operation) -> tuple[State] | Refusal:
        nothing: dict[str, dict[str, Any]] = {
            "complete_turn": {"generation": 0, "called": []},
            "discard": {"gone": False},
            "dirty": {"dirty": False},
            "commit": {"committed": False, "called": [], "blocked": False},
        }
        expected = nothing.get(operation.function, {})
        return _expect(state, operation, expected, Promise.L10, "a falsy id is no no-op")

    def _complete_turn(
        self, state: State, session: str, entry: Entry, operation: Operation
    ) -> tuple[State] | Refusal:
        agent = operation.argument["agent"] or entry.agent
        generation = entry.generation + 1
        expected = {"generation": generation, "called": []}
        if operation.result != expected:
            # A count that goes on, where it should begin, is that of an entry that should be gone.
            counted = Promise.L1 if entry.generation else Promise.L9
            broken = Promise.L12 if operation.result["called"] else counted
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
        step = _expect(after, operation, {"gone": gone}, Promise.L9, story)
        return _and_stories(step, entry)

    def _dirty(
        self, state: State, _: str, entry: Entry, operation: Operation
    ) -> tuple[State] | Refusal:
        expected = {"dirty": bool(entry.segments)}
        if operation.result == expected:
            return (state,)
        if not entry.segments:
            step = Refusal(Promise.L7, "committed turns count as dirty", (expected,))
            return _and_stories(step, entry)
        return _blame_silence(entry.segments[0], "it is not dirty", (expected,), Promise.L7)

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
            step = _expect(state, operation, idle, broken, "there was nothing to commit")
            return _and_stories(step, entry)
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
            return _blame_commit(segment, expected, result)
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
        """Judge a shutdown. While a commit hangs it may leave others undone, but must come back."""
        provider, result = operation.argument["provider"], operation.result
        expected: list[Call] = []
        after = state
        for session, entry in state.entries:
            if not entry.captured:
                calls, drained = _drained(session, entry, provider)
                expected += calls
                after = after.put(session, drained)
        if any(entry.captured for _, entry in state.entries):
            accepted = {"returned": True, "called": result["called"]}
            over = replace(state, is_over=True)
            return _expect(over, operation, accepted, Promise.L11, "a provider hangs")
        if result == {"returned": True, "called": sorted(expected)}:
            return (after,)
        return _blame_drain(state, expected, result)


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
    left = tuple(replace(segment, late=True) for segment in entry.segments if segment.end > end)
    return replace(entry, segments=left, settled=entry.oldest)


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


def _and_stories(step: tuple[State] | Refusal, entry: Entry) -> tuple[State] | Refusal:
    """The step; where it was refused, with what happened to the turns that it was about."""
    return replace(step, also=tuple(_stories(entry.oldest))) if isinstance(step, Refusal) else step


def _stories(segment: Segment | None) -> dict[Promise, str]:
    """Which promises keep this segment with its owner, the most telling first, and why."""
    if segment is None:
        return {}
    told = {
        Promise.L13: (segment.exited, "the provider's exit wedged the session"),
        Promise.L3: (segment.failed, "a failed commit was forgotten"),
        Promise.L2: (segment.late, "a commit cleared more than it had captured"),
        Promise.L8: (segment.adopted, "the turns had adopted their owner"),
    }
    return {promise: story for promise, (holds, story) in told.items() if holds}


def _blame_commit(segment: Segment, expected: dict[str, Any], result: dict[str, Any]) -> Refusal:
    """Whose promise a commit broke that should have called the segment's owner once."""
    called, owner = result["called"], expected["called"][0]
    seen, accepted = f"expected {expected}, saw {result}", (expected,)
    if len(called) > 1:
        return Refusal(Promise.L7, f"one commit, several calls: {seen}", accepted)
    if called and called != [owner]:
        message = f"{called[0][1]!r} committed what {owner[1]!r} owns: {seen}"
        return Refusal(Promise.L4, message, accepted, tuple(_stories(segment)))
    if not called:
        return _blame_silence(segment, seen, accepted, Promise.L7)
    broken = Promise.L7 if expected["committed"] else Promise.L3
    return Refusal(broken, f"the provider's answer was not passed on: {seen}", accepted)


def _blame_silence(
    segment: Segment, seen: str, accepted: tuple[Any, ...], otherwise: Promise
) -> Refusal:
    """Whose promise it is that the segment's owner be asked, when nobody was."""
    stories = _stories(segment) or {otherwise: "completed turns wait for their owner"}
    broken, *also = stories
    return Refusal(broken, f"{stories[broken]}: {seen}", accepted, tuple(also))


def _blame_drain(state: State, expected: list[Call], result: dict[str, Any]) -> Refusal:
    """Whose promise a shutdown broke that should have made the expected calls."""
    accepted = ({"returned": True, "called": sorted(expected)},)
    if not result["returned"]:
        return Refusal(Promise.L11, "shutdown did not end by its deadline", accepted)
    seen = f"shutdown called {result['called']}, and should have called {sorted(expected)}"
    missing, extra = (
        _difference(expected, result["called"]),
        _difference(result["called"], expected),
    )
    stories: dict[Promise, str] = {}
    for session, _ in (*missing, *extra):
        entry = state.get(session)
        for segment in (*entry.segments, entry.settled) if entry else ():
            stories |= _stories(segment)
    if any(session in dict(missing) for session, _ in extra):
        return Refusal(Promise.L4, f"a stranger committed: {seen}", accepted, tuple(stories))
    if extra:
        return Refusal(Promise.L7, f"more calls than segments: {seen}", accepted, tuple(stories))
    if any(session in dict(result["called"]) for session, _ in missing):
        stories.setdefault(Promise.L2, "a commit cleared more than it had captured")
        stories.setdefault(Promise.L4, "another agent's commit took these turns along")
    return Refusal(Promise.L11, seen, accepted, tuple(stories))


def _difference(some: list[Call], others: list[Call]) -> list[tuple[str, Agent]]:
    """Calls of `some` that are not in `others`, each as often as it is one too many."""
    pairs = Counter((session, agent) for session, agent in some)
    return sorted((pairs - Counter((session, agent) for session, agent in others)).elements())


def _blame(operation: Operation) -> Promise:
    """Whose promise it is that this operation does not raise, and comes back."""
    session = operation.argument.get("session", "-")
    if not session:
        return Promise.L10
    if operation.argument.get("provider") == "exit":
        return Promise.L13
    return {
        "commit": Promise.L13,
        "begin_commit": Promise.L13,
        "finish_commit": Promise.L13,
        "discard": Promise.L9,
        "drain": Promise.L11,
    }.get(operation.function, Promise.L1)
