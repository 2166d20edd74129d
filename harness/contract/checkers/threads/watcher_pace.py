"""Checks that a watcher announces each change within two polls, whatever was before.

For histories of a watcher at work on virtual time: `announced` is how long a reader waited for the
last `write`, since it was made or the database was healed; `wait` counts the announcements and the
projections while time passes. Changes are announced as quickly after failures, or a long quiet, as
at first; a quiet time costs nothing, and a failing one announces nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

from harness.contract import promises
from harness.core.checker import Checker, first_of
from harness.core.history import History, Operation, Outcome
from harness.core.verdict import Anomaly

POLLS = 2  # within which a change is announced
PROJECTED = ("raises", "none")  # failures that a projection meets


def announced_within(poll_s: float) -> Checker:
    """Make the checker for a time between polls in seconds."""

    def pace(history: History) -> Iterator[Anomaly]:
        how, is_due = "", False
        for operation in history:
            if operation.outcome is not Outcome.OK:
                continue
            match operation.function:
                case "break_off":
                    how = operation.argument["how"]
                case "heal":
                    how = ""
                case "write":
                    is_due = True
                case "announced":
                    yield from _late(operation, poll_s)
                    is_due = False
                case "wait":
                    yield from _counted(operation, how, poll_s, is_due=is_due)

    return first_of(pace)


def _late(operation: Operation, poll_s: float) -> Iterator[Anomaly]:
    """A change that was announced too late (G1)."""
    waited_s = operation.result
    if waited_s is None or waited_s > POLLS * poll_s:
        yield Anomaly(
            promises.G1,
            "a change by another program was not announced within two polls",
            (operation,),
            "late",
            expected=f"at most {POLLS * poll_s:g} s",
            observed="no announcement" if waited_s is None else f"a wait of {waited_s:g} s",
        )


def _counted(operation: Operation, how: str, poll_s: float, *, is_due: bool) -> Iterator[Anomaly]:
    """Announcements while looks fail (G3), or work while nothing changes (G2)."""
    seconds, found = operation.argument["seconds"], operation.result
    if how and found["announcements"]:
        yield Anomaly(
            promises.G3,
            f"a list was announced although each look fails ({how})",
            (operation,),
            "announced-failing",
            expected="no announcement",
            observed=f"{found['announcements']} announcements",
        )
    if is_due and not how:
        return
    most = int(seconds / poll_s) + 1 if how in PROJECTED and is_due else 0
    if found["projections"] > most or (not how and found["announcements"]):
        yield Anomaly(
            promises.G2,
            f"the list was projected or announced without a cause in {seconds:g} s",
            (operation,),
            "busy",
            expected=f"at most {most} projections, and no announcement",
            observed=f"{found}",
        )
