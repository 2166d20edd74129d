"""The reference's feeds and channels keep C1 to C5, C7 to C9, and W7."""

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
from reference_impl.live.event_buffer import Feed, Frame, Subscription, frame, sizes
from reference_impl.turns.journal import Replay, ReplayStatus, RunJournal

KEPT = 8


def sleep_on() -> None:
    """Nobody waits for this reader's wake."""


def behind(stream_id: str, upto: int) -> Frame:
    return snapshot("s", "fell behind", Cursor(stream_id, upto))


def small_feed(**options: Any) -> Feed:
    return Feed("f", lambda upto: behind("f", upto), frames_kept=KEPT, **options)


def all_of(reader: Subscription) -> list[Frame]:
    """Take until it is empty."""
    return list(itertools.chain.from_iterable(iter(reader.take, [])))


def seqs(frames: list[Frame]) -> list[int]:
    return [cursor.seq for each in frames if (cursor := Cursor.parsed(each.id or ""))]


def events(frames: list[Frame]) -> list[str]:
    return [each.event for each in frames]


def check_gapless(frames: list[Frame], after: int) -> int:
    """C1 to C3: each number is the next one, or a snapshot says up to which some were missed."""
    for each in frames:
        seq = seqs([each])[0]
        if each.event == "session_snapshot":
            assert seq > after
        else:
            assert seq == after + 1
        after = seq
    return after


class FeedMachine(RuleBasedStateMachine):
    """Whatever readers do and whenever they come, each sees all from its cursor on, or is told."""

    def __init__(self) -> None:
        super().__init__()
        self.feed = small_feed()
        self.wakes: list[list[int]] = []
        self.readers: list[Subscription] = []
        self.seen: list[int] = []
        self.is_asleep: list[bool] = []

    @rule(count=st.integers(1, 12))
    def publish(self, count: int) -> None:
        """Show some events; whoever slept is woken, once."""
        for _ in range(count):
            self.feed.publish("token", {"text": "x"})
        for wakes, is_asleep in zip(self.wakes, self.is_asleep, strict=True):
            assert len(wakes) == (1 if is_asleep else 0), "woken once, if asleep"
            wakes.clear()
        self.is_asleep = [False for _ in self.is_asleep]

    @rule(back=st.none() | st.integers(0, 20))
    def subscribe(self, back: int | None) -> None:
        """Come with a cursor or without."""
        wakes: list[int] = []
        after = None if back is None else max(0, self.feed.last - back)
        reader = self.feed.subscribe(lambda: wakes.append(1), after)
        if reader.missed:
            self.feed.tell_behind(reader)
        self.readers.append(reader)
        self.seen.append(self.feed.last if after is None else after)
        self.wakes.append(wakes)
        self.is_asleep.append(False)
        self.take(data=len(self.readers) - 1, bytes_max=1 << 16)

    @rule(data=st.integers(0, 99), bytes_max=st.sampled_from([1, 100, 1 << 16]))
    def take(self, data: int, bytes_max: int) -> None:
        """Take until it is empty."""
        if not self.readers:
            return
        which = data % len(self.readers)
        while frames := self.readers[which].take(bytes_max):
            self.seen[which] = check_gapless(frames, self.seen[which])
        assert self.seen[which] == self.feed.last
        self.is_asleep[which] = True

    @rule(data=st.integers(0, 99))
    def take_some(self, data: int) -> None:
        """Take one frame, and be slow."""
        if self.readers:
            which = data % len(self.readers)
            frames = self.readers[which].take(1)
            self.seen[which] = check_gapless(frames, self.seen[which])
            self.is_asleep[which] = self.is_asleep[which] or not frames

    @rule()
    def weigh(self) -> None:
        """Look at what is kept."""
        assert sizes([self.feed]).frames <= KEPT, "C8: what a slow reader costs is bounded"


FeedMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestFeed = FeedMachine.TestCase


@given(st.permutations(range(1, 9)))
def test_numbers_that_arrive_in_any_order_are_shown_in_theirs(order: list[int]) -> None:
    """C1: threads race from the journal to the feed; no number passes before its predecessor."""
    feed = small_feed()
    reader = feed.subscribe(sleep_on)

    shown: list[int] = []
    for seq in order:
        assert feed.put(seq, "token", {})
        assert not feed.put(seq, "token", {}), "C2: shown once"
        shown += seqs(all_of(reader))

    assert shown == list(range(1, 9))


def test_a_number_that_never_comes_is_told_of_and_holds_up_nobody_for_ever() -> None:
    """C3: the frames after a hole are not kept back without bound; a snapshot says so."""
    feed = small_feed()
    reader = feed.subscribe(sleep_on)
    feed.put(1, "token", {})

    for seq in range(3, 100):
        feed.put(seq, "token", {})

    frames = all_of(reader)
    assert check_gapless(frames, 0) == 99
    assert "session_snapshot" in events(frames)
    assert sizes([feed]).frames <= KEPT


def test_a_frame_larger_than_what_is_kept_is_still_shown() -> None:
    """C3: one frame is always kept, whatever its size."""
    feed = small_feed(bytes_kept=100)
    reader = feed.subscribe(sleep_on)

    feed.publish("tool_complete", {"output": "x" * 1000})

    assert events(all_of(reader)) == ["tool_complete"]


def test_a_terminal_event_ends_the_feed_for_present_and_later_readers() -> None:
    """C6: `stream_end` is the last frame that anybody sees; `done` is not."""
    feed = small_feed(last_events={"stream_end"})
    early = feed.subscribe(sleep_on)
    feed.publish("done", {})
    assert not early.is_over
    feed.publish("stream_end", {})

    assert not feed.publish("token", {})
    assert not early.is_over, "it has yet to be taken"
    assert events(all_of(early)) == ["done", "stream_end"]
    assert early.is_over
    late = feed.subscribe(sleep_on, after=1)
    assert events(all_of(late)) == ["stream_end"]
    assert late.is_over


@given(st.text(), st.text())
def test_whatever_an_event_says_it_is_one_frame(name: str, text: str) -> None:
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
def test_whatever_a_cursor_says_it_is_read_or_refused(text: str) -> None:
    """H2: a hostile cursor is no cursor, and no error."""
    cursor = Cursor.parsed(text)
    assert cursor is None or cursor.seq == int(text.rpartition(":")[2])


# Channels


class NoJournal:
    """Nothing was ever written."""

    def owner(self, stream_id: str) -> str | None:
        """Nobody's."""
        del stream_id
        return None

    def read(self, session_id: str, cursor: str) -> Replay:
        """Nothing there."""
        del session_id, cursor
        return Replay(ReplayStatus.CURSOR_RUN_MISSING)


class Journalled(NoJournal):
    """Runs in a real journal, shown by real channels."""

    def __init__(self, folder: Path) -> None:
        self.runs = RunJournal(folder)
        self.channels = Channels(self)
        self.owners: dict[str, str] = {}

    def owner(self, stream_id: str) -> str | None:
        """The session that `begin` was told."""
        return self.owners.get(stream_id)

    def read(self, session_id: str, cursor: str) -> Replay:
        """What the journal says."""
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
    """The monotonic clock, to be set."""
    now = [1000.0]
    with monkeypatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: now[0])
        yield now


def test_events_go_to_their_session_only(channels: Channels) -> None:
    """C5, W7: of two sessions each sees its own; what is nobody's, nobody sees."""
    readers = {sid: channels.subscribe(sid, sleep_on) for sid in ("a", "b")}
    for reader in readers.values():
        assert events(all_of(reader)) == ["initial"]
    channels.open_run("a", "run-a")
    run = channels.subscribe_run("run-a", sleep_on)
    assert run is not None

    channels.notify("a", "bg_task_complete", {"task_id": "p"})
    assert channels.emit("run-a", 1, "token", {"text": "x"})
    assert not channels.emit("run-nobody-knows", 1, "token", {"text": "y"})
    assert not channels.notify("c", "bg_task_complete", {"task_id": "q"})

    assert events(all_of(readers["a"])) == ["server_turn_started", "bg_task_complete"]
    assert all_of(readers["b"]) == []
    assert events(all_of(run)) == ["token"]
    assert channels.events_skipped == 1


def test_a_late_subscriber_learns_of_the_present_run_once(channels: Channels) -> None:
    """C7: whoever comes while a run goes on is told of it, as recovered; others as it starts."""
    early = channels.subscribe("a", sleep_on)
    channels.open_run("a", "run", source="user")
    late = channels.subscribe("a", sleep_on)

    assert [each.data.get("recovered") for each in all_of(early)[1:]] == [None]
    told = all_of(late)
    assert events(told) == ["initial", "server_turn_started"]
    assert told[1].data == {
        "session_id": "a",
        "stream_id": "run",
        "source": "user",
        "recovered": True,
    }


@pytest.mark.parametrize("end", ["withdraw_run", "close_run"])
def test_a_run_that_is_cancelled_or_over_is_offered_to_nobody(channels: Channels, end: str) -> None:
    """C7, T4: no subscribe loop on a cancelled run."""
    channels.open_run("a", "run")
    getattr(channels, end)("run")

    assert events(all_of(channels.subscribe("a", sleep_on))) == ["initial"]


def test_who_reads_a_cancelled_run_is_still_shown_its_end(channels: Channels) -> None:
    """T3: withdrawing a run ends no stream; its terminal event does."""
    channels.open_run("a", "run")
    reader = channels.subscribe_run("run", sleep_on)
    assert reader is not None
    channels.withdraw_run("run")

    channels.emit("run", 1, "cancel", {})

    assert events(all_of(reader)) == ["cancel"]
    assert reader.is_over


@given(st.integers(0, 80), st.integers(0, 80))
@settings(deadline=None)
def test_a_watcher_that_reconnects_misses_nothing_or_is_told(before: int, away: int) -> None:
    """C3, C4: notices have ids of their own, and a cursor continues exactly there.

    reader:  |-- watches --|               |-- cursor --|
    channel: notice ... notice   notice ...
    """
    channels = Channels(NoJournal())
    reader = channels.subscribe("a", sleep_on)
    for number in range(before):
        channels.notify("a", "bg_task_complete", {"task_id": number})
        seen = all_of(reader)
    if not before:
        return
    cursor = Cursor.parsed(seen[-1].id or "")
    reader.close()
    for number in range(away):
        channels.notify("a", "bg_task_complete", {"task_id": before + number})

    back = all_of(channels.subscribe("a", sleep_on, cursor))

    assert back[0].event == "initial"
    missed = [each.data["task_id"] for each in back if each.event == "bg_task_complete"]
    complete = list(range(before, before + away))
    if back[1:] and back[1].event == "session_snapshot":
        assert away > 64
        assert missed == complete[-len(missed) :]
    else:
        assert missed == complete


@pytest.mark.parametrize("id_", ["notices-of-another:3", "run:7", "a:0"])
def test_a_foreign_cursor_is_answered_with_a_snapshot(channels: Channels, id_: str) -> None:
    """C4: never with silence."""
    reader = channels.subscribe("a", sleep_on, Cursor.parsed(id_))
    assert events(all_of(reader)) == ["initial", "session_snapshot"]


def test_the_list_tells_a_slow_reader_of_the_latest_change_only(channels: Channels) -> None:
    """C8: changes of the list are coalesced; the version says that there were more."""
    reader = channels.subscribe_sessions(sleep_on)
    for number in range(100):
        channels.sessions_changed("message", f"s{number}")

    (told,) = all_of(reader)

    assert told.data == {
        "type": "sessions_changed",
        "version": 100,
        "reason": "message",
        "session_id": "s99",
    }
    assert channels.gauges()["channel_frames_kept"] == 1


# Runs and their journal


@settings(deadline=None, max_examples=30)
@given(rows=st.integers(1, 3000), seen=st.integers(0, 3000))
def test_a_cursor_continues_exactly_there(
    tmp_path_factory: pytest.TempPathFactory, rows: int, seen: int
) -> None:
    """C4: what the feed keeps no more comes from the journal, and the two join without a seam."""
    journalled = Journalled(tmp_path_factory.mktemp("runs"))
    run = journalled.begin("a", "run")
    for number in range(rows):
        run.emit("token", {"text": str(number)})

    reader = journalled.channels.subscribe_run("run", sleep_on, Cursor("run", seen))
    assert reader is not None
    got = all_of(reader)
    run.emit("token", {"text": "more"})
    got += all_of(reader)
    run.finish("done", [])

    if seen > rows:
        assert events(got) == ["session_snapshot", "token"]
    else:
        assert seqs(got) == list(range(seen + 1, rows + 2))
        assert "session_snapshot" not in events(got)


def test_a_run_that_is_over_is_read_from_its_journal(journalled: Journalled) -> None:
    """C3: who comes too late for the feed still gets all, and then the end."""
    run = journalled.begin("a", "run")
    run.emit("token", {"text": "x"})
    run.finish("done", [("done", {}), ("stream_end", {})])
    journalled.channels.close_run("run")

    reader = journalled.channels.subscribe_run("run", sleep_on)

    assert reader is not None
    assert events(all_of(reader)) == ["token", "done", "stream_end"]
    assert reader.is_over
    assert journalled.channels.subscribe_run("nobody-knows", sleep_on) is None


@pytest.mark.parametrize("is_over", [True, False])
def test_a_runs_foreign_cursor_is_answered_with_a_snapshot_and_all_of_it(
    journalled: Journalled, *, is_over: bool
) -> None:
    """C4: the cursor of another run, as it comes in when a client moves on to the next."""
    run = journalled.begin("a", "run")
    run.emit("token", {"text": "x"})
    if is_over:
        run.finish("done", [])
        journalled.channels.close_run("run")

    reader = journalled.channels.subscribe_run("run", sleep_on, Cursor("before", 3))

    assert reader is not None
    assert events(all_of(reader)) == ["session_snapshot", "token"]
    if not is_over:
        run.finish("done", [])


def test_a_sessions_events_follow_the_cursor_or_the_present_run(journalled: Journalled) -> None:
    """C4: own cursor: the rest; foreign cursor: a snapshot, then the present run from its start."""
    first = journalled.begin("a", "one")
    first.emit("token", {"text": "x"})
    first.finish("done", [("stream_end", {})])
    journalled.channels.close_run("one")

    def read(id_: str | None) -> list[str]:
        cursor = None if id_ is None else Cursor.parsed(id_)
        return events(all_of(journalled.channels.subscribe_events("a", sleep_on, cursor)))

    assert read("one:1") == ["stream_end"]
    assert read("one:2") == ["initial", "session_snapshot"], "nothing is left of it"
    assert read(None) == ["initial", "session_snapshot"], "there is no run to read"

    second = journalled.begin("a", "two")
    second.emit("token", {"text": "y"})
    assert read(None) == ["token"]
    assert read("two:1") == []
    assert read("one:1") == ["stream_end"]
    assert read("of-another-session:1") == ["session_snapshot", "token"]
    second.finish("done", [])


def test_many_threads_emit_and_every_reader_sees_one_gapless_order(journalled: Journalled) -> None:
    """C1 to C3, T5: whoever emits, readers that come at any moment see the journal's order."""
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


# Coming and going


def test_an_empty_channel_is_collected_after_the_grace_and_a_watched_one_never(
    channels: Channels, clock: list[float]
) -> None:
    """C9: sixty seconds after its last reader left; a reader keeps it for ever."""
    watched = channels.subscribe("watched", sleep_on)
    left = channels.subscribe("left", sleep_on)
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


def test_a_channel_without_an_event_for_hours_goes_as_soon_as_its_reader_does(
    channels: Channels, clock: list[float]
) -> None:
    """C9: the time to live needs no further grace."""
    reader = channels.subscribe("a", sleep_on)
    clock[0] += 4 * 3600
    reader.close()

    assert channels.collect() == 1
    assert channels.gauges()["channels"] == 0


def test_subscribing_and_collecting_cannot_race(clock: list[float]) -> None:
    """C9: whoever subscribes while others collect hears what comes after.

    collector:  |- collect -||- collect -||- collect - ...
    reader:        |- subscribe -| notice -> heard
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
            reader = channels.subscribe("a", sleep_on)
            all_of(reader)
            assert channels.notify("a", "bg_task_complete", {"task_id": number})
            assert [each.data["task_id"] for each in all_of(reader)] == [number]
            reader.close()
    finally:
        stop.set()
        collector.join(30)


def test_closing_ends_every_reader_also_those_to_come(channels: Channels) -> None:
    """H3: a server that goes leaves no stream waiting."""
    channels.open_run("a", "run")
    early = [channels.subscribe("a", sleep_on), channels.subscribe_sessions(sleep_on)]
    channels.close()
    late = [channels.subscribe("b", sleep_on), channels.subscribe_run("run", sleep_on)]

    for reader in [*early, *late]:
        assert reader is not None
        all_of(reader)
        assert reader.is_over


def test_nothing_is_left_of_sessions_that_are_over(channels: Channels, clock: list[float]) -> None:
    """H4: no container grows with the number of sessions ever seen."""
    for number in range(200):
        sid = f"s{number}"
        reader = channels.subscribe(sid, sleep_on)
        channels.open_run(sid, f"run{number}")
        channels.emit(f"run{number}", 1, "stream_end", {})
        channels.close_run(f"run{number}")
        channels.forget(sid) if number % 2 else reader.close()
    clock[0] += 60
    channels.collect()

    gauges = channels.gauges()
    assert {name: size for name, size in gauges.items() if size} == {}
