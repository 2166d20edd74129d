"""Tests of group commit: a write is acknowledged only after a sync that covers it."""

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

from reference_impl.state_db import group_commit
from reference_impl.state_db.group_commit import GroupCommit
from reference_impl.state_db.state_db import StateDb
from reference_impl.state_db.wal import WriteAheadLog


@pytest.fixture(autouse=True)
def _slow_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no sync count as quick, and no leader as hanging."""
    monkeypatch.setattr(group_commit, "QUICK_S", 0.0)
    monkeypatch.setattr(group_commit, "GRACE_S", 60.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


class Disk:
    """Counts writes, and how many of them existed when a successful sync began."""

    def __init__(self) -> None:
        self.written = 0
        self.synced = 0
        self.syncs = 0
        self._lock = threading.Lock()

    def write(self) -> int:
        """Write once more; returns the write's number."""
        with self._lock:
            self.written += 1
            return self.written

    def sync(self) -> None:
        """Sync what was written before this call."""
        began_at = self.written
        os.sched_yield()
        with self._lock:
            self.syncs += 1
            self.synced = max(self.synced, began_at)


class Writer:
    """A writer with a handle of its own, as in another process."""

    def __init__(self, path: Path, disk: Disk, rounds: type[GroupCommit] = GroupCommit) -> None:
        self.rounds = rounds(str(path))
        self.disk = disk
        self.acknowledged_too_soon: list[int] = []
        self.number = self.mark = 0

    def write(self) -> None:
        """Write once, and take the mark."""
        self.number = self.disk.write()
        self.mark = self.rounds.mark()

    def wait(self, sync: Callable[[], None] | None = None) -> bool:
        """Return once the write is acknowledged. Returns whether this writer synced."""
        is_ours = self.rounds.join(self.mark, sync or self.disk.sync)
        if not is_ours:
            assert self.rounds.cover(self.mark)
        if self.disk.synced < self.number:
            self.acknowledged_too_soon.append(self.number)
        return is_ours


@contextmanager
def running(*acts: Callable[[], object]) -> Iterator[list[threading.Thread]]:
    """Run the functions in threads, and join them."""
    threads = [threading.Thread(target=act) for act in acts]
    for thread in threads:
        thread.start()
    yield threads
    for thread in threads:
        thread.join()


def until(fact: Callable[[], object]) -> None:
    """Wait for a fact. The suite's time limit ends a test whose fact never comes."""
    while not fact():
        os.sched_yield()


def waits(thread: threading.Thread) -> bool:
    """Whether the thread waits for the leader of a round."""
    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None:
        if frame.f_code is GroupCommit._wait_for.__code__:
            return "over" in frame.f_locals
        frame = frame.f_back
    return False


# Acknowledgements ---------------------------------------------------------------------------------


class MarksTooEarly(GroupCommit):
    """A wrong implementation: a round covers writes that follow its begin."""

    def mark(self) -> int:
        """One less than the correct mark."""
        return super().mark() - 1


@pytest.mark.parametrize(
    ("rounds", "acknowledged_too_soon"), [(GroupCommit, []), (MarksTooEarly, [2])]
)
def test_round_covers_no_write_after_its_begin(
    path: Path, rounds: type[GroupCommit], acknowledged_too_soon: list[int]
) -> None:
    """D1, and the test detects a violation.

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

    assert one.acknowledged_too_soon == []
    assert two.acknowledged_too_soon == acknowledged_too_soon


def test_one_round_covers_all_writes_before_it(path: Path) -> None:
    """While one writer syncs, the others gather, and the next round covers all of them.

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
    assert [writer.acknowledged_too_soon for writer in writers] == [[]] * 6


def test_concurrent_writes_are_acknowledged_after_a_sync(path: Path) -> None:
    """D1: many concurrent writers, in any order."""
    disk = Disk()
    writers = [Writer(path, disk) for _ in range(6)]

    def work(writer: Writer) -> None:
        for _ in range(60):
            writer.write()
            writer.wait()

    with running(*(lambda writer=writer: work(writer) for writer in writers)):
        pass

    assert [writer.acknowledged_too_soon for writer in writers] == [[]] * 6
    assert disk.syncs < disk.written


def test_foreign_round_covers_no_later_commit_of_ours(path: Path) -> None:
    """D1: the coverage of another process's sync is known by marks, not by our own count.

    another: |--- round 1 ---|
    we:  commit 1, commit 2: the first one before round 1, the second during it
    """
    path.with_name("state.db-wal").touch()
    disk, ours = Disk(), Disk()
    another, log = Writer(path, disk), WriteAheadLog(str(path))
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


def test_failed_round_raises_for_every_covered_write(path: Path) -> None:
    """D10: and no other write.

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
    assert two.acknowledged_too_soon == []


def test_round_begun_before_the_mark_fails(path: Path) -> None:
    """A round that began between a write and its mark may have lost it, though later ones succeed.

    one:  write  |--- round 1 ---| OSError
    two:  write       mark                    OSError
    one:                            write |--- round 2 ---|
    """
    disk = Disk()
    one, two = Writer(path, disk), Writer(path, disk)
    one.write()
    failed = two.rounds.failed()
    disk.write()

    def fail() -> None:
        two.mark = two.rounds.mark()
        raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output error"):
        one.wait(fail)
    one.write()
    assert one.wait()
    assert two.rounds.cover(two.mark)
    with pytest.raises(OSError, match="round 1 of syncs failed"):
        two.rounds.cover(two.mark, failed)
    assert two.rounds.cover(two.rounds.mark() - 1, two.rounds.failed())


# Leaders that die or hang -------------------------------------------------------------------------

LEAD_UNTIL = """
import os, pathlib, sys
from reference_impl.state_db import group_commit
group_commit.QUICK_S = 0.0
path, stop = pathlib.Path(sys.argv[1]), int(sys.argv[2])
rounds = group_commit.GroupCommit(str(path))
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

group_commit.fcntl = stopping(group_commit.fcntl)
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


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_leader_killed_at_any_point_is_succeeded(path: Path) -> None:
    """D5, D1: waiters continue, and are acknowledged only after a real sync.

    leader: |--- round 1 ---X             killed at its Nth system call, for all N
    others:    write, wait  |--- round 2 ---|
    """
    waited = 0
    for point in range(1, 40):
        path.with_name("state.db.rounds").unlink(missing_ok=True)
        disk = Disk()
        others = [Writer(path, disk) for _ in range(2)]
        with child(LEAD_UNTIL, path, point) as leader:
            if read_line(leader) == "ended":
                break
            for other in others:
                other.write()
            with running(*(other.wait for other in others)) as threads:
                until(lambda: all(not thread.is_alive() or waits(thread) for thread in threads))
                waited += any(map(waits, threads))
                leader.kill()
        assert [other.acknowledged_too_soon for other in others] == [[], []], point
        for other in others:
            other.rounds.close()

    assert point > 8, "the leader was stopped at too few points"
    assert waited >= 3, "the others hardly waited"


def test_hanging_leader_is_waited_for_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """D5: after one wait in vain a writer syncs by itself at once, until the leader is gone."""
    monkeypatch.setattr(group_commit, "GRACE_S", 0.05)
    disk = Disk()
    writer = Writer(path, disk)
    with child(LEAD_UNTIL, path, IN_THE_SYNC) as leader:
        assert read_line(leader) == "stopped"
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
    assert writer.acknowledged_too_soon == []


# The side file ------------------------------------------------------------------------------------


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damage=st.binary(max_size=40))
@example(damage=struct.pack("=qqqL", 5, 9, 0, 0))  # round 9 is done, says a wrong checksum
def test_damaged_side_file_covers_nothing_and_heals(path: Path, damage: bytes) -> None:
    """D1: a damaged file never counts as a sync."""
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
        assert writer.acknowledged_too_soon == []
        writer.rounds.close()


def test_missing_locks_make_each_process_sync_itself(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """D1: on a system without such locks."""
    monkeypatch.setattr(group_commit, "fcntl", None)
    disk = Disk()
    writer = Writer(path, disk)
    for _ in range(2):
        writer.write()
        assert writer.wait()
    assert disk.syncs == 2
    assert caplog.text.count("no rounds can be kept here, so each process syncs by itself") == 1


def test_round_that_was_not_recorded_covers_no_other(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D1: a full disk prevents recording that a round began."""
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


def test_quick_syncs_skip_the_wait_for_rounds(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No wait for a round in progress if an own sync takes less."""
    disk = Disk()
    writer = Writer(path, disk)
    writer.write()
    assert writer.wait()
    monkeypatch.setattr(group_commit, "QUICK_S", 1e9)
    with child(LEAD_UNTIL, path, IN_THE_SYNC) as leader:
        assert read_line(leader) == "stopped"
        writer.write()
        assert writer.wait()
    assert disk.syncs == 2


# The whole database -------------------------------------------------------------------------------

# Each copy is the log at the begin of a finished sync. It lacks what was checkpointed into the
# database, so LIMIT_BYTES is raised, and the log never starts over.
APPEND_TO_A_DISK = """
import os, pathlib, shutil, sys, threading
from reference_impl.state_db import group_commit, wal
from reference_impl.state_db.state_db import StateDb
wal.LIMIT_BYTES = 1 << 40
group_commit.QUICK_S = 0.0
path, disk, name = map(pathlib.Path, sys.argv[1:])
db = StateDb(path)
printing, syncs = threading.Lock(), 0
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
        with printing:
            print(text, flush=True)
threads = [threading.Thread(target=append, args=(n,)) for n in range(2)]
for thread in threads:
    thread.start()
"""


def test_acknowledged_writes_survive_a_power_loss(path: Path, tmp_path: Path) -> None:
    """D1: some finished sync has every write that any process acknowledged.

    Three processes write and sync for each other; all are killed; then their disk is opened.
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
                acknowledged += [read_line(writer) for writer in (one, two, three)]
            for writer in (one, two, three):
                writer.kill()
                writer.wait()
        written = [message.content for message in db.get_messages("s")]
        synced = max(disk.glob("log-*"), key=lambda log: log.stat().st_size)
        shutil.copyfile(synced, disk / "state.db-wal")
        shutil.copyfile(path, disk / "state.db")
    with closing(sqlite3.connect(disk / "state.db")) as survivor:
        surviving = {text for (text,) in survivor.execute("SELECT content FROM messages")}
    assert set(acknowledged) <= surviving <= set(written)
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
def test_process_stopped_in_a_sync_blocks_no_write(
    path: Path, monkeypatch: pytest.MonkeyPatch, *, does_it_die: bool
) -> None:
    """D3, D5: the others' writes are acknowledged, once, and are there."""
    if not does_it_die:
        monkeypatch.setattr(group_commit, "GRACE_S", 0.05)
    with StateDb(path) as db:
        db.create_session("s", "cli")
        with child(STOP_IN_A_SYNC, path) as leader:
            assert read_line(leader) == "syncing"
            with running(lambda: db.append_message("s", "user", "after")) as (writer,):
                if does_it_die:
                    until(lambda: waits(writer))
                    leader.kill()
        with suppress(OSError):
            leader.wait()
        assert [message.content for message in db.get_messages("s")] == ["half", "after"]


def test_unsynced_handle_takes_no_part_in_rounds(path: Path) -> None:
    """D1: handles with and without sync may share a file."""
    with StateDb(path, synchronous="NORMAL") as careless, StateDb(path) as careful:
        careless.create_session("s", "cli")
        assert not path.with_name("state.db.rounds").exists()
        careful.append_message("s", "user", "x")
        assert path.with_name("state.db.rounds").exists()
