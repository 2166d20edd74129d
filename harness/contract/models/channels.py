"""Model of the live channels: every event that each subscriber receives, from any cursor.

Operations are those of the *channels* ability (`harness.targets`). The model keeps the sizes of all
events of a stream, and a reader is a position in one. So it predicts what a reader at any pace
receives, when it is woken, and the sizes of all containers; time passes by `wait` only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from harness.contract import promises
from harness.core.contract import Promise
from harness.core.history import Operation, Outcome
from harness.core.model import Refusal

GRACE_S, TTL_S = 60, 4 * 3600
RUN_FRAMES_MAX, RUN_BYTES_MAX = 1024, 1 << 18
NOTICES_MAX, NOTICE_BYTES_MAX = 64, 1 << 14
CHANNEL_ID_LENGTH = len("notices-") + 12
EARLY_MAX = 64  # events that wait for an earlier number
REPLAYED_MAX = 4096  # rows that are read again from the journal for one reader
TERMINAL = ("stream_end", "cancel", "apperror", "error")
SNAPSHOT, STARTED, TOKEN = "session_snapshot", "server_turn_started", "token"
LIST = "sessions"
FAILING, FAILED = "failing", "failed"  # the journal cannot be read; so the reader is refused

Shown = list[Any]  # [name, id, data], or ["tokens", stream, first, last]
Cursor = tuple[str, int]


def snapshot(session: str, stream: str = "", seq: int = 0) -> Shown:
    """Say that the reader must load the session again; with a stream, where it goes on."""
    data = {"session_id": session}
    if not stream:
        return [SNAPSHOT, None, data]
    id_ = f"{stream}:{seq}"
    return [SNAPSHOT, id_, data | {"stream_id": stream, "last_event_id": id_}]


def started(session: str, stream: str, **more: Any) -> dict[str, Any]:
    """The data of the announcement of a run."""
    return {"session_id": session, "stream_id": stream, "source": "user", **more}


@dataclass(frozen=True, eq=False)
class Stream:
    """All events of a stream, and which of them a server still holds."""

    name: str
    session: str
    frames_max: int
    bytes_max: int
    events: tuple[tuple[str, int, Any], ...] = ()  # name, bytes, and data but for tokens
    first: int = 1  # the number of the first event that is still held
    early: frozenset[int] = frozenset()
    has_ended: bool = False
    touched_s: float = 0
    left_s: float = 0

    @property
    def last(self) -> int:
        """The number of the latest event."""
        return len(self.events)

    @property
    def held_bytes(self) -> int:
        """The bytes of the events that are held."""
        return sum(size for _, size, _ in self.events[self.first - 1 :])

    def with_event(self, name: str, size: int, data: Any, now_s: float) -> Stream:
        """This stream with one more event, without those beyond its bounds."""
        events = (*self.events, (name, size, data))
        return replace(self, events=events, touched_s=now_s).bounded()

    def bounded(self) -> Stream:
        """This stream without the events that are beyond its bounds."""
        first, held = max(self.first, self.last - self.frames_max + 1), 0
        for number in range(self.last, first - 1, -1):
            held += self.events[number - 1][1]
            if held > self.bytes_max and number < self.last:
                first = number + 1
                break
        return replace(self, first=first)

    def shown(self, number: int) -> Shown:
        """The event of that number."""
        name, _, data = self.events[number - 1]
        if name == TOKEN:
            return ["tokens", self.name, number, number]
        return [name, f"{self.name}:{number}", data]


@dataclass(frozen=True, eq=False)
class Run:
    """A run: its stream, the rows of its journal, and where its start was announced."""

    stream: Stream
    rows: tuple[tuple[str, int, Any], ...] = ()  # as the events of a stream
    is_open: bool = True
    announced: Cursor | None = None


@dataclass(frozen=True, eq=False)
class Reader:
    """A subscriber: the stream it reads, its position, and what comes before that."""

    stream: str  # "" for a list that is complete
    position: int = 0
    prefix: tuple[Shown, ...] = ()
    has_cursor: bool = False
    is_awake: bool = False
    is_woken: bool = False
    is_judged: bool = True
    is_first: bool = True


@dataclass(frozen=True, eq=False)
class State:
    """All streams, runs and readers by name. Streams that are gone stay, for their readers."""

    streams: Mapping[str, Stream] = field(
        default_factory=lambda: {LIST: Stream(LIST, "", 1, RUN_BYTES_MAX)}
    )
    runs: Mapping[str, Run] = field(default_factory=dict)
    channels: Mapping[str, str] = field(default_factory=dict)  # stream by session
    lives: Mapping[str, int] = field(default_factory=dict)  # channels that the session had
    offered: Mapping[str, str] = field(default_factory=dict)  # run by session
    readers: Mapping[str, Reader] = field(default_factory=dict)
    now_s: float = 0
    journal: str = "ok"
    is_closed: bool = False
    skipped: int = 0
    version: int = 0

    def put(self, stream: Stream, *, wakes: bool = True) -> State:
        """This state with a changed stream, whose sleeping readers are woken."""
        readers = {
            name: replace(reader, is_awake=True, is_woken=True)
            if wakes and reader.stream == stream.name and not reader.is_awake
            else reader
            for name, reader in self.readers.items()
        }
        return replace(self, streams={**self.streams, stream.name: stream}, readers=readers)

    def put_run(self, name: str, run: Run) -> State:
        """This state with a changed run."""
        return replace(self, runs={**self.runs, name: run})

    def replay(self, run: str, after: int) -> tuple[str, list[Shown]]:
        """What the journal answers: a status, and the rows after a number."""
        if self.journal != "ok":
            return self.journal, []
        rows = self.runs[run].rows
        if after > len(rows):
            return "beyond", []
        if len(rows) - after > REPLAYED_MAX:
            return "many", []
        return "ok", [
            ["tokens", run, number, number] if name == TOKEN else [name, f"{run}:{number}", data]
            for number, (name, _, data) in enumerate(rows[after:], after + 1)
        ]


class ChannelsModel:
    """What channels may answer."""

    name = "channels"

    def initial(self) -> State:
        """No session, run or reader."""
        return State()

    def step(self, state: State, operation: Operation) -> tuple[State] | Refusal:
        """The state after the operation, or the promise it broke."""
        if operation.outcome is not Outcome.OK:
            return Refusal(
                _PROMISES.get(operation.function, promises.C3),
                f"{operation.call} raised",
                expected="an answer",
                observed=operation.error,
            )
        if operation.function == "take":
            return _take(state, operation)
        if operation.function == "gauges":
            return _gauges(state, operation)
        after, expected = _expected(state, operation.function, operation.argument)
        if operation.result == expected:
            return (after,)
        return Refusal(
            _PROMISES.get(operation.function, promises.C3),
            f"{operation.call} returned another answer",
            (expected,),
            also=_ALSO.get(operation.function, ()),
            expected=f"{expected}",
        )

    def adopt(self, state: State, operation: Operation) -> tuple[State, ...]:
        """Go on behind a wrong delivery or gauge; that reader is not judged any more."""
        if operation.function == "gauges":
            return (state,)
        name = operation.argument.get("reader", "")
        if operation.function != "take" or name not in state.readers:
            return ()
        silent = replace(state.readers[name], is_judged=False)
        return (replace(state, readers={**state.readers, name: silent}),)


def _expected(  # noqa: C901, PLR0911, PLR0912  one answer a function
    state: State, function: str, argument: Mapping[str, Any]
) -> tuple[State, Any]:
    match function:
        case "open_run":
            return _opened(state, **argument), None
        case "withdraw":
            return _withdrawn(state, argument["stream"]), None
        case "emit":
            return _emitted(state, argument)
        case "close_run":
            return _ended_run(state, argument["stream"]), None
        case "notify":
            return _notified(state, **argument)
        case "changed":
            return _changed(state, **argument), None
        case "watch":
            return _watched(state, **argument)
        case "read_run":
            return _reading_run(state, **argument)
        case "read_events":
            return _reading_events(state, **argument)
        case "watch_list":
            position = state.streams[LIST].last
            return _joined(state, argument["reader"], Reader(LIST, position)), "reading"
        case "leave":
            return _left(state, argument["reader"]), None
        case "wait":
            return replace(state, now_s=state.now_s + argument["seconds"]), None
        case "collect":
            return _collected(state)
        case "forget":
            return _forgotten(state, argument["session"]), None
        case "journal":
            return replace(state, journal=argument["mode"]), None
        case "shut":
            return _closed(state), None
    raise ValueError(f"the channels have no function {function!r}")


# Runs


def _opened(state: State, session: str, stream: str) -> State:
    made = Stream(
        stream,
        session,
        RUN_FRAMES_MAX,
        RUN_BYTES_MAX,
        has_ended=state.is_closed,
        touched_s=state.now_s,
        left_s=state.now_s,
    )
    run = Run(made)
    channel = state.streams.get(state.channels.get(session, ""))
    after = replace(state, offered={**state.offered, session: stream})
    if channel is not None and not channel.has_ended:
        run = replace(run, announced=(channel.name, channel.last + 1))
        data = started(session, stream)
        size = _size(STARTED, "x" * CHANNEL_ID_LENGTH, channel.last + 1, data)
        after = after.put(channel.with_event(STARTED, size, data, state.now_s))
    after = after.put_run(stream, run)
    return replace(after, streams={**after.streams, stream: made})


def _withdrawn(state: State, stream: str) -> State:
    offered = {session: run for session, run in state.offered.items() if run != stream}
    return replace(state, offered=offered)


def _ended_run(state: State, stream: str) -> State:
    run = state.runs.get(stream)
    if run is None or not run.is_open:
        return state
    after = _withdrawn(state, stream).put_run(stream, replace(run, is_open=False))
    return after.put(replace(after.streams[stream], has_ended=True, early=frozenset()))


def _emitted(state: State, argument: Mapping[str, Any]) -> tuple[State, int]:
    """Show events that have numbers, in the given order; the number of those accepted."""
    stream, first, last = argument["stream"], argument["first"], argument["last"]
    numbers = range(first, last + 1) if first <= last else range(first, last - 1, -1)
    run = state.runs.get(stream)
    if run is None:
        return replace(state, skipped=state.skipped + len(numbers)), 0
    if not run.is_open:
        return replace(state, skipped=state.skipped + len(numbers)), 0
    rows = list(run.rows)
    highest = max(first, last)
    rows += [
        (argument["event"] if number == highest else TOKEN, argument["size"], {"number": number})
        for number in range(len(rows) + 1, highest + 1)
    ]
    state = state.put_run(stream, replace(run, rows=tuple(rows)))
    found = state.streams[stream]
    accepted, early, events = 0, set(found.early), list(found.events)
    held, has_ended = found.first, found.has_ended
    for number in numbers:
        if has_ended or number <= len(events) or number in early:
            continue
        early.add(number)
        accepted += 1
        if len(early) > EARLY_MAX:
            events += [(TOKEN, 0, None)] * (min(early) - 1 - len(events))
            held = len(events) + 1
        while not has_ended and len(events) + 1 in early:
            early.remove(len(events) + 1)
            events.append(rows[len(events)])
            has_ended = events[-1][0] in TERMINAL
    shown = replace(
        found,
        events=tuple(events),
        first=held,
        early=frozenset(early),
        has_ended=has_ended,
        touched_s=state.now_s,
    ).bounded()
    return state.put(shown, wakes=bool(accepted)), accepted


# Notices


def _notified(state: State, session: str, event: str, size: int, count: int) -> tuple[State, int]:
    channel = state.streams.get(state.channels.get(session, ""))
    if channel is None or channel.has_ended:
        return state, 0
    for _ in range(count):
        channel = channel.with_event(event, size, {"number": channel.last + 1}, state.now_s)
    return state.put(channel), count


def _changed(state: State, reason: str, session: str | None) -> State:
    version = state.version + 1
    data = {"type": "sessions_changed", "version": version, "reason": reason}
    if session is not None:
        data["session_id"] = session
    after = replace(state, version=version)
    found = state.streams[LIST]
    if found.has_ended:
        return after
    size = _size("sessions_changed", LIST, found.last + 1, data)
    return after.put(found.with_event("sessions_changed", size, data, state.now_s))


def _size(event: str, stream: str, number: int, data: Any) -> int:
    """The bytes of an event on the wire."""
    payload = json.dumps(data, separators=(",", ":"))
    return len(f"id: {stream}:{number}\nevent: {event}\ndata: {payload}\n\n")


# Subscribers


def _joined(state: State, name: str, reader: Reader) -> State:
    after = replace(state, readers={**state.readers, name: reader})
    if not reader.stream:
        return after
    touched = replace(after.streams[reader.stream], touched_s=state.now_s)
    return after.put(touched, wakes=False)


def _watched(state: State, session: str, reader: str, cursor: Cursor | None) -> tuple[State, str]:
    is_new = session not in state.channels
    if is_new:
        life = state.lives.get(session, 0) + 1
        made = Stream(
            f"{session}#{life}",
            session,
            NOTICES_MAX,
            NOTICE_BYTES_MAX,
            has_ended=state.is_closed,
            touched_s=state.now_s,
            left_s=state.now_s,
        )
        state = replace(
            state,
            streams={**state.streams, made.name: made},
            channels={**state.channels, session: made.name},
            lives={**state.lives, session: life},
        )
    channel = state.streams[state.channels[session]]
    if cursor is not None:  # no cursor is of a channel that did not exist
        cursor = ("" if is_new else cursor[0], cursor[1])
    seq = channel.last
    if cursor is not None and cursor[0] == channel.name:
        seq = min(seq, cursor[1])
    position = max(seq, channel.first - 1)
    prefix: list[Shown] = [["initial", None, {"session_id": session}]]
    if position > seq or (cursor is not None and cursor != (channel.name, seq)):
        prefix.append(snapshot(session, channel.name, position))
    run = state.offered.get(session)
    if run is not None:
        announced = state.runs[run].announced
        is_ahead = announced is not None and announced[0] == channel.name
        if not (is_ahead and announced is not None and announced[1] > position):
            prefix.append([STARTED, None, started(session, run, recovered=True)])
    found = Reader(channel.name, position, tuple(prefix), cursor is not None)
    return _joined(state, reader, found), "reading"


def _reading_run(
    state: State, stream: str, reader: str, cursor: Cursor | None
) -> tuple[State, str]:
    run = state.runs.get(stream)
    if run is None:
        return state, "missing"
    session = run.stream.session
    prefix = [snapshot(session)] if cursor is not None and cursor[0] != stream else []
    after = 0 if cursor is None or cursor[0] != stream else cursor[1]
    if run.is_open:
        return _read(state, stream, reader, after, prefix, has_cursor=cursor is not None)
    status, rows = state.replay(stream, after)
    if status in ("missing", FAILING):
        return state, "missing" if status == "missing" else FAILED
    if status != "ok":
        prefix = [snapshot(session, stream, after)]
    complete = Reader("", 0, (*prefix, *rows), cursor is not None)
    return _joined(state, reader, complete), "reading"


def _reading_events(
    state: State, session: str, reader: str, cursor: Cursor | None
) -> tuple[State, str]:
    runs = state.runs.items()
    current = [name for name, run in runs if run.is_open and run.stream.session == session]
    has_cursor = cursor is not None
    if current and (cursor is None or cursor[0] == current[0]):
        after = 0 if cursor is None else cursor[1]
        return _read(state, current[0], reader, after, [], has_cursor=has_cursor)
    named = state.runs.get(cursor[0]) if cursor is not None else None
    if cursor is not None and named is not None and named.stream.session == session:
        status, rows = state.replay(cursor[0], cursor[1])
        if status == FAILING:
            return state, FAILED
        if status == "ok" and rows:
            return _joined(state, reader, Reader("", 0, tuple(rows), has_cursor=True)), "reading"
    if not current:
        return _watched(state, session, reader, cursor or ("", 0))
    return _read(state, current[0], reader, 0, [snapshot(session)], has_cursor=has_cursor)


def _read(  # noqa: PLR0913  a reader, where it begins, and what it gets before
    state: State, run: str, reader: str, after: int, prefix: list[Shown], *, has_cursor: bool
) -> tuple[State, str]:
    stream = state.streams[run]
    position = min(max(after, stream.first - 1), stream.last)
    first = [snapshot(stream.session, run, position)] if after > position else []
    missed = max(0, stream.first - 1 - after)
    status, rows = state.replay(run, after) if missed else ("ok", [])
    if status == FAILING:
        return state, FAILED
    rest = rows[:missed] if status == "ok" else [snapshot(stream.session, run, position)]
    found = Reader(run, position, (*first, *prefix, *rest), has_cursor)
    return _joined(state, reader, found), "reading"


def _left(state: State, name: str) -> State:
    readers = dict(state.readers)
    stream = readers.pop(name).stream
    after = replace(state, readers=readers)
    is_empty = stream and not any(reader.stream == stream for reader in readers.values())
    if not is_empty:
        return after
    return after.put(replace(after.streams[stream], left_s=state.now_s), wakes=False)


# Collection and closing


def _is_abandoned(state: State, name: str) -> bool:
    stream = state.streams[name]
    is_late = state.now_s - stream.left_s >= GRACE_S or state.now_s - stream.touched_s >= TTL_S
    return is_late and not any(reader.stream == name for reader in state.readers.values())


def _collected(state: State) -> tuple[State, int]:
    live = {
        session: name for session, name in state.channels.items() if not _is_abandoned(state, name)
    }
    return replace(state, channels=live), len(state.channels) - len(live)


def _forgotten(state: State, session: str) -> State:
    runs = {
        name: run
        for name, run in state.runs.items()
        if run.is_open or run.stream.session != session
    }
    channels = dict(state.channels)
    name = channels.pop(session, None)
    after = replace(state, channels=channels, runs=runs)
    return after if name is None else after.put(replace(after.streams[name], has_ended=True))


def _closed(state: State) -> State:
    after = replace(state, is_closed=True)
    names = [*state.channels.values(), *(n for n, run in state.runs.items() if run.is_open), LIST]
    for name in names:
        after = after.put(replace(after.streams[name], has_ended=True, early=frozenset()))
    return after


# Answers


def _take(state: State, operation: Operation) -> tuple[State] | Refusal:
    """One reader takes one event, or all of them."""
    name = operation.argument["reader"]
    reader = state.readers[name]
    after, events, is_over = _taken(state, reader, takes_all=operation.argument["all"])
    result = operation.result
    expected = {"events": events, "woken": reader.is_woken, "over": is_over}
    if result == expected or not reader.is_judged:
        return (replace(state, readers={**state.readers, name: after}),)
    first, *also = dict.fromkeys(_broken(state, reader, expected, result))
    return Refusal(
        first,
        f"take: reader {name} of {reader.stream or 'rows'} did not receive its events",
        (expected,),
        tuple(also),
        expected=f"{expected}",
    )


def _taken(state: State, reader: Reader, *, takes_all: bool) -> tuple[Reader, list[Shown], bool]:
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


def _broken(
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


def _gauges(state: State, operation: Operation) -> tuple[State] | Refusal:
    open_runs = [name for name, run in state.runs.items() if run.is_open]
    names = [*state.channels.values(), *open_runs, LIST]
    streams = [state.streams[name] for name in names]
    readers = sum(reader.stream in names for reader in state.readers.values())
    expected = {
        "channels": len(state.channels),
        "channel_runs": len(open_runs),
        "channel_runs_offered": len(state.offered),
        "channel_subscribers": readers,
        "channel_frames_kept": sum(s.last - s.first + 1 + len(s.early) for s in streams),
        "channel_bytes_kept": sum(stream.held_bytes for stream in streams),
        "skipped": state.skipped,
    }
    wrong = [name for name, value in expected.items() if operation.result.get(name) != value]
    if not wrong and set(operation.result) == set(expected):
        return (state,)
    first, *also = dict.fromkeys([*(_GAUGES[name] for name in wrong), promises.H4, promises.H8])
    return Refusal(
        first,
        f"gauges: {', '.join(wrong) or 'a gauge'} is wrong",
        (expected,),
        also=tuple(also),
        expected=f"{expected}",
    )


_GAUGES: Mapping[str, Promise] = {
    "channels": promises.C9,
    "channel_runs": promises.T3,
    "channel_runs_offered": promises.C7,
    "channel_subscribers": promises.C11,
    "channel_frames_kept": promises.C8,
    "channel_bytes_kept": promises.C8,
    "skipped": promises.W7,
}
_PROMISES: Mapping[str, Promise] = {
    "open_run": promises.C7,
    "withdraw": promises.C7,
    "emit": promises.C2,
    "close_run": promises.C6,
    "shut": promises.C6,
    "notify": promises.C3,
    "changed": promises.C3,
    "watch": promises.C4,
    "read_run": promises.C4,
    "read_events": promises.C4,
    "watch_list": promises.C4,
    "leave": promises.C11,
    "collect": promises.C9,
    "forget": promises.C9,
}
_ALSO: Mapping[str, tuple[Promise, ...]] = {
    "emit": (promises.C3, promises.W7),
    "notify": (promises.W7, promises.C5),
}
