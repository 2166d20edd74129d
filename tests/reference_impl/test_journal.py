"""Tests of the journals (T5, T6, S13), the JSON log and the durable map."""

from __future__ import annotations

import errno
import json
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.faults.simulated_disk import (
    Call,
    InjectedFault,
    SimulatedDisk,
    every_crash_point,
    every_failure,
    fail_from,
    fail_once,
    shorten,
)
from reference_impl.sessions.session_files import InvalidSessionIdError
from reference_impl.storage import durable_map
from reference_impl.storage.durable_map import DurableMap
from reference_impl.storage.json_log import JsonLog, Row, encoded, read_lines
from reference_impl.turns import journal
from reference_impl.turns.journal import (
    Replay,
    ReplayStatus,
    RunJournal,
    RunOverError,
    RunTooLargeError,
    RunWriter,
    TurnEvent,
    TurnJournal,
)

TEXTS = st.lists(st.text(st.characters(codec=None), max_size=5), max_size=8)


def parsed(path: Path) -> list[Any]:
    return [json.loads(line) for line in read_lines(str(path))]


def ignore(_: Row) -> None:
    """Ignore a published row."""


def begin(folder: Path, show: Callable[[Row], object] = ignore) -> tuple[RunJournal, RunWriter]:
    runs = RunJournal(folder)
    return runs, runs.begin("s1", "r1", show)


def emit_tokens(writer: RunWriter, *texts: str) -> None:
    for text in texts:
        writer.emit("token", {"text": text})


# The log and the durable map


@settings(max_examples=60, deadline=None)
@given(texts=TEXTS, keep=st.integers(0, 400))
def test_torn_row_is_cut_off_before_the_next(texts: list[str], keep: int) -> None:
    """T5: whatever part of the file a kill left, whole rows stay and the next one is whole."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log"
        log = JsonLog(str(path))
        for text in texts:
            log.append({"text": text})
        log.close()
        whole = path.read_bytes()
        path.write_bytes(whole[:keep])

        log = JsonLog(str(path))
        log.append({"text": "next"})
        log.close()

        remaining = whole[:keep].count(b"\n")
        assert [row["text"] for row in parsed(path)] == [*texts[:remaining], "next"]


@pytest.mark.parametrize(
    "fault_at", [fail_once(errno.ENOSPC), fail_from(errno.EIO), fail_once(errno.EIO), shorten]
)
def test_failed_append_is_absent(fault_at: Any, tmp_path: Path) -> None:
    """T5: short writes, a full disk, a failed sync: a failed row is absent, the others stay."""
    acknowledged: list[int] = []

    def operation() -> None:
        acknowledged.clear()
        log = JsonLog(str(tmp_path / "log"))
        failed: OSError | None = None
        for number in range(4):
            try:
                log.append_durably(encoded({"n": number}))
            except OSError as error:
                failed = error
            else:
                acknowledged.append(number)
        log.close()
        if failed is not None:
            raise failed

    for failure in every_failure(tmp_path, operation, fault_at):
        image = failure.disk.process_crash()
        lines = image.files.get("log", b"").split(b"\n")[:-1]
        rows = [json.loads(line)["n"] for line in lines]
        assert rows[: len(acknowledged)] == acknowledged
        if fault_at is not fail_from(errno.EIO):
            assert len(rows) - len(acknowledged) in (0, 1)


def test_failed_cut_is_repeated_by_the_next_append(tmp_path: Path) -> None:
    """T5: cutting off failed too; the next append does it first."""
    log = JsonLog(str(tmp_path / "log"))
    log.append({"n": 1})

    def fault(call: Call) -> InjectedFault | None:
        error = OSError(errno.EIO, "Input/output error", call.name)
        if call.number <= 2:
            return InjectedFault(
                error, bytes_written=call.length // 2 if call.kind == "write" else 0
            )
        return None

    with SimulatedDisk(tmp_path, fault):
        with pytest.raises(OSError, match="error"):
            log.append({"n": 2})
        log.append({"n": 3})
    log.close()

    assert parsed(tmp_path / "log") == [{"n": 1}, {"n": 3}]


CHANGES = st.lists(st.tuples(st.sampled_from("abc"), st.none() | st.integers(0, 9)), max_size=12)


def change(mapping: DurableMap, key: str, number: int | None) -> None:
    if number is None:
        mapping.drop(key)
    else:
        mapping.put(key, {"n": number})


@settings(max_examples=60, deadline=None)
@given(changes=CHANGES)
def test_reopened_map_has_the_same_values(changes: list[tuple[str, int | None]]) -> None:
    """Any puts and drops, with any number of rewrites of the file between."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(durable_map, "HISTORY_ROWS_MAX", 2)
        path = Path(folder) / "ledger"
        mapping, model = DurableMap(str(path)), dict[str, Any]()
        for key, number in changes:
            change(mapping, key, number)
            if number is None:
                model.pop(key, None)
            else:
                model[key] = {"n": number}
            assert len(read_lines(str(path))) <= 2 * len(model) + 2
        mapping.close()
        again = DurableMap(str(path))
        assert list(again.copy().items()) == list(model.items())
        again.close()


def test_crash_in_a_change_leaves_old_or_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W4: kill or power loss at every call, including a rewrite: acknowledged values stay."""
    monkeypatch.setattr(durable_map, "HISTORY_ROWS_MAX", 1)
    states: list[dict[str, int]] = []

    def operation() -> None:
        states[:] = [{}]
        mapping = DurableMap(str(tmp_path / "ledger"))
        for key, number in (("a", 1), ("b", 2), ("a", None), ("b", 3), ("b", 4), ("b", 5)):
            last = dict(states[-1])
            if number is None:
                del last[key]
            else:
                last[key] = number
            states.append(last)
            change(mapping, key, number)
        states.append(states[-1])
        mapping.close()

    for crash in every_crash_point(tmp_path, operation):
        for image in crash.images(Random(0)):
            with tempfile.TemporaryDirectory() as elsewhere:
                image.put_into(Path(elsewhere))
                mapping = DurableMap(str(Path(elsewhere) / "ledger"))
                assert {key: value["n"] for key, value in mapping.copy().items()} in states[-2:]
                mapping.close()


def test_damaged_map_row_is_logged_and_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One bad row never stops a start."""
    (tmp_path / "l").write_bytes(b'{"key": "a", "value": {"n": 1}}\n\0\0\n[]\n{"key": "b"}\n')

    mapping = DurableMap(str(tmp_path / "l"))

    assert mapping.copy() == {"a": {"n": 1}}
    assert len(caplog.records) == 3
    mapping.close()


@pytest.mark.parametrize("refusal", [None, errno.ENOSPC])
def test_one_sync_covers_all_waiting_changes(
    refusal: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    W4: a:   |--- sync ---|                  and if the second sync is refused, no value
        b-i:   wait ......|--- one sync ---| of b to i stays, and each call raises.
    """  # noqa: D212, D205 - a drawing
    mapping = DurableMap(str(tmp_path / "l"))
    mapping.put("first", {"n": 0})  # makes the file's name durable
    is_syncing, may_end = threading.Event(), threading.Event()
    syncs: list[int] = []
    sync = os.fsync

    def slowly(fd: int) -> None:
        syncs.append(fd)
        if len(syncs) == 1:
            is_syncing.set()
            may_end.wait()
        elif refusal is not None:
            raise OSError(refusal, "no room")
        sync(fd)

    monkeypatch.setattr(os, "fsync", slowly)
    refused: dict[str, int | None] = {}

    def put(key: str) -> None:
        try:
            mapping.put(key, {"n": 1})
        except OSError as error:
            refused[key] = error.errno

    leader = threading.Thread(target=put, args=("a",))
    leader.start()
    is_syncing.wait()
    others = [threading.Thread(target=put, args=(key,)) for key in "bcdefghi"]
    for thread in others:
        thread.start()
    while len(mapping._waiting) < len(others):
        threading.Event().wait(0.001)
    may_end.set()
    for thread in [leader, *others]:
        thread.join()
    monkeypatch.undo()
    mapping.close()

    remaining = {"first", *"abcdefghi"} - refused.keys()
    assert len(syncs) == 2
    assert refused == (dict.fromkeys("bcdefghi", refusal) if refusal else {})
    again = DurableMap(str(tmp_path / "l"))
    assert set(again.copy()) == set(mapping.copy()) == remaining
    again.close()


# The run journal


@settings(max_examples=20, deadline=None)
@given(counts=st.lists(st.integers(0, 30), min_size=2, max_size=4))
def test_concurrent_emits_give_gapless_ordered_rows(counts: list[int]) -> None:
    """
    T5: thread 1: emit emit emit
        thread 2:   emit  emit     -> r1:1 r1:2 r1:3 ..., in the file and in `show`
    """  # noqa: D212, D205, D415 - a drawing
    with tempfile.TemporaryDirectory() as folder:
        shown: list[Row] = []
        runs, writer = begin(Path(folder), shown.append)
        threads = [
            threading.Thread(target=emit_tokens, args=(writer, *[f"{me}"] * count))
            for me, count in enumerate(counts)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        writer.finish("done", [("done", {}), ("stream_end", {})])

        ids = [f"r1:{n}" for n in range(1, sum(counts) + 3)]
        assert [row["event_id"] for row in shown] == ids
        assert list(runs.rows("s1", "r1")) == shown
        assert runs.gauges() == {"run_writers": 0}


def test_failed_append_uses_no_number(tmp_path: Path) -> None:
    """T5: half a row was written when the disk was full; the next row takes its place and id."""
    shown: list[Row] = []
    runs, writer = begin(tmp_path / "runs", shown.append)
    emit_tokens(writer, "one")
    with SimulatedDisk(tmp_path, shorten(1)):  # a short write: the rest follows
        emit_tokens(writer, "two")
    with SimulatedDisk(tmp_path, fail_once(errno.ENOSPC)(1)), pytest.raises(OSError, match="space"):
        emit_tokens(writer, "lost")
    with pytest.raises(TypeError):
        writer.emit("token", {"text": object()})
    emit_tokens(writer, "three")

    assert [(row["seq"], row["payload"]["text"]) for row in runs.rows("s1", "r1")] == [
        (1, "one"),
        (2, "two"),
        (3, "three"),
    ]
    assert [row["seq"] for row in shown] == [1, 2, 3]
    writer.finish("done", [])


def test_emit_after_the_end_raises(tmp_path: Path) -> None:
    """T3: a terminal row is the last one, and a sealed run accepts only that."""
    runs, writer = begin(tmp_path)
    emit_tokens(writer, "one")
    writer.seal()
    with pytest.raises(RunOverError):
        emit_tokens(writer, "late")
    writer.finish("cancelled", [("cancel", {})])
    with pytest.raises(RunOverError):
        emit_tokens(writer, "later")

    rows = list(runs.rows("s1", "r1"))
    assert [(row["event"], row["terminal_state"]) for row in rows] == [
        ("token", None),
        ("cancel", "cancelled"),
    ]


def test_terminal_row_is_durable(tmp_path: Path) -> None:
    """A power loss after the end loses no row of the run."""
    with SimulatedDisk(tmp_path) as disk:
        _, writer = begin(tmp_path / "runs")
        emit_tokens(writer, "one")
        writer.finish("done", [("done", {})])
        (image,) = disk.power_losses(Random(0), 10)

    assert image.files["runs/s1/r1.jsonl"].count(b"\n") == 2


def test_run_ends_even_if_its_end_is_unwritten(tmp_path: Path) -> None:
    """T3: a full disk leaves no writer registered."""
    runs, writer = begin(tmp_path / "runs")
    with SimulatedDisk(tmp_path, fail_from(errno.ENOSPC)(1)), pytest.raises(OSError, match="space"):
        writer.finish("done", [("done", {})])

    assert runs.gauges() == {"run_writers": 0}
    with pytest.raises(RunOverError):
        emit_tokens(writer, "late")


def test_run_size_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """T6: a row, a run and a session's runs have sizes that they never exceed."""
    monkeypatch.setattr(journal, "ROW_BYTES_MAX", 400)
    monkeypatch.setattr(journal, "RUN_BYTES_MAX", 1000)
    runs, writer = begin(tmp_path)
    with pytest.raises(RunTooLargeError):
        emit_tokens(writer, "x" * 400)
    with pytest.raises(RunTooLargeError):
        emit_tokens(writer, *"x" * 10)
    size_bytes = writer.size_bytes
    assert size_bytes <= 1000
    writer.finish("error", [("apperror", {})])
    assert (tmp_path / "s1" / "r1.jsonl").stat().st_size > size_bytes

    live = runs.begin("s1", "live", ignore)
    for number in range(20):
        runs.begin("s1", f"n{number}", ignore).finish("done", [])
    remaining = {path.stem for path in (tmp_path / "s1").iterdir()}
    assert {"live", "n19", "n18"} <= remaining
    assert len(remaining) <= journal.RUNS_MAX + 1
    live.finish("done", [])


@settings(max_examples=60, deadline=None)
@given(total=st.integers(0, 6), seen=st.integers(0, 9))
def test_cursor_continues_exactly_after_it(total: int, seen: int) -> None:
    """C4: the rows after the cursor, all of them and no other; or a status that is not ok."""
    with tempfile.TemporaryDirectory() as folder:
        runs, writer = begin(Path(folder))
        emit_tokens(writer, *map(str, range(total)))

        replay = runs.read("s1", f"r1:{seen}")

        if seen > total:
            assert replay == Replay(ReplayStatus.CURSOR_EVENT_MISSING)
        else:
            assert replay.status is ReplayStatus.OK
            assert [row["seq"] for row in replay.rows] == [*range(seen + 1, total + 1)]
        writer.finish("done", [])


HOSTILE = st.text(max_size=20) | st.sampled_from(
    ["", ":", "r1", "r1:", ":1", "r1:-1", "r1:1:1", "../s1/r1:1", "r1:1\n", "r1:" + "9" * 99]
)


@settings(max_examples=60, deadline=None)
@given(cursor=HOSTILE)
def test_hostile_cursor_is_never_ok(cursor: str) -> None:
    """C4, H2: any text gives a status, and reads no other file."""
    with tempfile.TemporaryDirectory() as folder:
        runs, writer = begin(Path(folder))
        emit_tokens(writer, "x")
        writer.finish("done", [])

        assert runs.read("s1", cursor).status is not ReplayStatus.OK
        with pytest.raises(InvalidSessionIdError):
            runs.read("../s1", "r1:1")


def test_cursor_of_another_session_is_foreign(tmp_path: Path) -> None:
    """C5: a run is found only under its own session."""
    runs, writer = begin(tmp_path)
    emit_tokens(writer, "x")
    writer.finish("done", [])

    assert runs.read("s2", "r1:0").status is ReplayStatus.CURSOR_RUN_MISSING


@pytest.mark.parametrize(
    ("spoil", "status"),
    [
        (lambda lines: [lines[0], b"\0", lines[2]], ReplayStatus.MALFORMED),
        (lambda lines: [lines[0], lines[2], lines[1]], ReplayStatus.NONCONTIGUOUS),
        (lambda lines: [*lines[:2], lines[2][:9]], ReplayStatus.MALFORMED),
    ],
)
def test_damaged_run_has_its_own_status(spoil: Any, status: ReplayStatus, tmp_path: Path) -> None:
    """C3: a gap is always reported."""
    runs, writer = begin(tmp_path)
    emit_tokens(writer, *"abc")
    writer.finish("done", [])
    path = tmp_path / "s1" / "r1.jsonl"
    path.write_bytes(b"\n".join(spoil(read_lines(str(path)))) + b"\n")

    assert runs.read("s1", "r1:0").status is status
    assert runs.read("s1", "r1:3").status is ReplayStatus.OK


def test_long_replay_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """C8: the cost of a cursor is bounded, in rows and in bytes."""
    runs, writer = begin(tmp_path)
    emit_tokens(writer, *"abcd")
    monkeypatch.setattr(journal, "REPLAY_ROWS_MAX", 3)
    assert runs.read("s1", "r1:0").status is ReplayStatus.LIMIT_ROWS
    assert runs.read("s1", "r1:1").status is ReplayStatus.OK
    monkeypatch.setattr(journal, "REPLAY_BYTES_MAX", 100)
    assert runs.read("s1", "r1:1").status is ReplayStatus.LIMIT_BYTES
    writer.finish("done", [])


def test_row_being_written_is_not_read(tmp_path: Path) -> None:
    """T5: it may be taken back, so reading stops at the acknowledged size."""
    runs, writer = begin(tmp_path)
    emit_tokens(writer, "one")
    with (tmp_path / "s1" / "r1.jsonl").open("ab") as file:
        file.write(encoded({"seq": 2, "event": "token", "payload": {"text": "two"}}))

    assert [row["seq"] for row in runs.read("s1", "r1:0").rows] == [1]
    writer.finish("done", [])


def test_tokens_of_a_killed_run_are_readable(tmp_path: Path) -> None:
    """S13: a kill leaves every published token, and perhaps a torn one that was not published."""
    _, writer = begin(tmp_path)
    emit_tokens(writer, "one ", "two")
    with (tmp_path / "s1" / "r1.jsonl").open("ab") as file:
        file.write(b'{"seq":3,"event":"token","payl')

    after = RunJournal(tmp_path)

    assert after.text("s1", "r1") == "one two"
    assert after.text("s1", "r2") == ""
    writer.finish("done", [])


def test_runs_of_a_deleted_session_are_removed(tmp_path: Path) -> None:
    """S6: and only that session's."""
    runs, writer = begin(tmp_path)
    writer.finish("done", [("done", {})])
    runs.begin("s2", "r2", ignore).finish("done", [("done", {})])

    runs.remove_session("s1")
    runs.remove_session("s1")

    assert os.listdir(tmp_path) == ["s2"]  # noqa: PTH208 - names are what we ask


# The turn journal

STEPS = st.lists(
    st.tuples(st.sampled_from(["start", "complete", "interrupt"]), st.integers(0, 3)), max_size=10
)


@settings(max_examples=40, deadline=None)
@given(count=st.integers(0, 4), steps=STEPS)
def test_turn_without_an_end_is_in_flight(count: int, steps: list[tuple[str, int]]) -> None:
    """S13: also after a kill; the first ending stays."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "turns"
        turns = TurnJournal(path)
        model: dict[str, str] = {}
        for number in range(count):
            turns.submit(f"t{number}", "s1", f"r{number}", "user")
            model[f"t{number}"] = "submitted"
        for step, number in steps:
            getattr(turns, step)(f"t{number}")
            if model.get(f"t{number}") in ("submitted", "started"):
                past = {"start": "started", "complete": "completed", "interrupt": "interrupted"}
                model[f"t{number}"] = past[step]
        turns.close()

        turns = TurnJournal(path)
        assert {turn.turn_id: str(turn.event) for turn in turns.turns()} == model
        in_flight = {
            turn_id for turn_id, event in model.items() if event in ("submitted", "started")
        }
        assert {turn.turn_id for turn in turns.in_flight()} == in_flight
        turns.close()


def test_submitted_turn_survives_a_power_loss(tmp_path: Path) -> None:
    """S2: so does a start that must not be repeated (W1); other steps follow from the session."""
    folder = tmp_path / "disk"
    folder.mkdir()
    with SimulatedDisk(folder) as disk:
        turns = TurnJournal(folder / "turns")
        turns.submit("t1", "s1", "r1", "process_wakeup")
        turns.start("t1")
        turns.submit("t2", "s2", "r2", "user")
        turns.start("t2", sync=False)
        turns.complete("t2")
        images = list(disk.power_losses(Random(0), 20))
        turns.close()

    left = set()
    for number, image in enumerate(images):
        path = tmp_path / f"image{number}"
        path.write_bytes(image.files["turns"])
        found = TurnJournal(path)
        left.add(tuple(str(turn.event) for turn in found.turns()))
        found.close()
    assert left <= {("started", state) for state in ("submitted", "started", "completed")}
    assert ("started", "submitted") in left


def test_refused_write_leaves_no_ended_turn_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T6: turns that a refused write should have dropped are dropped by the next one."""
    monkeypatch.setattr(journal, "ENDED_TURNS_MAX", 2)
    turns = TurnJournal(tmp_path / "turns")

    def refused(_: object, **_options: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    for number in range(4):
        turns.submit(f"t{number}", "s1", f"r{number}", "user")
        with monkeypatch.context() as full:
            full.setattr(turns._map, "change", refused)  # a disk that fails here only
            with pytest.raises(OSError, match="full"):
                turns.complete(f"t{number}")
        turns.complete(f"t{number}")

    assert [turn.turn_id for turn in turns.turns()] == ["t2", "t3"]
    turns.close()


def test_turn_journal_is_bounded_except_for_open_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T6: only the last endings are remembered, also across restarts."""
    monkeypatch.setattr(journal, "ENDED_TURNS_MAX", 3)
    turns = TurnJournal(tmp_path / "turns")
    turns.submit("open", "s1", "r", "user")
    for number in range(10):
        if number == 5:
            turns.close()
            turns = TurnJournal(tmp_path / "turns")
        turns.submit(f"t{number}", "s1", f"r{number}", "user")
        turns.complete(f"t{number}")

    assert {turn.turn_id for turn in turns.turns()} == {"open", "t7", "t8", "t9"}
    assert [turn.event for turn in turns.in_flight()] == [TurnEvent.SUBMITTED]
    assert turns.gauges() == {"turn_journal": 4}
    turns.close()
