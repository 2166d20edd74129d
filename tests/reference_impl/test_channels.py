"""Tests of event buffers and channels (C1 to C5, C7 to C9, W7)."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from reference_impl.live.channels import Channels, Cursor, snapshot
from reference_impl.live.event_buffer import EventBuffer, Frame, Subscription, frame, sizes
from reference_impl.turns.journal import Replay, ReplayStatus, RunJournal

FRAMES_MAX = 8


def ignore_wake() -> None:
    """Ignore the wake: the test takes by itself."""


def gap_frame(stream_id: str, upto: int) -> Frame:
    return snapshot("s", "fell behind", Cursor(stream_id, upto))


def small_buffer(**options: Any) -> EventBuffer:
    return EventBuffer("f", lambda upto: gap_frame("f", upto), frames_max=FRAMES_MAX, **options)


def all_of(reader: Subscription) -> list[Frame]:
    """Take until the result is empty."""
    return list(itertools.chain.from_iterable(iter(reader.take, [])))


def seqs(frames: list[Frame]) -> list[int]:
    return [cursor.seq for each in frames if (cursor := Cursor.parsed(each.id or ""))]


def events(frames: list[Frame]) -> list[str]:
    return [each.event for each in frames]


def check_gapless(frames: list[Frame], after: int) -> int:
    """C1 to C3: each number is the next one, or a snapshot names the last missed number."""
    for each in frames:
        seq = seqs([each])[0]
        if each.event == "session_snapshot":
            assert seq > after
        else:
            assert seq == after + 1
        after = seq
    return after


class EventBufferMachine(RuleBasedStateMachine):
    """Readers with any cursor and pace get every event after it, or a snapshot."""

    def __init__(self) -> None:
        super().__init__()
        self.buffer = small_buffer()
        self.wakes: list[list[int]] = []
        self.readers: list[Subscription] = []
        self.seen: list[int] = []
        self.is_asleep: list[bool] = []

    @rule(count=st.integers(1, 12))
    def publish(self, count: int) -> None:
        """Publish some events; every sleeping reader is woken once."""
        for _ in range(count):
            self.buffer.publish("token", {"text": "x"})
        for wakes, is_asleep in zip(self.wakes, self.is_asleep, strict=True):
            assert len(wakes) == (1 if is_asleep else 0), "expected one wake per sleeping reader"
            wakes.clear()
        self.is_asleep = [False for _ in self.is_asleep]

    @rule(back=st.none() | st.integers(0, 20))
    def subscribe(self, back: int | None) -> None:
        """Subscribe with or without a cursor."""
        wakes: list[int] = []
        after = None if back is None else max(0, self.buffer.last - back)
        reader = self.buffer.subscribe(lambda: wakes.append(1), after)
        if reader.missed:
            self.buffer.prepend_gap(reader)
        self.readers.append(reader)
        self.seen.append(self.buffer.last if after is None else after)
        self.wakes.append(wakes)
        self.is_asleep.append(False)
        self.take(data=len(self.readers) - 1, bytes_max=1 << 16)

    @rule(data=st.integers(0, 99), bytes_max=st.sampled_from([1, 100, 1 << 16]))
    def take(self, data: int, bytes_max: int) -> None:
        """Take until the result is empty."""
        if not self.readers:
            return
        which = data % len(self.readers)
        while frames := self.readers[which].take(bytes_max):
            self.seen[which] = check_gapless(frames, self.seen[which])
        assert self.seen[which] == self.buffer.last
        self.is_asleep[which] = True

    @rule(data=st.integers(0, 99))
    def take_some(self, data: int) -> None:
        """Take one frame, as a slow reader does."""
        if self.readers:
            which = data % len(self.readers)
            frames = self.readers[which].take(1)
            self.seen[which] = check_gapless(frames, self.seen[which])
            self.is_asleep[which] = self.is_asleep[which] or not frames

    @rule()
    def check_size(self) -> None:
        """Check how many frames the buffer holds."""
        assert sizes([self.buffer]).frames <= FRAMES_MAX, (
            "C8: a slow reader must not grow the buffer"
        )


EventBufferMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None
)
TestEventBuffer = EventBufferMachine.TestCase


@given(st.permutations(range(1, 9)))
def test_buffer_with_unordered_numbers_shows_them_in_order(order: list[int]) -> None:
    """C1: threads race from the journal to the buffer; no number passes its predecessor."""
    buffer = small_buffer()
    reader = buffer.subscribe(ignore_wake)

    shown: list[int] = []
    for seq in order:
        assert buffer.put(seq, "token", {})
        assert not buffer.put(seq, "token", {}), "C2: a number is shown once"
        shown += seqs(all_of(reader))

    assert shown == list(range(1, 9))


def test_buffer_with_missing_number_shows_a_gap_frame() -> None:
    """C3: frames after a missing number are not held back without bound; a snapshot replaces it."""
    buffer = small_buffer()
    reader = buffer.subscribe(ignore_wake)
    buffer.put(1, "token", {})

    for seq in range(3, 100):
        buffer.put(seq, "token", {})

    frames = all_of(reader)
    assert check_gapless(frames, 0) == 99
    assert "session_snapshot" in events(frames)
    assert sizes([buffer]).frames <= FRAMES_MAX


def test_frame_larger_than_the_buffer_is_shown() -> None:
    """C3: the buffer always holds the latest frame, whatever its size."""
    buffer = small_buffer(bytes_max=100)
    reader = buffer.subscribe(ignore_wake)

    buffer.publish("tool_complete", {"output": "x" * 1000})

    assert events(all_of(reader)) == ["tool_complete"]


def test_terminal_event_ends_present_and_later_readers() -> None:
    """C6: `stream_end` is the last frame of every reader; `done` is not."""
    buffer = small_buffer(last_events={"stream_end"})
    early = buffer.subscribe(ignore_wake)
    buffer.publish("done", {})
    assert not early.is_over
    buffer.publish("stream_end", {})

    assert not buffer.publish("token", {})
    assert not early.is_over, "the frames are not taken yet"
    assert events(all_of(early)) == ["done", "stream_end"]
    assert early.is_over
    late = buffer.subscribe(ignore_wake, after=1)
    assert events(all_of(late)) == ["stream_end"]
    assert late.is_over


@given(st.text(), st.text())
def test_event_with_any_text_is_one_frame(name: str, text: str) -> None:
    """C5: no text can forge a second event: a frame ends at its only blank line."""
    try:
        shown = frame(name, {"text": text}, "f:1")
    except ValueError:
        assert not name.isprintable()
        return
    assert shown.encoded.count(b"\n\n") == 1
    assert shown.encoded.count(b"\n") == 4
    assert shown.data == {"text": text}


@given(st.text())
def test_cursor_with_any_text_is_parsed_or_refused(text: str) -> None:
    """H2: a hostile cursor is no cursor, and no error."""
    cursor = Cursor.parsed(text)
    assert cursor is None or cursor.seq == int(text.rpartition(":")[2])


# Channels


class NoJournal:
    """A journal without runs."""

    def owner(self, stream_id: str) -> str | None:
        """No session."""
        del stream_id
        return None

    def read(self, session_id: str, cursor: str) -> Replay:
        """No run."""
        del session_id, cursor
        return Replay(ReplayStatus.CURSOR_RUN_MISSING)


class Journalled(NoJournal):
    """Runs in a real journal, published by real channels."""

    def __init__(self, folder: Path) -> None:
        self.runs = RunJournal(folder)
        self.channels = Channels(self)
        self.owners: dict[str, str] = {}

    def owner(self, stream_id: str) -> str | None:
        """The session given to `begin`."""
        return self.owners.get(stream_id)

    def read(self, session_id: str, cursor: str) -> Replay:
        """The journal's rows."""
        return self.runs.read(session_id, cursor)

    def begin(self, session_id: str, stream_id: str) -> Any:
        """Open a run in both."""
        self.owners[stream_id] = session_id
        self.channels.open_run(session_id, stream_id)
        return self.runs.begin(
            session_id,
            stream_id,
            lambda row: self.channels.emit(stream_id, row["seq"], row["event"], row["payload"]),
        )


@pytest.fixture
def channels() -> Channels:
    return Channels(NoJournal())


@pytest.fixture
def journalled(tmp_path: Path) -> Journalled:
    return Journalled(tmp_path)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """A monotonic clock that the test sets."""
    now = [1000.0]
    with monkeypatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: now[0])
        yield now


def test_events_reach_only_their_own_session(channels: Channels) -> None:
    """C5, W7: each session sees its own events; an event without a session reaches no reader."""
    readers = {sid: channels.subscribe(sid, ignore_wake) for sid in ("a", "b")}
    for reader in readers.values():
        assert events(all_of(reader)) == ["initial"]
    channels.open_run("a", "run-a")
    run = channels.subscribe_run("run-a", ignore_wake)
    assert run is not None

    channels.notify("a", "bg_task_complete", {"task_id": "p"})
    assert channels.emit("run-a", 1, "token", {"text": "x"})
    assert not channels.emit("unknown-run", 1, "token", {"text": "y"})
    assert not channels.notify("c", "bg_task_complete", {"task_id": "q"})

    assert events(all_of(readers["a"])) == ["server_turn_started", "bg_task_complete"]
    assert all_of(readers["b"]) == []
    assert events(all_of(run)) == ["token"]
    assert channels.events_skipped == 1


def test_late_subscriber_gets_the_current_run_once(channels: Channels) -> None:
    """C7: a late subscriber gets the current run, marked as recovered; an early one its start."""
    early = channels.subscribe("a", ignore_wake)
    channels.open_run("a", "run", source="user")
    late = channels.subscribe("a", ignore_wake)

    assert [each.data.get("recovered") for each in all_of(early)[1:]] == [None]
    taken = all_of(late)
    assert events(taken) == ["initial", "server_turn_started"]
    assert taken[1].data == {
        "session_id": "a",
        "stream_id": "run",
        "source": "user",
        "recovered": True,
    }


@pytest.mark.parametrize("end", ["withdraw_run", "close_run"])
def test_cancelled_or_ended_run_is_not_announced(channels: Channels, end: str) -> None:
    """C7, T4: no client attaches to a cancelled run in a loop."""
    channels.open_run("a", "run")
    getattr(channels, end)("run")

    assert events(all_of(channels.subscribe("a", ignore_wake))) == ["initial"]


def test_reader_of_a_cancelled_run_gets_its_end(channels: Channels) -> None:
    """T3: withdrawing a run ends no stream; its terminal event does."""
    channels.open_run("a", "run")
    reader = channels.subscribe_run("run", ignore_wake)
    assert reader is not None
    channels.withdraw_run("run")

    channels.emit("run", 1, "cancel", {})

    assert events(all_of(reader)) == ["cancel"]
    assert reader.is_over


@given(st.integers(0, 80), st.integers(0, 80))
@settings(deadline=None)
def test_reconnected_watcher_gets_missed_notices_or_a_snapshot(before: int, away: int) -> None:
    """C3, C4: notices have ids of their own, and a cursor continues exactly after it.

    reader:  |-- watches --|               |-- cursor --|
    channel: notice ... notice   notice ...
    """
    channels = Channels(NoJournal())
    reader = channels.subscribe("a", ignore_wake)
    for number in range(before):
        channels.notify("a", "bg_task_complete", {"task_id": number})
        seen = all_of(reader)
    if not before:
        return
    cursor = Cursor.parsed(seen[-1].id or "")
    reader.close()
    for number in range(away):
        channels.notify("a", "bg_task_complete", {"task_id": before + number})

    back = all_of(channels.subscribe("a", ignore_wake, cursor))

    assert back[0].event == "initial"
    missed = [each.data["task_id"] for each in back if each.event == "bg_task_complete"]
    complete = list(range(before, before + away))
    if back[1:] and back[1].event == "session_snapshot":
        assert away > 64
        assert missed == complete[-len(missed) :]
    else:
        assert missed == complete


@pytest.mark.parametrize("id_", ["notices-of-another:3", "run:7", "a:0"])
def test_foreign_cursor_gets_a_snapshot(channels: Channels, id_: str) -> None:
    """C4: never with silence."""
    reader = channels.subscribe("a", ignore_wake, Cursor.parsed(id_))
    assert events(all_of(reader)) == ["initial", "session_snapshot"]


def test_slow_list_reader_gets_only_the_latest_change(channels: Channels) -> None:
    """C8: changes of the list are coalesced; the version shows that there were more."""
    reader = channels.subscribe_sessions(ignore_wake)
    for number in range(100):
        channels.sessions_changed("message", f"s{number}")

    (taken,) = all_of(reader)

    assert taken.data == {
        "type": "sessions_changed",
        "version": 100,
        "reason": "message",
        "session_id": "s99",
    }
    assert channels.gauges()["channel_frames_kept"] == 1


# Runs and their journal


@settings(deadline=None, max_examples=30)
@given(rows=st.integers(1, 3000), seen=st.integers(0, 3000))
def test_run_cursor_continues_exactly_after_it(
    tmp_path_factory: pytest.TempPathFactory, rows: int, seen: int
) -> None:
    """C4: dropped events come from the journal, and both parts join without a gap."""
    journalled = Journalled(tmp_path_factory.mktemp("runs"))
    run = journalled.begin("a", "run")
    for number in range(rows):
        run.emit("token", {"text": str(number)})

    reader = journalled.channels.subscribe_run("run", ignore_wake, Cursor("run", seen))
    assert reader is not None
    taken = all_of(reader)
    run.emit("token", {"text": "more"})
    taken += all_of(reader)
    run.finish("done", [])

    if seen > rows:
        assert events(taken) == ["session_snapshot", "token"]
    else:
        assert seqs(taken) == list(range(seen + 1, rows + 2))
        assert "session_snapshot" not in events(taken)


def test_ended_run_is_read_from_its_journal(journalled: Journalled) -> None:
    """C3: a subscriber after the end still gets all events, and then the end."""
    run = journalled.begin("a", "run")
    run.emit("token", {"text": "x"})
    run.finish("done", [("done", {}), ("stream_end", {})])
    journalled.channels.close_run("run")

    reader = journalled.channels.subscribe_run("run", ignore_wake)

    assert reader is not None
    assert events(all_of(reader)) == ["token", "done", "stream_end"]
    assert reader.is_over
    assert journalled.channels.subscribe_run("unknown", ignore_wake) is None


@pytest.mark.parametrize("is_over", [True, False])
def test_foreign_run_cursor_gets_snapshot_and_whole_run(
    journalled: Journalled, *, is_over: bool
) -> None:
    """C4: the cursor of another run, as a client sends it that moves on to the next run."""
    run = journalled.begin("a", "run")
    run.emit("token", {"text": "x"})
    if is_over:
        run.finish("done", [])
        journalled.channels.close_run("run")

    reader = journalled.channels.subscribe_run("run", ignore_wake, Cursor("before", 3))

    assert reader is not None
    assert events(all_of(reader)) == ["session_snapshot", "token"]
    if not is_over:
        run.finish("done", [])


def test_session_events_follow_cursor_or_current_run(journalled: Journalled) -> None:
    """C4: own cursor: the rest; foreign cursor: a snapshot, then the current run from its start."""
    first = journalled.begin("a", "one")
    first.emit("token", {"text": "x"})
    first.finish("done", [("stream_end", {})])
    journalled.channels.close_run("one")

    def read(id_: str | None) -> list[str]:
        cursor = None if id_ is None else Cursor.parsed(id_)
        return events(all_of(journalled.channels.subscribe_events("a", ignore_wake, cursor)))

    assert read("one:1") == ["stream_end"]
    assert read("one:2") == ["initial", "session_snapshot"], "the run has no more events"
    assert read(None) == ["initial", "session_snapshot"], "there is no run to read"

    second = journalled.begin("a", "two")
    second.emit("token", {"text": "y"})
    assert read(None) == ["token"]
    assert read("two:1") == []
    assert read("one:1") == ["stream_end"]
    assert read("of-another-session:1") == ["session_snapshot", "token"]
    second.finish("done", [])


def test_concurrent_emits_give_readers_one_gapless_order(journalled: Journalled) -> None:
    """C1 to C3, T5: readers that subscribe at any time see the journal's order."""
    run = journalled.begin("a", "run")
    readers: list[tuple[Subscription, list[Frame], threading.Event]] = []

    def emit() -> None:
        for _ in range(100):
            run.emit("token", {"text": "x"})

    def read() -> None:
        wake = threading.Event()
        reader = journalled.channels.subscribe_run("run", wake.set)
        assert reader is not None
        seen: list[Frame] = []
        readers.append((reader, seen, wake))
        while True:
            seen += all_of(reader)
            if reader.is_over:
                return
            assert wake.wait(30)
            wake.clear()

    emitters = [threading.Thread(target=emit) for _ in range(4)]
    watchers = [threading.Thread(target=read) for _ in range(4)]
    for emitter, watcher in zip(emitters, watchers, strict=True):
        emitter.start()
        watcher.start()
    for emitter in emitters:
        emitter.join(30)
    run.finish("done", [("stream_end", {})])
    for watcher in watchers:
        watcher.join(30)

    for _, seen, _ in readers:
        assert seqs(seen) == list(range(1, 402))
        assert "session_snapshot" not in events(seen)


# Collection and closing


def test_empty_channel_is_collected_after_the_grace(channels: Channels, clock: list[float]) -> None:
    """C9: sixty seconds after its last reader left; a channel with a reader stays."""
    watched = channels.subscribe("watched", ignore_wake)
    left = channels.subscribe("left", ignore_wake)
    all_of(watched)
    left.close()

    clock[0] += 59
    assert channels.collect() == 0
    clock[0] += 1
    assert channels.collect() == 1
    clock[0] += 100_000
    assert channels.collect() == 0
    channels.notify("watched", "bg_task_complete", {})
    assert events(all_of(watched)) == ["bg_task_complete"]


def test_channel_past_its_ttl_needs_no_grace(channels: Channels, clock: list[float]) -> None:
    """C9: the time to live needs no further grace."""
    reader = channels.subscribe("a", ignore_wake)
    clock[0] += 4 * 3600
    reader.close()

    assert channels.collect() == 1
    assert channels.gauges()["channels"] == 0


def test_subscriber_during_collection_gets_later_notices(clock: list[float]) -> None:
    """C9: a client that subscribes during a collection gets the later notices.

    collector:  |- collect -||- collect -||- collect - ...
    reader:        |- subscribe -| notice -> received
    """
    channels = Channels(NoJournal(), grace_s=0.0)
    clock[0] += 1
    stop = threading.Event()

    def collect() -> None:
        while not stop.is_set():
            channels.collect()

    collector = threading.Thread(target=collect)
    collector.start()
    try:
        for number in range(300):
            reader = channels.subscribe("a", ignore_wake)
            all_of(reader)
            assert channels.notify("a", "bg_task_complete", {"task_id": number})
            assert [each.data["task_id"] for each in all_of(reader)] == [number]
            reader.close()
    finally:
        stop.set()
        collector.join(30)


def test_close_ends_present_and_later_readers(channels: Channels) -> None:
    """H3: a server that exits leaves no stream waiting."""
    channels.open_run("a", "run")
    early = [channels.subscribe("a", ignore_wake), channels.subscribe_sessions(ignore_wake)]
    channels.close()
    late = [channels.subscribe("b", ignore_wake), channels.subscribe_run("run", ignore_wake)]

    for reader in [*early, *late]:
        assert reader is not None
        all_of(reader)
        assert reader.is_over


def test_channels_of_ended_sessions_leave_nothing(channels: Channels, clock: list[float]) -> None:
    """H4: no container grows with the number of sessions ever seen."""
    for number in range(200):
        sid = f"s{number}"
        reader = channels.subscribe(sid, ignore_wake)
        channels.open_run(sid, f"run{number}")
        channels.emit(f"run{number}", 1, "stream_end", {})
        channels.close_run(f"run{number}")
        channels.forget(sid) if number % 2 else reader.close()
    clock[0] += 60
    channels.collect()

    gauges = channels.gauges()
    assert {name: size for name, size in gauges.items() if size} == {}
