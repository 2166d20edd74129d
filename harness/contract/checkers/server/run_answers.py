"""What calls answer about runs: their names, their ends, and who is busy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from harness.contract import promises
from harness.contract.agent_script import Script
from harness.contract.checkers.server.client_calls import Calls, is_held, malformed_answer
from harness.contract.checkers.server.client_history import TERMINAL, rows
from harness.core.history import Operation, Outcome
from harness.core.verdict import Anomaly

PHASES = ("running", "cancelling", "ending", "")


def _namings(calls: Calls) -> Iterator[tuple[str, str, Operation]]:
    """Every answer that names a run: the session, the run, and the call."""
    view = calls.view
    for op in view.done("send", "status"):
        if op.result["run"] is not None:
            yield op.argument["session"], op.result["run"], op
    for op in view.done("offered"):
        if op.result is not None:
            yield op.argument["session"], op.result, op
    for op in view.done("runs"):
        for session, run, _ in op.result:
            yield session, run, op
    for op in view.done("watch"):
        for _, name, session, subject, _ in op.result["rows"]:
            if name in ("server_turn_started", "turn_started"):
                yield session, subject, op


def mistaken_runs(calls: Calls) -> Iterator[Anomaly]:
    """A run that two answers attribute to two sessions, or an id that no run has."""
    owners: dict[str, tuple[str, Operation]] = {}
    lengths = Counter(len(run) for _, run, _ in _namings(calls)).most_common(1)
    made = {op.argument["session"] for op in calls.view.all("new")}
    for session, run, op in _namings(calls):
        owner, first = owners.setdefault(run, (session, op))
        if owner != session:
            yield _confused(op, first, f"run {run} of {owner}")
        elif session not in made or len(run) != lengths[0][0]:
            yield _confused(op, op, f"a run of session {session} of those that were made")
        elif run not in calls.view.runs and session not in calls.spawners:
            yield _confused(op, op, f"one of the runs that were begun in {session}")
    yield from _mistaken_sends(calls)
    for op in calls.view.done("runs"):
        if sorted(op.result) != op.result:
            yield _confused(op, op, "the runs in the order of their sessions")
        for _, run, phase in op.result:
            if phase not in PHASES:
                yield _confused(op, op, f"one of the phases {PHASES} of run {run}")


def _mistaken_sends(calls: Calls) -> Iterator[Anomaly]:
    """Two acknowledged sends with one run, or events of a run that no answer named."""
    begun: dict[str, Operation] = {}
    for op in calls.view.accepted:
        first = begun.setdefault(op.result["run"], op)
        if first is not op:
            yield _confused(op, first, f"a run of its own, not {op.result['run']}")
    named = {run for _, run, _ in _namings(calls)}
    for run, relays in calls.view.relays.items():
        if run not in named:
            yield _confused(relays[0], relays[0], "no events of a run that no answer named")


def _confused(operation: Operation, first: Operation, expected: str) -> Anomaly:
    return Anomaly(
        promises.T1,
        f"{operation.call} names a run that cannot be meant",
        (first, operation) if first is not operation else (operation,),
        "mistaken-run",
        also=(promises.C5, promises.C7, promises.W7),
        expected=expected,
        observed=operation.answer,
    )


def unlisted_runs(calls: Calls) -> Iterator[Anomaly]:
    """A held run that the list of runs lacks, or whose session is not busy (T1)."""
    held = [op for op in calls.view.accepted if Script.parse(op.argument["text"]).is_held]
    for look in calls.view.done("runs", "status"):
        for sent in held:
            session, run = sent.argument["session"], sent.result["run"]
            is_about = look.function == "runs" or look.argument["session"] == session
            if not is_about or not sent.precedes(look) or _may_be_over(calls, sent, look):
                continue
            if look.function == "runs":
                is_shown = [session, run] in [row[:2] for row in look.result]
            else:
                is_shown = look.result["busy"]
            if not is_shown:
                yield Anomaly(
                    promises.T1,
                    f"{look.call} does not show the run of {session} that is under way",
                    (sent, look),
                    "run-not-shown",
                    also=(promises.C7, promises.H4),
                    expected=f"run {run} of {session}",
                    observed=look.answer,
                )


def _may_be_over(calls: Calls, held: Operation, by: Operation) -> bool:
    """Whether something may have ended a held run before `by` was answered."""
    view = calls.view
    ends = [
        *calls.effective_cancels(held.result["run"], by),
        *view.all("kill", "terminate"),
        *view.deletes.get(held.argument["session"], ()),
    ]
    late = (end for end in ends if not end.precedes(held))
    return view.is_refused_since(held) or any(not by.precedes(end) for end in late)


def busy_at_rest(calls: Calls) -> Iterator[Anomaly]:
    """A session that is busy, or offers a run, although all is quiet (T3)."""
    idle: Mapping[str, Any] = {"status": {"busy": False, "run": None}, "offered": None}
    for look in calls.view.done("status", "offered"):
        if calls.is_at_rest(look) and look.result != idle[look.function]:
            yield Anomaly(
                promises.T3,
                f"{look.call} shows a run although no run is under way",
                (look,),
                "busy-at-rest",
                also=(promises.C7, promises.T4),
                expected=f"{idle[look.function]}",
                observed=look.answer,
            )


def wrong_cancels(calls: Calls) -> Iterator[Anomaly]:
    """A cancel whose answer contradicts how the run ended (T4)."""
    for run, cancels in calls.view.cancels.items():
        sent = calls.view.runs.get(run)
        for cancel in cancels:
            if cancel.outcome is not Outcome.OK or calls.view.is_refused_since(sent or cancel):
                continue
            if not isinstance(cancel.result, bool):
                yield malformed_answer(cancel, "true or false")
            elif cancel.result:
                yield from _needless(calls, cancel, sent)
            elif sent is not None and is_held(sent) and not _may_be_over(calls, sent, cancel):
                yield _contradicted(cancel, (sent,), "true: the run was under way", cancel.answer)
    for run in {*calls.view.runs, *calls.view.cancels}:
        yield from _uncaused(calls, run)


def _needless(calls: Calls, cancel: Operation, sent: Operation | None) -> Iterator[Anomaly]:
    """A successful cancel of a run that ended in another way."""
    ends = _ends(calls, cancel.argument["run"])
    strange = [end for end in ends if end != "cancel"]
    if strange:
        wanted = "a run that ends with the event cancel"
        yield _contradicted(cancel, tuple(ends.values()), wanted, f"{strange}")
    found = _mark(calls, sent) if sent is not None else None
    if sent is None or found is None:
        return
    mark, read = found
    if mark != "cancelled" and (mark or is_held(sent)):
        wanted = "a stored turn with the mark 'cancelled'"
        yield _contradicted(cancel, (sent, read), wanted, f"mark {mark!r}")


def _uncaused(calls: Calls, run: str) -> Iterator[Anomaly]:
    """A run that ended as cancelled without an effective cancel."""
    sent, asked = calls.view.runs.get(run), calls.view.cancels.get(run, [])
    since = sent or asked[0]
    if (
        calls.effective_cancels(run)
        or calls.view.deaths_since(since)
        or calls.view.is_refused_since(since)
        or (sent is not None and calls.view.deletes.get(sent.argument["session"]))
    ):
        return
    found = _mark(calls, sent) if sent is not None else None
    look = _ends(calls, run).get("cancel")
    if look is None and found is not None and found[0] == "cancelled":
        look = found[1]
    if look is not None:
        wanted = "another end: no client cancelled the run with success"
        yield _contradicted(look, tuple(asked), wanted, "a cancelled run")


def _contradicted(
    operation: Operation, others: tuple[Operation, ...], expected: str, observed: str
) -> Anomaly:
    return Anomaly(
        promises.T4,
        f"{operation.call} contradicts how the run ended",
        (*others, operation),
        "contradicted-cancel",
        also=(promises.T3,),
        expected=expected,
        observed=observed,
    )


def _ends(calls: Calls, run: str) -> dict[str, Operation]:
    """The terminal events of a run, each with a read that returned it."""
    return {
        name: relay
        for relay in calls.view.relays.get(run, ())
        for _, name, _ in relay.result["rows"]
        if name in TERMINAL
    }


def _mark(calls: Calls, sent: Operation) -> tuple[str, Operation] | None:
    """The mark of the stored turn, and the read that returned it."""
    read = calls.view.final.get(sent.argument["session"])
    if read is None:
        return None
    text = sent.argument["text"]
    return next(
        ((mark, read) for role, its, mark in rows(read) if (role, its) == ("user", text)), None
    )
