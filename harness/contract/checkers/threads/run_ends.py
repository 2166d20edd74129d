"""Checks that runs whose calls meet exclude each other, end once, and leave nothing behind.

For histories that end with a quiet `settle`. Besides the calls they hold what was observed inside
them: `work` (an agent's turn), `token` and `terminal` (events of a run, in order), and `ended` (a
run left the registry).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from harness.contract import promises
from harness.contract.checkers.threads.run_contents import (
    REMOVALS,
    journalled,
    summarized,
    unsummarized,
    wrongly_stored,
)
from harness.contract.checkers.threads.run_facts import (
    CLOSING,
    CONFLICT,
    ENDERS,
    ENDS,
    FAILING,
    GONE,
    LEFT_BEHIND,
    NOTHING,
    OK,
    STARTS,
    UNTIL_CANCELLED,
    UNWINDS_LATE,
    Rule,
    accepted_starts,
    is_true,
    of_run,
    run_of,
    starts_of,
    wrong,
)
from harness.contract.checkers.threads.run_refusals import (
    denied_cancels,
    disowned_runs,
    wrong_offers,
    wrong_refusals,
)
from harness.core.history import History, Outcome
from harness.core.verdict import Anomaly, Verdict

SILENT = (
    "make",
    "slow_down",
    "furnish",
    "clear",
    "pause",
    "work",
    "token",
    "terminal",
    "ended",
    "cancelling",
)  # return nothing


def check_run_ends(history: History) -> Verdict:
    """Judge a history of calls that meet."""
    for rule in RULES:
        for anomaly in rule(history):
            return Verdict(anomalies=(anomaly,))
    return Verdict()


def _failed(history: History) -> Iterator[Anomaly]:
    """A call that failed in a way of its own."""
    for op in history:
        if op.outcome is Outcome.FAIL:
            yield wrong(
                promises.T3,
                "failed-call",
                f"{op.call} failed",
                (op,),
                "an answer, or a refusal with a status",
                op.answer,
            )


def _unexpected(history: History) -> Iterator[Anomaly]:
    """An answer that no call may have: a start's status, or a value where none is returned."""
    has_late = any(start.argument["script"] in UNWINDS_LATE for start in accepted_starts(history))
    for op in history.happened:
        if op.function in STARTS:
            statuses = [OK, CONFLICT, *([CLOSING] if history.of("shut_down") else [])]
            statuses += [GONE] if history.of("delete") else []
            statuses += [NOTHING] if op.function == "retry" and history.of("clear") else []
            is_expected = op.result["status"] in statuses
            is_expected &= op.result["active"] is None or op.result["status"] == CONFLICT
            wanted = f"a status of {statuses}, and an active run with {CONFLICT} only"
        elif op.function in ("shut_down", "delete"):
            is_expected, wanted = op.result is True or has_late, "True: every run unwinds in time"
        else:
            is_expected = op.function not in SILENT or op.result is None
            wanted = "None"
        if not is_expected:
            yield wrong(
                promises.T3,
                "unexpected-answer",
                f"{op.call} gave an answer that nothing explains",
                (op,),
                wanted,
                op.answer,
            )


def _overlapping(history: History) -> Iterator[Anomaly]:
    """Two agents that work for one session at once; one may be left behind."""
    scripts = {run_of(start): start.argument["script"] for start in starts_of(history)}
    for one, other in combinations(history.of("work"), 2):
        is_left = any(scripts.get(run_of(work)) in LEFT_BEHIND for work in (one, other))
        is_same = one.argument["session"] == other.argument["session"]
        if is_same and one.meets(other) and not is_left:
            yield wrong(
                promises.T1,
                "two-runs",
                f"runs {run_of(one)} and {run_of(other)} of one session were executed at once",
                (one, other),
                "one run at a time",
                "two",
            )


def _ended(history: History) -> Iterator[Anomaly]:
    """A run without its one end, or with an end that nothing explains."""
    for start in accepted_starts(history):
        run, script = run_of(start), start.argument["script"]
        events = of_run(history, "terminal", run)
        names = [op.argument["event"] for op in events]
        state = next((state for state, wanted in ENDS.items() if names == wanted), None)
        over = of_run(history, "ended", run)
        if state is None or len(over) != 1:
            yield wrong(
                promises.T3,
                "ends",
                f"run {run} has the ends {names} and left the registry {len(over)} times",
                (start, *events, *over),
                "one terminal state, and the run leaves once",
                names,
            )
            continue
        may_be_cancelled = any(
            op.function != "cancel" or run_of(op) == run for op in history if op.function in ENDERS
        )
        is_deleted = bool(history.of("delete"))
        own = "error" if script in FAILING else "done"
        allowed = {own} if script not in UNTIL_CANCELLED else set()
        allowed |= {"cancelled"} if may_be_cancelled else set()
        allowed |= {"error"} if is_deleted else set()  # its session is gone
        if state not in allowed:
            yield wrong(
                promises.T3,
                "wrong-end",
                f"run {run} ({script}) ended as {state}",
                (start, *events),
                " or ".join(sorted(allowed)),
                state,
                promises.T4,
            )


def _cancelled(history: History) -> Iterator[Anomaly]:
    """A cancel whose answer does not fit the end of its run."""
    scripts = {run_of(start): start for start in accepted_starts(history)}
    cancels = [op for op in history.happened.of("cancel") if run_of(op) in scripts]
    for cancel in cancels:
        run = run_of(cancel)
        start = scripts[run]
        events = of_run(history, "terminal", run)
        is_cancelled = [op.argument["event"] for op in events] == ENDS["cancelled"]
        if is_true(cancel) and not is_cancelled and not history.of("delete"):
            yield wrong(
                promises.T4,
                "uncancelled",
                f"{cancel.call} says that the run is cancelled, and it ended otherwise",
                (start, cancel, *events),
                "the terminal event cancel",
                [op.argument["event"] for op in events],
                promises.T3,
            )
        is_kept = not any(op.function in REMOVALS for op in history)
        if is_true(cancel) and is_kept and not cancel.result["saved"]:
            yield wrong(
                promises.T4,
                "unkept",
                f"{cancel.call} returned before the turn was saved",
                (start, cancel),
                "a saved turn",
                cancel.answer,
                promises.S15,
                promises.S2,
            )
        was_over = events and all(op.precedes(cancel) for op in events)
        if is_true(cancel) and was_over and not is_cancelled:
            yield wrong(
                promises.T3,
                "late",
                f"{cancel.call} cancelled an ended run",
                (cancel,),
                "False",
                cancel.answer,
            )
        others = [op for op in history if op.function in ENDERS and op is not cancel]
        is_alone = all(cancel.precedes(op) for op in others)
        is_held = start.argument["script"] in UNTIL_CANCELLED
        is_sure = is_held and is_alone and start.precedes(cancel)
        if cancel.result["cancelled"] is False and is_sure:
            yield wrong(
                promises.T4,
                "not-cancelled",
                f"{cancel.call} did not cancel a run that is under way",
                (start, cancel),
                "True",
                cancel.answer,
            )


def _shut_down(history: History) -> Iterator[Anomaly]:
    """A shutdown that returned although a run goes on, or a start after it."""
    for closing in history.happened.of("shut_down"):
        for start in accepted_starts(history):
            over = of_run(history, "terminal", run_of(start))
            is_late = any(closing.precedes(op) for op in over)
            if closing.precedes(start) or (closing.result and is_late):
                yield wrong(
                    promises.H3,
                    "after-shutdown",
                    f"run {run_of(start)} went on after {closing.call}",
                    (start, closing, *over),
                    "no run after a shutdown",
                    closing.result,
                    promises.T3,
                )


def _repaired(history: History) -> Iterator[Anomaly]:
    """A repair of a run that is alive; none is dead, because no host dies."""
    for repair in history.happened.of("repair"):
        if repair.result is not False:
            yield wrong(
                promises.S13,
                "repaired-alive",
                f"{repair.call} settled a turn whose run is alive",
                (*accepted_starts(history), repair),
                "False",
                repair.answer,
                promises.S7,
                promises.S2,
                promises.T3,
            )


def _left(history: History) -> Iterator[Anomaly]:
    """What is left of runs once all is quiet."""
    for settle in history.happened.of("settle"):
        busy = [name for name, found in settle.result["sessions"].items() if found["busy"]]
        if settle.result["left"] or busy:
            yield wrong(
                promises.T3,
                "left",
                f"runs that are over are still registered, or mark their sessions: {busy}",
                (settle,),
                "empty registries, and idle sessions",
                settle.result["left"],
                promises.T4,
            )


RULES: tuple[Rule, ...] = (
    *(_failed, _unexpected, _repaired, _overlapping, wrong_refusals, _ended),
    *(disowned_runs, _cancelled, denied_cancels, wrong_offers, _shut_down, journalled, _left),
    *(summarized, unsummarized, wrongly_stored),
)
