"""Checks that every completed turn reaches its owner's memory provider once, before the close.

For histories of concurrent threads. Besides the calls these hold what was observed inside them:
`provide` (a call of a provider, which `ended` ok, failed or exited), `use` (a turn that works with
an agent) and `close`. A provider learns of the turns that were completed before it was called. So a
successful call that began after the completion *covers* the turn, and one that began before surely
does not. How long a call waited is judged in virtual time, and is meaningful only where time passes
while no thread can act: a program whose deadlines may pass early must not be judged by it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from harness.contract import promises
from harness.core.checker import first_of
from harness.core.contract import Promise
from harness.core.history import History, Operation, Outcome
from harness.core.verdict import Anomaly, Verdict

PATIENCE_S = 60  # the timeout of a commit that waits, and the deadline of a shutdown
SLACK_S = 0.5
CAP = 1  # the agents that a cache on trial keeps


def check_memory_commits(history: History) -> Verdict:
    """Judge a history that ends with a shutdown under healthy providers."""
    rules = (_raised, _overlaps, _uncovered, _idle_calls, _unrequested)
    return first_of(*rules, _too_long, _left_early, _committed_nothing)(history)


def check_agent_closes(history: History) -> Verdict:
    """Judge a history of turns and evictions that ends quiet, with the cache shrunk."""
    rules = (_closed_in_use, _closed_early, _overlaps, _over_cap, _under_cap, _failed_calls)
    return first_of(*rules, _too_long, _left_open, _kept_open, _disowned)(history)


def _raised(history: History) -> Iterator[Anomaly]:
    """A call of the lifecycle that raised, which none may, whatever a provider does."""
    promise_of = {"commit": promises.L13, "drain": promises.L11, "discard": promises.L9}
    for op in history:
        if op.outcome is Outcome.FAIL:
            yield _failure(op, promise_of.get(op.function, promises.L1))


def _failed_calls(history: History) -> Iterator[Anomaly]:
    """A turn or an eviction that raised, though every provider is healthy (A5)."""
    for op in history:
        if op.outcome is Outcome.FAIL:
            yield _failure(op, promises.A5)


def _failure(op: Operation, broken: Promise) -> Anomaly:
    return Anomaly(
        broken,
        f"{op.call} raised",
        (op,),
        "raised",
        expected="the call returns: errors of a provider are handled",
        observed=op.answer,
    )


def _overlaps(history: History) -> Iterator[Anomaly]:
    """Two provider calls of one session at once (L5)."""
    calls = history.of("provide")
    for index, one in enumerate(calls):
        for other in calls[index + 1 :]:
            if _same(one, other, "session") and one.meets(other):
                yield Anomaly(
                    promises.L5,
                    f"two commits of session {one.argument['session']!r} overlapped",
                    (one, other),
                    "overlap",
                    expected="one commit of a session at a time",
                    observed=f"commits of {one.argument['agent']!r} and"
                    f" {other.argument['agent']!r} at once",
                )


def _uncovered(history: History) -> Iterator[Anomaly]:
    """A turn that was never committed by its owner's provider (L2, or the cause's promise)."""
    calls = [call for call in history.of("provide") if call.argument["ended"] == "ok"]
    for turn in _turns(history):
        later = [
            call
            for call in calls
            if _same(turn, call, "session") and call.invoked_ns >= turn.invoked_ns
        ]
        if any(_same(turn, call, "agent") for call in later):
            continue
        (broken, *also), reason = _cause_of_loss(turn, history)
        yield Anomaly(
            broken,
            f"the turn of {turn.argument['agent']!r} was completed and never committed: {reason}",
            (turn, *later),
            "lost-turn",
            also=tuple(also),
            expected=f"a successful commit by {turn.argument['agent']!r} after the turn",
            observed=f"later commits by {[call.argument['agent'] for call in later]}",
        )


def _cause_of_loss(turn: Operation, history: History) -> tuple[tuple[Promise, ...], str]:
    """The promises that the lost turn breaks, and the reason why it was not committed."""
    calls = [call for call in history.of("provide") if _same(turn, call, "session")]
    done = [call for call in calls if call.argument["ended"] == "ok"]
    commits = [op for op in history if op.function in ("commit", "drain") and op.meets(turn)]
    was_late = bool(commits) and any(call.invoked_ns < turn.invoked_ns for call in done)
    for call in calls:
        if call.argument["ended"] == "exited" and not any(call.precedes(other) for other in done):
            return (promises.L13, promises.L3, promises.L11), "no commit was retried after an exit"
        if call not in done and _same(turn, call, "agent") and call.invoked_ns >= turn.invoked_ns:
            broken = (promises.L3, promises.L4 if done else promises.L11)
            return broken, "its failed commit was not retried with its owner"
    for call in done:
        if call.invoked_ns >= turn.invoked_ns and not (was_late and _has_turns(call, history)):
            return (promises.L4,), f"committed by {call.argument['agent']!r}, which does not own it"
    for op in history.of("discard"):
        if op.result is True and _same(turn, op, "session") and not op.precedes(turn):
            return (promises.L9,), "its session was discarded"
    if was_late:
        return (promises.L2,), "a commit that had begun before it cleared its mark"
    return (promises.L11,), "not even the shutdown committed it"


def _has_turns(call: Operation, history: History) -> bool:
    """Whether the provider may have been called for turns of its own."""
    return any(
        _same(turn, call, "session", "agent") and not call.precedes(turn)
        for turn in _turns(history)
    )


def _idle_calls(history: History) -> Iterator[Anomaly]:
    """More successful calls than turns: one of them had nothing to commit (L6)."""
    turns = [op for op in history.of("complete_turn") if op.outcome is not Outcome.FAIL]
    calls = [call for call in history.of("provide") if call.argument["ended"] == "ok"]
    for call in calls:
        commits = [other for other in calls if _same(other, call, "session", "agent")]
        owned = [
            turn
            for turn in turns
            if _same(turn, call, "session")
            and turn.argument["agent"] in (None, call.argument["agent"])
        ]
        if len(commits) > len(owned):
            yield Anomaly(
                promises.L6,
                f"{call.argument['agent']!r} committed although no turn was new",
                tuple(commits),
                "nothing-new",
                expected=f"at most {len(owned)} commits, one for each turn",
                observed=f"{len(commits)} commits",
            )


def _unrequested(history: History) -> Iterator[Anomaly]:
    """A provider call outside of every commit and drain, such as by a completed turn (L12)."""
    boundaries = [*history.of("commit"), *history.of("drain")]
    for call in history.of("provide"):
        if not any(boundary.meets(call) for boundary in boundaries):
            yield Anomaly(
                promises.L12,
                f"{call.argument['agent']!r} committed outside of a commit() or drain()",
                (call,),
                "unbidden",
                expected="provider calls at boundaries only",
                observed=f"{call.call} outside of both",
            )


def _too_long(history: History) -> Iterator[Anomaly]:
    """A shutdown or a commit that lasted longer than it may, or than time allows (L11, L5).

    A commit waits for commits of its session only, and only if it was asked to; it waits no longer
    than these take. A shutdown that ends before its deadline waits for providers only. A provider
    that was called and returned meanwhile took a part of that time.
    """
    for op in history:
        if not (isinstance(op.result, Mapping) and "took_s" in op.result):
            continue
        calls = _calls_of(op, history)
        own = [call for call in calls if _within(call, op)]  # or another caller's
        others = [call for call in calls if call.meets(op) and call not in own]
        waited_s = sum(call.argument["took_s"] for call in others)
        own_s = [call.argument["took_s"] for call in own]
        took_s, limit_s = op.result["took_s"], _limit_s(op)
        if op.function == "commit":
            limit_s = min(waited_s, limit_s) if _waits(op) is not None else 0
            limit_s += sum(own_s)
        elif took_s < PATIENCE_S - SLACK_S:
            limit_s = waited_s + sum(own_s)
        least_s = max(own_s, default=0)
        if not least_s - SLACK_S < took_s < limit_s + SLACK_S:
            yield Anomaly(
                promises.L11 if op.function == "drain" else promises.L5,
                f"{op.call} waited longer than it may, or not at all",
                (op, *calls),
                "waited-too-long",
                expected=f"an end after {least_s} to {limit_s} s",
                observed=f"{took_s} s",
            )


def _left_early(history: History) -> Iterator[Anomaly]:
    """A shutdown or a waiting commit that ended in time, and left turns that it should commit.

    A failure of the session's provider excuses it, as does its deadline. A waiting commit that was
    refused has nothing to commit; one that committed may have committed an older segment.
    """
    for op in history:
        promise = _waits(op)
        if promise is None or op.result["took_s"] >= _limit_s(op) or op.result.get("committed"):
            continue
        for turn in _turns(history):
            if op.function == "commit" and not _same(turn, op, "session"):
                continue
            calls = [call for call in history.of("provide") if _same(turn, call, "session")]
            has_failed = any(call.argument["ended"] != "ok" and call.meets(op) for call in calls)
            covering = (
                call.argument["ended"] == "ok"
                and _same(turn, call, "agent")
                and call.invoked_ns >= turn.invoked_ns
                and _ended_before(call, op)
                for call in calls
            )
            is_due = turn.precedes(op) or _before_last_pass(turn, op, history)
            if is_due and not has_failed and not any(covering):
                yield Anomaly(
                    promise,
                    f"{op.call} ended in time, and left a turn of {turn.argument['agent']!r}",
                    (turn, *calls, op),
                    "left-early",
                    expected=f"a commit of every turn completed before it, or {_limit_s(op):g} s",
                    observed=f"{op.answer} after {op.result['took_s']} s",
                )


def _limit_s(op: Operation) -> float:
    """How long a waiting commit or a shutdown may last; it is asked for another time than usual."""
    timeout_s = (op.argument or {}).get("timeout", PATIENCE_S)
    return math.inf if timeout_s is None else float(timeout_s)


def _before_last_pass(turn: Operation, drain: Operation, history: History) -> bool:
    """Whether a turn was completed before the end of a commit that only this shutdown made.

    A pass that made progress is followed by another one, which finds the turn.
    """
    if drain.function != "drain":
        return False
    rivals = [op for op in history if op.function in ("commit", "drain") and op is not drain]
    return any(
        call.argument["ended"] == "ok"
        and _ended_before(turn, call)
        and _within(call, drain)
        and not any(rival.meets(call) for rival in rivals)
        for call in history.of("provide")
    )


def _committed_nothing(history: History) -> Iterator[Anomaly]:
    """A commit that answered true without a successful call of a provider (L6)."""
    for op in history.of("commit"):
        if not (isinstance(op.result, Mapping) and op.result["committed"]):
            continue
        calls = [call for call in _calls_of(op, history) if call.argument["ended"] == "ok"]
        if not any(_within(call, op) for call in calls):
            yield Anomaly(
                promises.L6,
                f"{op.call} answered true, and no provider committed",
                (op, *calls),
                "committed-nothing",
                expected="a successful call of a provider during the commit",
                observed="none",
            )


def _waits(op: Operation) -> Promise | None:
    """The promise of a call that waits for others and says how long it took."""
    if not isinstance(op.result, Mapping) or "took_s" not in op.result:
        return None
    if op.function == "drain":
        return promises.L11
    return promises.L5 if op.argument.get("wait") else None


def _calls_of(op: Operation, history: History) -> list[Operation]:
    """The calls of providers of the session that the operation commits."""
    calls = history.of("provide")
    return [call for call in calls if op.function == "drain" or _same(op, call, "session")]


def _within(call: Operation, op: Operation) -> bool:
    """Whether a call began and ended during the operation."""
    return op.invoked_ns <= call.invoked_ns and _ended_before(call, op)


def _ended_before(call: Operation, op: Operation) -> bool:
    """Whether a call ended before the operation did."""
    ends = call.completed_ns, op.completed_ns
    return ends[0] is not None and ends[1] is not None and ends[0] <= ends[1]


def _closed_in_use(history: History) -> Iterator[Anomaly]:
    """An agent that was closed while a turn worked with it (A2)."""
    for close in history.of("close"):
        for use in history.of("use"):
            if _same(close, use, "session", "agent") and close.meets(use):
                yield Anomaly(
                    promises.A2,
                    f"agent {close.argument['agent']!r} was closed during a turn",
                    (use, close),
                    "closed-live",
                    expected="a close after the turn ended",
                    observed="a close that overlaps the turn",
                )


def _closed_early(history: History) -> Iterator[Anomaly]:
    """An agent closed twice, during a commit of its own, or before its turns were covered (A5)."""
    closes = history.of("close")
    calls = history.of("provide")
    for index, close in enumerate(closes):
        agent = close.argument["agent"]
        commits = [call for call in calls if _same(close, call, "session", "agent")]
        twice = [other for other in closes[:index] if _same(close, other, "session", "agent")]
        during = [call for call in commits if close.meets(call)]
        for proof, observed in ((twice, "a second close"), (during, "a close during its commit")):
            if proof:
                yield Anomaly(
                    promises.A5,
                    f"agent {agent!r} was closed twice, or during its commit",
                    (*proof, close),
                    "closed-early",
                    expected="one close, after its last commit",
                    observed=observed,
                )
        for turn in _turns(history):
            if not (_same(turn, close, "session", "agent") and turn.precedes(close)):
                continue
            covered = any(
                call.argument["ended"] == "ok"
                and call.invoked_ns >= turn.invoked_ns
                and call.precedes(close)
                for call in commits
            )
            if not covered:
                yield Anomaly(
                    promises.A5,
                    f"agent {agent!r} was closed with an uncommitted turn",
                    (turn, close),
                    "closed-early",
                    expected="a successful commit between the turn and the close",
                    observed="no such commit",
                )


def _over_cap(history: History) -> Iterator[Anomaly]:
    """More agents than the cap, when all is quiet (A1)."""
    for op in history:
        if op.function == "shrink" and op.result and op.result["agents"] > CAP:
            yield Anomaly(
                promises.A1,
                "shrink() left more idle agents than the cap",
                (op,),
                "over-cap",
                expected=f"at most {CAP} agents",
                observed=f"{op.result['agents']} agents",
            )


def _under_cap(history: History) -> Iterator[Anomaly]:
    """Fewer agents than the cap when all is quiet, though none had to go (A1).

    After the last eviction of a session its turns leave an agent in the cache, which has room for
    as many as the cap.
    """
    evictions = history.of("evict")
    turns = [
        turn
        for turn in history.of("turn")
        if all(eviction.precedes(turn) for eviction in evictions)
    ]
    sessions = {turn.argument["session"] for turn in turns}
    for op in history:
        if op.function == "shrink" and op.result and all(turn.precedes(op) for turn in turns):
            least = min(len(sessions), CAP)
            if op.result["agents"] < least:
                yield Anomaly(
                    promises.A1,
                    "shrink() left fewer agents than the cap allows",
                    (*turns, op),
                    "under-cap",
                    expected=f"at least {least} agents",
                    observed=f"{op.result['agents']} agents",
                )


def _left_open(history: History) -> Iterator[Anomaly]:
    """An eviction that returned with its agent open, though it only had to wait for a commit (A5).

    Only the first eviction of the only session is asked, after its last turn: then its agent is in
    the cache for certain, idle, and of a provider that succeeds.
    """
    for eviction in history.of("evict")[:1]:
        rivals = [
            op
            for op in history
            if op.function in ("turn", "evict", "shrink")
            and op is not eviction
            and not eviction.precedes(op)
        ]
        turns = history.of("turn")
        uses = [use for use in history.of("use") if use.precedes(eviction)]
        calls = [call for call in history.of("provide") if not eviction.precedes(call)]
        is_plain = all(op in turns and _same(op, eviction, "session") for op in rivals)
        is_idle = all(op.precedes(eviction) for op in rivals)
        if not uses or not is_plain or not is_idle:
            continue
        last = max(uses, key=lambda use: use.invoked_ns)
        closed = any(
            _same(close, last, "session", "agent") and _ended_before(close, eviction)
            for close in history.of("close")
        )
        if not closed and all(call.argument["ended"] == "ok" for call in calls):
            yield Anomaly(
                promises.A5,
                f"{eviction.call} returned and left {last.argument['agent']!r} open",
                (last, *calls, eviction),
                "left-open",
                expected="a commit of its turns, after the one in flight, and a close",
                observed="no close before its return",
            )


def _kept_open(history: History) -> Iterator[Anomaly]:
    """Agents that are neither cached nor closed at the end, or entries of no cached agent (A5, L9).

    Only a shrink after all other calls is asked: then every provider has succeeded.
    """
    calls = [op for op in history if op.function in ("turn", "evict")]
    used = {(op.argument["session"], op.argument["agent"]) for op in history.of("use")}
    for last in history.of("shrink"):
        if not last.result or not all(op.precedes(last) for op in calls):
            continue
        closes = [close for close in history.of("close") if _ended_before(close, last)]
        closed = {(op.argument["session"], op.argument["agent"]) for op in closes}
        agents, opened = last.result["agents"], len(used - closed)
        entries = last.result.get("entries", agents)
        if agents != opened:
            yield Anomaly(
                promises.A5,
                "the agents in the cache are not those that are open",
                (*closes, last),
                "kept-open",
                expected=f"{opened} cached agents: {len(used)} were used, {len(closed)} closed",
                observed=f"{agents} cached agents",
            )
        elif entries != agents:
            yield Anomaly(
                promises.A5,
                "the lifecycle remembers other sessions than those with a cached agent",
                (last,),
                "kept-entry",
                also=(promises.L9,),
                expected=f"{agents} entries",
                observed=f"{entries} entries",
            )


def _disowned(history: History) -> Iterator[Anomaly]:
    """A turn of the cached agent that it does not own: an eviction unregistered it (A5, L8).

    A provider of the session that fails afterwards excuses it: then the shutdown left the session.
    """
    quiet = history.of("own_turn")
    for turn in _turns(history):
        is_own = any(own.meets(turn) for own in quiet)
        calls = [call for call in history.of("provide") if _same(turn, call, "session")]
        later = [call for call in calls if call.invoked_ns >= turn.invoked_ns]
        has_failed = any(call.argument["ended"] != "ok" for call in later)
        by_itself = any(_same(turn, call, "agent") for call in later)
        if is_own and not has_failed and not by_itself:
            yield Anomaly(
                promises.A5,
                f"a turn of the cached agent {turn.argument['agent']!r} was never committed by it",
                (turn, *later),
                "disowned",
                also=(promises.L8,),
                expected=f"a commit by {turn.argument['agent']!r}, which is cached",
                observed=f"later commits by {[call.argument['agent'] for call in later]}",
            )


def _turns(history: History) -> list[Operation]:
    """The completed turns that have an owner of their own; others adopt one later."""
    turns = history.of("complete_turn")
    return [op for op in turns if op.outcome is Outcome.OK and op.argument["agent"] is not None]


def _same(one: Operation, other: Operation, *names: str) -> bool:
    return all(one.argument[name] == other.argument[name] for name in names)
