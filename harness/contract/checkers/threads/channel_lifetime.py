"""Checks that a channel lives as long as it has readers, and delivers all events meanwhile.

For histories of readers that subscribe and leave while a collector runs. They end quiet, with
`heard` for what each reader received, and `sizes` after the last reader left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from harness.contract import promises
from harness.core.history import History, Operation
from harness.core.verdict import Anomaly, Verdict

Rule = Callable[[History], Iterable[Anomaly]]


def check_channel_lifetime(history: History) -> Verdict:
    """Judge a history that ends with `sizes`."""
    for rule in _RULES:
        for anomaly in rule(history):
            return Verdict(anomalies=(anomaly,))
    return Verdict()


def _collected_live(history: History) -> Iterator[Anomaly]:
    """A channel that was collected while it had a reader (C9)."""
    for sizes in history.happened.of("sizes"):
        readers = [op for op in history.happened.of("subscribe") if _is_reading(history, op, sizes)]
        if sizes.result["readers"] < len(readers):
            yield Anomaly(
                promises.C9,
                "sizes() counts fewer readers than have subscribed: a live channel was collected",
                (*readers, *history.happened.of("collect"), sizes),
                "collected-live",
                expected=f"{len(readers)} readers",
                observed=f"{sizes.result['readers']} readers",
            )


def _never_collected(history: History) -> Iterator[Anomaly]:
    """A channel without readers that was not collected by the end (C9)."""
    for sizes in history.happened.of("sizes")[-1:]:
        readers = [op for op in history.happened.of("subscribe") if _is_reading(history, op, sizes)]
        if sizes.result["channels"] and not readers:
            yield Anomaly(
                promises.C9,
                "sizes() counts channels after the last reader left",
                (sizes,),
                "never-collected",
                expected="0 channels",
                observed=f"{sizes.result['channels']} channels",
            )


def _missed_run(history: History) -> Iterator[Anomaly]:
    """A run that a reader of its session was not informed of (C7), or twice (C2)."""
    for heard in history.happened.of("heard"):
        for run in history.happened.of("begin_run"):
            stream = run.argument["stream"]
            times = heard.result["runs"].count(stream)
            if run.argument["session"] != _session(history, heard) or times == 1:
                continue
            yield Anomaly(
                promises.C2 if times else promises.C7,
                f"reader {heard.argument['reader']!r} received the start of run {stream!r}"
                f" {times} times",
                (run, heard),
                "heard-twice" if times else "missed-run",
                expected="once",
                observed=f"{times} times, in {heard.result['runs']}",
            )


def _missed_notice(history: History) -> Iterator[Anomaly]:
    """A notice that a subscribed reader did not receive (C3)."""
    for heard in history.happened.of("heard"):
        for subscribe in history.happened.of("subscribe"):
            for notice in history.happened.of("notify"):
                number = notice.argument["number"]
                if (
                    subscribe.argument["reader"] == heard.argument["reader"]
                    and notice.argument["session"] == subscribe.argument["session"]
                    and subscribe.precedes(notice)
                    and notice.precedes(heard)
                    and number not in heard.result["notices"]
                ):
                    yield Anomaly(
                        promises.C3,
                        f"reader {heard.argument['reader']!r} did not receive notice {number}",
                        (subscribe, notice, heard),
                        "unheard",
                        expected=f"notice {number}, sent after it subscribed",
                        observed=f"notices {heard.result['notices']}",
                    )


def _doubled_notice(history: History) -> Iterator[Anomaly]:
    """A notice that a reader received twice (C2)."""
    for heard in history.happened.of("heard"):
        notices = heard.result["notices"]
        if len(set(notices)) < len(notices):
            yield Anomaly(
                promises.C2,
                f"reader {heard.argument['reader']!r} received a notice twice",
                (heard,),
                "heard-twice",
                expected="each notice once",
                observed=f"notices {notices}",
            )


def _misread_run(history: History) -> Iterator[Anomaly]:
    """A reader of a run that got other numbers than the run's, in order, to the end (C1 to C3)."""
    emits = history.happened.of("emit")
    is_closed = bool(history.happened.of("close_all"))
    for read in history.happened.of("read_run"):
        stream, numbers = read.argument["stream"], read.result
        emitted = sorted(op.argument["number"] for op in emits if op.argument["stream"] == stream)
        if numbers == emitted or (is_closed and numbers == emitted[: len(numbers or ())]):
            continue
        broken = promises.C3
        if numbers and len(set(numbers)) < len(numbers):
            broken = promises.C2
        elif numbers and numbers != sorted(numbers):
            broken = promises.C1
        yield Anomaly(
            broken,
            f"a reader of run {stream!r} received other events than the run has",
            (*emits, read),
            "misread-run",
            expected=f"events {emitted}",
            observed=f"events {numbers}",
        )


def _is_reading(history: History, subscribe: Operation, moment: Operation) -> bool:
    """Whether a subscriber has not left by that moment."""
    reader = {"reader": subscribe.argument["reader"]}
    has_left = any(
        op.argument == reader and op.precedes(moment) for op in history.happened.of("leave")
    )
    return subscribe.precedes(moment) and not has_left


def _session(history: History, heard: Operation) -> str | None:
    subscribes = history.happened.of("subscribe")
    sessions = {op.argument["reader"]: op.argument["session"] for op in subscribes}
    return sessions.get(heard.argument["reader"])


_RULES: tuple[Rule, ...] = (
    _collected_live,
    _never_collected,
    _missed_run,
    _missed_notice,
    _doubled_notice,
    _misread_run,
)
