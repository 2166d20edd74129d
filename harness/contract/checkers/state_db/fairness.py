"""Fairness: nobody is refused while the lock's holder makes progress, and nobody starves.

For histories of many writers on one file. What is judged does not depend on how fast the machine
is: an answer's *patience* is a stated time, far above any wait of a sound target; and starving is
counted in turns that others took meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from harness.contract.checkers.state_db.wait_times import (
    WRITES,
    overtakings,
    unscheduled,
    writes_of,
)
from harness.core.checker import Checker
from harness.core.history import History, Operation, Outcome
from harness.core.promises import Promise
from harness.core.verdict import Anomaly, Verdict

KILL, HANG = "kill member ", "hang of member "  # faults: killed as was meant, or in the end
MENTIONED = 5  # unanswered questions are enough to see what hung

STARVING = 80
"""A writer starves that one other overtook so often in one wait. In a line it is once or twice. On
two cores with thirty others to share them, where the head of a line may be put aside for half a
second and is then got round, it was 27 times at most; a policy without a line reaches as many as
there are to overtake. Who only lacked a processor, half of his wait or more, does not count."""
SHARE = 0.25
"""So many of the writers must have starved: bad luck hits one, a policy hits most."""


def nobody_refused(patience_s: float) -> Checker:
    """Make the checker of D3: no write is refused before its patience is over.

    For workloads in which no write has a reason of its own to be refused. A refusal after that
    time breaks nothing, but leaves unknown what would have come.
    """

    def check(history: History) -> Verdict:
        refused = [op for op in history if op.function in WRITES and op.outcome is Outcome.FAIL]
        early = [op for op in refused if _waited_s(op) < patience_s]
        late = (f"its patience was over: {op}" for op in refused if _waited_s(op) >= patience_s)
        return Verdict(tuple(_early(early, patience_s, history)), unknowns=tuple(late))

    return check


def _early(refused: Iterable[Operation], patience_s: float, history: History) -> Iterator[Anomaly]:
    for op in refused:
        done = [other for other in history.happened if _within(other, op)]
        message = (
            f"refused after {_waited_s(op):.3f} s of {patience_s:g}, while others finished"
            f" {len(done)} writes: {op}"
        )
        yield Anomaly(Promise.D3, message, (*done[-2:], op), "refused")


def _within(other: Operation, op: Operation) -> bool:
    ended = other.completed_ns
    if other.function not in WRITES or ended is None or op.completed_ns is None:
        return False
    return op.invoked_ns <= ended <= op.completed_ns


def _waited_s(op: Operation) -> float:
    return ((op.completed_ns or op.invoked_ns) - op.invoked_ns) / 1e9


def nobody_hangs(history: History) -> Verdict:
    """Judge that each process came to its end: one that had to be ended waited without bound."""
    hung = [fault for fault in history.faults if fault.name.startswith(HANG)]
    if not hung:
        return Verdict()
    last = tuple(op for op in history if op.outcome is Outcome.INFO)[:MENTIONED]
    message = f"{len(hung)} processes never came to their end, and had to be killed"
    return Verdict((Anomaly(Promise.D5, message, last, "hung", also=(Promise.D3, Promise.D4)),))


def the_dead_are_succeeded(history: History) -> Verdict:
    """Judge D5 beside killed processes: nobody is refused, for the dead hold nothing."""
    refused = (op for op in history if op.function in WRITES and op.outcome is Outcome.FAIL)
    return Verdict(
        tuple(
            Anomaly(Promise.D5, f"refused beside the dead: {op}", (op,), "not-succeeded")
            for op in refused
        )
    )


def nobody_starves(history: History) -> Verdict:
    """Judge D4 by all `append`s: none is overtaken by another's without bound, but by bad luck."""
    by_writer = writes_of(history, ("append",))
    every = overtakings(by_writer, unscheduled(history))
    starved = [found for found in every if found.times > STARVING]
    if len(starved) <= max(1, SHARE * len(by_writer)):
        return Verdict()
    worst = max(starved, key=lambda found: found.times)
    message = (
        f"{len(starved)} of {len(by_writer)} writers starved: process {worst.write.process} waited"
        f" {_waited_s(worst.write):.3f} s for one write, while process {worst.by[0].process} began"
        f" and finished {worst.times}"
    )
    evidence = (worst.write, *worst.by[:2], worst.by[-1])
    return Verdict((Anomaly(Promise.D4, message, evidence, "starved"),))
