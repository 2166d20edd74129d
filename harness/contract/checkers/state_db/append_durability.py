"""Checks that acknowledged appends are durable and unique, and that refused ones left nothing.

For clients that append unique texts to sessions concurrently, while processes are killed; the
history ends with quiet reads. The checker compares sets, in time linear in the history.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from harness.contract import promises
from harness.core.history import History, Operation, Outcome
from harness.core.verdict import Anomaly, Verdict

SOUND = {"locked": False, "integrity": "ok"}


def check_append_durability(history: History) -> Verdict:
    """Judge `append`s by the last `messages`, `counters` and `probe`, and refusals by D3 and D8.

    Opening the file and reading it may never be refused (D8), writing not without a fault (D3).
    """
    anomalies = [*_refusals(history)]
    anomalies += append_anomalies(history, _last(history, "messages"))
    for session, count in _last(history, "counters").items():
        reported, rows = count.result["message_count"], count.result["rows"]
        if reported != rows:
            anomalies.append(
                Anomaly(
                    promises.D2,
                    f"counters({session!r}) returned a message count that differs from its rows",
                    (count,),
                    "drift",
                    accepted=({**count.result, "message_count": rows},),
                    expected=f"message_count {rows}",
                    observed=f"message_count {reported}",
                )
            )
    for probe in _last(history, "probe").values():
        if probe.result != SOUND:
            anomalies.append(
                Anomaly(
                    promises.D5 if probe.result["locked"] else promises.D1,
                    "probe() after all kills found the file locked or damaged",
                    (probe,),
                    "unsound",
                    accepted=(SOUND,),
                    expected=f"{SOUND}",
                    observed=f"{probe.result}",
                )
            )
    return Verdict(tuple(anomalies))


def _last(history: History, function: str) -> dict[Any, Operation]:
    """The last operation with a result, by session."""
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
        broken = promises.D3 if writes else promises.D8
        yield Anomaly(
            broken,
            f"{op.call} was refused beside other processes",
            (op,),
            "refused",
            expected="success: other processes only delay a call",
            observed=op.answer,
        )


def append_anomalies(history: History, reads: Mapping[str, Operation]) -> Iterator[Anomaly]:
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
        times = found[text]
        if append.outcome is Outcome.OK and not times:
            yield Anomaly(
                promises.D1,
                f"append({text!r}) was acknowledged, and the last read lacks it",
                (append, read),
                "lost-write",
                expected=f"{text!r} once",
                observed=f"{len(read.result)} messages without it",
            )
        elif append.outcome is Outcome.FAIL and times:
            yield Anomaly(
                promises.D2,
                f"append({text!r}) was refused, and the last read returned it",
                (append, read),
                "refused-write",
                expected=f"no {text!r}",
                observed=f"{text!r}, {times} times",
            )
        elif times > 1:
            yield Anomaly(
                promises.D2,
                f"append({text!r}) was called once, and the last read returned it repeatedly",
                (append, read),
                "doubled-write",
                expected=f"{text!r} once",
                observed=f"{text!r}, {times} times",
            )
    for text in found.keys() - appends.keys():
        yield Anomaly(
            promises.D2,
            f"the last read returned {text!r}, which no process appended",
            (read,),
            "phantom",
            expected="appended texts only",
            observed=f"{text!r}",
        )
