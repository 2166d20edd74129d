"""Checks that an idle host stays within a share of processor time and a rate of wakeups.

For histories with `idle` operations, whose result has the seconds of the interval (`seconds`), the
processor time of the host (`cpu_s`), and how often one of its threads waited and was resumed
(`wakeups`). Processor time is the host's own, so other work on the machine hardly changes it.
"""

from __future__ import annotations

from collections.abc import Iterator

from harness.core.checker import Checker, first_of
from harness.core.contract import Promise
from harness.core.history import History
from harness.core.verdict import Anomaly


def idles_within(promise: Promise, share: float, wakeups_per_s: float) -> Checker:
    """Make the checker with these limits: a share of one core, and a rate of wakeups."""

    def rule(history: History) -> Iterator[Anomaly]:
        for operation in history.happened.of("idle"):
            cost, seconds = operation.result, operation.result["seconds"]
            busy, wakeups = cost["cpu_s"] / seconds, cost["wakeups"] / seconds
            if busy > share or wakeups > wakeups_per_s:
                yield Anomaly(
                    promise,
                    f"idle({seconds:.1f} s) with {cost['tabs']} open tabs cost too much",
                    (operation,),
                    "busy-idling",
                    expected=f"at most {share:.1%} of a core and {wakeups_per_s:g} wakeups/s",
                    observed=f"{busy:.1%} of a core and {wakeups:.1f} wakeups/s",
                )

    return first_of(rule)
