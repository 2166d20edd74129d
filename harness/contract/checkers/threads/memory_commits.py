"""Commitment: every completed turn reaches its owner's provider, once, and before it is closed.

For histories of threads that meet. Besides the calls these hold what was seen inside them:
`provide` (a provider asked, which `ended` ok, failed or exited), `use` (a turn that works with an
agent) and `close`. A provider learns of the turns that were completed before it was asked; so a
turn is *covered* by a successful call that began after the turn was completed, and surely not by
one that began before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from harness.core.history import History, Operation, Outcome
from harness.core.promises import Promise
from harness.core.verdict import Anomaly, Verdict

Rule = Callable[[History], Iterable[Anomaly]]


def commits_are_kept(history: History) -> Verdict:
    """Judge a history that ends with a shutdown under healthy providers."""
    return _judge(history, (_raised, _overlaps, _uncovered, _idle_calls, _unbidden))


def agents_are_spared(history: History) -> Verdict:
    """Judge a history of turns and evictions that ends quiet, with the cache shrunk."""
    rules = (_closed_in_use, _closed_early, _overlaps, _kept_too_many, _broke_down)
    return _judge(history, rules)


def _judge(history: History, rules: Iterable[Rule]) -> Verdict:
    for rule in rules:
        for anomaly in rule(history):
            return Verdict(anomalies=(anomaly,))
    return Verdict()


def _raised(history: History) -> Iterator[Anomaly]:
    """A call of the lifecycle that raises, which none may, whatever a provider does."""
    blamed = {"commit": Promise.L13, "drain": Promise.L11, "discard": Promise.L9}
    for op in history:
        if op.outcome is Outcome.FAIL:
            yield Anomaly(blamed.get(op.function, Promise.L1), f"{op}", (op,), "raised")


def _broke_down(history: History) -> Iterator[Anomaly]:
    """A turn or an eviction that raises, though every provider is well (A5)."""
    for op in history:
        if op.outcome is Outcome.FAIL:
            yield Anomaly(Promise.A5, f"{op}", (op,), "raised")


def _overlaps(history: History) -> Iterator[Anomaly]:
    """Two providers of one session at work at once (L5)."""
    calls = _seen(history, "provide")
    for index, one in enumerate(calls):
        for other in calls[index + 1 :]:
            if _same(one, other, "session") and one.meets(other):
                message = "two commits of one session were in flight at once"
                yield Anomaly(Promise.L5, message, (one, other), "overlap")


def _uncovered(history: History) -> Iterator[Anomaly]:
    """A turn that its owner's provider never learnt of (L2, or whoever took it away)."""
    calls = [call for call in _seen(history, "provide") if call.argument["ended"] == "ok"]
    for turn in _turns(history):
        later = [
            call
            for call in calls
            if _same(turn, call, "session") and call.invoked_ns >= turn.invoked_ns
        ]
        if any(_same(turn, call, "agent") for call in later):
            continue
        (broken, *also), story = _who_took(turn, history)
        message = f"{turn} was completed, and {story}"
        yield Anomaly(broken, message, (turn, *later), "lost-turn", also=tuple(also))


def _who_took(turn: Operation, history: History) -> tuple[tuple[Promise, ...], str]:
    """Whose promises it broke that the turn did not reach its owner, and what became of it."""
    calls = [call for call in _seen(history, "provide") if _same(turn, call, "session")]
    done = [call for call in calls if call.argument["ended"] == "ok"]
    commits = [op for op in history if op.function in ("commit", "drain") and op.meets(turn)]
    was_late = bool(commits) and any(call.invoked_ns < turn.invoked_ns for call in done)
    for call in calls:
        if call.argument["ended"] == "exited" and not any(call.precedes(other) for other in done):
            return (Promise.L13, Promise.L3, Promise.L11), "nobody was asked again after an exit"
        if call not in done and _same(turn, call, "agent") and call.invoked_ns >= turn.invoked_ns:
            broken = (Promise.L3, Promise.L4 if done else Promise.L11)
            return broken, "its failed commit was never tried again with its owner"
    for call in done:
        if call.invoked_ns >= turn.invoked_ns and not (was_late and _has_turns(call, history)):
            return (Promise.L4,), f"committed by {call.argument['agent']!r}, which does not own it"
    for op in _seen(history, "discard"):
        if op.result is True and _same(turn, op, "session") and not op.precedes(turn):
            return (Promise.L9,), "its session was discarded"
    if was_late:
        return (Promise.L2,), "cleared by a commit that had begun before it"
    return (Promise.L11,), "not even a shutdown committed it"


def _has_turns(call: Operation, history: History) -> bool:
    """Whether there were turns of its own that the provider may have been called for."""
    return any(
        _same(turn, call, "session", "agent") and not call.precedes(turn)
        for turn in _turns(history)
    )


def _idle_calls(history: History) -> Iterator[Anomaly]:
    """More successful calls than turns: one of them had nothing to commit (L6)."""
    turns = [op for op in _seen(history, "complete_turn") if op.outcome is not Outcome.FAIL]
    calls = [call for call in _seen(history, "provide") if call.argument["ended"] == "ok"]
    for call in calls:
        mine = [one for one in calls if _same(one, call, "session", "agent")]
        owned = [one for one in turns if _same(one, call, "session", "agent")]
        if len(mine) > len(owned):
            message = f"{len(mine)} commits of {len(owned)} turns of {call.argument['agent']!r}"
            yield Anomaly(Promise.L6, message, tuple(mine), "nothing-new")


def _unbidden(history: History) -> Iterator[Anomaly]:
    """A provider asked while nobody commits, as a turn is completed say (L12)."""
    boundaries = [*_seen(history, "commit"), *_seen(history, "drain")]
    for call in _seen(history, "provide"):
        if not any(boundary.meets(call) for boundary in boundaries):
            message = f"{call.argument['agent']!r} committed at no boundary"
            yield Anomaly(Promise.L12, message, (call,), "unbidden")


def _closed_in_use(history: History) -> Iterator[Anomaly]:
    """An agent closed while a turn works with it (A2)."""
    for close in _seen(history, "close"):
        for use in _seen(history, "use"):
            if _same(close, use, "session", "agent") and close.meets(use):
                message = f"{close.argument['agent']!r} was closed under a live run"
                yield Anomaly(Promise.A2, message, (use, close), "closed-live")


def _closed_early(history: History) -> Iterator[Anomaly]:
    """An agent closed twice, during a commit of its own, or before its turns were covered (A5)."""
    closes = _seen(history, "close")
    calls = _seen(history, "provide")
    for index, close in enumerate(closes):
        mine = [call for call in calls if _same(close, call, "session", "agent")]
        twice = [other for other in closes[:index] if _same(close, other, "session", "agent")]
        during = [call for call in mine if close.meets(call)]
        for proof, story in ((twice, "twice"), (during, "during its commit")):
            if proof:
                message = f"{close.argument['agent']!r} was closed {story}"
                yield Anomaly(Promise.A5, message, (*proof, close), "closed-early")
        for turn in _turns(history):
            if not (_same(turn, close, "session", "agent") and turn.precedes(close)):
                continue
            covered = any(
                call.argument["ended"] == "ok"
                and call.invoked_ns >= turn.invoked_ns
                and call.precedes(close)
                for call in mine
            )
            if not covered:
                message = f"{close.argument['agent']!r} was closed with an uncommitted turn"
                yield Anomaly(Promise.A5, message, (turn, close), "closed-early")


def _kept_too_many(history: History) -> Iterator[Anomaly]:
    """More agents than the cap, when all is quiet (A1)."""
    for op in history:
        if op.function == "shrink" and op.result and op.result["agents"] > op.result["cap"]:
            message = f"{op.result['agents']} idle agents are kept"
            yield Anomaly(Promise.A1, message, (op,), "over-cap")


def _seen(history: History, function: str) -> list[Operation]:
    return [op for op in history if op.function == function]


def _turns(history: History) -> list[Operation]:
    return [op for op in _seen(history, "complete_turn") if op.outcome is Outcome.OK]


def _same(one: Operation, other: Operation, *names: str) -> bool:
    return all(one.argument[name] == other.argument[name] for name in names)
