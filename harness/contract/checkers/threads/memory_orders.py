"""Checks that one order of all calls to the memory lifecycle explains each of their answers.

A commit is no single moment: it *captures* the oldest segment, its provider runs, and it *settles*.
So each call of a provider becomes two operations, one before it and one after it, and a commit that
called none becomes one. A search for an order of all these by a sequential model then judges every
answer, of every session by itself. Where several commits may have made a call of a provider, one
assignment that has an order suffices. A shutdown's own answer is judged elsewhere.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from harness.checkers.linearizability import linearizable
from harness.contract import promises
from harness.core.checker import Checker
from harness.core.contract import Promise
from harness.core.history import History, Operation, Outcome
from harness.core.model import Refusal
from harness.core.verdict import VALID, Anomaly, Verdict

ASSIGNMENTS_MAX = 256
_PLAIN = ("register", "unregister", "complete_turn", "discard", "dirty")
_LAST_NS = 1 << 62  # after every operation

Segment = tuple[int, str | None]  # the last generation, and the owner


@dataclass(frozen=True, slots=True)
class _Entry:
    """One session; without an entry it is as a fresh one."""

    agent: str | None = None
    generation: int = 0
    captured: int = 0  # the last generation of the segment that is being committed; 0 for none
    segments: tuple[Segment, ...] = ()


class _Model:
    """The sequential lifecycle of one session."""

    name = "lifecycle"

    def initial(self) -> _Entry:
        """A session without an entry."""
        return _Entry()

    def step(  # noqa: PLR0911  one answer a function
        self, state: _Entry, operation: Operation
    ) -> tuple[_Entry, ...] | Refusal:
        """The entry after the operation, or a refusal that lists the expected answer."""
        argument, result = operation.argument, operation.result
        match operation.function:
            case "register":
                return _answered(replace(state, agent=argument["agent"]), None, result)
            case "unregister":
                return _answered(replace(state, agent=None), None, result)
            case "complete_turn":
                after = _with_turn(state, argument.get("agent") or state.agent)
                return _answered(after, after.generation, result)
            case "turn_event":
                return (_with_turn(state, argument["agent"]),)
            case "discard":
                gone = not state.segments and not state.captured
                return _answered(_Entry() if gone else state, gone, result)
            case "dirty":
                return _answered(state, bool(state.segments), result)
            case "capture":
                return self._capture(state, argument["agent"], argument["explicit"])
            case "settle":
                return _settled(state, argument["ended"])
        return self._idle(state, argument["explicit"], waits=argument["waits"])

    def _capture(
        self, state: _Entry, agent: str, explicit: str | None
    ) -> tuple[_Entry, ...] | Refusal:
        if state.captured or not state.segments:
            return _refused("no commit" if state.captured else "nothing to commit")
        (end, owner), *others = state.segments
        if owner is None and agent != (explicit or state.agent):
            return _refused("a commit by the explicit or the current agent")
        if owner not in (None, agent):
            return _refused(f"a commit by {owner!r}")
        return (replace(state, captured=end, segments=((end, agent), *others)),)

    def _idle(
        self, state: _Entry, explicit: str | None, *, waits: bool
    ) -> tuple[_Entry, ...] | Refusal:
        if state.captured:
            return _refused("a commit that waits") if waits else (state,)
        owner = state.segments[0][1] if state.segments else None
        if state.segments and (owner or explicit or state.agent):
            return _refused("a commit of the oldest segment")
        return (state,)


def _answered(after: _Entry, expected: object, result: object) -> tuple[_Entry, ...] | Refusal:
    if result == expected and type(result) is type(expected):
        return (after,)
    return Refusal(promises.L1, "another answer", (expected,))


def _refused(expected: str) -> Refusal:
    return Refusal(promises.L4, f"expected {expected}")


def _with_turn(state: _Entry, owner: str | None) -> _Entry:
    generation = state.generation + 1
    *older, last = state.segments or (None,)
    if last is not None and last[1] == owner and not state.captured:
        segments = (*older, (generation, owner))
    else:
        segments = (*state.segments, (generation, owner))
    return replace(
        state,
        agent=owner,
        generation=generation,
        segments=tuple(segment for segment in segments if segment is not None),
    )


def _settled(state: _Entry, ended: str) -> tuple[_Entry, ...] | Refusal:
    if not state.captured:
        return _refused("an end of a commit that has begun")
    kept = state.segments
    if ended == "ok":
        kept = tuple(segment for segment in kept if segment[0] > state.captured)
    return (replace(state, captured=0, segments=kept),)


_search = linearizable(_Model(), promises.L4)


def memory_orders(patience_s: float, evicting: Collection[str] = ()) -> Checker:
    """Make the checker; `patience_s` is the timeout of a commit, and the deadline of a shutdown.

    `evicting` are functions that may commit any session, as often as they like. Where there are
    such, a turn is an event without an answer, and the numbers of turns are not known.
    """

    def check(history: History) -> Verdict:
        if any(op.outcome is not Outcome.OK for op in history):
            return VALID  # judged elsewhere, and what the call did is unknown
        for session in dict.fromkeys(filter(None, map(_session, history))):
            own = [
                op
                for op in history
                if op.function in ("drain", *evicting) or _session(op) == session
            ]
            verdict = _explained(own, patience_s, evicting)
            if not verdict.is_valid:
                return verdict
        return VALID

    return check


def _session(op: Operation) -> str | None:
    """The session of a call; None for a shutdown, which concerns all."""
    session: str | None = (op.argument or {}).get("session")
    return session


def _explained(own: Sequence[Operation], patience_s: float, evicting: Collection[str]) -> Verdict:
    """Judge the calls that concern one session; unknown where too many assignments remain."""
    found: Anomaly | None = None
    for number, boundaries in enumerate(_assignments(own, evicting)):
        if number == ASSIGNMENTS_MAX:
            return Verdict(unknowns=(f"no order in {number} assignments of provider calls",))
        moments = list(_moments(own, boundaries, patience_s, counts=not evicting))
        verdict = _search(History(tuple(moment for moment, _ in moments)))
        if not verdict.anomalies:
            return verdict
        found = found or _accused(verdict.anomalies[0], moments, own)
    return Verdict((found or _unpassed(own),))


def _assignments(
    own: Sequence[Operation], evicting: Collection[str]
) -> Iterator[tuple[Operation, ...]]:
    """Every way to say which call made each call of a provider, in their order."""
    calls = [op for op in own if op.function == "provide"]
    boundaries = [op for op in own if op.function in ("commit", "drain", *evicting)]
    successful = [op for op in boundaries if _has_committed(op)]

    def assigned(chosen: tuple[Operation, ...]) -> Iterator[tuple[Operation, ...]]:
        if len(chosen) == len(calls):
            if all(any(op is other for other in chosen) for op in successful):
                yield chosen
            return
        for op in boundaries:
            is_free = op.function != "commit" or not any(op is other for other in chosen)
            if is_free and _may_have_made(op, calls[len(chosen)]):
                yield from assigned((*chosen, op))

    return assigned(())


def _has_committed(op: Operation) -> bool:
    return op.function == "commit" and bool(op.result["committed"])


def _may_have_made(op: Operation, call: Operation) -> bool:
    """Whether a call may have called the provider, by its time and its answer."""
    if op.function == "drain":
        return op.invoked_ns < call.invoked_ns  # its threads may outlive its deadline
    fits = op.invoked_ns < call.invoked_ns and _end_ns(call) < _end_ns(op)
    is_alike = op.function != "commit" or _has_committed(op) == (call.argument["ended"] == "ok")
    return fits and is_alike


def _moments(
    own: Sequence[Operation],
    boundaries: Sequence[Operation],
    patience_s: float,
    *,
    counts: bool,
) -> Iterator[tuple[Operation, Operation]]:
    """The operations to order, each with the one that it stands for."""
    calls = [op for op in own if op.function == "provide"]
    for call, boundary in zip(calls, boundaries, strict=True):
        explicit = (boundary.argument or {}).get("agent")
        argument = {**call.argument, "explicit": explicit}
        is_over = boundary.function != "drain" or boundary.result["took_s"] < patience_s
        end_ns = _end_ns(boundary) if is_over and _end_ns(call) < _end_ns(boundary) else _LAST_NS
        times = (boundary.invoked_ns, call.invoked_ns), (_end_ns(call), end_ns)
        for function, (from_ns, to_ns) in zip(("capture", "settle"), times, strict=True):
            yield Operation(call.process, function, argument, Outcome.OK, from_ns, to_ns), call
    for op in own:
        if op.function == "complete_turn" and not counts:
            yield replace(op, function="turn_event"), op
        elif op.function in _PLAIN:
            yield op, op
        elif op.function == "commit" and not any(op is boundary for boundary in boundaries):
            timeout_s = op.argument.get("timeout", patience_s)
            waits = bool(op.argument.get("wait"))
            waits = waits and (timeout_s is None or op.result["took_s"] < timeout_s)
            argument = {"explicit": op.argument.get("agent"), "waits": waits}
            yield replace(op, function="idle", argument=argument, result=None), op


def _end_ns(op: Operation) -> int:
    return _LAST_NS if op.completed_ns is None else op.completed_ns


def _accused(
    found: Anomaly, moments: Sequence[tuple[Operation, Operation]], own: Sequence[Operation]
) -> Anomaly:
    """The anomaly in terms of the recorded calls, and of the promise that such an answer breaks."""
    recorded = {id(moment): op for moment, op in moments}
    stuck = found.evidence[-1]
    (broken, *also), problem = _broken_by(stuck, own)
    last = recorded[id(stuck)]
    evidence = {id(op): op for op in (recorded[id(moment)] for moment in found.evidence)}
    return Anomaly(
        broken,
        f"{last.call} {problem}",
        tuple(evidence.values()),
        "unexplained",
        found.accepted,
        also=tuple(also),
        expected=found.expected,
        observed=last.answer,
    )


def _broken_by(  # noqa: PLR0911  one answer a case
    stuck: Operation, own: Sequence[Operation]
) -> tuple[tuple[Promise, ...], str]:
    """The promises that an operation breaks which fits no order, and how."""
    earlier = [op for op in own if op.invoked_ns < _end_ns(stuck)]
    ends = {op.argument["ended"] for op in earlier if op.function == "provide"}
    match stuck.function:
        case "complete_turn":
            return (promises.L1, promises.L9), "counted the turn wrongly"
        case "discard":
            return (promises.L9,), "dropped uncommitted turns, or kept a clean session"
        case "dirty":
            return (promises.L2, promises.L7), "is wrong about the turns that wait for a commit"
        case "register" | "unregister":
            return (promises.L4,), "returned a value"
    if stuck.function == "capture":
        agents = {
            op.argument["agent"] for op in earlier if op.function in ("complete_turn", "turn_event")
        }
        if None in agents:
            return (promises.L8, promises.L4), "committed turns that another agent adopts"
        if len(agents) > 1:
            return (promises.L4, promises.L7), "committed out of order"
        return (promises.L7, promises.L6), "committed turns that an earlier call had committed"
    if "exited" in ends:
        return (promises.L13, promises.L5), "was refused, though no commit was in flight"
    if "failed" in ends:
        return (promises.L3, promises.L5), "was refused, though a failed commit was to be retried"
    return (promises.L5,), "was refused, though no commit was in flight and turns waited"


def _unpassed(own: Sequence[Operation]) -> Anomaly:
    """A commit whose answer is not that of any call of a provider (L7, or L3 for a failure)."""
    commits = [op for op in own if op.function == "commit"]
    calls = [op for op in own if op.function == "provide"]
    has_ok = any(call.argument["ended"] == "ok" for call in calls)
    return Anomaly(
        promises.L7 if has_ok else promises.L3,
        "the answers of the commits are not those of their providers",
        (*calls, *commits),
        "not-passed-on",
        also=(promises.L3,) if has_ok else (),
        expected="True for each commit whose provider succeeded, False for the others",
        observed=", ".join(op.answer for op in commits),
    )
