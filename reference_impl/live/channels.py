"""The channels: who is shown what, live. An event reaches only those who asked for its session.

Two kinds of feeds. Each session that somebody watches has a *channel*: a feed of notices, such as
"a turn started". Each run has a feed of its own, numbered by its journal. A run's owner is known
from when it opens; an event of a run that nobody opened is skipped, never guessed.

Who subscribes late is shown the present: the run that goes on now, or what his cursor missed, or a
`session_snapshot`, which says that he has to load the session again. A run that is being cancelled
still has its feed, but is offered to nobody. Knows no socket; the disk only through the journal.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol, Self

from reference_impl.live.event_buffer import Feed, Frame, Subscription, frame, sizes
from reference_impl.turns.journal import Replay, ReplayStatus

log = logging.getLogger(__name__)

GRACE_S = 60.0
IDLE_TTL_S = 4 * 3600.0
TERMINAL_EVENTS = frozenset({"stream_end", "cancel", "apperror", "error"})
_NOTICES_KEPT = 64
_NOTICE_BYTES_KEPT = 1 << 14
_SEQ_DIGITS_MAX = 15


class Cursor(NamedTuple):
    """How far a client has read: the last event that it saw, of which stream."""

    stream_id: str
    seq: int

    def __str__(self) -> str:
        return f"{self.stream_id}:{self.seq}"

    @classmethod
    def parsed(cls, id_: str) -> Self | None:
        """Read an event's id, `<stream_id>:<seq>`; None for anything else."""
        stream_id, _, digits = id_.rpartition(":")
        is_number = digits.isascii() and digits.isdigit() and len(digits) <= _SEQ_DIGITS_MAX
        return cls(stream_id, int(digits)) if stream_id and is_number else None


_NOWHERE = Cursor("", 0)


class Journal(Protocol):
    """What the channels need of the run journal; both calls may read the disk."""

    def owner(self, stream_id: str) -> str | None:
        """The session of a run that is over, where it is remembered."""
        ...

    def read(self, session_id: str, cursor: str) -> Replay:
        """What the session's run showed after the row that the cursor names."""
        ...


@dataclass(slots=True)
class _Run:
    session_id: str
    feed: Feed
    started: Mapping[str, Any]
    announced_in: Feed | None = None
    seq: int = 0  # of the announcement


class Channels:
    """All live feeds of a server. Safe for threads; publishing waits for no reader and no disk."""

    def __init__(
        self, journal: Journal, *, grace_s: float = GRACE_S, ttl_s: float = IDLE_TTL_S
    ) -> None:
        """A channel that nobody reads is collected after `grace_s`, or `ttl_s` without an event."""
        self._journal = journal
        self._grace_s = grace_s
        self._ttl_s = ttl_s
        self._lock = threading.Lock()
        self._notices: dict[str, Feed] = {}
        self._runs: dict[str, _Run] = {}
        self._offered: dict[str, _Run] = {}  # by session: what a late subscriber can attach to
        self._sessions = Feed("sessions", frames_kept=1)
        self._version = 0
        self._is_closed = False
        self.events_skipped = 0  # because they were nobody's

    # Runs

    def open_run(self, session_id: str, stream_id: str, **facts: Any) -> None:
        """A run starts: its stream is the session's from now on, and whoever watches is told.

        `facts` are what `server_turn_started` says of it: pending_started_at, source.
        """
        started = {"session_id": session_id, "stream_id": stream_id, **facts}
        behind = partial(_snapshot, session_id, stream_id, "fell behind")
        run = _Run(session_id, Feed(stream_id, behind, last_events=TERMINAL_EVENTS), started)
        with self._lock:
            if self._is_closed:
                run.feed.end()
            self._runs[stream_id] = run
            self._offered[session_id] = run
            run.announced_in = self._notices.get(session_id)
            if run.announced_in is not None:
                run.seq = run.announced_in.publish("server_turn_started", started)

    def withdraw_run(self, stream_id: str) -> None:
        """A run is being cancelled: it is offered to nobody any more."""
        with self._lock:
            self._withdraw(self._runs.get(stream_id))

    def emit(self, stream_id: str, seq: int, event: str, data: Any) -> bool:
        """Show an event of a run to those who read it; False if it was shown, or is nobody's."""
        run = self._runs.get(stream_id)
        if run is None:
            self.events_skipped += 1
            log.debug("stream %s: its session is not known, so %s is skipped", stream_id, event)
            return False
        return run.feed.put(seq, event, data)

    def close_run(self, stream_id: str) -> None:
        """A run is over; its readers get what is left for them."""
        with self._lock:
            run = self._runs.pop(stream_id, None)
            self._withdraw(run)
        if run is not None:
            run.feed.end()

    def _withdraw(self, run: _Run | None) -> None:
        if run is not None and self._offered.get(run.session_id) is run:
            del self._offered[run.session_id]

    # Notices

    def notify(self, session_id: str, event: str, data: Any) -> bool:
        """Tell those who watch a session, or did until a moment ago; False if nobody does."""
        notices = self._notices.get(session_id)
        return notices is not None and notices.publish(event, data) > 0

    def sessions_changed(self, reason: str, session_id: str | None = None) -> None:
        """Tell those who watch the list of sessions. Who is slow is told of the latest only."""
        about = {} if session_id is None else {"session_id": session_id}
        with self._lock:
            self._version += 1
            news = {"type": "sessions_changed", "version": self._version, "reason": reason, **about}
            self._sessions.publish("sessions_changed", news)

    # Subscribers. Whoever subscribes takes at once; `wake` must neither block nor call back, and
    # may be called before the subscription is there to be taken from

    def subscribe(
        self, session_id: str, wake: Callable[[], None], after: Cursor | None = None
    ) -> Subscription:
        """Watch a session: its notices from now on, or after the last one seen.

        Its run, if it can be attached to, is told of in any case; a cursor that we cannot continue
        from is answered with a snapshot.
        """
        with self._lock:
            notices = self._notices.get(session_id)
            if notices is None:
                notices = self._notices[session_id] = self._new_channel(session_id)
            seq = notices.last
            if after is not None and after.stream_id == notices.stream_id:
                seq = min(seq, after.seq)
            reader = notices.subscribe(wake, seq)
            reader.greet([frame("initial", {"session_id": session_id})])
            if reader.missed or (after is not None and after != (notices.stream_id, seq)):
                notices.tell_behind(reader)
            run = self._offered.get(session_id)
            if run is not None and not (run.announced_in is notices and run.seq > reader.position):
                reader.greet([frame("server_turn_started", {**run.started, "recovered": True})])
        return reader

    def subscribe_run(
        self, stream_id: str, wake: Callable[[], None], after: Cursor | None = None
    ) -> Subscription | None:
        """Read a run, from its start or after a cursor; None if nobody knows it.

        May read the journal: for what the feed keeps no more, and for a run that is over.
        """
        run = self._runs.get(stream_id)
        session_id = run.session_id if run is not None else self._journal.owner(stream_id)
        if session_id is None:
            return None
        greeting = []
        if after is None or after.stream_id != stream_id:
            greeting = [] if after is None else [snapshot(session_id, "cursor_run_mismatch")]
            after = Cursor(stream_id, 0)
        if run is not None:
            return self._read(run, wake, after.seq, *greeting)
        replay = self._journal.read(session_id, str(after))
        if replay.status is ReplayStatus.CURSOR_RUN_MISSING:
            return None
        if replay.status is not ReplayStatus.OK:
            greeting = [snapshot(session_id, replay.status, after)]
        return _ended(wake, [*greeting, *_frames(replay)])

    def subscribe_events(
        self, session_id: str, wake: Callable[[], None], after: Cursor | None = None
    ) -> Subscription:
        """Read a session's run: the present one, or the rest of the one that the cursor names.

        Whoever cannot be given that is sent a snapshot and goes on with the present run or, where
        there is none, with the session's notices, which tell when one starts. May read the journal.
        """
        run = self._run_of(session_id)
        if run is not None and after is None:
            return self._read(run, wake, 0)
        if run is not None and after is not None and after.stream_id == run.feed.stream_id:
            return self._read(run, wake, after.seq)
        if after is not None and after.stream_id:
            rest = _frames(self._journal.read(session_id, str(after)))
            if rest:
                return _ended(wake, rest)
        if run is None:
            return self.subscribe(session_id, wake, after or _NOWHERE)
        cannot_continue = snapshot(session_id, "cursor_session_mismatch")
        return self._read(run, wake, 0, cannot_continue)

    def _read(
        self, run: _Run, wake: Callable[[], None], after: int, *greeting: Frame
    ) -> Subscription:
        reader = run.feed.subscribe(wake, after)
        reader.greet(greeting)
        if reader.missed:
            replay = self._journal.read(run.session_id, str(Cursor(run.feed.stream_id, after)))
            if replay.status is ReplayStatus.OK:
                reader.greet(_frames(replay)[: len(reader.missed)])
            else:
                position = Cursor(run.feed.stream_id, reader.position)
                reader.greet([snapshot(run.session_id, replay.status, position)])
        return reader

    def _run_of(self, session_id: str) -> _Run | None:
        with self._lock:
            runs = self._runs.values()
            return next((run for run in runs if run.session_id == session_id), None)

    def subscribe_sessions(self, wake: Callable[[], None]) -> Subscription:
        """Watch the list of sessions, from now on."""
        return self._sessions.subscribe(wake)

    def _new_channel(self, session_id: str) -> Feed:
        # Its own name each time: a cursor of a channel that was collected is then a foreign one.
        stream_id = f"notices-{uuid.uuid4().hex[:12]}"
        channel = Feed(
            stream_id,
            partial(_snapshot, session_id, stream_id, "fell behind"),
            frames_kept=_NOTICES_KEPT,
            bytes_kept=_NOTICE_BYTES_KEPT,
        )
        if self._is_closed:
            channel.end()
        return channel

    # Coming and going

    def collect(self) -> int:
        """Forget the channels that nobody has read for a while; returns how many they were.

        A subscriber that comes meanwhile either finds his channel before it is judged, and keeps
        it, or finds none and gets a new one: both look under the same lock.
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
        """End every reader, also those that are yet to subscribe."""
        with self._lock:
            self._is_closed = True
            feeds = [*self._notices.values(), *(run.feed for run in self._runs.values())]
        for feed in [*feeds, self._sessions]:
            feed.end()

    def gauges(self) -> dict[str, int]:
        """Sizes of the long-lived containers."""
        with self._lock:
            channels = list(self._notices.values())
            runs = [run.feed for run in self._runs.values()]
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
    """Read just these."""
    feed = Feed("")
    feed.end()
    reader = feed.subscribe(wake)
    reader.greet(frames)
    return reader


def _frames(replay: Replay) -> list[Frame]:
    return [frame(row["event"], row["payload"], row["event_id"]) for row in replay.rows]


def snapshot(session_id: str, reason: str, cursor: Cursor | None = None) -> Frame:
    """Say that a reader has to load the session again; with a cursor, it goes on after that."""
    data: dict[str, Any] = {"session_id": session_id, "reason": reason}
    if cursor is None:
        return frame("session_snapshot", data)
    data |= {"stream_id": cursor.stream_id, "last_event_id": str(cursor)}
    return frame("session_snapshot", data, str(cursor))


def _snapshot(session_id: str, stream_id: str, reason: str, upto: int) -> Frame:
    return snapshot(session_id, reason, Cursor(stream_id, upto))
