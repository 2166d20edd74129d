"""Commitment: every completed turn reaches its owner's provider, once, and before it is closed.

For histories of threads that meet. Besides the calls these hold what was seen inside them:
`provide` (a provider asked, which `ended` ok, failed or exited), `use` (a turn that works with an
agent) and `close`. A provider learns of the turns that were completed before it was asked; so a
turn is *covered* by a successful call that began after the turn was completed, and surely not by
one that began before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from harness.history import History, Operation, Outcome
from harness.promises import Promise
from harness.verdict import Anomaly, Verdict

Rule = Callable[[History], Iterable[Anomaly]]


def commits_are_kept(history: History) -> Verdict:
    """Judge a history that ends with a shutdown under healthy providers."""
    return _judge(history, (_overlaps, _uncovered, _idle_calls))


def agents_are_spared(history: History) -> Verdict:
    """Judge a history of turns and evictions that ends quiet, with the cache shrunk."""
    return _judge(history, (_closed_in_use, _closed_early, _overlaps, _kept_too_many))


def _judge(history: History, rules: Iterable[Rule]) -> Verdict:
    for rule in rules:
        for anomaly in rule(history):
            return Verdict(anomalies=(anomaly,))
    return Verdict()


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
        broken, story = _who_took(turn, later, history)
        yield Anomaly(broken, f"{turn} was completed, and {story}", (turn, *later), "lost-turn")


def _who_took(turn: Operation, later: list[Operation], history: History) -> tuple[Promise, str]:
    if later:
        return Promise.L4, f"committed by {later[0].argument['agent']!r}, which does not own it"
    for call in _seen(history, "provide"):
        if _same(turn, call, "session") and _same(turn, call, "agent"):
            if call.argument["ended"] == "exited":
                return Promise.L13, "its provider's exit wedged the session"
            if call.argument["ended"] == "failed":
                return Promise.L3, "its failed commit was never tried again"
    dropped = [
        op
        for op in history
        if op.function == "discard" and op.result is True and not op.precedes(turn)
    ]
    if dropped:
        return Promise.L9, "its session was discarded"
    return Promise.L2, "cleared by a commit that had begun before it"


def _idle_calls(history: History) -> Iterator[Anomaly]:
    """More successful calls than turns: one of them had nothing to commit (L6)."""
    turns = _turns(history)
    calls = [call for call in _seen(history, "provide") if call.argument["ended"] == "ok"]
    for call in calls:
        mine = [one for one in calls if _same(one, call, "session") and _same(one, call, "agent")]
        owned = [one for one in turns if _same(one, call, "session") and _same(one, call, "agent")]
        if len(mine) > len(owned):
            message = f"{len(mine)} commits of {len(owned)} turns of {call.argument['agent']!r}"
            yield Anomaly(Promise.L6, message, tuple(mine), "nothing-new")


def _closed_in_use(history: History) -> Iterator[Anomaly]:
    """An agent closed while a turn works with it (A2)."""
    for close in _seen(history, "close"):
        for use in _seen(history, "use"):
            if _same(close, use, "agent") and close.meets(use):
                message = f"{close.argument['agent']!r} was closed under a live run"
                yield Anomaly(Promise.A2, message, (use, close), "closed-live")


def _closed_early(history: History) -> Iterator[Anomaly]:
    """An agent closed twice, during a commit of its own, or before its turns were covered (A5)."""
    closes = _seen(history, "close")
    calls = _seen(history, "provide")
    for index, close in enumerate(closes):
        twice = [other for other in closes[:index] if _same(close, other, "agent")]
        during = [call for call in calls if _same(close, call, "agent") and close.meets(call)]
        for proof, story in ((twice, "twice"), (during, "during its commit")):
            if proof:
                message = f"{close.argument['agent']!r} was closed {story}"
                yield Anomaly(Promise.A5, message, (*proof, close), "closed-early")
        for turn in _turns(history):
            if not (_same(turn, close, "agent") and turn.precedes(close)):
                continue
            covered = any(
                call.argument["ended"] == "ok"
                and call.invoked_ns >= turn.invoked_ns
                and call.precedes(close)
                for call in calls
                if _same(call, turn, "agent")
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


def _same(one: Operation, other: Operation, name: str) -> bool:
    return bool(one.argument[name] == other.argument[name])
