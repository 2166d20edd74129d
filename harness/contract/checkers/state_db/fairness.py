"""Checks that no writer is refused while the lock's holder makes progress, and that none starves.

For histories of many writers on one file. The judgement does not depend on the machine's speed: a
*patience* is a stated time, far above any wait of a sound target, and starvation is counted in
turns that other writers took meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from harness.contract import promises
from harness.contract.checkers.state_db.wait_times import (
    WRITES,
    overtakings,
    unscheduled,
    writes_of,
)
from harness.core.checker import Checker
from harness.core.history import History, Operation, Outcome
from harness.core.verdict import Anomaly, Verdict

KILL, HANG = "kill writer ", "hang of writer "  # faults: killed on purpose, or after a hang
MENTIONED = 5  # calls without a reply in the evidence of a hang

STARVING = 80
"""A write starves if one other writer overtook it more often. A ticket lock allows one or two. On
two cores shared by thirty other writers, where the head of a queue may be descheduled for half a
second and is then bypassed, it was 27 times at most; a lock without a queue reaches the number of
writes there are. A write that waited for a processor for half of its time or more is left out."""
SHARE = 0.25
"""The share of writers that must have starved: bad luck hits one, a policy hits most."""
SUCCEEDED_S = 0.4  # far longer than any write takes that waits for no lock
SUCCESSORS_MIN = 4  # processes that wrote after a kill


def no_early_refusals(patience_s: float) -> Checker:
    """Make the checker of D3: no write is refused before its patience is over.

    For workloads in which no write has a reason of its own to be refused. A refusal after that
    time is no anomaly, but makes the verdict unknown.
    """

    def check(history: History) -> Verdict:
        refused = [op for op in history if op.function in WRITES and op.outcome is Outcome.FAIL]
        early = [op for op in refused if _waited_s(op) < patience_s]
        late = (
            f"refused after its patience of {patience_s:g} s: {op}"
            for op in refused
            if _waited_s(op) >= patience_s
        )
        return Verdict(tuple(_early(early, patience_s, history)), unknowns=tuple(late))

    return check


def _early(refused: Iterable[Operation], patience_s: float, history: History) -> Iterator[Anomaly]:
    for op in refused:
        done = [other for other in history.happened if _within(other, op)]
        yield Anomaly(
            promises.D3,
            f"{op.call} was refused before its patience was over",
            (*done[-2:], op),
            "refused",
            expected=f"a wait of up to {patience_s:g} s for the lock",
            observed=f"a refusal after {_waited_s(op):.3f} s; "
            f"other writes done meanwhile: {len(done)}",
        )


def _within(other: Operation, op: Operation) -> bool:
    ended = other.completed_ns
    if other.function not in WRITES or ended is None or op.completed_ns is None:
        return False
    return op.invoked_ns <= ended <= op.completed_ns


def _waited_s(op: Operation) -> float:
    return ((op.completed_ns or op.invoked_ns) - op.invoked_ns) / 1e9


def no_hangs(history: History) -> Verdict:
    """Judge that each process ended by itself: a process that was killed for a hang did not."""
    hangs = [fault for fault in history.faults if fault.name.startswith(HANG)]
    if not hangs:
        return Verdict()
    unanswered = tuple(op for op in history if op.outcome is Outcome.INFO)[:MENTIONED]
    return Verdict(
        (
            Anomaly(
                promises.D5,
                f"{len(hangs)} processes hung in a call, and had to be killed",
                unanswered,
                "hung",
                also=(promises.D3, promises.D4),
                expected="every process ends by itself: each call returns in bounded time",
                observed=", ".join(fault.name for fault in hangs[:MENTIONED]),
            ),
        )
    )


def check_writes_after_kills(history: History) -> Verdict:
    """Judge D5 beside killed processes: a killed process holds no lock, so no write is refused."""
    refused = (op for op in history if op.function in WRITES and op.outcome is Outcome.FAIL)
    return Verdict(
        tuple(
            Anomaly(
                promises.D5,
                f"{op.call} was refused beside killed processes",
                (op,),
                "not-succeeded",
                expected="success: the lock of a killed process is free",
                observed=op.answer,
            )
            for op in refused
        )
    )


def check_succession(history: History) -> Verdict:
    """Judge D5 by the first write of each process that began after a kill: one is quick at least.

    A write that waits for a lock of a dead process is slow in all of them, and a busy machine slows
    some: a write that waited for a processor for half of its time or more is not slow.
    """
    kills = [fault.began_ns for fault in history.faults if fault.name.startswith(KILL)]
    first: dict[int, Operation] = {}
    for op in history.happened:
        if op.function in WRITES and any(began_ns < op.invoked_ns for began_ns in kills):
            first.setdefault(op.process, op)
    excused = unscheduled(history)
    slow = [
        op
        for op in first.values()
        if _waited_s(op) > SUCCEEDED_S and (op.process, op.invoked_ns) not in excused
    ]
    if len(first) < SUCCESSORS_MIN or len(slow) < len(first):
        return Verdict()
    return Verdict(
        (
            Anomaly(
                promises.D5,
                f"each of {len(first)} processes that wrote after a kill waited for its first"
                " write",
                tuple(slow),
                "succeeded-late",
                expected=f"one of them at least waits less than {SUCCEEDED_S:g} s",
                observed=", ".join(f"{_waited_s(op):.3f} s" for op in slow),
            ),
        )
    )


def no_starvation(history: History) -> Verdict:
    """Judge D4 by all `append`s: no writer overtakes another without bound, save by bad luck."""
    by_writer = writes_of(history, ("append",))
    every = overtakings(by_writer, unscheduled(history))
    starved = [found for found in every if found.times > STARVING]
    if len(starved) <= max(1, SHARE * len(by_writer)):
        return Verdict()
    worst = max(starved, key=lambda found: found.times)
    return Verdict(
        (
            Anomaly(
                promises.D4,
                f"{len(starved)} of {len(by_writer)} writers starved: process"
                f" {worst.write.process} waited {_waited_s(worst.write):.3f} s for one write",
                (worst.write, *worst.by[:2], worst.by[-1]),
                "starved",
                expected=f"at most {STARVING} writes of one other process meanwhile",
                observed=f"{worst.times} writes of process {worst.by[0].process} meanwhile",
            ),
        )
    )
