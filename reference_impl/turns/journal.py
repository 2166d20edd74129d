"""The journals: what each run showed, in order and without gaps, and which turns are under way.

The run journal has a file a run, `<session>/<stream>.jsonl`. A row's id is `<stream>:<seq>`, and
row n is line n, so a cursor is found by counting. A row is shown only once it is written, by the
same lock that numbers it: whoever emits, what is shown is in order, and is in the journal. Rows
are small and never embed the session; a run's file, and the number of files, are bounded.

The turn journal is one ledger: what was submitted and has not ended was in flight at a crash.
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
from reference_impl.storage.durable_map import Ledger
from reference_impl.storage.json_log import JsonLog, Row, encoded, read_lines

Payload = Mapping[str, Any]
Show = Callable[[Row], object]

CLOSING_EVENTS = frozenset({"cancel", "apperror", "stream_end"})
ROW_BYTES_MAX = 256 * 1024
RUN_BYTES_MAX = 64 * 1024 * 1024
RUNS_KEPT = 8  # a session: the live one, and those that a client may still be reading
REPLAY_ROWS_MAX = 4096
REPLAY_BYTES_MAX = 4 * 1024 * 1024
TURNS_KEPT = 256  # that have ended
_LOCKS = 64

_STREAM = re.compile(r"[0-9A-Za-z-]{1,64}", re.ASCII)
_CURSOR = re.compile(rf"({_STREAM.pattern}):([0-9]{{1,12}})", re.ASCII)

log = logging.getLogger(__name__)


class RunOverError(Exception):
    """Somebody emits into a run that has come to its end; nobody is shown that."""


class RunTooLargeError(Exception):
    """The row, or the run with it, would be larger than a run may be."""


class ReplayStatus(StrEnum):
    """Whether what follows a cursor can be had; whatever is not *ok* calls for a snapshot."""

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
    """What follows a cursor, if the status is *ok*."""

    status: ReplayStatus
    rows: tuple[Row, ...] = ()


class RunWriter:
    """The one who writes a run's rows, for any number of threads that emit."""

    def __init__(
        self,
        journal_file: JsonLog,
        heading: Payload,
        show: Show,
        clock: Callable[[], float],
        closed: Callable[[], object],
    ) -> None:
        """`show` is called with each row, in order; it must be quick. `RunJournal.begin` knows."""
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
        """How much of the file is acknowledged."""
        return self._file.size_bytes

    def emit(self, event: str, payload: Payload) -> Row:
        """Write a row and show it.

        Raises RunOverError, RunTooLargeError, OSError, or TypeError or ValueError for no JSON;
        then the row is neither written nor shown, and its number goes to the next one.
        """
        with self._lock:
            if self._is_sealed:
                raise RunOverError(f"{self._heading['run_id']} is over, so nobody sees {event!r}")
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
        """Let nobody emit any more."""
        with self._lock:
            self._is_sealed = True

    def finish(self, state: str, events: Sequence[tuple[str, Payload]]) -> None:
        """Write and show the terminal rows, durably, and let go of the file; the first time only.

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
                        self._file.append(row)  # the last one's sync is this one's too
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
    """The runs of all sessions, a folder a session."""

    def __init__(self, folder: files.StrPath, *, clock: Callable[[], float] = time.time) -> None:
        """Open the folder, or make it. Raises OSError."""
        self._folder = os.fspath(folder)
        self._clock = clock
        self._writers: dict[str, RunWriter] = {}
        files.make_folder(self._folder)

    def gauges(self) -> dict[str, int]:
        """Sizes of the long-lived containers."""
        return {"run_writers": len(self._writers)}

    def begin(self, session_id: str, stream_id: str, show: Show) -> RunWriter:
        """Open a new run's journal, and let the session's oldest ones go. Raises OSError."""
        path = self._path(session_id, stream_id)
        self._retire(files.folder_of(path))
        heading = {"run_id": stream_id, "session_id": session_id}
        writer = RunWriter(
            JsonLog(path), heading, show, self._clock, lambda: self._writers.pop(path, None)
        )
        self._writers[path] = writer
        return writer

    def bury(self, session_id: str, stream_id: str, ending: TurnEvent) -> None:
        """Write what a killed host left out of a run's end, so that whoever reads on is told.

        It says how the turn ended, unless the run has begun to say so itself. Nothing where it is
        whole, is live, or never was. Raises OSError.
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
            writer = RunWriter(JsonLog(path), heading, _nobody, self._clock, _nobody)
            writer.finish(*_rest_of_end(last, ending))

    def _retire(self, folder: str) -> None:
        try:
            runs = [os.path.join(folder, name) for name in files.names(folder)]
        except FileNotFoundError:
            return
        runs.sort(key=lambda path: os.stat(path).st_mtime_ns)
        for path in runs[: -(RUNS_KEPT - 1)]:
            if path not in self._writers:
                files.remove(path)

    def read(self, session_id: str, cursor: str) -> Replay:
        """What the session's run showed after the row that the cursor names; `:0` is its start."""
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
        """Every row of a run that can be read; none where there is no such run."""
        with suppress(FileNotFoundError):
            for line in self._lines(session_id, stream_id):
                row = _parsed(line)
                if row is not None:
                    yield row

    def text(self, session_id: str, stream_id: str) -> str:
        """All tokens that a run has shown."""
        rows = self.rows(session_id, stream_id)
        return "".join(row["payload"]["text"] for row in rows if row["event"] == "token")

    def remove(self, session_id: str, stream_id: str) -> None:
        """Forget a run that never began. Raises OSError."""
        files.remove(self._path(session_id, stream_id))

    def remove_session(self, session_id: str) -> None:
        """Forget the session's runs; it was deleted. Raises OSError."""
        folder = os.path.join(self._folder, checked_id(session_id))
        with suppress(FileNotFoundError):
            for name in files.names(folder):
                files.remove(os.path.join(folder, name))
            os.rmdir(folder)

    def _lines(self, session_id: str, stream_id: str) -> list[bytes]:
        path = self._path(session_id, stream_id)
        # A row that is being written may yet be taken back; only what is acknowledged counts.
        writer = self._writers.get(path)
        return read_lines(path, writer.size_bytes if writer is not None else None)

    def _path(self, session_id: str, stream_id: str) -> str:
        if not _STREAM.fullmatch(stream_id):
            raise FileNotFoundError(f"{stream_id[:64]!r} is no stream")
        return os.path.join(self._folder, checked_id(session_id), f"{stream_id}.jsonl")


def _nobody(*_: object) -> None:
    """Nobody looks on."""


_EVENT_MISSING = Replay(ReplayStatus.CURSOR_EVENT_MISSING)


def _replay(lines: Sequence[bytes], seen: int) -> Replay:
    """Read the lines that follow row `seen`."""
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
    """How far a turn has come."""

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
    """A turn as the journal knows it. `at` is when it came so far, in seconds of the epoch."""

    turn_id: str
    session_id: str
    stream_id: str
    source: str
    event: TurnEvent
    at: float


class TurnJournal:
    """How far each turn has come: those in flight, and the last ones that ended."""

    def __init__(self, path: files.StrPath, *, clock: Callable[[], float] = time.time) -> None:
        """Open the file, or make it. Raises OSError."""
        self._ledger = Ledger(os.fspath(path))
        self._clock = clock
        # Each keeps the steps of its turns apart; those of all others may share a sync.
        self._locks = [threading.Lock() for _ in range(_LOCKS)]
        self._ended = deque(self.ended())
        self._by_stream = {turn.stream_id: turn.turn_id for turn in self.turns()}

    def gauges(self) -> dict[str, int]:
        """Sizes of the long-lived containers."""
        return {"turn_journal": len(self._ledger)}

    def submit(self, turn_id: str, session_id: str, stream_id: str, source: str) -> None:
        """Note a turn that somebody asks for. This and what follows may raise OSError."""
        self._put(Turn(turn_id, session_id, stream_id, source, TurnEvent.SUBMITTED, self._clock()))

    def start(self, turn_id: str) -> None:
        """Note that the agent is at it."""
        self._advance(turn_id, TurnEvent.STARTED)

    def complete(self, turn_id: str) -> None:
        """Note that it came to its end, and the session is saved."""
        self._advance(turn_id, TurnEvent.COMPLETED)

    def interrupt(self, turn_id: str) -> None:
        """Note that it came to no end of its own, and what it produced is saved."""
        self._advance(turn_id, TurnEvent.INTERRUPTED)

    def _advance(self, turn_id: str, event: TurnEvent) -> None:
        """Note how far it has come; an ending is final, whoever starts it meanwhile."""
        with self._locks[zlib.crc32(turn_id.encode()) % _LOCKS]:
            turn = self.get(turn_id)
            if turn is None or turn.event in _ENDINGS:
                return
            self._put(replace(turn, event=event, at=self._clock()))

    def _put(self, turn: Turn) -> None:
        """Note it, and forget those that ended too long ago."""
        ending = [turn] if turn.event in _ENDINGS else []
        number = len(self._ended) + len(ending) - TURNS_KEPT
        surplus = [self._ended.popleft() for _ in range(number)]
        forgotten = dict.fromkeys(old.turn_id for old in surplus)
        self._ledger.change({turn.turn_id: asdict(turn), **forgotten})
        self._ended.extend(ending)
        self._by_stream[turn.stream_id] = turn.turn_id
        for old in surplus:
            self._by_stream.pop(old.stream_id, None)

    def get(self, turn_id: str) -> Turn | None:
        """What is remembered of a turn."""
        value = self._ledger.get(turn_id)
        return None if value is None else _turn(value)

    def session_of(self, stream_id: str) -> str | None:
        """The session of a turn's stream."""
        turn = self.get(self._by_stream.get(stream_id, ""))
        return None if turn is None else turn.session_id

    def turns(self) -> list[Turn]:
        """Every turn that is remembered."""
        return [_turn(value) for value in self._ledger.copy().values()]

    def in_flight(self) -> list[Turn]:
        """Turns that were submitted and have not ended."""
        return [turn for turn in self.turns() if turn.event not in _ENDINGS]

    def ended(self) -> list[Turn]:
        """The last turns that ended."""
        return [turn for turn in self.turns() if turn.event in _ENDINGS]

    def close(self) -> None:
        """Let go of the file."""
        self._ledger.close()


def _turn(value: Mapping[str, Any]) -> Turn:
    return Turn(**{**value, "event": TurnEvent(value["event"])})
