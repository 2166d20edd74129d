"""The run journal, which numbers each run's events without gaps, and the journal of open turns.

The run journal has a file per run, `<session>/<stream>.jsonl`. A row's id is `<stream>:<seq>`, and
row n is line n, so a cursor is found by counting. A row is published only after it is written,
under the lock that numbers it: whichever thread emits, published rows are in order and in the
journal. Rows are small and never embed the session; a run's file, and the number of files, are
bounded.

The turn journal is one durable map: a submitted turn that has not ended was in flight at a crash.
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from reference_impl.sessions.session_files import checked_id
from reference_impl.storage import files
from reference_impl.storage.durable_map import DurableMap
from reference_impl.storage.json_log import JsonLog, Row, encoded, read_lines

Payload = Mapping[str, Any]
Show = Callable[[Row], object]

CLOSING_EVENTS = frozenset({"cancel", "apperror", "stream_end"})
ROW_BYTES_MAX = 256 * 1024
RUN_BYTES_MAX = 64 * 1024 * 1024
RUNS_MAX = 8  # per session: the live one, and those that a client may still be reading
REPLAY_ROWS_MAX = 4096
REPLAY_BYTES_MAX = 4 * 1024 * 1024
ENDED_TURNS_MAX = 256  # ended turns
_LOCKS = 64

_STREAM = re.compile(r"[0-9A-Za-z-]{1,64}", re.ASCII)
_CURSOR = re.compile(rf"({_STREAM.pattern}):([0-9]{{1,15}})", re.ASCII)

log = logging.getLogger(__name__)


class RunOverError(Exception):
    """A row was emitted into a run that is sealed; it is neither written nor published."""


class RunTooLargeError(Exception):
    """The row, or the run with it, would exceed its size limit."""


class ReplayStatus(StrEnum):
    """Whether the rows after a cursor are available; any status but *ok* calls for a snapshot."""

    OK = "ok"
    CURSOR_INVALID = "cursor_invalid"
    CURSOR_RUN_MISSING = "cursor_run_missing"
    CURSOR_EVENT_MISSING = "cursor_event_missing"
    MALFORMED = "replay_malformed"
    NONCONTIGUOUS = "replay_noncontiguous"
    LIMIT_ROWS = "replay_limit_rows"
    LIMIT_BYTES = "replay_limit_bytes"


@dataclass(frozen=True, slots=True)
class Replay:
    """The rows after a cursor, if the status is *ok*."""

    status: ReplayStatus
    rows: tuple[Row, ...] = ()


class RunWriter:
    """Writes the rows of one run, for any number of threads that emit."""

    def __init__(
        self,
        journal_file: JsonLog,
        heading: Payload,
        show: Show,
        clock: Callable[[], float],
        closed: Callable[[], object],
    ) -> None:
        """`show` is called with each row, in order; it must be quick. See `RunJournal.begin`."""
        self._file = journal_file
        self._heading = heading
        self._show = show
        self._clock = clock
        self._closed = closed
        self._lock = threading.Lock()
        self._is_sealed = False
        self._is_finished = False

    @property
    def size_bytes(self) -> int:
        """The acknowledged size of the file."""
        return self._file.size_bytes

    def emit(self, event: str, payload: Payload) -> Row:
        """Write a row and publish it.

        Raises RunOverError, RunTooLargeError, OSError, or TypeError or ValueError for invalid JSON;
        then the row is neither written nor published, and the next one gets its number.
        """
        with self._lock:
            if self._is_sealed:
                raise RunOverError(f"{self._heading['run_id']} is over; {event!r} is dropped")
            row = self._row(event, payload, terminal_state=None)
            size_bytes = len(encoded(row))
            if size_bytes > ROW_BYTES_MAX:
                raise RunTooLargeError(f"{event!r} has {size_bytes} bytes, of {ROW_BYTES_MAX}")
            if self._file.size_bytes + size_bytes > RUN_BYTES_MAX:
                raise RunTooLargeError(
                    f"{self._heading['run_id']} has {RUN_BYTES_MAX} bytes already"
                )
            self._file.append(row)
            self._show(row)
            return row

    def seal(self) -> None:
        """Refuse every later `emit`."""
        with self._lock:
            self._is_sealed = True

    def finish(self, state: str, events: Sequence[tuple[str, Payload]]) -> None:
        """Write and publish the terminal rows, durably, and close the file; only the first time.

        Raises OSError where the disk refuses; the run is over all the same.
        """
        with self._lock:
            if self._is_finished:
                return
            self._is_sealed = self._is_finished = True
            try:
                for number, (event, payload) in enumerate(events, start=1):
                    row = self._row(event, payload, terminal_state=state)
                    if number < len(events):
                        self._file.append(row)  # the sync of the last row covers it
                    else:
                        self._file.append_durably(encoded(row))
                    self._show(row)
            finally:
                self._file.close()
                self._closed()

    def _row(self, event: str, payload: Payload, *, terminal_state: str | None) -> Row:
        seq = self._file.rows + 1
        return {
            "version": 1,
            "event_id": f"{self._heading['run_id']}:{seq}",
            "seq": seq,
            **self._heading,
            "event": event,
            "created_at": self._clock(),
            "terminal": terminal_state is not None,
            "terminal_state": terminal_state,
            "payload": dict(payload),
        }


class RunJournal:
    """The runs of all sessions, a folder per session."""

    def __init__(self, folder: files.StrPath, *, clock: Callable[[], float] = time.time) -> None:
        """Open or create the folder. Raises OSError."""
        self._folder = os.fspath(folder)
        self._clock = clock
        self._writers: dict[str, RunWriter] = {}
        files.make_folder(self._folder)

    def gauges(self) -> dict[str, int]:
        """Sizes of the long-lived containers."""
        return {"run_writers": len(self._writers)}

    def begin(self, session_id: str, stream_id: str, show: Show) -> RunWriter:
        """Open a new run's journal, and remove the session's oldest ones. Raises OSError."""
        path = self._path(session_id, stream_id)
        self._retire(files.folder_of(path))
        heading = {"run_id": stream_id, "session_id": session_id}
        writer = RunWriter(
            JsonLog(path), heading, show, self._clock, lambda: self._writers.pop(path, None)
        )
        self._writers[path] = writer
        return writer

    def write_missing_end(self, session_id: str, stream_id: str, ending: TurnEvent) -> None:
        """Write the terminal rows that a killed host left out, so that readers see the run's end.

        They say how the turn ended, unless the run has begun to say so itself. Does nothing for a
        complete, live or unknown run. Raises OSError.
        """
        try:
            path = self._path(session_id, stream_id)
            lines = read_lines(path)
        except FileNotFoundError:
            return
        row = _parsed(lines[-1]) if lines else None
        last = row["event"] if row is not None else None
        if path not in self._writers and last not in CLOSING_EVENTS:
            heading = {"run_id": stream_id, "session_id": session_id}
            writer = RunWriter(JsonLog(path), heading, _ignore, self._clock, _ignore)
            writer.finish(*_rest_of_end(last, ending))

    def _retire(self, folder: str) -> None:
        try:
            runs = [os.path.join(folder, name) for name in files.names(folder)]
        except FileNotFoundError:
            return
        runs.sort(key=lambda path: os.stat(path).st_mtime_ns)
        for path in runs[: -(RUNS_MAX - 1)]:
            if path not in self._writers:
                files.remove(path)

    def read(self, session_id: str, cursor: str) -> Replay:
        """The rows of the session's run after the row that the cursor names; `:0` is its start."""
        named = _CURSOR.fullmatch(cursor)
        if named is None:
            return Replay(ReplayStatus.CURSOR_INVALID)
        stream_id, seen = named[1], int(named[2])
        try:
            lines = self._lines(session_id, stream_id)
        except FileNotFoundError:
            return Replay(ReplayStatus.CURSOR_RUN_MISSING)
        return _replay(lines[seen:], seen) if seen <= len(lines) else _EVENT_MISSING

    def rows(self, session_id: str, stream_id: str) -> Iterator[Row]:
        """Every readable row of a run; none for an unknown run."""
        with suppress(FileNotFoundError):
            for line in self._lines(session_id, stream_id):
                row = _parsed(line)
                if row is not None:
                    yield row

    def has(self, session_id: str, stream_id: str) -> bool:
        """Whether the run's rows are on disk."""
        try:
            return os.path.exists(self._path(session_id, stream_id))
        except FileNotFoundError:
            return False

    def text(self, session_id: str, stream_id: str) -> str:
        """All tokens of a run."""
        rows = self.rows(session_id, stream_id)
        return "".join(row["payload"]["text"] for row in rows if row["event"] == "token")

    def remove(self, session_id: str, stream_id: str) -> None:
        """Remove a run that never began. Raises OSError."""
        files.remove(self._path(session_id, stream_id))

    def remove_session(self, session_id: str) -> None:
        """Remove the runs of a deleted session. Raises OSError."""
        folder = os.path.join(self._folder, checked_id(session_id))
        with suppress(FileNotFoundError):
            for name in files.names(folder):
                files.remove(os.path.join(folder, name))
            os.rmdir(folder)

    def _lines(self, session_id: str, stream_id: str) -> list[bytes]:
        path = self._path(session_id, stream_id)
        # A row that is being written may be taken back; only acknowledged rows count.
        writer = self._writers.get(path)
        return read_lines(path, writer.size_bytes if writer is not None else None)

    def _path(self, session_id: str, stream_id: str) -> str:
        if not _STREAM.fullmatch(stream_id):
            raise FileNotFoundError(f"{stream_id[:64]!r} is no stream id")
        return os.path.join(self._folder, checked_id(session_id), f"{stream_id}.jsonl")


def _ignore(*_: object) -> None:
    """Do nothing: nothing listens to this writer."""


_EVENT_MISSING = Replay(ReplayStatus.CURSOR_EVENT_MISSING)


def _replay(lines: Sequence[bytes], seen: int) -> Replay:
    """Parse the lines after row `seen`."""
    if len(lines) > REPLAY_ROWS_MAX:
        return Replay(ReplayStatus.LIMIT_ROWS)
    if sum(map(len, lines)) > REPLAY_BYTES_MAX:
        return Replay(ReplayStatus.LIMIT_BYTES)
    rows = tuple(row for line in lines if (row := _parsed(line)) is not None)
    if len(rows) < len(lines):
        return Replay(ReplayStatus.MALFORMED)
    if any(row.get("seq") != number for number, row in enumerate(rows, start=seen + 1)):
        return Replay(ReplayStatus.NONCONTIGUOUS)
    return Replay(ReplayStatus.OK, rows)


def _parsed(line: bytes) -> Row | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_row = isinstance(row, dict) and isinstance(row.get("payload"), dict) and "event" in row
    return row if is_row else None


class TurnEvent(StrEnum):
    """The state of a turn."""

    SUBMITTED = "submitted"
    STARTED = "started"
    COMPLETED = "completed"
    INTERRUPTED = "interrupted"


_ENDINGS = frozenset({TurnEvent.COMPLETED, TurnEvent.INTERRUPTED})


def _rest_of_end(last: str | None, ending: TurnEvent) -> tuple[str, list[tuple[str, Payload]]]:
    """The terminal state and rows that a run still lacks after its last row."""
    if last == "done":
        return "done", [("stream_end", {})]
    if ending is TurnEvent.COMPLETED:
        return "done", [("done", {"message_count": None}), ("stream_end", {})]
    return "error", [("apperror", {"error": "the turn's server was killed"})]


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn in the journal. `at` is when it reached its state, in seconds of the epoch."""

    turn_id: str
    session_id: str
    stream_id: str
    source: str
    event: TurnEvent
    at: float


class TurnJournal:
    """The state of each turn: those in flight, and the last ones that ended."""

    def __init__(self, path: files.StrPath, *, clock: Callable[[], float] = time.time) -> None:
        """Open or create the file. Raises OSError."""
        self._map = DurableMap(os.fspath(path))
        self._clock = clock
        # A lock orders the steps of its turns; those of other turns may share a sync.
        self._locks = [threading.Lock() for _ in range(_LOCKS)]
        self._ended = deque(self.ended())
        self._by_stream = {turn.stream_id: turn.turn_id for turn in self.turns()}

    def gauges(self) -> dict[str, int]:
        """Sizes of the long-lived containers."""
        return {"turn_journal": len(self._map)}

    def submit(self, turn_id: str, session_id: str, stream_id: str, source: str) -> None:
        """Record a requested turn. This and the methods below may raise OSError."""
        turn = Turn(turn_id, session_id, stream_id, source, TurnEvent.SUBMITTED, self._clock())
        self._put(turn, sync=True)

    def start(self, turn_id: str, *, sync: bool = True) -> None:
        """Record that the agent is running; without `sync` a power loss may undo that."""
        self._advance(turn_id, TurnEvent.STARTED, sync=sync)

    def complete(self, turn_id: str) -> None:
        """Record that the turn came to its end, and the session is saved."""
        self._advance(turn_id, TurnEvent.COMPLETED)

    def interrupt(self, turn_id: str) -> None:
        """Record that the turn came to no end of its own, and its output is saved."""
        self._advance(turn_id, TurnEvent.INTERRUPTED)

    def _advance(self, turn_id: str, event: TurnEvent, *, sync: bool = False) -> None:
        """Record the turn's state; an ended turn never changes.

        An end needs no sync: a turn whose end is lost in a power loss ends again, in the same way,
        by the session, which was saved before.
        """
        with self._locks[zlib.crc32(turn_id.encode()) % _LOCKS]:
            turn = self.get(turn_id)
            if turn is None or turn.event in _ENDINGS:
                return
            self._put(replace(turn, event=event, at=self._clock()), sync=sync)

    def _put(self, turn: Turn, *, sync: bool) -> None:
        """Write the turn, and drop those that ended too long ago."""
        ending = [turn] if turn.event in _ENDINGS else []
        number = len(self._ended) + len(ending) - ENDED_TURNS_MAX
        surplus = [self._ended.popleft() for _ in range(number)]
        forgotten = dict.fromkeys(old.turn_id for old in surplus)
        try:
            self._map.change({turn.turn_id: asdict(turn), **forgotten}, sync=sync)
        except BaseException:
            self._ended.extendleft(reversed(surplus))  # they are still in the map
            raise
        self._ended.extend(ending)
        self._by_stream[turn.stream_id] = turn.turn_id
        for old in surplus:
            self._by_stream.pop(old.stream_id, None)

    def get(self, turn_id: str) -> Turn | None:
        """A remembered turn."""
        value = self._map.get(turn_id)
        return None if value is None else _turn(value)

    def session_of(self, stream_id: str) -> str | None:
        """The session of a turn's stream."""
        turn = self.get(self._by_stream.get(stream_id, ""))
        return None if turn is None else turn.session_id

    def turns(self) -> list[Turn]:
        """All remembered turns."""
        return [_turn(value) for value in self._map.copy().values()]

    def in_flight(self) -> list[Turn]:
        """Turns that were submitted and have not ended."""
        return [turn for turn in self.turns() if turn.event not in _ENDINGS]

    def ended(self) -> list[Turn]:
        """The last turns that ended."""
        return [turn for turn in self.turns() if turn.event in _ENDINGS]

    def close(self) -> None:
        """Close the file."""
        self._map.close()


def _turn(value: Mapping[str, Any]) -> Turn:
    return Turn(**{**value, "event": TurnEvent(value["event"])})
