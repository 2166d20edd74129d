"""Walks through every kind of subscriber of the channels, and both sides of each bound.

A walk is a list of calls of the *channels* ability; the scenario judges each answer by the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from typing import Any

from harness.contract.models.channel_values import (
    EARLY_MAX,
    FAILING,
    GRACE_S,
    NOTICE_BYTES_MAX,
    NOTICES_MAX,
    REPLAYED_MAX,
    RUN_BYTES_MAX,
    RUN_FRAMES_MAX,
    TERMINAL,
    TOKEN,
    TTL_S,
)

Step = tuple[str, dict[str, Any]]
Walk = Iterable[Step]
SIZE = 200
LARGE = 1 << 12
NOTICE = 1 << 9
FAR = 10**6
ENDPOINTS = ("run", "events", "notices")


def around(bound: int) -> tuple[int, ...]:
    """Just below a bound, at it, just above it, and far beyond."""
    return bound - 1, bound, bound + 1, 2 * bound


def open_run(session: str, stream: str) -> Step:
    """Start a run."""
    return "open_run", {"session": session, "stream": stream}


def emit(stream: str, first: int, last: int = 0, event: str = TOKEN, size: int = SIZE) -> Step:
    """Emit one event of a run, or those from one number to another, also backwards."""
    numbers = {"first": first, "last": last or first}
    return "emit", {"stream": stream, **numbers, "event": event, "size": size}


def close_run(stream: str) -> Step:
    """End a run."""
    return "close_run", {"stream": stream}


def notify(session: str, count: int = 1, size: int = SIZE) -> Step:
    """Publish notices."""
    return "notify", {"session": session, "event": "process_complete", "size": size, "count": count}


def watch(session: str, reader: str, *cursor: Any) -> Step:
    """Subscribe to the notices of a session, after a cursor or without one."""
    return "watch", {"session": session, "reader": reader, "cursor": [*cursor] or None}


def read(endpoint: str, subject: str, reader: str, *cursor: Any) -> Step:
    """Subscribe to a run, or to a session by one of its endpoints."""
    if endpoint == "run":
        return "read_run", {"stream": subject, "reader": reader, "cursor": [*cursor] or None}
    function = "watch" if endpoint == "notices" else "read_events"
    return function, {"session": subject, "reader": reader, "cursor": [*cursor] or None}


def take(*readers: str) -> Iterator[Step]:
    """Let readers take all events."""
    return (("take", {"reader": reader, "all": True}) for reader in readers)


def slowly(reader: str, count: int = 1) -> list[Step]:
    """Let a reader take some events, one at a time."""
    return [("take", {"reader": reader, "all": False})] * count


def leave(*readers: str) -> Iterator[Step]:
    """Let readers leave."""
    return (("leave", {"reader": reader}) for reader in readers)


def wait(seconds: int) -> Step:
    """Let time pass."""
    return "wait", {"seconds": seconds}


GAUGES: Step = ("gauges", {})
COLLECT: Step = ("collect", {})
SHUT: Step = ("shut", {})


def withdraw(stream: str) -> Step:
    """Offer a run to no new reader."""
    return "withdraw", {"stream": stream}


def forget(session: str) -> Step:
    """Forget a session."""
    return "forget", {"session": session}


def journal(mode: str) -> Step:
    """Let the journal answer, or lack all runs."""
    return "journal", {"mode": mode}


def every_end(event: str) -> Walk:
    """Readers of each kind meet each end of a run: before it, between it and the close, behind."""
    yield from (watch("s", "n"), *take("n"), open_run("s", "r"))
    for reader, endpoint in (("a", "run"), ("b", "events"), ("c", "run")):
        yield read(endpoint, "r" if endpoint == "run" else "s", reader)
        yield from take(reader)
    yield from (emit("r", 1, 2), *take("a", "b", "n"), *slowly("c"))
    if event:
        yield emit("r", 3, event=event)
    yield from (*take("a", "b", "n"), emit("r", 4), emit("r", 3), *take("a"), GAUGES)
    yield from (read("run", "r", "d"), *take("d"), read("events", "s", "e"), *take("e"))
    yield from (watch("s", "f"), *take("f"), close_run("r"), close_run("r"), emit("r", 5), GAUGES)
    yield from (*take("a", "b", "c", "d", "e", "f"), watch("s", "g"), *take("g"), withdraw("r"))
    for number in (0, 2, 3, 4, 9):
        yield from (read("run", "r", "h", "r", number), *take("h"), *leave("h"))
    yield from (open_run("s", "r1"), *take("n", "f", "g"), emit("r", 6), GAUGES, SHUT)
    yield from (*take("n", "f", "g"), *leave("a", "b", "c", "d", "e", "f", "g", "n"), GAUGES)


def withdrawn() -> Walk:
    """A run that is being cancelled is announced to no new reader, and goes on for the others."""
    yield from (open_run("s", "r"), emit("r", 1), watch("s", "a"), *take("a"), withdraw("r"))
    yield from (watch("s", "b"), *take("b"), read("events", "s", "c"), *take("c"), GAUGES)
    yield from (emit("r", 2), emit("r", 3, event="cancel"), *take("c"), close_run("r"))
    yield from (watch("s", "d"), *take("d"), open_run("s", "r1"), *take("a", "b", "d"))
    yield from (withdraw("r"), watch("s", "e"), *take("e"), withdraw("R1"), watch("s", "f"))
    yield from (*take("f"), GAUGES, close_run("r1"), watch("s", "g"), *take("g"), GAUGES)


def announced() -> Walk:
    """The start of a run arrives exactly once, with every cursor before and behind it."""
    yield from (watch("s", "a"), *take("a"), notify("s"), open_run("s", "r"), notify("s"))
    yield from (*take("a"), notify("s"))
    for number in range(6):
        yield from (watch("s", "b", "s#1", number), *take("b"), *leave("b"))
        yield from (watch("S", "c", "s#1", number), *take("c"), *leave("c"))
        yield from (read("events", "s", "d", "s#1", number), *take("d"), *leave("d"))
    yield from (*take("a"), *leave("a"), wait(GRACE_S), COLLECT, watch("s", "b"), *take("b"))
    for number in range(6):  # the channel is another one, with other numbers
        yield from (watch("s", "c", "s#1", number), *take("c"), *leave("c"))
        yield from (watch("s", "c", "s#2", number), *take("c"), *leave("c"))
    yield from (notify("s", 3), watch("s", "d", "s#2", 1), *take("d", "b"), GAUGES)


def bounded_run(count: int, size: int, mode: str) -> Walk:
    """Readers of a run meet the bound of its buffer: behind it, at it, and before it."""
    yield from (open_run("s", "r"), read("run", "r", "slow"), *slowly("slow"))
    yield from (read("run", "r", "begun"), emit("r", 1, size=size), *slowly("begun", 2))
    yield from (emit("r", 2, count, size=size), GAUGES, journal(mode))
    held = min(RUN_FRAMES_MAX, RUN_BYTES_MAX // size)
    for number in (0, 1, count - held - 1, count - held, count - held + 1, count, count + 1):
        yield from (read("run", "r", "b", "r", max(0, number)), *slowly("b", 2))
        yield from (*take("b"), *leave("b"))
        yield from (read("events", "s", "b", "r", max(0, number)), *take("b"), *leave("b"))
    yield GAUGES  # a reader whose journal failed is none
    yield from (*take("slow"), *slowly("begun"), emit("r", count + 1), *take("slow", "begun"))
    yield from (emit("r", count + 2, event="stream_end"), *take("slow", "begun"), close_run("r"))
    for number in (0, 1, count, count + 2, count + 3):
        yield from (read("run", "r", "b", "r", number), *take("b"), *leave("b"))
        yield from (read("events", "s", "b", "r", number), *take("b"), *leave("b"))
    yield from (*leave("slow", "begun"), GAUGES)


def replayed(rows: int) -> Walk:
    """A reader meets the bound of the rows that are read again from the journal."""
    yield from (open_run("s", "r"), emit("r", 1, rows))
    for number in (0, 1, 2):
        yield from (read("run", "r", "a", "r", number), *take("a"), *leave("a"))
    yield close_run("r")
    for number in (0, 1, 2):
        yield from (read("run", "r", "a", "r", number), *take("a"), *leave("a"))
        yield from (read("events", "s", "a", "r", number), *take("a"), *leave("a"))


def bounded_notices(count: int, size: int) -> Walk:
    """Readers of notices meet the bound of the channel."""
    held = min(NOTICES_MAX, NOTICE_BYTES_MAX // size)
    yield from (watch("s", "slow"), *slowly("slow"), watch("s", "begun"), notify("s", 1, size))
    yield from (*slowly("begun", 2), notify("s", count - 1, size), GAUGES)
    for number in (0, count - held - 1, count - held, count - held + 1, count, count + 1):
        yield from (watch("s", "b", "s#1", max(0, number)), *take("b"), *leave("b"))
    yield from (*take("slow"), open_run("s", "r"), *take("slow", "begun"), GAUGES)
    yield from (watch("s", "c", "s#1", 1), *take("c"), watch("s", "d", "s#1", count), *take("d"))


def early(count: int, *, is_late: bool) -> Walk:
    """Events wait for an earlier number, up to a bound; then the readers get a snapshot."""
    yield from (open_run("s", "r"), read("run", "r", "a"), *take("a"))
    yield from (emit("r", 1), *take("a"), emit("r", count + 2, 3), *take("a"), GAUGES)
    yield from (read("run", "r", "b"), *take("b"), *slowly("a"))
    if is_late:
        yield emit("r", 2)
    yield from (*take("a", "b"), emit("r", 2, 3), emit("r", count + 3, event="stream_end"))
    yield from (*take("a", "b"), GAUGES, close_run("r"), *take("a", "b"), GAUGES)


def collected(seconds: int, *, by_ttl: bool) -> Walk:
    """A channel is collected after its grace or its time to live, and not before."""
    yield from (watch("s", "a"), watch("S", "b"), *take("a", "b"), watch("s1", "c"))
    if by_ttl:  # the reader of an idle channel leaves at the last moment
        yield from (wait(seconds), COLLECT, *leave("a"), COLLECT, GAUGES, *take("b"))
    else:
        yield from (wait(TTL_S - GRACE_S), *leave("a"), wait(seconds), COLLECT, GAUGES)
    yield from (notify("s"), notify("S"), *take("b"), watch("s", "d", "s#1", 0), *take("d"))
    yield from (*leave("b", "c", "d"), wait(1), watch("S", "b", "S#1", 1), *take("b"))
    yield from (wait(GRACE_S), COLLECT, GAUGES, notify("S"), *take("b"), *leave("b"), COLLECT)
    yield from (wait(GRACE_S - 1), COLLECT, wait(1), COLLECT, GAUGES)


def touched(by: str) -> Walk:
    """A notice or a reader renews the time to live; of several readers the last one counts."""
    yield from (watch("s", "a"), watch("s", "b"), *take("a", "b"), wait(TTL_S - 1))
    yield from (notify("s"),) if by == "notice" else (watch("s", "c"), *leave("c"))
    yield from (wait(1), *leave("a"), wait(1), *leave("b"), COLLECT, wait(GRACE_S - 1))
    yield from (COLLECT, wait(1), COLLECT, GAUGES)


def deleted(session: str) -> Walk:
    """A deleted session: its readers end, its streams are unknown, and no other one changes."""
    for number, name in enumerate(("s", "S", "s1")):
        stream = ("r", "R", "r1")[number]
        yield from (open_run(name, stream), watch(name, name), *take(name), emit(stream, 1))
        yield from (emit(stream, 2, event="stream_end"), close_run(stream))
    yield from (forget(session), GAUGES, *take("s", "S", "s1"), forget(session))
    for name, stream in (("s", "r"), ("S", "R"), ("s1", "r1"), ("other", "stray")):
        yield notify(name)
        yield from (emit(stream, 3), read("run", stream, "a"), read("run", stream, "b", stream, 1))
        yield from (read("events", name, "c", stream, 1), *take("c"), *leave("c"))
        yield from (watch(name, "d", f"{name}#1", 1), *take("d"), *leave("d"), GAUGES)
    yield from (*take("s", "S", "s1"), *leave("s", "S", "s1"), GAUGES, open_run(session, "rr"))
    yield from (watch(session, "e"), *take("e"), GAUGES)


def listed() -> Walk:
    """A reader of the list receives the latest change only, whatever its pace."""
    for reader in ("a", "b"):
        yield from (("watch_list", {"reader": reader}), *take(reader))
    for number, session in enumerate(("s", None, "S", "s1")):
        yield "changed", {"reason": f"reason {number}", "session": session}
        yield from take("a")
    yield from (*take("a"), *slowly("b"), *slowly("b"), ("watch_list", {"reader": "c"}))
    yield from (*take("c"), ("changed", {"reason": "last", "session": None}), *leave("a"))
    yield from (*take("b", "c"), GAUGES, SHUT, *take("b", "c"), *leave("b", "c"), GAUGES)


def woken() -> Walk:
    """A reader is woken once after it has taken everything, and not before."""
    yield from (open_run("s", "r"), read("run", "r", "a"), *take("a"), *take("a"))
    yield from (emit("r", 1), emit("r", 2), *slowly("a"), emit("r", 3), *slowly("a"))
    yield from (*slowly("a"), *slowly("a"), emit("r", 4), *take("a"), *take("a"), emit("r", 3))
    yield from (*take("a"), emit("r", 6), *take("a"), emit("r", 5), *take("a"), close_run("r"))
    yield from (*take("a"), *take("a"))


def at_shutdown() -> Walk:
    """A shutdown ends every reader after its last event, and every later one at once."""
    yield from (open_run("s", "r"), emit("r", 1, 2), watch("s", "a"), read("run", "r", "b"))
    yield from (*take("a"), *slowly("b"), ("watch_list", {"reader": "c"}), *take("c"), notify("s"))
    yield from (SHUT, SHUT, *take("a", "b", "c"), notify("s"), emit("r", 3), *take("b"))
    yield from (watch("s", "d"), *take("d"), watch("S", "e"), *take("e"), read("run", "r", "f"))
    yield from (*take("f"), open_run("S", "R"), emit("R", 1), read("run", "R", "g"), *take("g"))
    yield from (watch("S", "h"), *take("h"), read("events", "s1", "i"), *take("i"))
    yield from (close_run("r"), close_run("R"), *leave(*"abcdefghi"), GAUGES)


def every_cursor() -> Walk:
    """Each endpoint, of each session and run, after each kind of cursor."""
    runs = {"s": ("r", "r1"), "S": ("R", "R1"), "s1": ("r11",), "other": ()}
    for session, some in runs.items():
        yield from (watch(session, session), *take(session))
        for stream in some:
            yield from (open_run(session, stream), emit(stream, 1, 2), notify(session))
            if stream in ("r", "R", "r11"):
                yield from (emit(stream, 3, event="done"), emit(stream, 4, event="stream_end"))
                yield close_run(stream)
    yield withdraw("R1")
    channels = [f"{session}#1" for session in runs]
    streams = [*(stream for some in runs.values() for stream in some), "stray"]
    cursors = [*product([*streams, *channels, ""], (0, 1, 2, 3, 4, 5, FAR))]
    for endpoint in ENDPOINTS:
        for subject in streams if endpoint == "run" else runs:
            yield from _read_once(endpoint, subject)
            for cursor in cursors:
                yield from _read_once(endpoint, subject, *cursor)
    yield GAUGES


def _read_once(endpoint: str, subject: str, *cursor: Any) -> Iterator[Step]:
    yield from (read(endpoint, subject, "a", *cursor), *take("a"), *leave("a"))


def every_walk() -> Sequence[Walk]:
    """All walks."""
    frames, large = around(RUN_FRAMES_MAX), around(RUN_BYTES_MAX // LARGE)
    notices = around(NOTICES_MAX), around(NOTICE_BYTES_MAX // NOTICE)
    return (
        *(every_end(event) for event in (*TERMINAL, "done", "")),
        *(withdrawn(), announced(), listed(), woken(), at_shutdown(), every_cursor()),
        *(bounded_run(count, SIZE, "ok") for count in frames),
        *(bounded_run(count, LARGE, "ok") for count in large),
        *(
            bounded_run(2 * RUN_BYTES_MAX // LARGE, LARGE, mode)
            for mode in ("missing", "malformed", FAILING)
        ),
        *(replayed(rows) for rows in (REPLAYED_MAX, REPLAYED_MAX + 1)),
        *(bounded_notices(count, SIZE) for count in notices[0]),
        *(bounded_notices(count, NOTICE) for count in notices[1]),
        *(early(count, is_late=late) for count in around(EARLY_MAX) for late in (True, False)),
        *(early(2, is_late=late) for late in (True, False)),
        *(collected(seconds, by_ttl=False) for seconds in (0, GRACE_S - 1, GRACE_S, GRACE_S + 1)),
        *(collected(seconds, by_ttl=True) for seconds in (TTL_S - 1, TTL_S, TTL_S + 1)),
        *(touched(by) for by in ("notice", "reader")),
        *(deleted(session) for session in ("s", "S", "s1")),
    )
