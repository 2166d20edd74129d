"""Idle: a host of which nothing is asked costs next to nothing.

For histories with `idle` operations, which tell what the host used in so many `seconds`: `cpu_s`,
and `wakeups`, how often one of its threads had waited and was woken. Processor time is the host's
own, so other work on the machine hardly shows in it.
"""

from __future__ import annotations

from collections.abc import Iterator

from harness.core.checker import Checker
from harness.core.history import History
from harness.core.promises import Promise
from harness.core.verdict import Anomaly, Verdict


def idles_within(share: float, wakeups_a_second: float) -> Checker:
    """Judge by this share of one core, and so many wakeups a second."""

    def anomalies(history: History) -> Iterator[Anomaly]:
        for operation in history.happened:
            if operation.function != "idle":
                continue
            used, seconds = operation.result, operation.result["seconds"]
            busy, woken = used["cpu_s"] / seconds, used["wakeups"] / seconds
            if busy > share or woken > wakeups_a_second:
                message = (
                    f"idle for {seconds:.1f} s with {used['tabs']} tabs it used {busy:.1%} of a"
                    f" core, of {share:.0%}, and woke {woken:.1f} times a second, of"
                    f" {wakeups_a_second:g}"
                )
                yield Anomaly(Promise.H5, message, (operation,), "busy-idling")

    def check(history: History) -> Verdict:
        return Verdict(anomalies=tuple(anomalies(history))[:1])

    return check
