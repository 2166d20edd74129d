"""Live channels, as values: streams, runs, readers, and the whole state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

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
