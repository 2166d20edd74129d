"""Checks that each completion wakes the session that it belongs to, once and in order.

For histories of threads that end with a `settle`, after which no wakeup is pending. `complete` is
the end of a process. Besides the calls these histories hold what was observed inside them: `wake`
(a wakeup turn that started) and `spawn` (a turn of a session that started a process, and the
`owner` that was recorded for it).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import product

from harness.contract import promises
from harness.core.history import History, Operation, Outcome
from harness.core.verdict import Anomaly, Verdict

Rule = Callable[[History], Iterable[Anomaly]]


def check_wakeup_routing(history: History) -> Verdict:
    """Judge a history of threads that ends quiet."""
    for rule in (_unsettled, _misattributed, _doubled, _misrouted, _reordered, _lost):
        for anomaly in rule(history):
            return Verdict(anomalies=(anomaly,))
    return Verdict()


def check_wakeup_restarts(history: History) -> Verdict:
    """Judge a history of killed hosts, by the wakeups of each session when all is quiet.

    `leave` is a process that ended while its host was dead, `settle` returns all wakeups.
    """
    for unsettled in _unsettled(history):
        return Verdict((replace(unsettled, promise=promises.W4),))
    settled = history.happened.of("settle")
    for left, quiet in product(history.happened.of("leave"), settled[-1:]):
        session, process = _session(left), left.argument["process"]
        sessions = [owner for owner, cause in quiet.result["woken"] if cause == process]
        match sessions:
            case [one] if one == session:
                continue
            case []:
                broken, name = promises.W4, "lost-wakeup"
            case _ if set(sessions) == {session}:
                broken, name = promises.W1, "double-wakeup"
            case _:
                broken, name = promises.W6, "misrouted"
        between = (op for op in history if op.function in ("struck", "restart"))
        anomaly = Anomaly(
            broken,
            f"the end of process {process!r} while its host was dead woke {len(sessions)} sessions",
            (left, *between, quiet),
            name,
            expected=f"one wakeup of {session!r}",
            observed=f"wakeups of {sessions}",
        )
        return Verdict((anomaly,))
    return Verdict()


def _unsettled(history: History) -> Iterator[Anomaly]:
    """A `settle` that failed: a wakeup is still pending (W3)."""
    for op in history:
        if op.function == "settle" and op.outcome is Outcome.FAIL:
            yield Anomaly(
                promises.W3,
                "settle() failed: a wakeup stayed pending",
                (op,),
                "unsettled",
                expected="no pending wakeup once all runs have ended",
                observed=op.answer,
            )


def _misattributed(history: History) -> Iterator[Anomaly]:
    """A process that one session's turn started, and that is recorded as another's (T7, W6)."""
    for spawn in history.happened.of("spawn"):
        session, owner = spawn.argument["session"], spawn.argument["owner"]
        if owner != session:
            yield Anomaly(
                promises.T7,
                f"a process that a turn of {session!r} started is recorded for another session",
                tuple(op for op in history.happened.of("spawn") if op.meets(spawn)),
                "misattributed",
                also=(promises.W6,),
                expected=f"owner {session!r}",
                observed=f"owner {owner!r}",
            )


def _doubled(history: History) -> Iterator[Anomaly]:
    """A process whose end woke more than once (W1)."""
    for complete in _completions(history):
        wakes = _wakes_of(history, complete)
        if len(wakes) > 1:
            yield Anomaly(
                promises.W1,
                f"the end of process {complete.argument['process']!r} woke more than once",
                (complete, *wakes),
                "double-wakeup",
                expected="one wakeup",
                observed=f"wakeups of {[_session(wake) for wake in wakes]}",
            )


def _misrouted(history: History) -> Iterator[Anomaly]:
    """A wakeup in a session that does not own the process (W6)."""
    for complete in _completions(history):
        for wake in _wakes_of(history, complete):
            if _session(wake) != _session(complete):
                yield Anomaly(
                    promises.W6,
                    f"the end of process {complete.argument['process']!r} woke another session",
                    (complete, wake),
                    "misrouted",
                    expected=f"a wakeup of {_session(complete)!r}",
                    observed=f"a wakeup of {_session(wake)!r}",
                )


def _reordered(history: History) -> Iterator[Anomaly]:
    """Two wakeups of a session in another order than that of the completions (W3)."""
    for first in _completions(history):
        for second in _completions(history):
            if _session(first) != _session(second) or not first.precedes(second):
                continue
            for late in _wakes_of(history, first):
                for early in _wakes_of(history, second):
                    if early.precedes(late):
                        processes = [op.argument["process"] for op in (first, second)]
                        yield Anomaly(
                            promises.W3,
                            f"process {processes[1]!r} ended after {processes[0]!r}, and woke"
                            f" {_session(first)!r} before it",
                            (early, late),
                            "overtaken",
                            expected=f"wakeups in the order {processes}",
                            observed=f"wakeups in the order {processes[::-1]}",
                        )


def _lost(history: History) -> Iterator[Anomaly]:
    """A completion that woke no session: W3 if a run of the session delayed it, else W2."""
    settled = history.happened.of("settle")
    for complete in _completions(history):
        if not settled or _wakes_of(history, complete):
            continue
        runs = [
            op
            for op in history.happened
            if op.function in ("begin_run", "turn", "wake") and _session(op) == _session(complete)
        ]
        yield Anomaly(
            promises.W3 if runs else promises.W2,
            f"the end of process {complete.argument['process']!r} woke no session",
            (complete, *runs, settled[-1]),
            "lost-wakeup",
            expected=f"one wakeup of {_session(complete)!r}",
            observed="no wakeup when all is quiet",
        )


def _completions(history: History) -> tuple[Operation, ...]:
    return history.happened.of("complete")


def _wakes_of(history: History, complete: Operation) -> list[Operation]:
    process = complete.argument["process"]
    return [op for op in history.happened.of("wake") if op.argument["process"] == process]


def _session(operation: Operation) -> str:
    session: str = operation.argument["session"]
    return session
