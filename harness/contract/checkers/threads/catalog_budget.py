"""Budgeted: nobody waits longer for a catalog than is allowed, and the providers are asked once.

For histories of threads that ask for a catalog while its providers hang: `rebuilt` and `shown`
tell what was given and how long that took, and `fetch` was seen: the providers were asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import combinations

from harness.core.checker import Checker
from harness.core.history import History
from harness.core.promises import Promise
from harness.core.verdict import Anomaly, Verdict

Rule = Callable[[History], Iterable[Anomaly]]


def rebuilds_keep_within(budget_s: float) -> Checker:
    """Judge by this budget, in seconds."""

    def check(history: History) -> Verdict:
        for rule in (_slow_display, _empty, _late(budget_s), _asked_at_once):
            for anomaly in rule(history):
                return Verdict(anomalies=(anomaly,))
        return Verdict()

    return check


def _slow_display(history: History) -> Iterator[Anomaly]:
    """A display that waited (M1)."""
    for shown in history.happened:
        if shown.function == "shown" and shown.result["waited_s"] > 0:
            message = f"a display waited for {shown.result['waited_s']:g} s"
            yield Anomaly(Promise.M1, message, (shown,), "slow-display")


def _empty(history: History) -> Iterator[Anomaly]:
    """An answer without a model (M1)."""
    for told in history.happened:
        if told.function in ("shown", "rebuilt") and not told.result["models"]:
            yield Anomaly(Promise.M1, "no model was offered", (told,), "empty-catalog")


def _late(budget_s: float) -> Rule:
    """Somebody who waited for longer than the budget (M2)."""

    def rule(history: History) -> Iterator[Anomaly]:
        for told in history.happened:
            if told.function == "rebuilt" and told.result["waited_s"] > budget_s:
                message = f"a rebuild took {told.result['waited_s']:g} s, of {budget_s:g}"
                yield Anomaly(Promise.M2, message, (told,), "over-budget")

    return rule


def _asked_at_once(history: History) -> Iterator[Anomaly]:
    """Providers that were asked while they were being asked (M2)."""
    fetches = [op for op in history if op.function == "fetch"]
    for one, other in combinations(fetches, 2):
        if one.meets(other):
            message = "the providers were asked twice at once"
            yield Anomaly(Promise.M2, message, (one, other), "not-single-flight")
