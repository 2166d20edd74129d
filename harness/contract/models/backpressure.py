"""Model of backpressure: what a server grants its stream readers; judges each answer by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from harness.contract import promises
from harness.core.contract import Promise
from harness.core.history import Operation, Outcome
from harness.core.model import Refusal

OK, UNAVAILABLE = 200, 503
STALL_CALLS, FILL_CALLS = 2, 4  # ordinary calls during each situation
ABOVE = 3  # streams above the limit
CROWD_CALLS = 2
FEW_FILES = {"refused": UNAVAILABLE, "answered": [OK] * 3, "uncounted": 0}
CONNECTIONS_MIN, CONNECTIONS_MAX = 256, 512  # connections that a server keeps beside its streams
QUIET_STREAMS, OPEN_STREAMS = 4, 3
BUFFERED_BYTES_MAX = 1 << 20  # for one session, whether a reader takes its events or not
SILENCE_S = 5.0
SURE_SILENCE_S = 10.0  # a shorter silence may come from the machine


@dataclass(frozen=True, slots=True)
class Defect:
    """One field of an answer that a promise forbids, and what the promise allows."""

    promise: Promise
    problem: str
    expected: str
    observed: str
    also: tuple[Promise, ...] = ()


class BackpressureModel:
    """A model without state: each call boots a server of its own."""

    name = "backpressure"

    def initial(self) -> None:
        """No state."""

    def step(self, state: None, operation: Operation) -> tuple[None] | Refusal:
        """Judge one answer."""
        if operation.outcome is Outcome.INFO:
            return (state,)
        if operation.outcome is Outcome.FAIL:
            return Refusal(
                _PROMISES[operation.function],
                f"{operation.call} failed",
                expected="an answer with the measured values",
            )
        for defect in _RULES[operation.function](operation.argument, operation.result):
            return Refusal(
                defect.promise,
                f"{operation.call}: {defect.problem}",
                expected=defect.expected,
                observed=defect.observed,
                also=defect.also,
            )
        return (state,)


def _field(
    promise: Promise, result: Mapping[str, Any], name: str, problem: str, *, expected: Any
) -> Iterator[Defect]:
    """The defect of a field that has another value than the expected one."""
    if result[name] != expected:
        yield Defect(promise, problem, f"{name} = {expected!r}", f"{name} = {result[name]!r}")


def _answered(promise: Promise, result: Mapping[str, Any], calls: int) -> Iterator[Defect]:
    """The defect of ordinary calls that were not all answered."""
    problem = "ordinary calls were not answered"
    yield from _field(promise, result, "answered", problem, expected=[OK] * calls)


def _stall(argument: Mapping[str, Any], result: Mapping[str, Any]) -> Iterator[Defect]:
    """A reader that reads gets all events; one that reads nothing is dropped."""
    yield from _field(
        promises.C3, result, "whole", "a reader missed events without a sign", expected=True
    )
    problem = "the stalled reader kept another one from the end of the stream"
    yield from _field(promises.C8, result, "last", problem, expected="stream_end")
    yield from _answered(promises.C8, result, STALL_CALLS)
    buffered = result["kept_bytes"]
    if buffered > BUFFERED_BYTES_MAX:
        problem = "the stalled readers cost unbounded memory"
        expected = f"at most {BUFFERED_BYTES_MAX} buffered bytes"
        yield Defect(promises.C8, problem, expected, f"{buffered} buffered bytes")
    problem = "stalled readers were not dropped"
    yield from _field(promises.C8, result, "let_go", problem, expected=True)
    beside = {"beside": result.get("beside", "refuses"), "live": result.get("live", True)}
    problem = "another server on the folder took a live run for one of a dead server"
    yield from _field(promises.S13, beside, "live", problem, expected=True)
    problem = "another server on the folder served beside the first one"
    yield from _field(promises.S13, beside, "beside", problem, expected="refuses")
    if result.get("goes_on") is False:  # None where its pause may have been too long
        problem = "a reader that had read on was dropped"
        yield Defect(promises.C8, problem, "the stream of a reader that reads", "a closed stream")
    problem = "health reported another number of dropped streams"
    dropped = [argument["readers"]] * 2  # by each health endpoint
    for defect in _field(promises.C8, result, "dropped", problem, expected=dropped):
        yield replace(defect, also=(promises.H4,))


def _fill(argument: Mapping[str, Any], result: Mapping[str, Any]) -> Iterator[Defect]:
    """Streams above the limit are refused, and ordinary calls are not."""
    yield from _answered(promises.C10, result, FILL_CALLS)
    yield from _field(promises.C10, result, "started", "no turn could be started", expected=True)
    problem = "streams above the limit were not refused"
    above = [UNAVAILABLE] * ABOVE
    yield from _field(promises.C10, result, "refused", problem, expected=above)
    problem = "after a stream had ended no other one could be opened"
    yield from _field(promises.C10, result, "again", problem, expected=True)
    problem = "connections above the limit were kept, or those below it were not served"
    crowd = {**result["crowd"], "kept": "few"}
    kept = result["crowd"]["kept"]
    if not CONNECTIONS_MIN <= kept <= CONNECTIONS_MAX + 1:
        expected = f"{CONNECTIONS_MIN} to {CONNECTIONS_MAX + 1} idle connections"
        yield Defect(promises.C10, problem, expected, f"{kept} idle connections")
    wanted = {"answered": [OK] * CROWD_CALLS, "kept": "few", "oldest": "closed", "newest": True}
    yield from _field(promises.C10, {"crowd": crowd}, "crowd", problem, expected=wanted)
    problem = "health reported another number of open streams"
    yield from _field(promises.H4, result, "taken", problem, expected=argument["streams"])


def _leave(_argument: Mapping[str, Any], result: Mapping[str, Any]) -> Iterator[Defect]:
    """The channel with a subscriber stays, the empty one is collected."""
    problem = "the empty channel was not collected"
    yield from _field(promises.C9, result, "collected", problem, expected=True)
    problem = "another number of channels was left than the one with a subscriber"
    yield from _field(promises.C9, result, "channels", problem, expected=1)
    problem = "the remaining subscriber did not get the next event"
    yield from _field(promises.C9, result, "heard", problem, expected=True)


def _keep_silent(_argument: Mapping[str, Any], result: Mapping[str, Any]) -> Iterator[Defect]:
    """A comment arrives in time, and a held lock does not hang a call."""
    if len(result["silences_s"]) != QUIET_STREAMS:
        expected = f"a comment on each of {QUIET_STREAMS} streams"
        observed = f"silences {result['silences_s']}"
        yield Defect(promises.C6, "a quiet stream sent no comment", expected, observed)
    longest_s = max(result["silences_s"])
    if longest_s > SURE_SILENCE_S:
        problem = "a quiet stream sent no comment in time"
        expected = f"a comment at least every {SILENCE_S:g} s"
        yield Defect(promises.C6, problem, expected, f"a silence of {longest_s:.1f} s")
    problem = "a call whose lock was held did not end by its bounded wait"
    yield from _field(promises.H6, result, "locked", problem, expected=[UNAVAILABLE])
    problem = "a client was dropped before its patience was over"
    yield from _field(promises.C10, result, "dropped_early", problem, expected=[])
    problem = "a client that never finished its request, or idled, was kept"
    yield from _field(promises.C10, result, "still_open", problem, expected=[])
    problem = "a call was not answered after its lock was free again"
    yield from _field(promises.H6, result, "freed", problem, expected=[OK])


def _stop(_argument: Mapping[str, Any], result: Mapping[str, Any]) -> Iterator[Defect]:
    """The server exits with 0, and every stream ends, if only because the kernel closes it."""
    yield from _field(
        promises.H3, result, "code", "SIGTERM did not end the server cleanly", expected=0
    )
    few_files = result.get("few_files", FEW_FILES)
    problem = "a server that may open few files did not refuse streams in time"
    for name in ("refused", "answered"):
        yield from _field(promises.C10, few_files, name, problem, expected=FEW_FILES[name])
    problem = "health reported another limit of streams than the one that held"
    yield from _field(promises.H4, few_files, "uncounted", problem, expected=0)
    problem = "a stream did not end with its server"
    yield from _field(promises.H3, result, "ended", problem, expected=[True] * OPEN_STREAMS)


_RULES = {
    "stall": _stall,
    "fill": _fill,
    "leave": _leave,
    "keep_silent": _keep_silent,
    "stop": _stop,
}
_PROMISES = {
    "stall": promises.C8,
    "fill": promises.C10,
    "leave": promises.C9,
    "keep_silent": promises.C6,
    "stop": promises.H3,
}
