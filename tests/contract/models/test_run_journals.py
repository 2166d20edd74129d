"""Tests that the model of the run journals accepts right answers, and names wrong ones' promise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from harness.checkers.conformance import Fold
from harness.contract import promises
from harness.contract.models.run_journals import (
    REPLAY_ROWS_MAX,
    ROW_BYTES_MAX,
    RUNS_MAX,
    RunJournalsModel,
)
from harness.core.contract import Promise
from harness.core.history import Operation, Outcome

R = {"session": "s", "run": "r"}
Story = list[Operation]


def op(function: str, result: Any, **argument: Any) -> Operation:
    """A call, and its result."""
    return Operation(0, function, argument, Outcome.OK, 0, 0, result)


def row(seq: int, event: str = "token", text: str = "a", state: str | None = None) -> Any:
    """A whole row of run `r`."""
    heading = {"version": 1, "event_id": f"r:{seq}", "seq": seq, "run_id": "r", "session_id": "s"}
    ends = {"created_at": 0.0, "terminal": state is not None, "terminal_state": state}
    return {**heading, "event": event, **ends, "payload": {"text": text}}


def begin(number: int = 0, *, files: list[str] | None = None, opened: int = 1) -> Operation:
    run = f"r{number}" if number else "r"
    return op("begin", {"files": files or [run], "open": opened}, session="s", run=run)


def emit(*shown: Any, refused: str | None = None, text: str = "a") -> Operation:
    return op("emit", {"shown": list(shown), "refused": refused}, **R, event="token", text=text)


def turns(*remembered: str, again: list[str] | None = None) -> Operation:
    """One turn is open, and three end, of which one is remembered."""
    ends = ["open", "ended", "refused", "ended"]
    streams = [turn.replace("t", "r") for turn in remembered]
    found = {"remembered": list(remembered), "streams": streams, "again": again or [*remembered]}
    return op("turns", found, ends=ends, limit=1)


def finish(*shown: Any) -> Operation:
    events = {"state": "done", "events": ["stream_end"]}
    return op("finish", {"shown": list(shown), "refused": None}, **R, **events)


def rows(*found: Any, text: str = "") -> Operation:
    return op("rows", {"rows": list(found), "text": text}, **R)


def read(cursor: str, status: str, *seqs: int, session: str = "s") -> Operation:
    return op("read", {"status": status, "seqs": list(seqs)}, session=session, cursor=cursor)


def sized(size_bytes: int, *, refused: bool) -> Operation:
    shown = [] if refused else [{**row(2), "payload": {"bytes": size_bytes}}]
    result = {"shown": shown, "refused": "RunTooLargeError" if refused else None}
    return op("emit_sized", result, **R, size_bytes=size_bytes)


END = row(2, "stream_end", "stream_end", "done")
NAMES = [f"r{number}" for number in range(1, RUNS_MAX + 2)]
FULL = [
    op("begin", {"files": NAMES[: at + 1], "open": at + 1}, session="s", run=name)
    for at, name in enumerate(NAMES[:RUNS_MAX])
]
LOST = [*FULL, op("restart", {})]
FILLED = op("fill", {}, **R, rows=REPLAY_ROWS_MAX + 1, row_bytes=60)
FAILED_READ = replace(op("rows", None, **R, at=2), outcome=Outcome.FAIL, error="OSError: EIO")

RIGHT: list[Story] = [
    [begin(), emit(row(1)), finish(END), rows(row(1), END, text="a"), emit(refused="RunOverError")],
    [begin(), finish(row(1, "stream_end", "stream_end", "done")), finish()],
    [turns("t0", "t3"), turns("t0", "t3")],
    [begin(), emit(row(1)), read("r:0", "ok", 1), read("r:1", "ok"), read("x", "cursor_invalid")],
    [begin(), read("r:1", "cursor_event_missing"), read("R:0", "cursor_run_missing")],
    [begin(), emit(row(1)), op("spoil", {}, **R, row=1), rows(), read("r:0", "replay_malformed")],
    [begin(), op("seal", {}, **R), emit(refused="RunOverError"), FAILED_READ],
    [begin(), sized(ROW_BYTES_MAX, refused=False)],
    [begin(), sized(ROW_BYTES_MAX + 1, refused=True), emit(row(2))],
    [FILLED, read("r:0", "replay_limit_rows"), read(f"r:{REPLAY_ROWS_MAX}", "ok", 4097)],
    [*LOST, begin(RUNS_MAX + 1, files=NAMES[1:], opened=1)],
    [begin(), op("remove_session", {"files": [], "open": 0}, session="s"), rows()],
]
WRONG: list[tuple[Promise, Story]] = [
    (promises.T5, [begin(), emit(row(2))]),
    (promises.T5, [begin(), emit(row(1)), rows()]),
    (promises.T5, [begin(), emit(row(1)), rows(row(1), text="b")]),
    (promises.T5, [begin(), replace(emit(), outcome=Outcome.FAIL, error="OSError")]),
    (promises.T3, [begin(), finish(row(1, "stream_end", "stream_end", "done")), finish(END)]),
    (promises.T3, [begin(), op("seal", {}, **R), emit(row(1))]),
    (promises.T6, [*LOST, begin(RUNS_MAX + 1, files=[*NAMES], opened=1)]),
    (promises.T6, [*LOST, begin(RUNS_MAX + 1, files=NAMES[2:], opened=1)]),
    (promises.T6, [*FULL, begin(RUNS_MAX + 1, files=NAMES[1:], opened=RUNS_MAX + 1)]),
    (promises.T6, [begin(), sized(ROW_BYTES_MAX + 1, refused=False)]),
    (promises.T6, [begin(), sized(ROW_BYTES_MAX, refused=True)]),
    (promises.C4, [begin(), emit(row(1)), read("r:1", "ok", 1)]),
    (promises.C4, [begin(), emit(row(1)), read("r:1", "cursor_event_missing")]),
    (promises.C4, [begin(), read("r:0", "ok", session="S")]),
    (promises.S6, [begin(), op("remove_session", {"files": ["r"], "open": 0}, session="s")]),
    (promises.T6, [turns("t0", "t1", "t3")]),
    (promises.T6, [turns("t0")]),
    (promises.T6, [turns("t0", "t3", again=["t0", "t1", "t3"])]),
]


def anomaly_of(story: Story) -> Any:
    """The anomaly of the last answer; the earlier ones must be accepted."""
    fold = Fold(RunJournalsModel())
    for operation in story[:-1]:
        found = fold.step(operation)
        assert found is None, found.message
    return fold.step(story[-1])


@pytest.mark.parametrize("story", RIGHT)
def test_right_journal_is_accepted(story: Story) -> None:
    assert anomaly_of(story) is None


@pytest.mark.parametrize(("promise", "story"), WRONG)
def test_wrong_journal_names_its_promise(promise: Promise, story: Story) -> None:
    """A wrong answer is refused, with the right one beside it."""
    anomaly = anomaly_of(story)

    assert promise in anomaly.promises
    assert anomaly.expected
