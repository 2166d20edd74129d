"""Checks what many clients of one server observed, through kills and other faults.

Pure, and near-linear in the history. Only the first anomaly is reported, and causes are judged
before their consequences: streams before the messages they showed, and those before wakeups.
"""

from __future__ import annotations

from collections.abc import Iterator

from harness.contract import promises
from harness.contract.checkers.server.call_answers import call_anomalies
from harness.contract.checkers.server.client_history import ClientHistory
from harness.contract.checkers.server.stream_events import stream_anomalies
from harness.contract.checkers.server.transcript import transcript_anomalies
from harness.contract.checkers.server.wakeup_delivery import wakeup_anomalies
from harness.core.history import History, Outcome
from harness.core.verdict import Anomaly, Verdict


def check_end_to_end(history: History) -> Verdict:
    """Judge a history of clients that ends quiet."""
    view = ClientHistory(history)
    anomaly = next(_anomalies(view), None)
    if anomaly is not None:
        return Verdict(anomalies=(anomaly,))
    return Verdict(unknowns=tuple(_unread_sessions(view)))


def _anomalies(view: ClientHistory) -> Iterator[Anomaly]:
    yield from _process_failures(view)
    yield from stream_anomalies(view)
    yield from transcript_anomalies(view)
    if view.final:
        yield from wakeup_anomalies(view)
    yield from _unrest(view)
    yield from call_anomalies(view)


def _process_failures(view: ClientHistory) -> Iterator[Anomaly]:
    """A server that does not boot, or ignores a termination (H3); an internal error (H2)."""
    for boot in view.all("boot"):
        if boot.outcome is Outcome.FAIL:
            yield Anomaly(
                promises.H3,
                "boot() failed",
                (boot,),
                "no-boot",
                expected="the server boots on its folder and answers",
                observed=boot.answer,
            )
    for terminate in view.all("terminate"):
        if terminate.outcome is not Outcome.OK or terminate.result != 0:
            yield Anomaly(
                promises.H3,
                "terminate() did not end the server cleanly",
                (terminate,),
                "bad-exit",
                expected="exit code 0 after SIGTERM",
                observed=terminate.answer,
            )
    for operation in view.history:
        if ": 500 " in operation.error:
            yield Anomaly(
                promises.H2,
                f"{operation.call} was answered with an internal error",
                (operation,),
                "internal-error",
                expected="no status 500, whatever is asked",
                observed=operation.error,
            )


def _unrest(view: ClientHistory) -> Iterator[Anomaly]:
    """Work that never ends, or a container above its bound, after the last fault."""
    for rest in view.done("rest"):
        for name, content in rest.result["left"].items():
            broken, also = _UNREST.get(name, (promises.T3, ()))
            yield Anomaly(
                broken,
                f"rest() timed out: the server's {name} did not settle: {content!r}",
                (rest,),
                "no-rest",
                also=also,
                expected=f"{name} empty, or within its bound, once all clients are done",
                observed=f"{name} = {content!r}",
            )


_UNREST = {
    "process_events_pending": (promises.W3, (promises.W2, promises.W5)),
    "wakeup_events": (promises.W3, (promises.W2, promises.W5)),
    "agents_cached": (promises.A1, ()),
    "sessions_held": (promises.A6, ()),
}


def _unread_sessions(view: ClientHistory) -> Iterator[str]:
    """Sessions without a quiet read, whose messages cannot be judged."""
    for session in view.accepted_in:
        if session not in view.final and not view.deletes.get(session):
            yield f"{session} was not read when all was quiet"
