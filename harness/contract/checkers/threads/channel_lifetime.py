"""Checks that a channel lives as long as it has readers, and delivers all events meanwhile.

For histories of readers that subscribe and leave while a collector runs, or while runs begin and
end, the list changes, a session is deleted or the server shuts down. They end quiet, with `heard`
for what each reader received, and `sizes` after the last reader left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import combinations, pairwise

from harness.contract import promises
from harness.core.history import History, Operation
from harness.core.verdict import Anomaly, Verdict

Rule = Callable[[History], Iterable[Anomaly]]
LAST_EVENT = "stream_end"
_OF_SESSIONS = ("subscribe", "read_events")
_READS = ("read_run", "relay_run")


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


def _miscounted(history: History) -> Iterator[Anomaly]:
    """More readers than there are (C11), or a collection of another number of channels (C9)."""
    calls = history.happened.of(*_OF_SESSIONS, "watch_list", "leave", *_READS)
    for sizes in history.happened.of("sizes"):
        readers = [op for op in calls if op.function in ("subscribe", "read_events", "watch_list")]
        reading = [op for op in readers if _is_reading(history, op, sizes)]
        is_quiet = all(op.precedes(sizes) or sizes.precedes(op) for op in calls)
        if is_quiet and sizes.result["readers"] > len(reading):
            yield Anomaly(
                promises.C11,
                "sizes() counts more readers than there are",
                (*reading, sizes),
                "counted-twice",
                also=(promises.C9,),
                expected=f"{len(reading)} readers",
                observed=f"{sizes.result['readers']} readers",
            )
    made = {op.argument["session"] for op in history.of(*_OF_SESSIONS)}
    counts = history.happened.of("sizes", "collect")[-3:]
    is_counted = [op.function for op in counts] == ["sizes", "collect", "sizes"]
    for collect in history.happened.of("collect"):
        allowed = set(range(len(made) + 1))
        if is_counted and collect is counts[1]:  # nothing but readers that leave lies between
            allowed = {counts[0].result["channels"] - counts[2].result["channels"]}
        if collect.result not in allowed:
            yield Anomaly(
                promises.C9,
                "collect() returned another number than it collected",
                (*counts, collect),
                "miscounted",
                expected=f"{sorted(allowed)}",
                observed=f"{collect.result}",
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


def _misannounced_run(history: History) -> Iterator[Anomaly]:
    """A run of which a reader of its session was not informed (C7), or twice (C2), or too late."""
    for subscribe, heard in _readers(history, *_OF_SESSIONS):
        for run in history.happened.of("begin_run"):
            stream = run.argument["stream"]
            if run.argument["session"] != subscribe.argument["session"] or not run.precedes(heard):
                continue
            times = heard.result["runs"].count(stream) + bool(_events(heard, stream))
            allowed = _announcements(history, subscribe, run)
            if times not in allowed:
                yield Anomaly(
                    promises.C2 if times > 1 else promises.C7,
                    f"reader {heard.argument['reader']!r} received the start of run {stream!r}"
                    f" {times} times",
                    (run, subscribe, heard),
                    "heard-twice" if times > 1 else "offered-too-late" if times else "missed-run",
                    expected=" or ".join(f"{number} times" for number in sorted(allowed)),
                    observed=f"{times} times, in {heard.result['runs']}",
                )


def _announcements(history: History, subscribe: Operation, run: Operation) -> set[int]:
    """How often a reader may hear of a run: once; not of an ended one; or either way."""
    stream, session = run.argument["stream"], run.argument["session"]
    is_events = subscribe.function == "read_events"  # it reads a run that is being cancelled too
    ends = [
        op
        for op in history.happened.of("end_run", *(() if is_events else ("withdraw",)))
        if op.argument["stream"] == stream
    ]
    if any(op.precedes(subscribe) for op in ends):
        return {0}
    others = [
        op
        for op in history.happened.of("begin_run", "forget")
        if op.argument["session"] == session and op is not run and not op.precedes(run)
    ]
    emitted = {op.argument["stream"] for op in history.happened.of("emit")}
    closes = history.happened.of("close_all")
    is_open = any(not subscribe.precedes(op) for op in (*ends, *others, *closes))
    is_open |= any(not run.precedes(op) for op in (*others, *closes))
    return {0, 1} if is_open or (is_events and stream not in emitted) else {1}


def _missed_notice(history: History) -> Iterator[Anomaly]:
    """A notice that a subscribed reader did not receive (C3)."""
    for subscribe, heard in _readers(history, "subscribe"):
        for notice in history.happened.of("notify"):
            number = notice.argument["number"]
            if (
                notice.argument["session"] == subscribe.argument["session"]
                and subscribe.precedes(notice)
                and notice.precedes(heard)
                and not _is_forgotten(history, subscribe, notice)
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


def _is_forgotten(history: History, subscribe: Operation, notice: Operation) -> bool:
    """Whether the session may have been deleted after the subscription and before the notice."""
    return any(
        op.argument["session"] == subscribe.argument["session"]
        and not op.precedes(subscribe)
        and not notice.precedes(op)
        for op in history.happened.of("forget")
    )


def _never_ended(history: History) -> Iterator[Anomaly]:
    """A reader that a shutdown or a deletion did not end, or that nothing ended (H3, C9)."""
    for subscribe, heard in _readers(history, *_OF_SESSIONS, "watch_list"):
        closes = history.happened.of("close_all")
        session = subscribe.argument.get("session")
        ends = [op for op in history.happened.of("forget") if op.argument["session"] == session]
        if subscribe.function == "read_events":
            ends = [
                op for op in history.happened.of("end_run") if _events(heard, op.argument["stream"])
            ]
        may_end = [*closes, *(op for op in ends if not op.precedes(subscribe))]
        must_end = any(op.precedes(heard) for op in closes) or any(
            op.precedes(heard)
            for op in ends
            if subscribe.precedes(op) or subscribe.function == "read_events"
        )
        has_ended = heard.result["ended"]
        if has_ended is not True if must_end else has_ended is not False and not may_end:
            broken = (promises.H3, promises.C6) if closes else (promises.C9, promises.C6)
            yield Anomaly(
                broken[0],
                f"reader {heard.argument['reader']!r} was"
                + (" not ended" if must_end else " ended although nothing ends it"),
                (subscribe, *may_end, heard),
                "never-ended" if must_end else "ended-early",
                also=broken[1:],
                expected=f"ended = {must_end}",
                observed=f"ended = {has_ended}",
            )


def _misread_list(history: History) -> Iterator[Anomaly]:
    """A reader of the list that got changes out of order (C1), or not the latest one (C3)."""
    changes = history.happened.of("change_list")
    for subscribe, heard in _readers(history, "watch_list", *_OF_SESSIONS):
        versions = heard.result["versions"]
        is_list = subscribe.function == "watch_list"
        missed = [op for op in changes if subscribe.precedes(op) and op.precedes(heard)]
        is_new = is_list and any(not op.precedes(subscribe) for op in changes)
        if versions:
            is_right = is_new and versions == sorted(set(versions)) and versions[0] > 0
            is_right &= versions[-1] == len(changes)
        else:
            is_right = not (is_list and missed)
        if not is_right:
            yield Anomaly(
                promises.C1 if versions else promises.C3,
                f"reader {heard.argument['reader']!r} did not receive the latest change last",
                (subscribe, *changes, heard),
                "misread-list",
                also=(promises.C3,) if versions else (),
                expected=f"versions up to {len(changes)}, in order",
                observed=f"versions {versions}",
            )


def _misjudged_event(history: History) -> Iterator[Anomaly]:
    """An event that was accepted twice (C2), or refused although its run goes on (C3)."""
    emits = history.happened.of("emit")
    ends = history.happened.of("end_run", "close_all")
    last = [op for op in emits if op.argument["event"] == LAST_EVENT]
    for stream, number in dict.fromkeys(
        (op.argument["stream"], op.argument["number"]) for op in emits
    ):
        same = [
            op for op in emits if (op.argument["stream"], op.argument["number"]) == (stream, number)
        ]
        accepted = [op for op in same if op.result is True]
        may_refuse = any(
            not op.precedes(end) for op in same for end in (*ends, *last) if end not in same
        )
        is_plain = all(op.result in (True, False) for op in same)
        if len(accepted) > 1 or not is_plain or not (accepted or may_refuse):
            yield Anomaly(
                promises.C2 if len(accepted) > 1 else promises.C3,
                f"event {number} of run {stream!r} was accepted {len(accepted)} times",
                tuple(same),
                "accepted-twice" if len(accepted) > 1 else "refused",
                expected="once",
                observed=f"{[op.result for op in same]}",
            )


def _disordered(history: History) -> Iterator[Anomaly]:
    """Notices or runs that a reader received in another order than they were published (C1)."""
    for _, heard in _readers(history, *_OF_SESSIONS):
        for function, field, key in (
            ("notify", "notices", "number"),
            ("begin_run", "runs", "stream"),
        ):
            sent = {op.argument[key]: op for op in history.happened.of(function)}
            shown = heard.result[field]
            for earlier, later in combinations((name for name in shown if name in sent), 2):
                if sent[later].precedes(sent[earlier]):
                    yield Anomaly(
                        promises.C1,
                        f"reader {heard.argument['reader']!r} got {later!r} behind {earlier!r}",
                        (sent[later], sent[earlier], heard),
                        "out-of-order",
                        expected=f"{later!r} before {earlier!r}",
                        observed=f"{field} {shown}",
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
    reads = [(op, op.argument["stream"], op.result) for op in history.happened.of("read_run")]
    reads += [
        (op, op.argument["stream"], numbers)
        for op in history.happened.of("relay_run")
        for numbers in op.result["numbers"]
    ]
    reads += [
        (heard, run.argument["stream"], numbers)
        for _, heard in _readers(history, "read_events")
        for run in history.happened.of("begin_run")
        if (numbers := _events(heard, run.argument["stream"]))
    ]
    for read, stream, numbers in reads:
        emitted = sorted({op.argument["number"] for op in emits if op.argument["stream"] == stream})
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


def _relayed_late(history: History) -> Iterator[Anomaly]:
    """A relay that lost a client, or wrote what it had only when time passed (C3)."""
    for relay in history.happened.of("relay_run"):
        is_whole = len(relay.result["numbers"]) == relay.argument["clients"]
        if relay.result["is_late"] is not False or not is_whole:
            yield Anomaly(
                promises.C3,
                f"{relay.call} did not write to each client at once",
                (*history.happened.of("emit", "end_run"), relay),
                "relayed-late",
                also=(promises.C6,),
                expected="every event at once",
                observed=relay.answer,
            )


def _ticking(history: History) -> Iterator[Anomaly]:
    """A loop that sets timers although every client has left (C11)."""
    for relay in history.happened.of("relay_run"):
        if relay.result["timers"] != 0:
            yield Anomaly(
                promises.C11,
                f"{relay.call} left timers behind",
                (relay,),
                "ticking",
                also=(promises.H5,),
                expected="0 timers once all clients have left",
                observed=relay.answer,
            )


def _missed_count(history: History) -> Iterator[Anomaly]:
    """A client that was not informed of each message that it lacks, or of others (C3)."""
    for greet, heard in _readers(history, "greet"):
        session = greet.argument["session"]
        saved = [op for op in history.happened.of("count") if op.argument["session"] == session]
        came, allowed = heard.result["counts"], _counts(greet, saved)
        if came not in allowed:
            yield Anomaly(
                promises.C3,
                f"reader {greet.argument['reader']!r} was not informed of its session's messages",
                (*saved, greet, heard),
                "missed-count",
                expected=" or ".join(f"{counts}" for counts in allowed),
                observed=f"{came}",
            )


def _counts(greet: Operation, saved: list[Operation]) -> list[list[int]]:
    """What a client may hear of: the messages as it subscribes, and those that are saved later."""
    number = [op.argument["messages"] for op in saved]
    first = max((at for at, op in enumerate(saved, 1) if op.precedes(greet)), default=0)
    last = max((at for at, op in enumerate(saved, 1) if not greet.precedes(op)), default=0)
    allowed = []
    for seen in range(first, last + 1):  # how many are saved when they are counted
        counted = [number[seen - 1]] if seen else [0]
        greeting = counted if counted != [greet.argument["known"]] else []
        # It subscribes before that, so it may be notified of what it was counted in, too.
        allowed += [[*greeting, *number[since:]] for since in range(first, seen + 1)]
    return allowed


def _foreign_events(history: History) -> Iterator[Anomaly]:
    """A reader that got runs, notices or events that were not sent to its session (C5)."""
    for subscribe, heard in _readers(history, *_OF_SESSIONS, "watch_list"):
        session = subscribe.argument.get("session")
        own = [op for op in history.happened.of("begin_run") if op.argument["session"] == session]
        runs = {op.argument["stream"] for op in own if subscribe.function != "watch_list"}
        notices = {
            op.argument["number"]
            for op in history.happened.of("notify")
            if op.argument["session"] == session and not op.precedes(subscribe)
        }
        streams = {id_.rpartition(":")[0] for id_ in heard.result["events"]}
        read = runs if subscribe.function == "read_events" else set()
        if not (
            set(heard.result["runs"]) <= runs
            and set(heard.result["notices"]) <= notices
            and streams <= read
        ):
            yield Anomaly(
                promises.C5,
                f"reader {heard.argument['reader']!r} received what is not of its session",
                (subscribe, heard),
                "foreign",
                also=(promises.C2,),
                expected=f"runs {sorted(runs)}, notices {sorted(notices)}, events: {sorted(read)}",
                observed=heard.answer,
            )


def _is_reading(history: History, subscribe: Operation, moment: Operation) -> bool:
    """Whether a subscriber has not left by that moment."""
    reader = {"reader": subscribe.argument["reader"]}
    has_left = any(
        op.argument == reader and op.precedes(moment) for op in history.happened.of("leave")
    )
    return subscribe.precedes(moment) and not has_left


def _readers(history: History, *functions: str) -> Iterator[tuple[Operation, Operation]]:
    """Each subscription by these functions, and all that its reader heard, as the last call."""
    for subscribe in history.happened.of(*functions):
        calls = _heard_by(history, subscribe)
        if calls:
            lists = (name for name, value in calls[-1].result.items() if isinstance(value, list))
            parts = {name: [item for op in calls for item in op.result[name]] for name in lists}
            yield subscribe, replace(calls[-1], result={**calls[-1].result, **parts})


def _heard_by(history: History, subscribe: Operation) -> list[Operation]:
    reader = subscribe.argument["reader"]
    return [op for op in history.happened.of("heard") if op.argument["reader"] == reader]


def _never_woken(history: History) -> Iterator[Anomaly]:
    """A reader that had taken all, and was not woken for what came after that (C3).

    What is published while the reader takes may be taken before its signal comes.
    """
    published = history.of("notify", "emit", "begin_run", "change_list")
    for subscribe in history.happened.of(*_OF_SESSIONS, "watch_list"):
        for before, after in pairwise(_heard_by(history, subscribe)):
            news = [value for value in after.result.values() if isinstance(value, list)]
            is_over = all(op.precedes(after) or after.precedes(op) for op in published)
            if is_over and before.precedes(after) and any(news) and not after.result["woken"]:
                yield Anomaly(
                    promises.C3,
                    f"reader {after.argument['reader']!r} was not woken for what it had to take",
                    (subscribe, before, after),
                    "never-woken",
                    also=(promises.C6,),
                    expected="a signal after it had taken everything",
                    observed=after.answer,
                )


def _events(heard: Operation, stream: str) -> list[int]:
    """The numbers of the events that the reader received of the run."""
    cut = (id_.rpartition(":") for id_ in heard.result["events"])
    return [int(number) for name, _, number in cut if name == stream]


_RULES: tuple[Rule, ...] = (
    _collected_live,
    _never_collected,
    _miscounted,
    _misjudged_event,
    _foreign_events,
    _misannounced_run,
    _missed_notice,
    _doubled_notice,
    _disordered,
    _misread_run,
    _relayed_late,
    _ticking,
    _missed_count,
    _misread_list,
    _never_ended,
    _never_woken,
)
