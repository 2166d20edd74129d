"""Model of the run journals: every row and cursor, the size limits, and which runs are removed.

Operations are those of the *run_journals* ability (`harness.targets`). A row's number is that of
its line (T5). A session has at most `RUNS_MAX` runs on disk, of which the least recently written
go first and a live one never goes; a row and a run have a largest size (T6). Of turns the journal
remembers those that are open, and a number of those that ended (T6). A cursor that does not name a
row of the session's runs is refused by its own status (C4).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from harness.contract import promises
from harness.core.contract import Promise
from harness.core.history import Operation, Outcome
from harness.core.model import Refusal

RUNS_MAX = 8
ROW_BYTES_MAX = 256 * 1024
RUN_BYTES_MAX = 64 * 1024 * 1024
REPLAY_ROWS_MAX = 4096
REPLAY_BYTES_MAX = 4 * 1024 * 1024
CLOSING = frozenset({"cancel", "apperror", "stream_end"})
CURSOR = re.compile(r"([0-9A-Za-z-]{1,64}):([0-9]{1,15})", re.ASCII)

# What calls that answer the files of a session break where a file is missing or left.
BROKEN_BY: dict[str, tuple[Promise, ...]] = {
    "begin": (promises.T6, promises.T5),
    "remove": (promises.S6,),
    "remove_session": (promises.S6,),
}

FAILED_BREAKS = {"finish": (promises.T3,), "remove_session": (promises.S6,)}

Key = tuple[str, str]  # a session and a run


@dataclass(frozen=True, slots=True)
class Row:
    """A row; `size_bytes` only where the limits are in question, and no text then."""

    event: str
    text: str
    state: str | None = None  # of a terminal row
    payload: str = "text"  # what the row holds: a text, or what a missing end holds
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Run:
    """A run with a file. `phase` is live, sealed, over (by its writer) or lost (with it)."""

    rows: tuple[Row, ...] = ()
    phase: str = "live"
    spoilt: frozenset[int] = frozenset()

    @property
    def is_open(self) -> bool:
        """Whether the run has a writer."""
        return self.phase in ("live", "sealed")


@dataclass(frozen=True, slots=True)
class State:
    """The runs with a file, the least recently written first."""

    runs: tuple[tuple[Key, Run], ...] = ()

    def get(self, key: Key) -> Run | None:
        """The run, if it has a file."""
        return dict(self.runs).get(key)

    def put(self, key: Key, run: Run | None) -> State:
        """This state with a run that was written now, or removed (None)."""
        left = tuple((other, value) for other, value in self.runs if other != key)
        return State(left if run is None else (*left, (key, run)))

    def of(self, session: str) -> list[Key]:
        """The session's runs, the least recently written first."""
        return [key for key, _ in self.runs if key[0] == session]


class RunJournalsModel:
    """What the run journals may answer. Deterministic."""

    name = "run-journals"

    def initial(self) -> State:
        """No run has a file."""
        return State()

    def step(self, state: State, operation: Operation) -> tuple[State] | Refusal:
        """The state after the operation, or the promise it broke."""
        argument = operation.argument
        if operation.outcome is not Outcome.OK:
            if argument.get("at"):
                return (state,)  # a read failed, and said so
            return Refusal(
                promises.T5,
                f"{operation.call} of the run journal failed on a healthy disk",
                also=FAILED_BREAKS.get(operation.function, ()),
                expected="the call returns",
            )
        if operation.function in ("rows", "read", "files", "turns"):
            return self._look(state, operation)
        if operation.function in ("emit", "finish"):
            return self._write(state, operation)
        if operation.function in ("emit_sized", "emit_last"):
            return self._emit_sized(state, operation)
        after = _changed(state, operation.function, **argument)
        broken = BROKEN_BY.get(operation.function, ())
        expected = _files(after, argument["session"]) if broken else {}
        return _expect(after, operation, expected, *(broken or (promises.T5,)))

    def _write(self, state: State, operation: Operation) -> tuple[State] | Refusal:
        argument = operation.argument
        key = argument["session"], argument["run"]
        run = state.get(key) or Run()
        if operation.function == "emit":
            if run.phase != "live":
                expected: dict[str, Any] = {"shown": [], "refused": "RunOverError"}
                return _expect(state, operation, expected, promises.T5, promises.T3)
            rows: tuple[Row, ...] = (Row(argument["event"], argument["text"]),)
            phase = run.phase
        else:
            if not run.is_open:  # the second end of a run
                expected = {"shown": [], "refused": None}
                return _expect(state, operation, expected, promises.T3, promises.T5)
            rows = tuple(Row(event, event, argument["state"]) for event in argument["events"])
            phase = "over"
        grown = replace(run, rows=run.rows + rows, phase=phase)
        shown = [_row(key, number, grown) for number in range(len(run.rows), len(grown.rows))]
        expected = {"shown": shown, "refused": None}
        return _expect(state.put(key, grown), operation, expected, promises.T5, promises.C1)

    def _emit_sized(self, state: State, operation: Operation) -> tuple[State] | Refusal:
        """Judge a row of a given size, after a small one that shows what a row needs besides."""
        key = operation.argument["session"], operation.argument["run"]
        run = state.get(key) or Run()
        size_bytes = operation.argument["size_bytes"]
        after = replace(run, rows=(*run.rows, Row("token", "")))
        is_last = operation.function == "emit_last"
        is_too_large = size_bytes > (RUN_BYTES_MAX if is_last else ROW_BYTES_MAX)
        if is_too_large:
            expected: dict[str, Any] = {"shown": [], "refused": "RunTooLargeError"}
            return _expect(state.put(key, after), operation, expected, promises.T6)
        grown = replace(after, rows=(*after.rows, Row("token", "", size_bytes=size_bytes)))
        row = _row(key, len(after.rows), grown)
        expected = {"shown": [{**row, "payload": {"bytes": size_bytes}}], "refused": None}
        return _expect(state.put(key, grown), operation, expected, promises.T6, promises.T5)

    def _look(self, state: State, operation: Operation) -> tuple[State] | Refusal:
        argument = operation.argument
        if operation.function == "turns":
            return _expect(state, operation, _remembered(**argument), promises.T6)
        if operation.function == "files":
            session = argument["session"]
            return _expect(state, operation, _files(state, session), promises.T6)
        if operation.function == "read":
            expected = _replay(state, argument["session"], argument["cursor"])
            return _expect(state, operation, expected, promises.C4, promises.T5)
        key = argument["session"], argument["run"]
        run = state.get(key) or Run()
        rows = [
            _row(key, number, run)
            for number in range(len(run.rows))
            if number + 1 not in run.spoilt
        ]
        text = "".join(row["payload"]["text"] for row in rows if row["event"] == "token")
        ends = [_ends(found) for found in (rows, operation.result["rows"])]
        also = (promises.T3,) if ends[0] != ends[1] else ()
        return _expect(state, operation, {"rows": rows, "text": text}, promises.T5, *also)


def _changed(  # noqa: PLR0913  (the arguments of all calls)
    state: State,
    function: str,
    *,
    session: str = "",
    run: str = "",
    ending: str = "",
    row: int = 0,
    rows: int = 0,
    row_bytes: int = 0,
) -> State:
    """The state after a call that writes no row of a live run."""
    key = session, run
    found = state.get(key)
    if function == "restart":
        return State(
            tuple(
                (other, replace(value, phase="lost" if value.is_open else value.phase))
                for other, value in state.runs
            )
        )
    if function in ("remove", "remove_session"):
        for other in state.of(session):
            state = state.put(other, None) if function != "remove" or other == key else state
        return state
    if function == "begin":
        return _retired(state, session).put(key, replace(found or Run(), phase="live"))
    if function == "fill":
        return state.put(key, Run((Row("token", "", size_bytes=row_bytes),) * rows, "lost"))
    return state if found is None else state.put(key, _touched(found, function, ending, row))


def _touched(run: Run, function: str, ending: str, row: int) -> Run:
    """The run after a call that changes it where it has a file."""
    match function:
        case "seal":
            return replace(run, phase="sealed" if run.phase == "live" else run.phase)
        case "spoil":
            return replace(run, spoilt=run.spoilt | {row})
        case "write_missing_end":
            return _ended(run, ending)
    return run


def _retired(state: State, session: str) -> State:
    """The state without the runs that the begin of another one removes."""
    runs = state.of(session)
    for key in runs[: max(0, len(runs) - (RUNS_MAX - 1))]:
        run = state.get(key)
        if run is not None and not run.is_open:
            state = state.put(key, None)
    return state


def _files(state: State, session: str) -> dict[str, Any]:
    return {
        "files": sorted(run for _, run in state.of(session)),
        "open": sum(run.is_open for _, run in state.runs),
    }


def _ended(run: Run, ending: str) -> Run:
    """The run with the rows that its dead writer left out."""
    last = run.rows[-1].event if run.rows and len(run.rows) not in run.spoilt else None
    if run.is_open or last in CLOSING:
        return run
    if last == "done":
        rows: tuple[Row, ...] = (Row("stream_end", "", "done", "nothing"),)
    elif ending == "completed":
        rows = (Row("done", "", "done", "count"), Row("stream_end", "", "done", "nothing"))
    else:
        rows = (Row("apperror", "", "error", "error"),)
    return replace(run, rows=run.rows + rows, phase="over")


def _row(key: Key, number: int, run: Run) -> dict[str, Any]:
    """The whole row of that index."""
    row = run.rows[number]
    payloads: dict[str, dict[str, Any]] = {
        "text": {"text": row.text},
        "nothing": {},
        "count": {"message_count": None},
        "error": {"error": "the turn's server was killed"},
    }
    return {
        "version": 1,
        "event_id": f"{key[1]}:{number + 1}",
        "seq": number + 1,
        "run_id": key[1],
        "session_id": key[0],
        "event": row.event,
        "created_at": 0.0,
        "terminal": row.state is not None,
        "terminal_state": row.state,
        "payload": payloads[row.payload],
    }


def _ends(rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """What rows say of how their run ended."""
    return [(row["event"], row["terminal_state"]) for row in rows if row.get("terminal")]


def _replay(state: State, session: str, cursor: str) -> dict[str, Any]:
    """The status of a read after a cursor, and the numbers of its rows."""

    def refused(status: str) -> dict[str, Any]:
        return {"status": status, "seqs": []}

    named = CURSOR.fullmatch(cursor)
    if named is None:
        return refused("cursor_invalid")
    run, seen = state.get((session, named[1])), int(named[2])
    if run is None:
        return refused("cursor_run_missing")
    rest = run.rows[seen:]
    reasons = {
        "cursor_event_missing": seen > len(run.rows),
        "replay_limit_rows": len(rest) > REPLAY_ROWS_MAX,
        "replay_limit_bytes": sum(row.size_bytes for row in rest) > REPLAY_BYTES_MAX,
        "replay_malformed": any(number > seen for number in run.spoilt),
    }
    for status, holds in reasons.items():
        if holds:
            return refused(status)
    return {"status": "ok", "seqs": list(range(seen + 1, len(run.rows) + 1))}


def _remembered(ends: list[str], limit: int) -> dict[str, Any]:
    """The turns that the journal of turns remembers: those that are open, and the last that ended.

    An end that the disk refused at first is an end as any other: it displaces one turn, once.
    """
    ended = [number for number, end in enumerate(ends) if end != "open"]
    left = set(range(len(ends))) - set(ended[: max(0, len(ended) - limit)])
    turns, runs = (sorted(f"{name}{number}" for number in left) for name in "tr")
    return {"remembered": turns, "streams": runs, "again": turns}


def _expect(
    after: State, operation: Operation, expected: dict[str, Any], *broken: Promise
) -> tuple[State] | Refusal:
    if operation.result == expected:
        return (after,)
    promise, *also = broken
    return Refusal(
        promise,
        f"{operation.call} of the run journal answered wrongly",
        (expected,),
        tuple(also),
        expected=f"{expected}",
    )
