"""What each call of the channels answers, and the state that follows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from harness.contract.models.channel_values import (
    CHANNEL_ID_LENGTH,
    EARLY_MAX,
    FAILED,
    FAILING,
    GRACE_S,
    LIST,
    NOTICE_BYTES_MAX,
    NOTICES_MAX,
    RUN_BYTES_MAX,
    RUN_FRAMES_MAX,
    STARTED,
    TERMINAL,
    TOKEN,
    TTL_S,
    Cursor,
    Reader,
    Run,
    Shown,
    State,
    Stream,
    snapshot,
    started,
)


def expected_answer(  # noqa: C901, PLR0911, PLR0912  one answer a function
    state: State, function: str, argument: Mapping[str, Any]
) -> tuple[State, Any]:
    """The state after a call, and its answer."""
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
