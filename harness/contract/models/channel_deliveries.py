"""What a reader takes from its channel, and which promises a wrong delivery breaks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from harness.contract import promises
from harness.contract.models.channel_values import (
    LIST,
    SNAPSHOT,
    STARTED,
    Reader,
    Shown,
    State,
    snapshot,
)
from harness.core.contract import Promise


def taken_by(state: State, reader: Reader, *, takes_all: bool) -> tuple[Reader, list[Shown], bool]:
    """The reader after it took one event or all, these events, and whether its stream is over."""
    prefix, position = list(reader.prefix), reader.position
    stream = state.streams.get(reader.stream)
    events: list[Shown] = []
    last = 0 if stream is None else stream.last
    if stream is not None and position < stream.first - 1:
        position = stream.first - 1
        if stream.name != LIST:
            prefix.append(snapshot(stream.session, stream.name, position))
    while prefix or position < last:
        if prefix:
            events.append(prefix.pop(0))
        else:
            assert stream is not None
            position += 1
            events.append(stream.shown(position))
        if not takes_all:
            break
    is_empty = takes_all or not events
    has_ended = stream is None or stream.has_ended
    after = replace(
        reader,
        position=position,
        prefix=tuple(prefix),
        is_awake=reader.is_awake and not is_empty,
        is_woken=False,
        is_first=False,
    )
    return after, joined(events), has_ended and not prefix and position >= last


def joined(events: Sequence[Shown]) -> list[Shown]:
    """Join consecutive tokens of one stream."""
    shown: list[Shown] = []
    for event in events:
        is_next = bool(shown) and shown[-1][0] == event[0] == "tokens"
        if is_next and shown[-1][1] == event[1] and shown[-1][3] + 1 == event[2]:
            shown[-1] = [*shown[-1][:3], event[3]]
        else:
            shown.append(event)
    return shown


def broken_by(
    state: State, reader: Reader, expected: Mapping[str, Any], result: Mapping[str, Any]
) -> Iterator[Promise]:
    """The promises that a wrong delivery breaks, the most telling first."""
    wanted, events = expected["events"], result["events"]
    if events != wanted:
        yield from _misdelivered(state, reader, wanted, events)
    if result["woken"] is not expected["woken"]:
        yield promises.C3 if expected["woken"] else promises.H5
        yield promises.C6
    if result["over"] is not expected["over"]:
        yield promises.C6


def _misdelivered(
    state: State, reader: Reader, wanted: Sequence[Shown], events: Sequence[Shown]
) -> Iterator[Promise]:
    stream = state.streams.get(reader.stream)
    numbers = list(_numbers(events))
    foreign = [event for event in events if stream and _session_of(state, event) != stream.session]
    if stream is not None and stream.name != LIST and foreign:
        yield promises.C5
    if len(set(numbers)) < len(numbers):
        yield promises.C2
    elif numbers != sorted(numbers):
        yield promises.C1
    recovered = [[event for event in some if event[0] == STARTED] for some in (events, wanted)]
    if recovered[0] != recovered[1]:
        yield promises.C7
    if reader.has_cursor and reader.is_first:
        yield promises.C4
    lost = [number for number in _numbers(wanted) if number not in numbers]
    if not lost and [event for event in events if event[0] != SNAPSHOT] == wanted:
        yield promises.C8  # a snapshot for a reader that missed nothing
    yield promises.C3
    cursors = [[event[1] for event in some if event[0] == SNAPSHOT] for some in (events, wanted)]
    if cursors[0] != cursors[1] and len(cursors[0]) == len(cursors[1]):
        yield promises.C4  # the reader would continue elsewhere
        yield promises.C2  # or receive an id again
    if len(events) > len(wanted):
        yield promises.C2


def _numbers(events: Sequence[Shown]) -> Iterator[int]:
    for event in events:
        if event[0] == "tokens":
            yield from range(event[2], event[3] + 1)
        elif event[0] != SNAPSHOT and event[1]:
            yield int(event[1].rpartition(":")[2])


def _session_of(state: State, event: Shown) -> Any:
    if event[0] == "tokens" or "session_id" not in event[2]:
        name = event[1] if event[0] == "tokens" else str(event[1]).rpartition(":")[0]
        stream = state.streams.get(name)
        return stream and stream.session
    return event[2]["session_id"]
