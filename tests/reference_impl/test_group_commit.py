"""The rounds of syncs: nobody is told before a sync that covers it, whoever makes it, or dies."""

from __future__ import annotations

import os
import shutil
import sqlite3
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from reference_impl.state_db import group_commit as write_rounds
from reference_impl.state_db.group_commit import SyncRounds
from reference_impl.state_db.state_db import StateDb
from reference_impl.state_db.wal import WriteLog


@pytest.fixture(autouse=True)
def _slow_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no sync count as quick, and no leader as hanging."""
    monkeypatch.setattr(write_rounds, "QUICK_S", 0.0)
    monkeypatch.setattr(write_rounds, "GRACE_S", 60.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


class Disk:
    """Remembers what was written, and what of it was there when a sync that ended well began."""

    def __init__(self) -> None:
        self.written = 0
        self.synced = 0
        self.syncs = 0
        self._lock = threading.Lock()

    def write(self) -> int:
        """Write one thing more; returns its number."""
        with self._lock:
            self.written += 1
            return self.written

    def sync(self) -> None:
        """Sync."""
        began_at = self.written
        os.sched_yield()
        with self._lock:
            self.syncs += 1
            self.synced = max(self.synced, began_at)


class Writer:
    """One who writes to the disk and joins the rounds, as another process would: by a handle."""

    def __init__(self, path: Path, disk: Disk, rounds: type[SyncRounds] = SyncRounds) -> None:
        self.rounds = rounds(str(path))
        self.disk = disk
        self.told_too_soon: list[int] = []
        self.number = self.mark = 0

    def write(self) -> None:
        """Write one thing, and mark it."""
        self.number = self.disk.write()
        self.mark = self.rounds.mark()

    def wait(self, sync: Callable[[], None] | None = None) -> bool:
        """Return once it is said to be durable. Returns whether we synced."""
        is_ours = self.rounds.join(self.mark, sync or self.disk.sync)
        if not is_ours:
            assert self.rounds.cover(self.mark)
        if self.disk.synced < self.number:
            self.told_too_soon.append(self.number)
        return is_ours


@contextmanager
def running(*acts: Callable[[], object]) -> Iterator[list[threading.Thread]]:
    """Run these in threads, and wait for their ends."""
    threads = [threading.Thread(target=act) for act in acts]
    for thread in threads:
        thread.start()
    yield threads
    for thread in threads:
        thread.join()


def until(fact: Callable[[], object]) -> None:
    """Wait for a fact. The suite's own limit ends a test whose fact never comes."""
    while not fact():
        os.sched_yield()


def waits(thread: threading.Thread) -> bool:
    """Whether it waits for the leader of a round."""
    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None:
        if frame.f_code is SyncRounds._wait_for.__code__:
            return "over" in frame.f_locals
        frame = frame.f_back
    return False


# Nobody is told too soon --------------------------------------------------------------------------


class MarksTooEarly(SyncRounds):
    """Takes the round under way for one that covers what was written after it began."""

    def mark(self) -> int:
        """As the true one, but one less."""
        return super().mark() - 1


@pytest.mark.parametrize(("rounds", "told_too_soon"), [(SyncRounds, []), (MarksTooEarly, [2])])
def test_a_round_does_not_cover_what_is_written_after_it_began(
    path: Path, rounds: type[SyncRounds], told_too_soon: list[int]
) -> None:
    """D1, and that we would see it if it were broken.

    one: write 1 |--- round 1 ---|
    two:             write 2     |--- round 2 ---|
    """
    disk = Disk()
    one, two = Writer(path, disk), Writer(path, disk, rounds)
    one.write()
    began, may_end = threading.Event(), threading.Event()

    def slow_sync() -> None:
        covered = disk.written
        began.set()
        may_end.wait()
        disk.synced = covered

    with running(lambda: one.wait(slow_sync)):
        began.wait()
        two.write()
        with running(two.wait) as (second,):
            until(lambda: waits(second))
            may_end.set()

    assert one.told_too_soon == []
    assert two.told_too_soon == told_too_soon


def test_one_round_covers_all_who_wrote_before_it(path: Path) -> None:
    """The whole point: while one syncs, the others gather, and the next round is for all of them.

    0:     |--- round 1 ---|
    1..5:  write ... wait  |--- round 2 ---|
    """
    disk = Disk()
    writers = [Writer(path, disk) for _ in range(6)]
    writers[0].write()
    began, may_end = threading.Event(), threading.Event()

    def slow_sync() -> None:
        began.set()
        may_end.wait()
        disk.sync()

    with running(lambda: writers[0].wait(slow_sync)):
        began.wait()
        for writer in writers[1:]:
            writer.write()
        with running(*(writer.wait for writer in writers[1:])) as threads:
            until(lambda: all(map(waits, threads)))
            may_end.set()

    assert disk.syncs == 2
    assert [writer.told_too_soon for writer in writers] == [[]] * 6


def test_whoever_writes_is_told_after_a_sync(path: Path) -> None:
    """D1: many at once, in whatever order."""
    disk = Disk()
    writers = [Writer(path, disk) for _ in range(6)]

    def work(writer: Writer) -> None:
        for _ in range(60):
            writer.write()
            writer.wait()

    with running(*(lambda writer=writer: work(writer) for writer in writers)):
        pass

    assert [writer.told_too_soon for writer in writers] == [[]] * 6
    assert disk.syncs < disk.written


def test_a_round_of_another_covers_no_later_commit_of_ours(path: Path) -> None:
    """D1: what one sync of another process covers is known by marks, not by what we counted.

    another: |--- round 1 ---|
    we:  commit 1, commit 2: the one before round 1, the other in it
    """
    path.with_name("state.db-wal").touch()
    disk, ours = Disk(), Disk()
    another, log = Writer(path, disk), WriteLog(str(path))
    log._sync_file = lambda _fd: ours.sync()
    first = log.note_commit()
    another.write()
    began, may_end = threading.Event(), threading.Event()

    def slow_sync() -> None:
        began.set()
        may_end.wait()

    with running(lambda: another.rounds.join(another.mark, slow_sync)):
        began.wait()
        second = log.note_commit()
        with running(lambda: log.make_durable(first)) as (caller,):
            until(lambda: waits(caller))
            may_end.set()
    assert ours.syncs == 0
    log.make_durable(second)
    assert ours.syncs == 1
    log.forget()


def test_a_round_that_failed_is_told_to_all_that_it_should_have_covered(path: Path) -> None:
    """D10: and to nobody else.

    one:  write |--- round 1 fails ---|
    two:  write     wait              OSError
    two:                                        write |--- round 2 ---|
    """
    disk = Disk()
    one, two = Writer(path, disk), Writer(path, disk)
    one.write()
    two.write()

    def fail() -> None:
        raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output error"):
        one.wait(fail)
    assert not two.rounds.join(two.mark, disk.sync)
    with pytest.raises(OSError, match="round 1 of syncs failed"):
        two.rounds.cover(two.mark)

    two.write()
    assert two.wait()
    assert two.told_too_soon == []


# Leaders that die, or hang ------------------------------------------------------------------------

LEAD_UNTIL = """
import os, pathlib, sys
from reference_impl.state_db import group_commit as write_rounds
write_rounds.QUICK_S = 0.0
path, stop = pathlib.Path(sys.argv[1]), int(sys.argv[2])
rounds = write_rounds.SyncRounds(str(path))
mark, calls = rounds.mark(), 0

def stopping(call):
    def called(*words):
        global calls
        calls += 1
        if calls == stop:
            print("stopped", flush=True)
            sys.stdin.readline()
        return call(*words)
    return called

write_rounds.fcntl = stopping(write_rounds.fcntl)
os.pread, os.pwrite = stopping(os.pread), stopping(os.pwrite)
rounds.join(mark, stopping(lambda: None))
print("ended", flush=True)
"""
IN_THE_SYNC = 8


@contextmanager
def child(program: str, *words: object) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", program, *map(str, words)]
    process = subprocess.Popen(  # noqa: S603 - our own program
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def hears(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_leader_that_dies_at_any_point_is_succeeded(path: Path) -> None:
    """D5, D1: whoever waits for it goes on, and is told only after a sync that was made.

    leader: |--- round 1 ---X             killed at its Nth system call, for all N
    others:    write, wait  |--- round 2 ---|
    """
    waited = 0
    for point in range(1, 40):
        path.with_name("state.db.rounds").unlink(missing_ok=True)
        disk = Disk()
        others = [Writer(path, disk) for _ in range(2)]
        with child(LEAD_UNTIL, path, point) as leader:
            if hears(leader) == "ended":
                break
            for other in others:
                other.write()
            with running(*(other.wait for other in others)) as threads:
                until(lambda: all(not thread.is_alive() or waits(thread) for thread in threads))
                waited += any(map(waits, threads))
                leader.kill()
        assert [other.told_too_soon for other in others] == [[], []], point
        for other in others:
            other.rounds.close()

    assert point > 8, "it was hardly stopped"
    assert waited >= 3, "hardly anybody waited"


def test_a_leader_that_hangs_is_waited_for_once(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D5: who waited in vain syncs by itself, at once from then on, until the leader is gone."""
    monkeypatch.setattr(write_rounds, "GRACE_S", 0.05)
    disk = Disk()
    writer = Writer(path, disk)
    with child(LEAD_UNTIL, path, IN_THE_SYNC) as leader:
        assert hears(leader) == "stopped"
        for _ in range(2):
            writer.write()
            assert writer.wait()
        assert writer.rounds._given_up == 1
        assert disk.syncs == 2
    writer.write()
    assert writer.wait()
    number = writer.rounds._read()
    assert number is not None
    assert number.done == 2
    assert writer.told_too_soon == []


# The side file ------------------------------------------------------------------------------------


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damage=st.binary(max_size=40))
@example(damage=struct.pack("=qqqL", 5, 9, 0, 0))  # round 9 is done, says a wrong checksum
def test_a_damaged_side_file_covers_nothing_and_heals(path: Path, damage: bytes) -> None:
    """D1: what makes no sense is no reason to believe in a sync."""
    path.with_name("state.db.rounds").write_bytes(damage)
    disk = Disk()
    one, two = Writer(path, disk), Writer(path, disk)
    one.write()
    assert not one.rounds.cover(one.mark)
    assert one.wait()
    one.write()
    two.write()
    assert one.wait()
    assert not two.wait()
    for writer in (one, two):
        assert writer.told_too_soon == []
        writer.rounds.close()


def test_without_rounds_each_syncs_by_itself_and_says_so(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """D1: on a system that lacks such locks."""
    monkeypatch.setattr(write_rounds, "fcntl", None)
    disk = Disk()
    writer = Writer(path, disk)
    for _ in range(2):
        writer.write()
        assert writer.wait()
    assert disk.syncs == 2
    assert caplog.text.count("no rounds can be kept here, so each process syncs by itself") == 1


def test_what_could_not_be_announced_covers_nobody_else(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D1: a full disk keeps the side file from saying that a round began."""
    disk = Disk()
    one, two = Writer(path, disk), Writer(path, disk)
    one.write()
    two.write()

    write = os.pwrite

    def full_at_first(*words: int) -> int:
        monkeypatch.setattr(os, "pwrite", write)
        raise OSError(28, f"No space left on device for {words}")

    monkeypatch.setattr(os, "pwrite", full_at_first)
    assert one.wait()
    assert not two.rounds.cover(two.mark)
    assert two.wait()


def test_where_syncs_are_quick_nobody_waits(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A round under way is not waited for where a sync of one's own takes less."""
    disk = Disk()
    writer = Writer(path, disk)
    writer.write()
    assert writer.wait()
    monkeypatch.setattr(write_rounds, "QUICK_S", 1e9)
    with child(LEAD_UNTIL, path, IN_THE_SYNC) as leader:
        assert hears(leader) == "stopped"
        writer.write()
        assert writer.wait()
    assert disk.syncs == 2


# The whole database -------------------------------------------------------------------------------

# Its disk keeps what was in the log when a sync began, and has it once the sync is over. It knows
# nothing of copies into the database, so the log never starts over, however long one writes alone.
APPEND_TO_A_DISK = """
import os, pathlib, shutil, sys, threading
from reference_impl.state_db import group_commit as write_rounds, wal as write_log
from reference_impl.state_db.state_db import StateDb
write_log.LIMIT_BYTES = 1 << 40
write_rounds.QUICK_S = 0.0
path, disk, name = map(pathlib.Path, sys.argv[1:])
db = StateDb(path)
said, syncs = threading.Lock(), 0
def sync(fd):
    global syncs
    syncs += 1
    half = disk / f"half-{name}"
    shutil.copyfile(f"/proc/self/fd/{fd}", half)
    half.rename(disk / f"log-{name}-{syncs}")
db._writers._log._sync_file = sync
def append(thread):
    number = 0
    while True:
        text = f"{name} {thread} {number}"
        db.append_message("s", "user", text)
        number += 1
        with said:
            print(text, flush=True)
threads = [threading.Thread(target=append, args=(n,)) for n in range(2)]
for thread in threads:
    thread.start()
"""


def test_what_was_acknowledged_survives_a_power_loss(path: Path, tmp_path: Path) -> None:
    """D1: the disk has, by some finished sync, whatever any process was told is written.

    Three processes write and sync for each other; all are killed; then we open what their disk has.
    """
    disk = tmp_path / "disk"
    disk.mkdir()
    with StateDb(path) as db:
        db.create_session("s", "cli")
        acknowledged: list[str] = []
        with (
            child(APPEND_TO_A_DISK, path, disk, "a") as one,
            child(APPEND_TO_A_DISK, path, disk, "b") as two,
            child(APPEND_TO_A_DISK, path, disk, "c") as three,
        ):
            for _ in range(20):
                acknowledged += [hears(writer) for writer in (one, two, three)]
            for writer in (one, two, three):
                writer.kill()
                writer.wait()
        written = [message.content for message in db.get_messages("s")]
        synced = max(disk.glob("log-*"), key=lambda log: log.stat().st_size)
        shutil.copyfile(synced, disk / "state.db-wal")
        shutil.copyfile(path, disk / "state.db")
    with closing(sqlite3.connect(disk / "state.db")) as survivor:
        kept = {text for (text,) in survivor.execute("SELECT content FROM messages")}
    assert set(acknowledged) <= kept <= set(written)
    assert len(list(disk.glob("log-*"))) < len(written)


STOP_IN_A_SYNC = """
import sys
from reference_impl.state_db.state_db import StateDb
db = StateDb(sys.argv[1])
def sync(fd):
    print("syncing", flush=True)
    sys.stdin.readline()
db._writers._log._sync_file = sync
db.append_message("s", "user", "half")
"""


@pytest.mark.parametrize("does_it_die", [True, False])
def test_one_that_hangs_or_dies_in_a_sync_refuses_nobody(
    path: Path, monkeypatch: pytest.MonkeyPatch, *, does_it_die: bool
) -> None:
    """D3, D5: the others' writes are acknowledged, once, and are there."""
    if not does_it_die:
        monkeypatch.setattr(write_rounds, "GRACE_S", 0.05)
    with StateDb(path) as db:
        db.create_session("s", "cli")
        with child(STOP_IN_A_SYNC, path) as leader:
            assert hears(leader) == "syncing"
            with running(lambda: db.append_message("s", "user", "after")) as (writer,):
                if does_it_die:
                    until(lambda: waits(writer))
                    leader.kill()
        with suppress(OSError):
            leader.wait()
        assert [message.content for message in db.get_messages("s")] == ["half", "after"]


def test_one_who_does_not_sync_covers_nobody(path: Path) -> None:
    """D1: handles with different fears may share a file."""
    with StateDb(path, synchronous="NORMAL") as careless, StateDb(path) as careful:
        careless.create_session("s", "cli")
        assert not path.with_name("state.db.rounds").exists()
        careful.append_message("s", "user", "x")
        assert path.with_name("state.db.rounds").exists()
