"""The checker: a pure function that judges one history, and how rules make one.

The same history always gets the same verdict, so that a stored run can be judged again by a better
checker. A checker that needs a promise, a model or a budget is made by a function that takes them
and returns the checker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

from harness.core.history import History
from harness.core.verdict import VALID, Anomaly, Verdict

Checker: TypeAlias = Callable[[History], Verdict]
"""A pure function that judges one history: it reads no clock, file or randomness."""
Rule: TypeAlias = Callable[[History], Iterable[Anomaly]]


def first_of(*rules: Rule) -> Checker:
    """Make the checker that reports the first anomaly that any of these rules finds, in order.

    A rule yields the anomalies of one history lazily; later rules are not asked after a finding.
    """

    def check(history: History) -> Verdict:
        for rule in rules:
            for anomaly in rule(history):
                return Verdict(anomalies=(anomaly,))
        return VALID

    return check
