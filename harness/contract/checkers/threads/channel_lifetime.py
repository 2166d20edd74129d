"""Watched: a channel lives as long as somebody reads it, and shows all that happens meanwhile.

For histories of readers that come and go while a reaper collects. They end quiet: what each
reader heard, and with the last reader gone an empty house.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from harness.core.history import History, Operation
from harness.core.promises import Promise
from harness.core.verdict import Anomaly, Verdict

Rule = Callable[[History], Iterable[Anomaly]]


def channels_outlive_their_readers(history: History) -> Verdict:
    """Judge a history that ends with `sizes`."""
    for rule in (_collected_live, _kept_for_nobody, _missed_run, _unheard, _heard_twice):
        for anomaly in rule(history):
            return Verdict(anomalies=(anomaly,))
    return Verdict()


def _collected_live(history: History) -> Iterator[Anomaly]:
    """A reader whose channel is gone (C9)."""
    for sizes in _done(history, "sizes"):
        there = [op for op in _done(history, "subscribe") if _reads(history, op, sizes)]
        if sizes.result["readers"] < len(there):
            message = f"{len(there)} read, and only {sizes.result['readers']} are read to"
            reaper = _done(history, "collect")
            yield Anomaly(Promise.C9, message, (*there, *reaper, sizes), "collected-live")


def _kept_for_nobody(history: History) -> Iterator[Anomaly]:
    """A channel that nobody reads, and that was not collected when all was over (C9)."""
    for sizes in _done(history, "sizes")[-1:]:
        there = [op for op in _done(history, "subscribe") if _reads(history, op, sizes)]
        if sizes.result["channels"] and not there:
            message = f"{sizes.result['channels']} channels are kept, and nobody reads them"
            yield Anomaly(Promise.C9, message, (sizes,), "never-collected")


def _missed_run(history: History) -> Iterator[Anomaly]:
    """A run that goes on, and a reader of its session who was not told (C7), or twice (C2)."""
    for heard in _done(history, "heard"):
        for run in _done(history, "begin_run"):
            times = heard.result["runs"].count(run.argument["stream"])
            if run.argument["session"] != _session(history, heard) or times == 1:
                continue
            broken, name = (Promise.C2, "heard-twice") if times else (Promise.C7, "missed-run")
            message = f"{run} was told {times} times to {heard.argument['reader']!r}"
            yield Anomaly(broken, message, (run, heard), name)


def _unheard(history: History) -> Iterator[Anomaly]:
    """A notice that a reader who was there did not hear (C3)."""
    for heard in _done(history, "heard"):
        for came in _done(history, "subscribe"):
            for notice in _done(history, "notify"):
                if (
                    came.argument["reader"] == heard.argument["reader"]
                    and notice.argument["session"] == came.argument["session"]
                    and came.precedes(notice)
                    and notice.precedes(heard)
                    and notice.argument["number"] not in heard.result["notices"]
                ):
                    message = f"{notice} was not heard by {heard.argument['reader']!r}"
                    yield Anomaly(Promise.C3, message, (came, notice, heard), "unheard")


def _heard_twice(history: History) -> Iterator[Anomaly]:
    """A notice that a reader heard twice (C2)."""
    for heard in _done(history, "heard"):
        notices = heard.result["notices"]
        if len(set(notices)) < len(notices):
            message = f"{heard.argument['reader']!r} heard {notices}"
            yield Anomaly(Promise.C2, message, (heard,), "heard-twice")


def _reads(history: History, came: Operation, moment: Operation) -> bool:
    """Whether who subscribed reads at that moment."""
    left = (op.argument == {"reader": came.argument["reader"]} for op in _left(history, moment))
    return came.precedes(moment) and not any(left)


def _left(history: History, moment: Operation) -> list[Operation]:
    return [op for op in _done(history, "leave") if op.precedes(moment)]


def _session(history: History, heard: Operation) -> str | None:
    came = _done(history, "subscribe")
    sessions = {op.argument["reader"]: op.argument["session"] for op in came}
    return sessions.get(heard.argument["reader"])


def _done(history: History, function: str) -> list[Operation]:
    return [op for op in history.happened if op.function == function]
