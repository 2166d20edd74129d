"""Checks that catalogs come within their budget, and that one query of providers runs at a time.

For histories of threads that ask for a catalog while its providers hang: `rebuilt` and `shown`
report what was returned and how long that took, and each `fetch` is a query of the providers.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from harness.contract import promises
from harness.core.checker import Checker, Rule, first_of
from harness.core.history import History
from harness.core.verdict import Anomaly


def rebuilds_within_budget(budget_s: float) -> Checker:
    """Make the checker for a budget in seconds."""
    return first_of(_slow_display, _empty, _late(budget_s), _concurrent_fetches)


def _slow_display(history: History) -> Iterator[Anomaly]:
    """A display that waited (M1)."""
    for shown in history.happened:
        if shown.function == "shown" and shown.result["waited_s"] > 0:
            yield Anomaly(
                promises.M1,
                "shown() waited for the providers",
                (shown,),
                "slow-display",
                expected="the catalog at once: 0 s",
                observed=f"a wait of {shown.result['waited_s']:g} s",
            )


def _empty(history: History) -> Iterator[Anomaly]:
    """An answer without a model (M1)."""
    for answer in history.happened:
        if answer.function in ("shown", "rebuilt") and not answer.result["models"]:
            yield Anomaly(
                promises.M1,
                f"{answer.function}() returned an empty catalog",
                (answer,),
                "empty-catalog",
                expected="at least one model",
                observed=f"models {answer.result['models']}",
            )


def _late(budget_s: float) -> Rule:
    """A rebuild that waited for longer than the budget (M2)."""

    def rule(history: History) -> Iterator[Anomaly]:
        for rebuilt in history.happened:
            if rebuilt.function == "rebuilt" and rebuilt.result["waited_s"] > budget_s:
                yield Anomaly(
                    promises.M2,
                    "rebuilt() exceeded its budget",
                    (rebuilt,),
                    "over-budget",
                    expected=f"at most {budget_s:g} s",
                    observed=f"{rebuilt.result['waited_s']:g} s",
                )

    return rule


def _concurrent_fetches(history: History) -> Iterator[Anomaly]:
    """Two queries of the providers at once (M2)."""
    fetches = history.of("fetch")
    for one, other in combinations(fetches, 2):
        if one.meets(other):
            yield Anomaly(
                promises.M2,
                "two fetches of the providers overlapped",
                (one, other),
                "not-single-flight",
                expected="one fetch at a time, shared by all callers",
                observed=f"fetches of processes {one.process} and {other.process} at once",
            )
