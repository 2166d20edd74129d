"""The reference's state.db keeps D1 to D11, seen from callers, neighbours and other processes."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pytest

from reference_impl.state_db import ticket_lock as write_line
from reference_impl.state_db import write_queue
from reference_impl.state_db.errors import (
    ClosedError,
    DatabaseFailedError,
    NotSyncedError,
    OutOfPatienceError,
    SessionUnknownError,
    TitleTakenError,
)
from reference_impl.state_db.state_db import Draft, StateDb
from reference_impl.state_db.ticket_lock import WriteLine
from reference_impl.state_db.wal import LIMIT_BYTES, Commit

DAY_S = 86_400.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def db(path: Path) -> Iterator[StateDb]:
    with StateDb(path) as handle:
        handle.create_session("s", "cli")
        yield handle


def texts(db: StateDb, session: str = "s") -> list[str | None]:
    return [message.content for message in db.get_messages(session)]


def assert_consistent(path: Path) -> None:
    """Counters, rows and the full-text index agree, seen by an independent connection."""
    with closing(sqlite3.connect(path)) as stranger:
        counted = (
            "SELECT id, message_count, (SELECT count(*) FROM messages WHERE session_id = s.id)"
        )
        rows = stranger.execute(f"{counted} FROM sessions AS s").fetchall()
        assert [row for row in rows if row[1] != row[2]] == []
        stranger.execute("INSERT INTO words(words) VALUES ('integrity-check')")


class Child:
    """A Python process that runs a program and speaks in lines."""

    def __init__(self, program: str, *words: object) -> None:
        command = [sys.executable, "-c", program, *map(str, words)]
        self.process = subprocess.Popen(  # noqa: S603 - our own program
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def hears(self) -> str:
        """Read the next line that it says."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def tell(self) -> None:
        """Let it read a line."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def finish(self) -> str:
        """Wait for its end; returns the rest of what it said."""
        return self.process.communicate(timeout=60)[0].strip()


@contextmanager
def child(program: str, *words: object) -> Iterator[Child]:
    process = Child(program, *words)
    try:
        yield process
    finally:
        process.process.kill()
        process.process.communicate()


HOLD_IN_A_WRITE = """
import sys
from reference_impl.state_db.state_db import StateDb
db = StateDb(sys.argv[1])
def act(connection):
    connection.execute("INSERT INTO messages(session_id, role, timestamp) VALUES ('s', 'half', 0)")
    print("holding", flush=True)
    sys.stdin.readline()
db._write(act)
print("done", flush=True)
"""

APPEND_FOREVER = """
import sys
from reference_impl.state_db.state_db import StateDb
db = StateDb(sys.argv[1])
for number in range(10**6):
    db.append_message("s", "user", f"{sys.argv[2]} {number}")
    print(number, flush=True)
"""

APPEND_SOME = """
import sys, threading
from reference_impl.state_db.state_db import StateDb
db = StateDb(sys.argv[1])
db.create_session(sys.argv[2], "cli")
def append(thread):
    for number in range(int(sys.argv[3])):
        db.append_message(sys.argv[2], "user", f"{thread} {number}")
threads = [threading.Thread(target=append, args=(n,)) for n in range(2)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""

STRANGER_WRITES_SOME = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
for number in range(int(sys.argv[2])):
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("UPDATE sessions SET message_count = message_count + 1 WHERE id = 's'")
    connection.execute("INSERT INTO messages(session_id, role, timestamp) VALUES ('s', 'x', 0)")
    connection.execute("COMMIT")
"""


class Faulty(sqlite3.Connection):
    """A connection that raises `fault` instead of a statement that begins like `prefix`."""

    prefix = ""
    fault: BaseException = Exception()
    times = 0

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        """Execute the statement, or raise the fault."""
        if Faulty.times and statement.startswith(Faulty.prefix):
            Faulty.times -= 1
            raise Faulty.fault
        return super().execute(statement, *values)


class Arm(Protocol):
    """Lets the next statements that begin like this fail."""

    def __call__(self, prefix: str, fault: BaseException, times: int = 1) -> None: ...


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Iterator[Arm]:
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: connect(*a, **k, factory=Faulty))

    def arm(prefix: str, fault: BaseException, times: int = 1) -> None:
        Faulty.prefix, Faulty.fault, Faulty.times = prefix, fault, times

    yield arm
    Faulty.times = 0


# What a session is -------------------------------------------------------------------------------


def test_a_session_remembers_what_was_stored(db: StateDb) -> None:
    db.create_session("s", "elsewhere")
    db.set_system_prompt("s", "be brief")
    db.add_tokens("s", 3, 4)
    db.add_tokens("s", 1, 1)
    db.append_message("s", "user", "hello wide world", [{"name": "f"}, {"name": "g"}])

    session = db.get_session("s")

    assert session is not None
    assert (session.source, session.system_prompt) == ("cli", "be brief")
    assert (session.input_tokens, session.output_tokens) == (4, 5)
    assert (session.message_count, session.tool_call_count) == (1, 2)
    assert [message.tool_calls for message in db.search("WORLD hello")] == [
        ({"name": "f"}, {"name": "g"})
    ]


def test_tokens_can_be_set(db: StateDb) -> None:
    db.add_tokens("s", 3, 4)
    db.set_tokens("s", 10, 20)

    session = db.get_session("s")

    assert session is not None
    assert (session.input_tokens, session.output_tokens) == (10, 20)


def test_the_first_end_stays_until_the_session_is_reopened(path: Path) -> None:
    now_s = 0.0
    with StateDb(path, clock=lambda: now_s) as db:
        db.create_session("s", "cli")
        db.end_session("s", "done")
        now_s = 5.0
        db.end_session("s", "again")
        first = db.get_session("s")
        db.reopen_session("s")
        reopened = db.get_session("s")

    assert first is not None
    assert reopened is not None
    assert (first.ended_at, first.end_reason) == (0.0, "done")
    assert (reopened.ended_at, reopened.end_reason) == (None, None)


def test_a_title_belongs_to_one_session(db: StateDb) -> None:
    db.create_session("t", "cli")
    assert db.set_title("s", "plans")
    assert db.set_title("s", "plans")
    assert not db.set_title("unknown", "other")
    with pytest.raises(TitleTakenError, match="session s is called 'plans'"):
        db.set_title("t", "plans")
    db.set_title("s", None)
    assert db.set_title("t", "plans")


def test_replacing_and_deleting_leaves_nothing_to_be_found(db: StateDb, path: Path) -> None:
    db.append_message("s", "user", "apple", [{"name": "f"}])
    db.replace_messages("s", [Draft("user", "pear"), Draft("user", "plum", (1, 2, 3))])
    replaced = db.get_session("s")

    assert replaced is not None
    assert (replaced.message_count, replaced.tool_call_count) == (2, 3)
    assert (db.search("apple"), texts(db)) == ([], ["pear", "plum"])
    db.clear_messages("s")
    assert (db.search("pear"), texts(db)) == ([], [])
    db.append_message("s", "user", "quince")
    assert_consistent(path)
    assert db.delete_session("s")
    assert not db.delete_session("s")
    assert (db.search("quince"), db.list_sessions()) == ([], [])


def test_only_sessions_that_ended_long_ago_are_pruned(path: Path) -> None:
    now_s = 0.0
    with StateDb(path, clock=lambda: now_s) as db:
        for name in ("old", "reopened", "recent", "open"):
            db.create_session(name, "cli")
            db.append_message(name, "user", f"words of {name}")
        db.end_session("old", "done")
        db.end_session("reopened", "done")
        db.reopen_session("reopened")
        now_s = 6 * DAY_S
        db.end_session("recent", "done")
        now_s = 10 * DAY_S

        assert db.prune(older_than_days=7) == 1
        assert {session.id for session in db.list_sessions()} == {"reopened", "recent", "open"}
        assert len(db.search("words")) == 3
    assert_consistent(path)


@pytest.mark.parametrize("words", ["", "  ", '"', "AND", "*", "a* OR", "NEAR(x", "col:x", "\0"])
def test_hostile_words_find_nothing_and_raise_nothing(db: StateDb, words: str) -> None:
    db.append_message("s", "user", "plain")
    assert db.search(words) == []


# D1, D2: durable, or nothing ---------------------------------------------------------------------


def test_what_was_acknowledged_survives_a_kill(db: StateDb, path: Path) -> None:
    """D1: everything that a killed process was told is there, whole, for everybody else."""
    with child(APPEND_FOREVER, path, "c") as writer:
        acknowledged = 0
        while acknowledged < 50:
            acknowledged = int(writer.hears())
        writer.process.kill()

        assert [f"c {number}" for number in range(acknowledged + 1)] == texts(db)[
            : acknowledged + 1
        ]
    assert_consistent(path)


def test_a_write_is_on_disk_before_it_is_acknowledged(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D1: the log is synced after the commit and before the call returns."""
    synced: list[int] = []
    with StateDb(path) as db:
        db.create_session("s", "cli")
        log = db._writers._log
        monkeypatch.setattr(log, "_sync_file", lambda _fd: synced.append(len(texts(db))))
        db.append_message("s", "user", "x")

    assert synced == [1]


def test_a_failed_sync_is_told(db: StateDb, monkeypatch: pytest.MonkeyPatch) -> None:
    """D10: a write that is committed but not known to be durable says just that."""

    def fail(fd: int) -> None:
        raise OSError(5, f"Input/output error on {fd}")

    log = db._writers._log
    with monkeypatch.context() as broken:
        broken.setattr(log, "_sync_file", fail)
        with pytest.raises(NotSyncedError, match=r"committed, but not synced: .*Input/output"):
            db.append_message("s", "user", "doubtful")
    with pytest.raises(OSError, match="an earlier sync failed"):
        log.make_durable(Commit(log._committed, mark=0))

    db.append_message("s", "user", "sure")
    assert texts(db) == ["doubtful", "sure"]


@pytest.mark.parametrize(
    "write",
    [
        lambda db: db.append_message("unknown", "user", "x"),
        lambda db: db.replace_messages("unknown", [Draft("user", "x")]),
        lambda db: db.end_session("unknown", "done"),
        lambda db: db.reopen_session("unknown"),
        lambda db: db.set_system_prompt("unknown", "x"),
        lambda db: db.add_tokens("unknown", 1, 1),
    ],
)
def test_a_write_about_an_unknown_session_does_nothing(
    db: StateDb, path: Path, write: Callable[[StateDb], None]
) -> None:
    """D2: it raises, and no row is there."""
    with pytest.raises(SessionUnknownError, match="there is no session 'unknown'"):
        write(db)
    with closing(sqlite3.connect(path)) as stranger:
        assert stranger.execute("SELECT count(*) FROM messages").fetchone() == (0,)


@pytest.mark.parametrize("prefix", ["BEGIN", "UPDATE", "INSERT INTO messages", "COMMIT"])
@pytest.mark.parametrize(
    "fault",
    [sqlite3.OperationalError("database or disk is full"), KeyboardInterrupt(), SystemExit(3)],
    ids=["full", "interrupt", "exit"],
)
def test_a_write_that_raised_did_nothing(
    faulty: Arm, path: Path, prefix: str, fault: BaseException
) -> None:
    """D2, D9, D10: whatever is raised, and wherever, nothing stays: no row, no count, no lock."""
    with StateDb(path) as db:
        db.create_session("s", "cli")
        db.append_message("s", "user", "before")
        faulty(prefix, fault)
        with pytest.raises((DatabaseFailedError, KeyboardInterrupt, SystemExit)):
            db.append_message("s", "user", "never")

        with closing(sqlite3.connect(path, timeout=0)) as stranger:
            stranger.execute("BEGIN IMMEDIATE")
        db.append_message("s", "user", "after")
        assert texts(db) == ["before", "after"]
    assert_consistent(path)


def test_a_connection_that_cannot_roll_back_is_closed(faulty: Arm, path: Path) -> None:
    """D9: closing rolls back whatever refused to be rolled back."""
    with StateDb(path) as db:
        db.create_session("s", "cli")
        faulty("ROLLBACK", sqlite3.OperationalError("disk I/O error"))

        def act(connection: sqlite3.Connection) -> None:
            connection.execute("UPDATE sessions SET title = 'half'")
            raise GeneratorExit

        with pytest.raises(GeneratorExit):
            db._write(act)
        session = db.get_session("s")
        assert session is not None
        assert session.title is None
        db.append_message("s", "user", "after")


def in_one_batch(db: StateDb, path: Path, calls: Sequence[Callable[[], object]]) -> list[object]:
    """Make calls wait together behind a stranger, so that one transaction carries them all."""
    outcomes: list[object] = [None] * len(calls)

    def run(index: int) -> None:
        try:
            outcomes[index] = calls[index]()
        except Exception as error:  # noqa: BLE001 - it is what the test looks at
            outcomes[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(calls))]
    with closing(sqlite3.connect(path, isolation_level=None)) as stranger:
        stranger.execute("BEGIN IMMEDIATE")
        for number, thread in enumerate(threads, start=1):
            thread.start()
            while len(db._writers._waiting) < number:
                pass
    for thread in threads:
        thread.join()
    return outcomes


def test_a_poisoned_write_fails_alone(db: StateDb, path: Path) -> None:
    """D2: its neighbours in the batch succeed, once each."""
    outcomes = in_one_batch(
        db,
        path,
        [
            lambda: db.append_message("s", "user", "a"),
            lambda: db.append_message("unknown", "user", "poison"),
            lambda: db.append_message("s", "user", "b"),
        ],
    )

    assert isinstance(outcomes[1], SessionUnknownError)
    assert texts(db) == ["a", "b"]
    assert_consistent(path)


def test_a_commit_that_failed_is_tried_by_each_alone(faulty: Arm, path: Path) -> None:
    """D2: a common commit that fails fails nobody who succeeds alone."""
    with StateDb(path) as db:
        db.create_session("s", "cli")
        faulty("COMMIT", sqlite3.OperationalError("disk I/O error"), times=2)
        outcomes = in_one_batch(
            db, path, [partial(db.append_message, "s", "user", text) for text in ("a", "b", "c")]
        )
        assert [isinstance(outcome, DatabaseFailedError) for outcome in outcomes] == [
            True,
            False,
            False,
        ]
        assert texts(db) == ["b", "c"]
    assert_consistent(path)


# D3, D4, D5: waiting -----------------------------------------------------------------------------


def test_many_processes_and_strangers_write_and_nobody_is_refused(db: StateDb, path: Path) -> None:
    """D3: neither those who stand in line nor one who does not is refused; no write is lost."""
    some = [Child(APPEND_SOME, path, name, 40) for name in ("a", "b", "c")]
    stranger = Child(STRANGER_WRITES_SOME, path, 100)
    for process in (*some, stranger):
        process.finish()
        assert process.process.returncode == 0

    assert {s.id: s.message_count for s in db.list_sessions()} == {
        "a": 80,
        "b": 80,
        "c": 80,
        "s": 100,
    }
    assert_consistent(path)


def test_the_threads_of_a_process_are_served_in_order(db: StateDb, path: Path) -> None:
    """D4: first come, first served."""
    names = [str(number) for number in range(8)]
    in_one_batch(db, path, [partial(db.append_message, "s", "user", name) for name in names])
    assert texts(db) == names


def test_a_write_that_lost_its_patience_names_the_holder_and_never_happens(path: Path) -> None:
    """D5, D2: it is refused in time, told by whom, and stays undone when the holder goes on.

    holder: |--- in a transaction, stopped ---------|
    writer:    |--- waits ---| OutOfPatienceError
    """
    with StateDb(path) as db:
        db.create_session("s", "cli")
    with child(HOLD_IN_A_WRITE, path) as holder, StateDb(path, patience_s=0.2) as db:
        assert holder.hears() == "holding"
        os.kill(holder.process.pid, signal.SIGSTOP)
        named = rf"no turn in 0\.2 s; process {holder.process.pid} \(.*\), which is stopped"
        with pytest.raises(OutOfPatienceError, match=named):
            db.append_message("s", "user", "never")
        os.kill(holder.process.pid, signal.SIGCONT)
        holder.tell()
        assert holder.hears() == "done"
        db.append_message("s", "user", "after")
        assert texts(db) == [None, "after"]


def test_a_stranger_that_holds_the_lock_is_named_too(db: StateDb, path: Path) -> None:
    """D5: a program that stands in no line is found by its lock."""
    hold = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("holding", flush=True)
sys.stdin.readline()
"""
    db._patience_s = 0.2
    with child(hold, path) as stranger:
        assert stranger.hears() == "holding"
        pid = stranger.process.pid
        with pytest.raises(OutOfPatienceError, match=rf"process {pid} .* does not stand in line"):
            db.append_message("s", "user", "never")


def test_a_dead_holder_is_succeeded_and_leaves_no_trace(db: StateDb, path: Path) -> None:
    """D5, D9: what it had half done is gone, and nobody waits for it."""
    with child(HOLD_IN_A_WRITE, path) as holder:
        assert holder.hears() == "holding"
        holder.process.kill()
        db.append_message("s", "user", "after")
    assert texts(db) == ["after"]
    assert_consistent(path)


def test_a_stuck_line_is_gone_round(
    db: StateDb, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D3: one who stands in line and hangs, but holds no lock of SQLite's, refuses nobody."""
    monkeypatch.setattr(write_queue, "GRACE_S", 0.05)
    db.append_message("s", "user", "before")
    hanging = WriteLine(str(path))
    hanging.stand()
    for text in ("a", "b"):
        db.append_message("s", "user", text)
    hanging.leave()
    hanging.close()
    db.append_message("s", "user", "after")
    assert texts(db) == ["before", "a", "b", "after"]


STAND_IN_LINE = """
import sys
from reference_impl.state_db.ticket_lock import WriteLine
line = WriteLine(sys.argv[1])
print("coming", flush=True)
line.stand()
print("first", flush=True)
sys.stdin.readline()
line.leave()
print("left", flush=True)
"""


def in_line(path: Path) -> int:
    """How many tickets were drawn."""
    return int.from_bytes(path.with_name("state.db.line").read_bytes()[:8], sys.byteorder)


def test_processes_are_served_in_the_order_in_which_they_came(path: Path) -> None:
    """D4: none is overtaken, however fast the others are.

    line: |--- 1 ---|--- 2 ---|--- 3 ---|
    """
    with ExitStack() as stack:
        line = WriteLine(str(path))
        line.stand()
        waiting = []
        for number in range(3):
            waiting.append(stack.enter_context(child(STAND_IN_LINE, path)))
            assert waiting[-1].hears() == "coming"
            while in_line(path) < number + 2:
                pass
        line.leave()
        for number, process in enumerate(waiting):
            assert process.hears() == "first"
            first = line.first()
            assert first is not None
            assert first.pid == process.process.pid
            assert line.mark() == number + 2  # its ticket: the first was ours
            process.tell()
        line.close()


def test_one_who_died_in_line_is_not_waited_for(path: Path) -> None:
    """D5: but those that it waited for still are.

    line: |--- 1 ------------|
             |--- 2 ---X            dies waiting
             |--- 3 ---------|--- first
    """
    first, dying, waiting = WriteLine(str(path)), WriteLine(str(path)), WriteLine(str(path))
    first.stand()
    dying._draw()
    third = threading.Thread(target=waiting.stand)
    third.start()
    while asked_for(third) != "the one before":
        pass
    dying.close()  # the system does the same for one who dies
    while asked_for(third) != "all before":
        assert third.is_alive(), "it did not wait for the first"
    first.leave()
    third.join()
    for line in (first, waiting):
        line.close()


def asked_for(standing: threading.Thread) -> str:
    """Which lock a thread in line is waiting for."""
    frame = sys._current_frames().get(standing.ident or 0)
    while frame is not None and frame.f_code.co_name != "_lock":
        frame = frame.f_back
    if frame is None or frame.f_back is None or frame.f_back.f_code.co_name != "stand":
        return ""
    return "the one before" if frame.f_locals["length"] == 1 else "all before"


def test_without_patience_a_write_is_tried_all_the_same(path: Path) -> None:
    """D3: nobody is refused who need not wait."""
    with StateDb(path, patience_s=0.0) as db:
        db.create_session("s", "cli")
        db.append_message("s", "user", "x")
        assert texts(db) == ["x"]


def test_an_interrupted_writer_withdraws(db: StateDb, path: Path) -> None:
    """D2: a write that was waiting when its caller was interrupted never happens."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as stranger:
            stranger.execute("BEGIN IMMEDIATE")
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with pytest.raises(KeyboardInterrupt):
                db.append_message("s", "user", "never")
    finally:
        signal.signal(signal.SIGALRM, previous)
    db.append_message("s", "user", "after")
    assert texts(db) == ["after"]


def test_without_a_line_writers_poll_and_say_so(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """D3: where the system has no such locks only fairness is lost, and it is logged."""
    monkeypatch.setattr(write_line, "fcntl", None)
    with StateDb(path) as db:
        db.create_session("s", "cli")
        db.append_message("s", "user", "x")
        assert texts(db) == ["x"]
        assert not db.is_fair
    assert "no line can be kept here, so writers poll" in caplog.text


# D6: the log -------------------------------------------------------------------------------------


def write_much(db: StateDb, path: Path, much_bytes: int) -> list[int]:
    """Write so much, and read in between; returns how long the log was each time."""
    log = path.with_name("state.db-wal")
    text, lengths = "." * 30_000, []
    for _ in range(much_bytes // len(text)):
        db.append_message("s", "user", text)
        db.search("absent")
        lengths.append(log.stat().st_size)
    return lengths


def test_the_log_stays_short_while_writers_and_readers_come_and_go(db: StateDb, path: Path) -> None:
    """D6: much more is written than the log may hold."""
    assert max(write_much(db, path, 5 * LIMIT_BYTES)) <= 16 << 20


def test_the_log_is_short_again_after_a_long_read(db: StateDb, path: Path) -> None:
    """D6: a reader that stays keeps the log growing, and nothing else does."""
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM sessions").fetchall()
        assert max(write_much(db, path, 3 * LIMIT_BYTES)) > 16 << 20
    assert min(write_much(db, path, LIMIT_BYTES)) <= LIMIT_BYTES


# D7, D8, D11: opening and closing ----------------------------------------------------------------


def test_anyone_may_create_at_the_same_time(path: Path) -> None:
    """D8: all succeed, and the file is whole."""
    names = [f"s{number}" for number in range(6)]
    for process in [Child(APPEND_SOME, path, name, 1) for name in names]:
        process.finish()
        assert process.process.returncode == 0
    with StateDb(path) as db:
        assert sorted(session.id for session in db.list_sessions()) == names
    assert_consistent(path)


def test_opening_reading_and_closing_wait_for_no_writer(db: StateDb, path: Path) -> None:
    """D8: none takes the write lock, so all succeed while another has it."""
    db.append_message("s", "user", "x")
    with closing(sqlite3.connect(path, isolation_level=None)) as stranger:
        stranger.execute("BEGIN IMMEDIATE")
        with StateDb(path, patience_s=0.0) as reader:
            assert texts(reader) == ["x"]
            assert len(reader.search("x")) == 1


def test_a_dropped_handle_is_closed(path: Path) -> None:
    """D8: nothing of it stays open, in files or in threads."""
    before = (set(Path("/proc/self/fd").iterdir()), threading.active_count())
    db = StateDb(path)
    db.create_session("s", "cli")
    db.get_session("s")
    del db
    assert (set(Path("/proc/self/fd").iterdir()), threading.active_count()) == before


def test_a_closed_handle_says_so(db: StateDb) -> None:
    db.close()
    db.close()
    with pytest.raises(ClosedError, match="the handle is closed"):
        db.append_message("s", "user", "x")
    with pytest.raises(ClosedError, match="the handle is closed"):
        db.get_session("s")


def test_closing_refuses_what_waits(db: StateDb, path: Path) -> None:
    """D2: a write that waited when its handle was closed raises, and never happens."""
    with closing(sqlite3.connect(path, isolation_level=None)) as stranger:
        stranger.execute("BEGIN IMMEDIATE")
        outcome: list[BaseException] = []

        def run() -> None:
            try:
                db.append_message("s", "user", "never")
            except ClosedError as error:
                outcome.append(error)

        waiting = threading.Thread(target=run)
        waiting.start()
        while not db._writers._waiting:
            pass
        db.close()
        waiting.join()
    assert len(outcome) == 1
    with StateDb(path) as reopened:
        assert texts(reopened) == []


def test_no_file_that_sqlite_locks_is_opened_behind_its_back(path: Path) -> None:
    """D11: an audit of every `open` in a process that writes, reads, waits in vain and closes."""
    program = """
import sys
opened = []
sys.addaudithook(lambda event, words: event == "open" and opened.append(str(words[0])))
import sqlite3
from reference_impl.state_db.state_db import StateDb
from reference_impl.state_db.errors import OutOfPatienceError
db = StateDb(sys.argv[1], patience_s=0.1)
db.create_session("s", "cli")
stranger = sqlite3.connect(sys.argv[1], isolation_level=None)
stranger.execute("BEGIN IMMEDIATE")
try:
    db.append_message("s", "user", "x")
except OutOfPatienceError:
    print("waited")
stranger.close()
db.close()
print(*(name for name in opened if name in (sys.argv[1], sys.argv[1] + "-shm")))
"""
    assert Child(program, path).finish() == "waited"


def test_a_handle_survives_a_fork_on_both_sides(path: Path) -> None:
    """D8, D11: neither side has the other's connections, so neither drops the other's locks."""
    program = """
import os, sys
from reference_impl.state_db.state_db import StateDb
db = StateDb(sys.argv[1])
db.create_session("s", "cli")
child = os.fork()
if child == 0:
    assert db._writers._connection is None and not db._readers._idle
for number in range(50):
    db.append_message("s", "user", "parent" if child else "child")
if child == 0:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print(len(db.search("parent")), len(db.search("child")))
"""
    assert Child(program, path).finish() == "50 50"
    assert_consistent(path)


# D10: what is broken -----------------------------------------------------------------------------


def test_a_file_that_is_no_database_is_a_clear_error(path: Path) -> None:
    path.write_bytes(b"not a database at all " * 100)
    with pytest.raises(DatabaseFailedError, match=r"state\.db: file is not a database"):
        StateDb(path)


def test_a_path_that_cannot_be_is_a_clear_error(path: Path) -> None:
    path.mkdir()
    with pytest.raises(DatabaseFailedError, match="unable to open database file"):
        StateDb(path)
    with pytest.raises(DatabaseFailedError, match=r"state\.db"):
        StateDb(Path("/dev/null/state.db"))


def test_what_was_acknowledged_stays_readable_when_the_disk_is_full(
    faulty: Arm, path: Path
) -> None:
    with StateDb(path) as db:
        db.create_session("s", "cli")
        db.append_message("s", "user", "kept")
        faulty("COMMIT", sqlite3.OperationalError("database or disk is full"))
        with pytest.raises(DatabaseFailedError, match=r"state\.db: database or disk is full"):
            db.append_message("s", "user", "refused")
        assert texts(db) == ["kept"]
