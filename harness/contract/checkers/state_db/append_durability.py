"""Durability: what was acknowledged is there at the end, once, and nothing that was refused is.

For clients that append unique texts to sessions at the same time, while processes are killed; the
history ends with reads when all is quiet. Sets decide, so any length is judged in linear time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from harness.core.history import History, Operation, Outcome
from harness.core.promises import Promise
from harness.core.verdict import Anomaly, Verdict

SOUND = {"locked": False, "integrity": "ok"}


def acknowledged_appends_stay(history: History) -> Verdict:
    """Judge `append`s by the last `messages`, `counters` and `probe`, and that all were served.

    Opening the file and reading may be refused at no time (D8), writing not while all is well (D3).
    """
    anomalies = [*_refusals(history)]
    anomalies += appends_are_there(history, _last(history, "messages"))
    for session, count in _last(history, "counters").items():
        if count.result["message_count"] != count.result["rows"]:
            message = f"{session} is said to have another number of messages than it has"
            accepted = ({**count.result, "message_count": count.result["rows"]},)
            anomalies.append(Anomaly(Promise.D2, message, (count,), "drift", accepted))
    for probe in _last(history, "probe").values():
        if probe.result != SOUND:
            broken = Promise.D5 if probe.result["locked"] else Promise.D1
            message = f"after the kills, with all writers gone: {probe}"
            anomalies.append(Anomaly(broken, message, (probe,), "unsound", (SOUND,)))
    return Verdict(tuple(anomalies))


def _last(history: History, function: str) -> dict[Any, Operation]:
    """The last answer for each session."""
    return {
        op.argument.get("session"): op
        for op in history
        if op.function == function and op.outcome is Outcome.OK
    }


def _refusals(history: History) -> Iterator[Anomaly]:
    for op in history:
        if op.outcome is not Outcome.FAIL:
            continue
        writes = op.function in ("create", "append") and "while opening" not in op.error
        broken = Promise.D3 if writes else Promise.D8
        yield Anomaly(broken, f"refused beside others: {op}", (op,), "refused")


def appends_are_there(history: History, reads: Mapping[str, Operation]) -> Iterator[Anomaly]:
    """Judge every `append` by the last read of its session, in D1 and D2."""
    appends: dict[str, dict[str, Operation]] = {session: {} for session in reads}
    for op in history:
        if op.function == "append" and op.argument["session"] in reads:
            appends[op.argument["session"]][op.argument["text"]] = op
    for session, read in reads.items():
        yield from _appends(appends[session], read)


def _appends(appends: Mapping[str, Operation], read: Operation) -> Iterator[Anomaly]:
    found = Counter(text for _, text in read.result)
    for text, append in appends.items():
        if append.outcome is Outcome.OK and not found[text]:
            message = f"{text!r} was acknowledged, then gone"
            yield Anomaly(Promise.D1, message, (append, read), "lost-write")
        elif append.outcome is Outcome.FAIL and found[text]:
            message = f"{text!r} was refused, and is there"
            yield Anomaly(Promise.D2, message, (append, read), "refused-write")
        elif found[text] > 1:
            message = f"{text!r} is there {found[text]} times, and was appended once"
            yield Anomaly(Promise.D2, message, (append, read), "doubled-write")
    for text in found.keys() - appends.keys():
        message = f"{text!r} is there, and nobody appended it"
        yield Anomaly(Promise.D2, message, (read,), "phantom")
