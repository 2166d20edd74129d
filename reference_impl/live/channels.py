"""Live channels: every event reaches only the subscribers of its session.

There are two kinds of event buffers. Each watched session has a *channel*: a buffer of notices,
such as "a turn started". Each run has a buffer of its own, numbered by its journal. A run's session
is known from its start, so an event without a known session is dropped, never broadcast.

A late subscriber gets the present state: the current run, or what its cursor missed, or a
`session_snapshot`, which says that it must load the session again. A run that is being cancelled
still has its buffer, but no new subscriber is attached to it. Knows no socket; reads the disk only
through the journal.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol, Self

from reference_impl.live.event_buffer import EventBuffer, Frame, Subscription, frame, sizes
from reference_impl.turns.journal import Replay, ReplayStatus

log = logging.getLogger(__name__)

STARTED, STARTED_BY_CLIENT = "server_turn_started", "turn_started"
GRACE_S = 60.0
IDLE_TTL_S = 4 * 3600.0
TERMINAL_EVENTS = frozenset({"stream_end", "cancel", "apperror", "error"})
_NOTICES_MAX = 64
_NOTICE_BYTES_MAX = 1 << 14
_SEQ_DIGITS_MAX = 15


class Cursor(NamedTuple):
    """A client's position: the stream and the number of the last event that it received."""

    stream_id: str
    seq: int

    def __str__(self) -> str:
        return f"{self.stream_id}:{self.seq}"

    @classmethod
    def parsed(cls, id_: str) -> Self | None:
        """Parse an event id, `<stream_id>:<seq>`; None for anything else."""
        stream_id, _, digits = id_.rpartition(":")
        is_number = digits.isascii() and digits.isdigit() and len(digits) <= _SEQ_DIGITS_MAX
        return cls(stream_id, int(digits)) if stream_id and is_number else None


_NO_CURSOR = Cursor("", 0)


class Journal(Protocol):
    """What the channels need from the run journal; both calls may read the disk."""

    def owner(self, stream_id: str) -> str | None:
        """The session of a finished run, if it is remembered."""
        ...

    def read(self, session_id: str, cursor: str) -> Replay:
        """The rows of the session's run after the row that the cursor names."""
        ...


@dataclass(slots=True)
class _Run:
    session_id: str
    buffer: EventBuffer
    started: Mapping[str, Any]
    announced_in: EventBuffer | None = None
    seq: int = 0  # of the announcement


class Channels:
    """All event buffers of a server. Thread-safe; publishing waits for no reader and no disk."""

    def __init__(
        self, journal: Journal, *, grace_s: float = GRACE_S, ttl_s: float = IDLE_TTL_S
    ) -> None:
        """Collect a channel after `grace_s` without a reader, or `ttl_s` without an event."""
        self._journal = journal
        self._grace_s = grace_s
        self._ttl_s = ttl_s
        self._lock = threading.Lock()
        self._notices: dict[str, EventBuffer] = {}
        self._runs: dict[str, _Run] = {}
        self._offered: dict[str, _Run] = {}  # by session: the run that late subscribers attach to
        self._sessions = EventBuffer("sessions", frames_max=1)
        self._version = 0
        self._is_closed = False
        self.events_skipped = 0  # because their session was not known

    # Runs

    def open_run(
        self, session_id: str, stream_id: str, *, notice: str = STARTED, **facts: Any
    ) -> None:
        """Open a run's buffer, make it the session's current run, and announce it by `notice`.

        `facts` are further fields of the notice: pending_started_at, source. A late subscriber gets
        it as `server_turn_started` with `recovered`, also of a run that a client started.
        """
        started = {"session_id": session_id, "stream_id": stream_id, **facts}
        gap_frame = partial(_snapshot, session_id, stream_id, "fell behind")
        run = _Run(
            session_id, EventBuffer(stream_id, gap_frame, last_events=TERMINAL_EVENTS), started
        )
        with self._lock:
            if self._is_closed:
                run.buffer.end()
            self._runs[stream_id] = run
            self._offered[session_id] = run
            run.announced_in = self._notices.get(session_id)
            if run.announced_in is not None:
                run.seq = run.announced_in.publish(notice, started)

    def withdraw_run(self, stream_id: str) -> None:
        """Attach no new subscriber to a run, because it is being cancelled."""
        with self._lock:
            self._withdraw(self._runs.get(stream_id))

    def emit(self, stream_id: str, seq: int, event: str, data: Any) -> bool:
        """Publish an event of a run; False for a duplicate, or a run that is not known."""
        run = self._runs.get(stream_id)
        if run is None:
            self.events_skipped += 1
            log.debug("stream %s: its session is not known, so %s is skipped", stream_id, event)
            return False
        return run.buffer.put(seq, event, data)

    def close_run(self, stream_id: str) -> None:
        """End a run's buffer; its readers still receive the remaining events."""
        with self._lock:
            run = self._runs.pop(stream_id, None)
            self._withdraw(run)
        if run is not None:
            run.buffer.end()

    def _withdraw(self, run: _Run | None) -> None:
        if run is not None and self._offered.get(run.session_id) is run:
            del self._offered[run.session_id]

    # Notices

    def notify(self, session_id: str, event: str, data: Any) -> bool:
        """Publish a notice on a session's channel; False if the session has none."""
        notices = self._notices.get(session_id)
        return notices is not None and notices.publish(event, data) > 0

    def sessions_changed(self, reason: str, session_id: str | None = None) -> None:
        """Publish a change of the session list. A slow reader gets only the latest one."""
        about = {} if session_id is None else {"session_id": session_id}
        with self._lock:
            self._version += 1
            notice = {
                "type": "sessions_changed",
                "version": self._version,
                "reason": reason,
                **about,
            }
            self._sessions.publish("sessions_changed", notice)

    # Subscribers. A subscriber takes at once after subscribing. `wake` must neither block nor call
    # back, and may be called before `subscribe` has returned.

    def subscribe(
        self, session_id: str, wake: Callable[[], None], after: Cursor | None = None
    ) -> Subscription:
        """Watch a session: its notices from now on, or after the last one received.

        The current run, if it can be attached to, is announced in any case. A cursor that cannot be
        continued gives a snapshot.
        """
        with self._lock:
            notices = self._notices.get(session_id)
            if notices is None:
                notices = self._notices[session_id] = self._new_channel(session_id)
            seq = notices.last
            if after is not None and after.stream_id == notices.stream_id:
                seq = min(seq, after.seq)
            reader = notices.subscribe(wake, seq)
            reader.prepend([frame("initial", {"session_id": session_id})])
            if reader.missed or (after is not None and after != (notices.stream_id, seq)):
                notices.prepend_gap(reader)
            run = self._offered.get(session_id)
            if run is not None and not (run.announced_in is notices and run.seq > reader.position):
                reader.prepend([frame(STARTED, {**run.started, "recovered": True})])
        return reader

    def subscribe_run(
        self, stream_id: str, wake: Callable[[], None], after: Cursor | None = None
    ) -> Subscription | None:
        """Read a run, from its start or after a cursor; None for an unknown run.

        May read the journal: for events that the buffer dropped, and for a run that is over.
        """
        run = self._runs.get(stream_id)
        session_id = run.session_id if run is not None else self._journal.owner(stream_id)
        if session_id is None:
            return None
        prefix = []
        if after is None or after.stream_id != stream_id:
            prefix = [] if after is None else [snapshot(session_id, "cursor_run_mismatch")]
            after = Cursor(stream_id, 0)
        if run is not None:
            return self._read(run, wake, after.seq, *prefix)
        replay = self._journal.read(session_id, str(after))
        if replay.status is ReplayStatus.CURSOR_RUN_MISSING:
            return None
        if replay.status is not ReplayStatus.OK:
            prefix = [snapshot(session_id, replay.status, after)]
        return _ended(wake, [*prefix, *_frames(replay)])

    def subscribe_events(
        self, session_id: str, wake: Callable[[], None], after: Cursor | None = None
    ) -> Subscription:
        """Read a session's run: the current one, or the rest of the one that the cursor names.

        If neither is possible, the subscriber gets a snapshot and then the current run or, without
        one, the session's notices, which announce the next run. May read the journal.
        """
        run = self._run_of(session_id)
        if run is not None and after is None:
            return self._read(run, wake, 0)
        if run is not None and after is not None and after.stream_id == run.buffer.stream_id:
            return self._read(run, wake, after.seq)
        if after is not None and after.stream_id:
            rest = _frames(self._journal.read(session_id, str(after)))
            if rest:
                return _ended(wake, rest)
        if run is None:
            return self.subscribe(session_id, wake, after or _NO_CURSOR)
        cannot_continue = snapshot(session_id, "cursor_session_mismatch")
        return self._read(run, wake, 0, cannot_continue)

    def _read(
        self, run: _Run, wake: Callable[[], None], after: int, *prefix: Frame
    ) -> Subscription:
        reader = run.buffer.subscribe(wake, after)
        reader.prepend(prefix)
        if reader.missed:
            try:
                cursor = Cursor(run.buffer.stream_id, after)
                replay = self._journal.read(run.session_id, str(cursor))
            except BaseException:
                reader.close()  # the caller gets no subscription that it could close
                raise
            if replay.status is ReplayStatus.OK:
                reader.prepend(_frames(replay)[: len(reader.missed)])
            else:
                position = Cursor(run.buffer.stream_id, reader.position)
                reader.prepend([snapshot(run.session_id, replay.status, position)])
        return reader

    def _run_of(self, session_id: str) -> _Run | None:
        with self._lock:
            runs = self._runs.values()
            return next((run for run in runs if run.session_id == session_id), None)

    def subscribe_sessions(self, wake: Callable[[], None]) -> Subscription:
        """Watch the list of sessions, from now on."""
        return self._sessions.subscribe(wake)

    def _new_channel(self, session_id: str) -> EventBuffer:
        # A new name each time: a cursor of a collected channel is then recognised as foreign.
        stream_id = f"notices-{uuid.uuid4().hex[:12]}"
        channel = EventBuffer(
            stream_id,
            partial(_snapshot, session_id, stream_id, "fell behind"),
            frames_max=_NOTICES_MAX,
            bytes_max=_NOTICE_BYTES_MAX,
        )
        if self._is_closed:
            channel.end()
        return channel

    # Collection and closing

    def collect(self) -> int:
        """Drop channels without readers after the grace time; returns how many were dropped.

        A concurrent subscriber either finds its channel before it is judged, and keeps it, or finds
        none and gets a new one: both run under the same lock.
        """
        with self._lock:
            abandoned = [
                session_id
                for session_id, notices in self._notices.items()
                if notices.is_abandoned(self._grace_s, self._ttl_s)
            ]
            for session_id in abandoned:
                del self._notices[session_id]
        return len(abandoned)

    def forget(self, session_id: str) -> None:
        """End the channel of a session that is deleted."""
        with self._lock:
            notices = self._notices.pop(session_id, None)
        if notices is not None:
            notices.end()

    def close(self) -> None:
        """End every reader, including later subscribers."""
        with self._lock:
            self._is_closed = True
            buffers = [*self._notices.values(), *(run.buffer for run in self._runs.values())]
        for buffer in [*buffers, self._sessions]:
            buffer.end()

    def gauges(self) -> dict[str, int]:
        """Sizes of the long-lived containers."""
        with self._lock:
            channels = list(self._notices.values())
            runs = [run.buffer for run in self._runs.values()]
        total = sizes((*channels, *runs, self._sessions))
        return {
            "channels": len(channels),
            "channel_runs": len(runs),
            "channel_runs_offered": len(self._offered),
            "channel_subscribers": total.readers,
            "channel_frames_kept": total.frames,
            "channel_bytes_kept": total.bytes,
        }


def _ended(wake: Callable[[], None], frames: Sequence[Frame]) -> Subscription:
    """Return a finished subscription of just these frames."""
    buffer = EventBuffer("")
    buffer.end()
    reader = buffer.subscribe(wake)
    reader.prepend(frames)
    return reader


def _frames(replay: Replay) -> list[Frame]:
    return [frame(row["event"], row["payload"], row["event_id"]) for row in replay.rows]


def snapshot(session_id: str, reason: str, cursor: Cursor | None = None) -> Frame:
    """Tell a reader to load the session again; with a cursor, it continues after that."""
    data: dict[str, Any] = {"session_id": session_id, "reason": reason}
    if cursor is None:
        return frame("session_snapshot", data)
    data |= {"stream_id": cursor.stream_id, "last_event_id": str(cursor)}
    return frame("session_snapshot", data, str(cursor))


def _snapshot(session_id: str, stream_id: str, reason: str, upto: int) -> Frame:
    return snapshot(session_id, reason, Cursor(stream_id, upto))
