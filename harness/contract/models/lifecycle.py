"""Model of the lifecycle: whose turns a commit takes, and when it must not call a provider.

Operations are those of the *lifecycle* ability (`harness.targets`). Each refusal names the promise
that its outcome broke, and those that the same evidence breaks as well: a segment remembers
whether it failed before (L3), was completed during a commit in flight (L2), survived a provider's
exit (L13) or was adopted (L8).
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

EXITS = frozenset({"exit", "abort", "close", "interrupt"})  # exceptions that are no Exception

Agent = str
Call = list[str]  # a provider's call, as [session, agent]


@dataclass(frozen=True, slots=True)
class Segment:
    """Completed turns up to `end` that one owner has to commit, and the history of these turns."""

    end: int
    owner: Agent | None
    failed: bool = False  # a commit of it was tried, and the provider raised
    exited: bool = False  # the provider raised a BaseException that is no Exception
    adopted: bool = False  # it had no owner at first
    late: bool = False  # it was completed while a commit of older turns was in flight


@dataclass(frozen=True, slots=True)
class Entry:
    """One session. `captured` is the end of the segment that is being committed, 0 for none.

    `settled` is the last committed segment: its history explains an answer that still shows it.
    """

    agent: Agent | None = None
    generation: int = 0
    captured: int = 0
    segments: tuple[Segment, ...] = ()
    settled: Segment | None = None

    @property
    def oldest(self) -> Segment | None:
        """The segment to be committed next, or else the last committed one."""
        return self.segments[0] if self.segments else self.settled


@dataclass(frozen=True, slots=True)
class State:
    """All sessions that have an entry, by id, in order of id.

    After a shutdown that a provider delayed, its progress is unknown: the state `is_over`.
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
        """No session has an entry."""
        return State()

    def step(self, state: State, operation: Operation) -> tuple[State] | Refusal:
        """The state after the operation, or the promise it broke."""
        return (state,) if state.is_over else self._step(state, operation)

    def _step(self, state: State, operation: Operation) -> tuple[State] | Refusal:
        argument = operation.argument or {}
        if operation.outcome is not Outcome.OK:
            return Refusal(
                _promise_to_return(operation),
                f"{operation.call} of the lifecycle raised, or did not return",
                expected="the call returns, whatever a provider raises",
            )
        if operation.result.get("blocked"):
            return Refusal(
                promises.L14,
                f"{operation.call} held a lock while the provider ran: another thread had to wait",
                ({**operation.result, "blocked": False},),
                expected="no lock is held during a provider's call (blocked = False)",
            )
        if "session" in argument and not argument["session"]:
            return self._falsy(state, operation)
        match operation.function:
            case "entries":
                expected = {"entries": len(state.entries)}
                problem = "counts entries of sessions that were discarded, or lacks one"
                return _expect(state, operation, expected, promises.L9, problem)
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
            "drain_and_finish": self._drain_and_finish,
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
        problem = "with a falsy session id is not a no-op"
        return _expect(state, operation, expected, promises.L10, problem)

    def _complete_turn(
        self, state: State, session: str, entry: Entry, operation: Operation
    ) -> tuple[State] | Refusal:
        agent = operation.argument["agent"] or entry.agent
        generation = entry.generation + 1
        expected = {"generation": generation, "called": []}
        if operation.result != expected:
            # A count that continues where it should begin comes from an entry that should be gone.
            counted = promises.L1 if entry.generation else promises.L9
            has_called = bool(operation.result["called"])
            problem = "called a provider" if has_called else "counted the turn wrongly"
            return Refusal(
                promises.L12 if has_called else counted,
                f"{operation.call} {problem}",
                (expected,),
                expected=f"{expected}",
            )
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
        problem = "kept a clean entry" if gone else "dropped an entry with uncommitted turns"
        after = state.put(session, None) if gone else state
        step = _expect(after, operation, {"gone": gone}, promises.L9, problem)
        return _with_history(step, entry)

    def _dirty(
        self, state: State, _: str, entry: Entry, operation: Operation
    ) -> tuple[State] | Refusal:
        expected = {"dirty": bool(entry.segments)}
        if operation.result == expected:
            return (state,)
        if not entry.segments:
            step = Refusal(
                promises.L7,
                f"{operation.call} calls a session dirty whose turns are all committed",
                (expected,),
                expected=f"{expected}",
            )
            return _with_history(step, entry)
        return _forgotten(entry.segments[0], operation, expected, promises.L7)

    def _commit(
        self, state: State, session: str, entry: Entry, operation: Operation
    ) -> tuple[State] | Refusal:
        argument, result = operation.argument, operation.result
        hangs = operation.function == "begin_commit"
        idle = {"committed": False, "called": [], "blocked": False}
        if argument.get("wait"):
            idle["early"] = False
        if entry.captured:
            problem = "started a second commit beside the one in flight"
            if result == {**idle, "early": True}:
                problem = "was refused before its timeout, while a commit was in flight"
            return _expect(state, operation, idle, promises.L5, problem)
        if not entry.segments:
            broken = promises.L6 if entry.generation else promises.L1
            problem = "committed although there is no uncommitted turn"
            step = _expect(state, operation, idle, broken, problem)
            return _with_history(step, entry)
        segment = entry.segments[0]
        owner = segment.owner or argument["agent"] or entry.agent
        if owner is None:
            problem = "committed turns that have no owner"
            return _expect(state, operation, idle, promises.L8, problem)
        segment = replace(segment, owner=owner, adopted=segment.adopted or segment.owner is None)
        entry = replace(entry, segments=(segment, *entry.segments[1:]))
        succeeds = argument.get("provider") == "ok"
        expected = {
            "committed": None if hangs else succeeds,
            "called": [[session, owner]],
            "blocked": False,
        }
        if argument.get("wait"):
            expected["early"] = False
        if result != expected:
            return _wrong_commit(segment, operation, expected)
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
        broken = promises.L7 if succeeds else promises.L3
        expected = {"committed": succeeds}
        problem = "does not pass on the provider's result"
        return _expect(state.put(session, after), operation, expected, broken, problem)

    def _drain(self, state: State, operation: Operation) -> tuple[State] | Refusal:
        """Judge a shutdown. While a commit hangs it may skip others, but must return in time."""
        provider, result = operation.argument["provider"], operation.result
        expected: list[Call] = []
        after = state
        for session, entry in state.entries:
            if not entry.captured:
                calls, drained = _drained(session, entry, provider)
                expected += calls
                after = after.put(session, drained)
        if any(entry.captured for _, entry in state.entries):
            if extra := _difference(result["called"], expected):
                return self._extra_calls(state, operation, extra)
            accepted = {"returned": True, "called": result["called"]}
            over = replace(state, is_over=True)
            problem = "did not return by its deadline while a provider hangs"
            return _expect(over, operation, accepted, promises.L11, problem)
        if result == {"returned": True, "called": sorted(expected)}:
            return (after,)
        return _wrong_drain(state, operation, expected)

    def _extra_calls(
        self, state: State, operation: Operation, extra: list[tuple[str, Agent]]
    ) -> Refusal:
        """The refusal of a shutdown that called more providers than wait, while one hangs."""
        captured = {session for session, entry in state.entries if entry.captured}
        broken = promises.L5 if captured & dict(extra).keys() else promises.L4
        return Refusal(
            broken,
            f"{operation.call}: the shutdown called providers that have nothing to commit now",
            ({"returned": True, "called": []},),
            _involved(state, extra),
            expected=f"no call of {extra}, since a commit hangs or another agent owns the turns",
        )

    def _drain_and_finish(
        self, state: State, session: str, entry: Entry, operation: Operation
    ) -> tuple[State] | Refusal:
        """Judge a shutdown during which the only commit that hangs comes back."""
        provider, result = operation.argument["provider"], operation.result
        settle = _settled if provider == "ok" else _failed
        finished = settle(replace(entry, captured=0), entry.captured, provider)
        after = state.put(session, finished)
        calls: list[Call] = []
        for name, other in after.entries:
            more, drained = _drained(name, other, provider)
            calls += more
            after = after.put(name, drained)
        committed = provider == "ok"
        expected = {
            "committed": committed,
            "waited": True,
            "returned": True,
            "called": sorted(calls),
        }
        if result["committed"] != committed:
            return self._finish_commit(state, session, entry, operation)
        if not result["waited"]:
            problem = "returned while a commit was in flight, before its deadline"
            return _expect(after, operation, expected, promises.L11, problem)
        if result == expected:
            return (after,)
        refusal = _wrong_drain(state.put(session, finished), operation, calls)
        return replace(refusal, accepted=(expected,), expected=f"{expected}")


def _drained(session: str, entry: Entry, provider: str) -> tuple[list[Call], Entry]:
    """The provider calls of a shutdown for one session, and the entry after them."""
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
        replace(segment, failed=True, exited=segment.exited or provider in EXITS)
        if segment.end == end
        else segment
        for segment in entry.segments
    )
    return replace(entry, segments=tried)


def _expect(
    after: State, operation: Operation, expected: dict[str, Any], broken: Promise, problem: str
) -> tuple[State] | Refusal:
    if operation.result == expected:
        return (after,)
    message = f"{operation.call} {problem}"
    return Refusal(broken, message, (expected,), expected=f"{expected}")


def _with_history(step: tuple[State] | Refusal, entry: Entry) -> tuple[State] | Refusal:
    """The step; a refusal also names the promises that the entry's oldest segment involves."""
    return replace(step, also=tuple(_reasons(entry.oldest))) if isinstance(step, Refusal) else step


def _reasons(segment: Segment | None) -> dict[Promise, str]:
    """The promises that keep this segment with its owner, the most specific first, and why."""
    if segment is None:
        return {}
    reasons = {
        promises.L13: (segment.exited, "which a provider's exit wedged"),
        promises.L3: (segment.failed, "whose failed commit was forgotten"),
        promises.L2: (segment.late, "which an older commit cleared without having captured them"),
        promises.L8: (segment.adopted, "which had adopted their owner"),
    }
    return {promise: reason for promise, (holds, reason) in reasons.items() if holds}


def _wrong_commit(segment: Segment, operation: Operation, expected: dict[str, Any]) -> Refusal:
    """The refusal of a commit that did not call the segment's owner exactly once."""
    called, owner = operation.result["called"], expected["called"][0]
    accepted, also = (expected,), tuple[Promise, ...]()
    if len(called) > 1:
        broken, problem = promises.L7, f"called providers {len(called)} times for one segment"
    elif called and called != [owner]:
        broken, problem = promises.L4, f"let {called[0][1]!r} commit the turns of {owner[1]!r}"
        also = tuple(_reasons(segment))
    elif not called:
        return _forgotten(segment, operation, expected, promises.L7)
    else:
        broken = promises.L7 if expected["committed"] else promises.L3
        problem = "does not pass on the provider's result"
    message = f"{operation.call} {problem}"
    return Refusal(broken, message, accepted, also, expected=f"{expected}")


def _forgotten(
    segment: Segment, operation: Operation, expected: dict[str, Any], otherwise: Promise
) -> Refusal:
    """The refusal of a call that ignored completed turns which wait for their owner."""
    reasons = _reasons(segment) or {otherwise: "which wait for their owner"}
    broken, *also = reasons
    message = f"{operation.call} ignored completed turns, {reasons[broken]}"
    return Refusal(broken, message, (expected,), tuple(also), expected=f"{expected}")


def _wrong_drain(state: State, operation: Operation, calls: list[Call]) -> Refusal:
    """The refusal of a shutdown that did not make exactly these calls."""
    result = operation.result
    expected = {"returned": True, "called": sorted(calls)}
    if not result["returned"]:
        return Refusal(
            promises.L11,
            f"{operation.call}: the shutdown did not end by its deadline",
            (expected,),
            # It may wait for a session that a provider's exception left wedged.
            () if operation.argument["provider"] == "ok" else (promises.L13,),
            expected=f"{expected}",
        )
    missing = _difference(calls, result["called"])
    extra = _difference(result["called"], calls)
    reasons = dict.fromkeys(_involved(state, (*missing, *extra)), "")
    broken, problem = promises.L11, "skipped sessions with uncommitted turns"
    if any(session in dict(missing) for session, _ in extra):
        broken, problem = promises.L4, "let an agent commit the turns of another one"
    elif extra:
        broken, problem = promises.L7, "called providers more often than there are segments"
    elif any(session in dict(result["called"]) for session, _ in missing):
        reasons.setdefault(promises.L2, "")
        reasons.setdefault(promises.L4, "")
        problem = "skipped some of a session's uncommitted turns"
    message = f"{operation.call}: the shutdown {problem}"
    return Refusal(broken, message, (expected,), tuple(reasons), expected=f"{expected}")


def _involved(state: State, calls: Iterable[tuple[str, Agent]]) -> tuple[Promise, ...]:
    """The promises that the segments of these calls' sessions involve."""
    reasons: dict[Promise, str] = {}
    for session, _ in calls:
        entry = state.get(session)
        for segment in (*entry.segments, entry.settled) if entry else ():
            reasons |= _reasons(segment)
    return tuple(reasons)


def _difference(some: list[Call], others: list[Call]) -> list[tuple[str, Agent]]:
    """Calls of `some` beyond those of `others`, each as often as it is surplus."""
    pairs = Counter((session, agent) for session, agent in some)
    return sorted((pairs - Counter((session, agent) for session, agent in others)).elements())


def _promise_to_return(operation: Operation) -> Promise:
    """The promise that this operation does not raise, and returns."""
    session = operation.argument.get("session", "-")
    if not session:
        return promises.L10
    if operation.argument.get("provider") in EXITS:
        return promises.L13
    if operation.argument.get("wait"):
        return promises.L5
    return {
        "commit": promises.L13,
        "begin_commit": promises.L13,
        "finish_commit": promises.L13,
        "drain_and_finish": promises.L11,
        "discard": promises.L9,
        "drain": promises.L11,
    }.get(operation.function, promises.L1)
