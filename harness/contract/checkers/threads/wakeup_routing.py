"""Woken: each completion wakes the session that it belongs to, once, and in its turn.

For histories of threads that end with a `settle`, after which nothing may wait. `complete` tells
of a process's end; besides the calls these hold what was seen inside them: `wake` (a wakeup turn
that was started) and `spawn` (a turn of a session that started a process, and the `owner` that was
recorded for it).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import product

from harness.core.history import History, Operation, Outcome
from harness.core.promises import Promise
from harness.core.verdict import Anomaly, Verdict

Rule = Callable[[History], Iterable[Anomaly]]


def sessions_are_woken(history: History) -> Verdict:
    """Judge a history that ends quiet."""
    for rule in (_unsettled, _misattributed, _doubled, _misrouted, _overtaken, _lost):
        for anomaly in rule(history):
            return Verdict(anomalies=(anomaly,))
    return Verdict()


def restarts_lose_nobody(history: History) -> Verdict:
    """Judge a history of hosts that died, by what the sessions have had when all is quiet.

    `leave` tells of a process that ended while its host was dead, `settle` of all wakeups.
    """
    for unsettled in _unsettled(history):
        return Verdict((replace(unsettled, promise=Promise.W4),))
    settled = _done(history, "settle")
    for left, quiet in product(_done(history, "leave"), settled[-1:]):
        session, process = _session(left), left.argument["process"]
        woken = [one for one, told in quiet.result["woken"] if told == process]
        match woken:
            case [one] if one == session:
                continue
            case []:
                broken, name = Promise.W4, "lost-wakeup"
            case _ if set(woken) == {session}:
                broken, name = Promise.W1, "double-wakeup"
            case _:
                broken, name = Promise.W6, "misrouted"
        message = f"the end of {process!r} woke {woken or 'nobody'}, and belongs to {session!r}"
        between = (op for op in history if op.function in ("struck", "restart"))
        return Verdict((Anomaly(broken, message, (left, *between, quiet), name),))
    return Verdict()


def _unsettled(history: History) -> Iterator[Anomaly]:
    """A settling that raised: whoever waited then waits still (W3)."""
    for op in history:
        if op.function == "settle" and op.outcome is Outcome.FAIL:
            yield Anomaly(Promise.W3, f"{op}", (op,), "unsettled")


def _misattributed(history: History) -> Iterator[Anomaly]:
    """A process that was started by one session's turn, and recorded as another's (T7, W6)."""
    for spawn in _done(history, "spawn"):
        session, owner = spawn.argument["session"], spawn.argument["owner"]
        if owner != session:
            message = f"a process that {session!r} started belongs to {owner!r}"
            turns = tuple(op for op in _done(history, "spawn") if op.meets(spawn))
            yield Anomaly(Promise.T7, message, turns, "misattributed", also=(Promise.W6,))


def _doubled(history: History) -> Iterator[Anomaly]:
    """A process whose end woke twice (W1)."""
    for ended in _ended(history):
        wakes = _wakes_of(history, ended)
        if len(wakes) > 1:
            message = f"the end of {ended.argument['process']!r} woke {len(wakes)} times"
            yield Anomaly(Promise.W1, message, (ended, *wakes), "double-wakeup")


def _misrouted(history: History) -> Iterator[Anomaly]:
    """A wakeup in a session that does not own the process (W6)."""
    for ended in _ended(history):
        for wake in _wakes_of(history, ended):
            if wake.argument["session"] != ended.argument["session"]:
                message = f"{ended} woke {wake.argument['session']!r}"
                yield Anomaly(Promise.W6, message, (ended, wake), "misrouted")


def _overtaken(history: History) -> Iterator[Anomaly]:
    """Two wakeups of a session in another order than that of the completions (W3)."""
    for first in _ended(history):
        for second in _ended(history):
            if _session(first) != _session(second) or not first.precedes(second):
                continue
            for late in _wakes_of(history, first):
                for early in _wakes_of(history, second):
                    if early.precedes(late):
                        message = f"{second} woke its session before {first}"
                        yield Anomaly(Promise.W3, message, (early, late), "overtaken")


def _lost(history: History) -> Iterator[Anomaly]:
    """A completion that woke nobody: W3 if a run was in its way, else W2."""
    settled = _done(history, "settle")
    for ended in _ended(history):
        if not settled or _wakes_of(history, ended):
            continue
        runs = [
            op
            for op in history.happened
            if op.function in ("begin_run", "turn", "wake") and _session(op) == _session(ended)
        ]
        broken = Promise.W3 if runs else Promise.W2
        message = f"the end of {ended.argument['process']!r} woke nobody"
        yield Anomaly(broken, message, (ended, *runs, settled[-1]), "lost-wakeup")


def _ended(history: History) -> list[Operation]:
    return _done(history, "complete")


def _wakes_of(history: History, ended: Operation) -> list[Operation]:
    process = ended.argument["process"]
    return [op for op in _done(history, "wake") if op.argument["process"] == process]


def _done(history: History, function: str) -> list[Operation]:
    return [op for op in history.happened if op.function == function]


def _session(operation: Operation) -> str:
    session: str = operation.argument["session"]
    return session
