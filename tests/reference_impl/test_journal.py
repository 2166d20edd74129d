"""The reference's journals keep T5 and T6, and tell what was in flight (S13)."""

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
    SimulatedDisk,
    Strike,
    every_crash_point,
    every_failure,
    fail_from,
    fail_once,
    shorten,
)
from reference_impl.sessions.session_files import InvalidSessionIdError
from reference_impl.storage import durable_map as ledger
from reference_impl.storage.durable_map import Ledger
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
    """Show a row to nobody."""


def begin(folder: Path, show: Callable[[Row], object] = ignore) -> tuple[RunJournal, RunWriter]:
    runs = RunJournal(folder)
    return runs, runs.begin("s1", "r1", show)


def tell(writer: RunWriter, *texts: str) -> None:
    for text in texts:
        writer.emit("token", {"text": text})


# The log and the ledger


@settings(max_examples=60, deadline=None)
@given(texts=TEXTS, keep=st.integers(0, 400))
def test_a_torn_row_is_cut_off_and_nothing_is_glued_to_it(texts: list[str], keep: int) -> None:
    """T5: whatever part of the file a kill left, whole rows stay and the next one stands alone."""
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

        kept = whole[:keep].count(b"\n")
        assert [row["text"] for row in parsed(path)] == [*texts[:kept], "next"]


@pytest.mark.parametrize(
    "fault_at", [fail_once(errno.ENOSPC), fail_from(errno.EIO), fail_once(errno.EIO), shorten]
)
def test_an_append_that_failed_is_absent(fault_at: Any, tmp_path: Path) -> None:
    """T5: short writes, a full disk, a failed sync: what raised is not there, the rest is."""
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


def test_a_torn_row_that_could_not_be_cut_off_is_cut_off_before_the_next(tmp_path: Path) -> None:
    """T5: the disk refused even that; the next append mends first."""
    log = JsonLog(str(tmp_path / "log"))
    log.append({"n": 1})

    def fault(call: Call) -> Strike | None:
        error = OSError(errno.EIO, "Input/output error", call.name)
        if call.number <= 2:
            return Strike(error, kept=call.length // 2 if call.kind == "write" else 0)
        return None

    with SimulatedDisk(tmp_path, fault):
        with pytest.raises(OSError, match="error"):
            log.append({"n": 2})
        log.append({"n": 3})
    log.close()

    assert parsed(tmp_path / "log") == [{"n": 1}, {"n": 3}]


CHANGES = st.lists(st.tuples(st.sampled_from("abc"), st.none() | st.integers(0, 9)), max_size=12)


def change(book: Ledger, key: str, number: int | None) -> None:
    if number is None:
        book.drop(key)
    else:
        book.put(key, {"n": number})


@settings(max_examples=60, deadline=None)
@given(changes=CHANGES)
def test_a_ledger_opened_again_says_the_same(changes: list[tuple[str, int | None]]) -> None:
    """Whatever was put and dropped, and however often the file was shortened meanwhile."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger, "HISTORY_ROWS_MAX", 2)
        path = Path(folder) / "ledger"
        book, model = Ledger(str(path)), dict[str, Any]()
        for key, number in changes:
            change(book, key, number)
            if number is None:
                model.pop(key, None)
            else:
                model[key] = {"n": number}
            assert len(read_lines(str(path))) <= 2 * len(model) + 2
        book.close()
        again = Ledger(str(path))
        assert list(again.copy().items()) == list(model.items())
        again.close()


def test_a_crash_within_a_ledgers_change_leaves_the_old_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W4: kill or power loss at every call, shortening included: acknowledged is kept."""
    monkeypatch.setattr(ledger, "HISTORY_ROWS_MAX", 1)
    states: list[dict[str, int]] = []

    def operation() -> None:
        states[:] = [{}]
        book = Ledger(str(tmp_path / "ledger"))
        for key, number in (("a", 1), ("b", 2), ("a", None), ("b", 3), ("b", 4), ("b", 5)):
            last = dict(states[-1])
            if number is None:
                del last[key]
            else:
                last[key] = number
            states.append(last)
            change(book, key, number)
        states.append(states[-1])
        book.close()

    for crash in every_crash_point(tmp_path, operation):
        for image in crash.aftermaths(Random(0)):
            with tempfile.TemporaryDirectory() as elsewhere:
                image.put_into(Path(elsewhere))
                book = Ledger(str(Path(elsewhere) / "ledger"))
                assert {key: value["n"] for key, value in book.copy().items()} in states[-2:]
                book.close()


def test_a_damaged_row_of_a_ledger_is_told_of_and_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One bad row never stops a start."""
    (tmp_path / "l").write_bytes(b'{"key": "a", "value": {"n": 1}}\n\0\0\n[]\n{"key": "b"}\n')

    book = Ledger(str(tmp_path / "l"))

    assert book.copy() == {"a": {"n": 1}}
    assert len(caplog.records) == 3
    book.close()


@pytest.mark.parametrize("refusal", [None, errno.ENOSPC])
def test_one_sync_serves_all_who_wait(
    refusal: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    W4: a:   |--- sync ---|                  and where the second sync is refused,
        b-i:   wait ......|--- one sync ---| nothing of b to i is kept, and all are told.
    """  # noqa: D212, D205 - a drawing
    book = Ledger(str(tmp_path / "l"))
    book.put("first", {"n": 0})  # so that the file's name is durable
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
            book.put(key, {"n": 1})
        except OSError as error:
            refused[key] = error.errno

    leader = threading.Thread(target=put, args=("a",))
    leader.start()
    is_syncing.wait()
    others = [threading.Thread(target=put, args=(key,)) for key in "bcdefghi"]
    for thread in others:
        thread.start()
    while len(book._waiting) < len(others):
        threading.Event().wait(0.001)
    may_end.set()
    for thread in [leader, *others]:
        thread.join()
    monkeypatch.undo()
    book.close()

    kept = {"first", *"abcdefghi"} - refused.keys()
    assert len(syncs) == 2
    assert refused == (dict.fromkeys("bcdefghi", refusal) if refusal else {})
    again = Ledger(str(tmp_path / "l"))
    assert set(again.copy()) == set(book.copy()) == kept
    again.close()


# The run journal


@settings(max_examples=20, deadline=None)
@given(counts=st.lists(st.integers(0, 30), min_size=2, max_size=4))
def test_rows_are_gapless_and_shown_in_order_whoever_emits(counts: list[int]) -> None:
    """
    T5: thread 1: emit emit emit
        thread 2:   emit  emit     -> r1:1 r1:2 r1:3 ..., in the file and to whoever looks on.
    """  # noqa: D212, D205 - a drawing
    with tempfile.TemporaryDirectory() as folder:
        shown: list[Row] = []
        runs, writer = begin(Path(folder), shown.append)
        threads = [
            threading.Thread(target=tell, args=(writer, *[f"{me}"] * count))
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


def test_a_failed_append_burns_no_number(tmp_path: Path) -> None:
    """T5: half a row was written when the disk was full; the next row takes its place and id."""
    shown: list[Row] = []
    runs, writer = begin(tmp_path / "runs", shown.append)
    tell(writer, "one")
    with SimulatedDisk(tmp_path, shorten(1)):  # half is written, and said so: the rest follows
        tell(writer, "two")
    with SimulatedDisk(tmp_path, fail_once(errno.ENOSPC)(1)), pytest.raises(OSError, match="space"):
        tell(writer, "lost")
    with pytest.raises(TypeError):
        writer.emit("token", {"text": object()})
    tell(writer, "three")

    assert [(row["seq"], row["payload"]["text"]) for row in runs.rows("s1", "r1")] == [
        (1, "one"),
        (2, "two"),
        (3, "three"),
    ]
    assert [row["seq"] for row in shown] == [1, 2, 3]
    writer.finish("done", [])


def test_nobody_emits_after_the_end(tmp_path: Path) -> None:
    """T3: a terminal row is the last one, and a sealed run takes only that."""
    runs, writer = begin(tmp_path)
    tell(writer, "one")
    writer.seal()
    with pytest.raises(RunOverError):
        tell(writer, "late")
    writer.finish("cancelled", [("cancel", {})])
    with pytest.raises(RunOverError):
        tell(writer, "later")

    rows = list(runs.rows("s1", "r1"))
    assert [(row["event"], row["terminal_state"]) for row in rows] == [
        ("token", None),
        ("cancel", "cancelled"),
    ]


def test_a_terminal_row_is_durable(tmp_path: Path) -> None:
    """A power loss after the end loses no row of the run."""
    with SimulatedDisk(tmp_path) as disk:
        _, writer = begin(tmp_path / "runs")
        tell(writer, "one")
        writer.finish("done", [("done", {})])
        (image,) = disk.power_losses(Random(0), 10)

    assert image.files["runs/s1/r1.jsonl"].count(b"\n") == 2


def test_a_run_is_over_even_if_its_end_cannot_be_written(tmp_path: Path) -> None:
    """T3: a full disk keeps no writer registered."""
    runs, writer = begin(tmp_path / "runs")
    with SimulatedDisk(tmp_path, fail_from(errno.ENOSPC)(1)), pytest.raises(OSError, match="space"):
        writer.finish("done", [("done", {})])

    assert runs.gauges() == {"run_writers": 0}
    with pytest.raises(RunOverError):
        tell(writer, "late")


def test_a_run_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """T6: a row, a run and a session's runs have a size that they never exceed."""
    monkeypatch.setattr(journal, "ROW_BYTES_MAX", 400)
    monkeypatch.setattr(journal, "RUN_BYTES_MAX", 1000)
    runs, writer = begin(tmp_path)
    with pytest.raises(RunTooLargeError):
        tell(writer, "x" * 400)
    with pytest.raises(RunTooLargeError):
        tell(writer, *"x" * 10)
    size_bytes = writer.size_bytes
    assert size_bytes <= 1000
    writer.finish("error", [("apperror", {})])
    assert (tmp_path / "s1" / "r1.jsonl").stat().st_size > size_bytes

    live = runs.begin("s1", "live", ignore)
    for number in range(20):
        runs.begin("s1", f"n{number}", ignore).finish("done", [])
    kept = {path.stem for path in (tmp_path / "s1").iterdir()}
    assert {"live", "n19", "n18"} <= kept
    assert len(kept) <= journal.RUNS_KEPT + 1
    live.finish("done", [])


@settings(max_examples=60, deadline=None)
@given(total=st.integers(0, 6), seen=st.integers(0, 9))
def test_a_cursor_continues_exactly_there(total: int, seen: int) -> None:
    """C4: rows after the one seen, all of them and no other; or a status that is not ok."""
    with tempfile.TemporaryDirectory() as folder:
        runs, writer = begin(Path(folder))
        tell(writer, *map(str, range(total)))

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
def test_a_hostile_cursor_is_never_ok(cursor: str) -> None:
    """C4, H2: whatever it says, it degrades to a status, and reads no other file."""
    with tempfile.TemporaryDirectory() as folder:
        runs, writer = begin(Path(folder))
        tell(writer, "x")
        writer.finish("done", [])

        assert runs.read("s1", cursor).status is not ReplayStatus.OK
        with pytest.raises(InvalidSessionIdError):
            runs.read("../s1", "r1:1")


def test_another_sessions_cursor_is_foreign(tmp_path: Path) -> None:
    """C5: a run is found only under its own session."""
    runs, writer = begin(tmp_path)
    tell(writer, "x")
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
def test_a_damaged_run_says_so(spoil: Any, status: ReplayStatus, tmp_path: Path) -> None:
    """C3: a gap is never passed over in silence."""
    runs, writer = begin(tmp_path)
    tell(writer, *"abc")
    writer.finish("done", [])
    path = tmp_path / "s1" / "r1.jsonl"
    path.write_bytes(b"\n".join(spoil(read_lines(str(path)))) + b"\n")

    assert runs.read("s1", "r1:0").status is status
    assert runs.read("s1", "r1:3").status is ReplayStatus.OK


def test_a_long_replay_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """C8: what a cursor may cost is bounded, in rows and in bytes."""
    runs, writer = begin(tmp_path)
    tell(writer, *"abcd")
    monkeypatch.setattr(journal, "REPLAY_ROWS_MAX", 3)
    assert runs.read("s1", "r1:0").status is ReplayStatus.LIMIT_ROWS
    assert runs.read("s1", "r1:1").status is ReplayStatus.OK
    monkeypatch.setattr(journal, "REPLAY_BYTES_MAX", 100)
    assert runs.read("s1", "r1:1").status is ReplayStatus.LIMIT_BYTES
    writer.finish("done", [])


def test_a_row_that_is_being_written_is_not_read(tmp_path: Path) -> None:
    """T5: it may yet be taken back, so nobody reads beyond what is acknowledged."""
    runs, writer = begin(tmp_path)
    tell(writer, "one")
    with (tmp_path / "s1" / "r1.jsonl").open("ab") as file:
        file.write(encoded({"seq": 2, "event": "token", "payload": {"text": "two"}}))

    assert [row["seq"] for row in runs.read("s1", "r1:0").rows] == [1]
    writer.finish("done", [])


def test_the_tokens_of_a_killed_run_are_there(tmp_path: Path) -> None:
    """S13: a kill leaves every token that was shown, and perhaps a torn one that was not."""
    _, writer = begin(tmp_path)
    tell(writer, "one ", "two")
    with (tmp_path / "s1" / "r1.jsonl").open("ab") as file:
        file.write(b'{"seq":3,"event":"token","payl')

    after = RunJournal(tmp_path)

    assert after.text("s1", "r1") == "one two"
    assert after.text("s1", "r2") == ""
    writer.finish("done", [])


def test_a_deleted_sessions_runs_are_gone(tmp_path: Path) -> None:
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
def test_a_turn_that_has_not_ended_was_in_flight(count: int, steps: list[tuple[str, int]]) -> None:
    """S13: also for who opens the journal after a kill; the first ending stays."""
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
        flying = {turn_id for turn_id, event in model.items() if event in ("submitted", "started")}
        assert {turn.turn_id for turn in turns.in_flight()} == flying
        turns.close()


def test_the_turn_journal_is_bounded_but_forgets_none_in_flight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T6: only the last endings are remembered, also across restarts."""
    monkeypatch.setattr(journal, "TURNS_KEPT", 3)
    turns = TurnJournal(tmp_path / "turns")
    turns.submit("flying", "s1", "r", "user")
    for number in range(10):
        if number == 5:
            turns.close()
            turns = TurnJournal(tmp_path / "turns")
        turns.submit(f"t{number}", "s1", f"r{number}", "user")
        turns.complete(f"t{number}")

    assert {turn.turn_id for turn in turns.turns()} == {"flying", "t7", "t8", "t9"}
    assert [turn.event for turn in turns.in_flight()] == [TurnEvent.SUBMITTED]
    assert turns.gauges() == {"turn_journal": 4}
    turns.close()
