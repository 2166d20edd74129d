"""Checks that a call is refused, and a run is offered, only for a run that is under way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.contract import promises
from harness.contract.checkers.threads.run_facts import (
    CLOSING,
    CONFLICT,
    ENDERS,
    ENDS,
    LEFT_BEHIND,
    UNNAMED,
    UNWINDS_LATE,
    accepted_starts,
    cancels_before,
    is_true,
    may_run,
    of_run,
    run_of,
    starts_of,
    wrong,
)
from harness.core.history import History, Operation
from harness.core.verdict import Anomaly


def wrong_refusals(history: History) -> Iterator[Anomaly]:
    """A start that was refused without a reason, or with a wrong run."""
    accepted = accepted_starts(history)
    for start in starts_of(history):
        status, session = start.result["status"], start.argument["session"]
        if status == CLOSING and not any(not start.precedes(op) for op in history.of("shut_down")):
            yield wrong(
                promises.T3, "refused", f"{start.call} was refused", (start,), "status 200", status
            )
        if status == CONFLICT:
            runs = [op for op in accepted if op.argument["session"] == session]
            others = [op for op in runs if op is not start]
            possible = [op for op in others if may_run(history, op, start)]
            yield from _offered_instead(history, start, others, possible)
            yield from _refused_idle(history, start, others, possible)


def _offered_instead(
    history: History, start: Operation, others: Sequence[Operation], possible: Sequence[Operation]
) -> Iterator[Anomaly]:
    """A refused start that offers a run which is not under way, or which was cancelled."""
    active, runs = start.result["active"], [run_of(op) for op in possible]
    if active is None:
        return
    if active not in [*runs, *([UNNAMED] if possible else ())]:
        yield wrong(
            promises.T1,
            "wrong-run",
            f"{start.call} was refused because of a run that is not under way",
            (start, *others),
            f"one of {runs}",
            active,
        )
    cancels = cancels_before(history, start)
    if active in [run_of(op) for op in cancels]:
        yield wrong(
            promises.T4,
            "offered",
            f"{start.call} offers a run that was cancelled",
            (*cancels, start),
            "no run to attach to",
            active,
            promises.T1,
        )


def _refused_idle(
    history: History, start: Operation, others: Sequence[Operation], possible: Sequence[Operation]
) -> Iterator[Anomaly]:
    """A start that was refused although no run is under way, or behind the end of the last one."""
    status = start.result["status"]
    late = [op for op in possible if op.argument["script"] in UNWINDS_LATE]
    awaited = start.argument["after"] if start.function == "follow" else ""
    if [run_of(op) for op in possible] == [awaited] and not late:
        yield wrong(
            promises.T8,
            "refused-next",
            f"{start.call} was refused although its client has the end of run {awaited}",
            (*of_run(history, "terminal", awaited), start),
            "status 200",
            status,
            promises.T3,
        )
    if not possible:
        yield wrong(
            promises.T3,
            "refused-idle",
            f"{start.call} was refused although no run is under way",
            (*others, start),
            "status 200",
            status,
            promises.T1,
        )


def disowned_runs(history: History) -> Iterator[Anomaly]:
    """The only call that may have cancelled a run, which says that it did not."""
    scripts = {run_of(start): start for start in accepted_starts(history)}
    for cancel in history.happened.of("cancel"):
        events = of_run(history, "terminal", run_of(cancel))
        is_cancelled = [op.argument["event"] for op in events] == ENDS["cancelled"]
        others = [op for op in history if op.function in ENDERS and op is not cancel]
        if run_of(cancel) in scripts and is_cancelled and not others and not is_true(cancel):
            yield wrong(
                promises.T4,
                "disowned",
                f"{cancel.call} says that it did not cancel the run, which ended by a cancel",
                (scripts[run_of(cancel)], cancel, *events),
                "True",
                cancel.answer,
                promises.T3,
            )


def denied_cancels(history: History) -> Iterator[Anomaly]:
    """A cancel that says false of a run that was cancelled before, and whose agent works on."""
    left_behind = {run_of(op) for op in starts_of(history) if op.argument["script"] in LEFT_BEHIND}
    for cancel in history.happened.of("cancel"):
        run = run_of(cancel)
        works = of_run(history, "work", run)
        before = [
            op
            for op in history.happened.of("cancel")
            if run_of(op) == run and is_true(op) and op.precedes(cancel)
        ]
        is_here = run not in left_behind and any(_outlasts(op, cancel) for op in works)
        if before and is_here and cancel.result["cancelled"] is not True:
            yield wrong(
                promises.T4,
                "denied",
                f"{cancel.call} denies that the run is cancelled, while its agent unwinds",
                (*before, cancel, *works),
                "True",
                cancel.answer,
            )


def _outlasts(one: Operation, other: Operation) -> bool:
    """Whether an operation ended after another one."""
    ends = (one.completed_ns, other.completed_ns)
    return ends[0] is not None and ends[1] is not None and ends[0] > ends[1]


def wrong_offers(history: History) -> Iterator[Anomaly]:
    """A status that offers a run that was cancelled, or that is not under way."""
    for status in history.happened.of("status"):
        active = status.result["active"]
        cancels = cancels_before(history, status)
        possible = [op for op in accepted_starts(history) if may_run(history, op, status)]
        names = [None, *map(run_of, possible), *([UNNAMED] if possible else ())]
        if active in map(run_of, cancels):
            yield wrong(
                promises.T4,
                "attachable",
                f"{status.call} offers a cancelled run",
                (*cancels, status),
                "no such run",
                active,
                promises.C7,
            )
        if active not in names or (status.result["busy"] and not possible):
            yield wrong(
                promises.T3,
                "busy",
                f"{status.call} shows a run that is not under way",
                (*starts_of(history), status),
                f"one of {names}",
                status.result,
                promises.T1,
            )
        alive = [op for op in possible if _is_alive(history, op, status)]
        if alive and not status.result["busy"]:
            yield wrong(
                promises.T1,
                "idle",
                f"{status.call} says that the session is idle while a run is under way",
                (*alive, status),
                "busy",
                status.result,
                promises.T3,
                promises.T4,
            )


def _is_alive(history: History, start: Operation, other: Operation) -> bool:
    """Whether the run of a start is registered during the whole of another call."""
    over = of_run(history, "terminal", run_of(start))
    return start.precedes(other) and bool(over) and other.precedes(over[0])
