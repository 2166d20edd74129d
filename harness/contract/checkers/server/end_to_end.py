"""Served: many clients of one server, through its deaths and other faults, by all that they saw.

Pure, and near-linear in the history. The first anomaly is the root: what is wrong with a stream is
judged before the messages that it showed, and those before the wakeups among them.
"""

from __future__ import annotations

from collections.abc import Iterator

from harness.contract.checkers.server.client_history import Visits
from harness.contract.checkers.server.stream_events import streams_are_true
from harness.contract.checkers.server.transcript import messages_are_kept
from harness.contract.checkers.server.wakeup_delivery import processes_wake_their_sessions
from harness.core.history import History, Outcome
from harness.core.promises import Promise
from harness.core.verdict import Anomaly, Verdict


def visitors_are_served(history: History) -> Verdict:
    """Judge a history of visits that ends quiet."""
    visits = Visits(history)
    anomaly = next(_anomalies(visits), None)
    if anomaly is not None:
        return Verdict(anomalies=(anomaly,))
    return Verdict(unknowns=tuple(_unasked(visits)))


def _anomalies(visits: Visits) -> Iterator[Anomaly]:
    yield from _lives(visits)
    yield from streams_are_true(visits)
    yield from messages_are_kept(visits)
    if visits.final:
        yield from processes_wake_their_sessions(visits)
    yield from _unrest(visits)


def _lives(visits: Visits) -> Iterator[Anomaly]:
    """A server that does not come up, or does not go as it was told (H3); an error of its own."""
    for boot in visits.all("boot"):
        if boot.outcome is Outcome.FAIL:
            yield Anomaly(Promise.H3, f"it did not come up: {boot.error}", (boot,), "no-boot")
    for told in visits.all("terminate"):
        if told.outcome is not Outcome.OK or told.result != 0:
            yield Anomaly(Promise.H3, f"exit 0 was promised: {told}", (told,), "bad-exit")
    for operation in visits.history:
        if ": 500 " in operation.error:
            yield Anomaly(Promise.H2, f"{operation}", (operation,), "internal-error")


def _unrest(visits: Visits) -> Iterator[Anomaly]:
    """What is under way, or too large, long after it should be (by what it is)."""
    for rest in visits.done("rest"):
        for name in rest.result["left"]:
            broken, also = _UNREST.get(name, (Promise.T3, ()))
            message = f"it never came to rest: {rest.result['left']}"
            yield Anomaly(broken, message, (rest,), "no-rest", also=also)


_UNREST = {
    "process_events_pending": (Promise.W3, (Promise.W2, Promise.W5)),
    "wakeup_events": (Promise.W3, (Promise.W2, Promise.W5)),
    "agents_cached": (Promise.A1, ()),
    "sessions_held": (Promise.A6, ()),
}


def _unasked(visits: Visits) -> Iterator[str]:
    """Sessions that could not be read when all was quiet."""
    for session in visits.accepted_in:
        if session not in visits.final and not visits.deletes.get(session):
            yield f"{session} was not read when all was quiet"
