"""Checks the calls of a program of threads that never refuse, and those that return nothing.

A call that another thread's call may refuse, or that returns something, is judged by the checker of
its room. The rest belongs here: an answer that no rule expects is an anomaly, not a silence.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from harness.core.checker import Checker
from harness.core.contract import Promise
from harness.core.history import History, Outcome
from harness.core.verdict import Anomaly, Verdict


def with_plain_answers(
    check: Checker, promise: Promise, *, accepted: Collection[str], silent: Collection[str]
) -> Checker:
    """Extend a checker: `accepted` are functions that never refuse, `silent` return None.

    What breaks is reported as this promise, after what `check` finds.
    """

    def judge(history: History) -> Verdict:
        verdict = check(history)
        if verdict.anomalies:
            return verdict
        for anomaly in _unexpected(history, promise, accepted, silent):
            return Verdict(anomalies=(anomaly,), unknowns=verdict.unknowns)
        return verdict

    return judge


def _unexpected(
    history: History, promise: Promise, accepted: Collection[str], silent: Collection[str]
) -> Iterator[Anomaly]:
    for operation in history:
        if operation.outcome is Outcome.FAIL and operation.function in accepted:
            yield Anomaly(
                promise,
                f"{operation.function}() was refused",
                (operation,),
                "refused",
                expected="the call happens, whatever other threads do",
                observed=operation.error or "a refusal",
            )
        elif (
            operation.outcome is Outcome.OK
            and operation.result is not None
            and operation.function in silent
        ):
            yield Anomaly(
                promise,
                f"{operation.function}() returned {operation.result!r}",
                (operation,),
                "unexpected-answer",
                expected="None",
                observed=repr(operation.result),
            )
