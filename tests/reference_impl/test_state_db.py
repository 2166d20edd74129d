"""Tests of state.db (D1 to D11): callers, concurrent processes and foreign programs."""

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

from reference_impl.sessions.sidecar import Session
from reference_impl.state_db import ticket_lock, write_queue
from reference_impl.state_db.changes import Changes
from reference_impl.state_db.errors import (
    ClosedError,
    DatabaseFailedError,
    NotSyncedError,
    OutOfPatienceError,
    SessionUnknownError,
    TitleTakenError,
)
from reference_impl.state_db.records import Draft, Usage
from reference_impl.state_db.state_db import _ADDED, StateDb
from reference_impl.state_db.sync import StateSync
from reference_impl.state_db.ticket_lock import TicketLock
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
    """Counters, rows and the full-text index agree, read by an independent connection."""
    with closing(sqlite3.connect(path)) as foreign:
        counted = (
            "SELECT id, message_count, (SELECT count(*) FROM messages WHERE session_id = s.id)"
        )
        rows = foreign.execute(f"{counted} FROM sessions AS s").fetchall()
        assert [row for row in rows if row[1] != row[2]] == []
        foreign.execute("INSERT INTO words(words) VALUES ('integrity-check')")


class Child:
    """A Python process that runs a program and communicates in lines."""

    def __init__(self, program: str, *words: object) -> None:
        command = [sys.executable, "-c", program, *map(str, words)]
        self.process = subprocess.Popen(  # noqa: S603 - our own program
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def read_line(self) -> str:
        """Read the next line of its output."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def send_line(self) -> None:
        """Send it an empty line."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def finish(self) -> str:
        """Wait for its end; returns the rest of its output."""
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

FOREIGN_WRITES = """
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
    """Lets the next statements with this prefix fail."""

    def __call__(self, prefix: str, fault: BaseException, times: int = 1) -> None: ...


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Iterator[Arm]:
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: connect(*a, **k, factory=Faulty))

    def arm(prefix: str, fault: BaseException, times: int = 1) -> None:
        Faulty.prefix, Faulty.fault, Faulty.times = prefix, fault, times

    yield arm
    Faulty.times = 0


# Sessions and messages ---------------------------------------------------------------------------


def test_session_has_its_stored_values(db: StateDb) -> None:
    db.create_session("s", "elsewhere")
    db.set_system_prompt("s", "be brief")
    db.add_tokens("s", Usage(3, 4))
    db.add_tokens("s", Usage(1, 1))
    db.append_message("s", "user", "hello wide world", [{"name": "f"}, {"name": "g"}])

    session = db.get_session("s")

    assert session is not None
    assert (session.source, session.system_prompt) == ("cli", "be brief")
    assert (session.usage.input_tokens, session.usage.output_tokens) == (4, 5)
    assert (session.message_count, session.tool_call_count) == (1, 2)
    assert [message.tool_calls for message in db.search("WORLD hello")] == [
        ({"name": "f"}, {"name": "g"})
    ]


def test_set_tokens_replaces_the_totals(db: StateDb) -> None:
    db.add_tokens("s", Usage(3, 4))
    db.set_tokens("s", Usage(10, 20))

    session = db.get_session("s")

    assert session is not None
    assert (session.usage.input_tokens, session.usage.output_tokens) == (10, 20)


def test_older_file_gets_the_columns_it_lacks(path: Path) -> None:
    """D13: a file of the first schema is completed as it is opened, also beside another handle."""
    with StateDb(path) as db:
        db.create_session("s", "cli", model="small")
        db.append_message("s", "user", "x", reasoning="so")
    with closing(sqlite3.connect(path)) as connection:
        for table, columns in _ADDED.items():
            for column in columns:
                connection.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
        connection.execute("PRAGMA user_version = 1")

    with StateDb(path) as db, StateDb(path) as other:
        other.append_message("s", "tool", "y", {"name": "f"}, tool_name="f", reasoning_details=(1,))
        db.add_tokens("s", Usage(1, 2, reasoning_tokens=3, cost_usd=0.5, model="large"))
        session, (old, new) = db.get_session("s"), db.get_messages("s")

    assert session is not None
    assert session.usage == Usage(1, 2, reasoning_tokens=3, cost_usd=0.5, model="large")
    assert old.draft() == Draft("user", "x")
    assert new.draft() == Draft(
        "tool", "y", ({"name": "f"},), tool_name="f", reasoning_details=(1,)
    )


def test_first_end_stays_until_the_session_reopens(path: Path) -> None:
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


def test_title_belongs_to_one_session(db: StateDb) -> None:
    db.create_session("t", "cli")
    assert db.set_title("s", "plans")
    assert db.set_title("s", "plans")
    assert not db.set_title("unknown", "other")
    with pytest.raises(TitleTakenError, match="session s is called 'plans'"):
        db.set_title("t", "plans")
    db.set_title("s", None)
    assert db.set_title("t", "plans")


def test_replaced_and_deleted_messages_are_not_found(db: StateDb, path: Path) -> None:
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


def test_prune_deletes_only_old_ended_sessions(path: Path) -> None:
    """A session is old by its start, and goes only once it has ended."""
    now_s = 0.0
    with StateDb(path, clock=lambda: now_s) as db:
        for name in ("old", "reopened", "open", "recent"):
            now_s = 6 * DAY_S if name == "recent" else 0.0
            db.create_session(name, "cli")
            db.append_message(name, "user", f"words of {name}")
        db.end_session("old", "done")
        db.end_session("reopened", "done")
        db.reopen_session("reopened")
        db.end_session("recent", "done")
        now_s = 10 * DAY_S

        assert db.prune(older_than_days=7) == 1
        assert {session.id for session in db.list_sessions()} == {"reopened", "recent", "open"}
        assert len(db.search("words")) == 3
    assert_consistent(path)


def test_search_sessions_finds_each_beside_a_long_one(db: StateDb) -> None:
    db.create_session("long", "cli")
    db.append_message("s", "user", "one word")
    db.replace_messages("long", [Draft("user", f"word {number}") for number in range(1500)])

    found = [
        (message.session, message.content) for message in db.search("word", one_a_session=True)
    ]

    assert found == [("long", "word 1499"), ("s", "one word")]


@pytest.mark.parametrize("words", ["", "  ", '"', "AND", "*", "a* OR", "NEAR(x", "col:x", "\0"])
def test_search_with_hostile_words_finds_nothing(db: StateDb, words: str) -> None:
    db.append_message("s", "user", "plain")
    assert db.search(words) == []


# D1, D2: durable, or nothing ---------------------------------------------------------------------


def test_acknowledged_writes_survive_a_kill(db: StateDb, path: Path) -> None:
    """D1: every write that a killed process acknowledged is there for all other processes."""
    with child(APPEND_FOREVER, path, "c") as writer:
        acknowledged = 0
        while acknowledged < 50:
            acknowledged = int(writer.read_line())
        writer.process.kill()

        assert [f"c {number}" for number in range(acknowledged + 1)] == texts(db)[
            : acknowledged + 1
        ]
    assert_consistent(path)


def test_write_is_synced_before_it_is_acknowledged(
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


def test_failed_sync_raises_not_synced(db: StateDb, monkeypatch: pytest.MonkeyPatch) -> None:
    """D10: a committed write that is not known to be durable raises an error of its own."""

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
        lambda db: db.add_tokens("unknown", Usage(1, 1)),
    ],
)
def test_write_to_an_unknown_session_raises(
    db: StateDb, path: Path, write: Callable[[StateDb], None]
) -> None:
    """D2: it raises, and adds no row."""
    with pytest.raises(SessionUnknownError, match="there is no session 'unknown'"):
        write(db)
    with closing(sqlite3.connect(path)) as foreign:
        assert foreign.execute("SELECT count(*) FROM messages").fetchone() == (0,)


@pytest.mark.parametrize("prefix", ["BEGIN", "UPDATE", "INSERT INTO messages", "COMMIT"])
@pytest.mark.parametrize(
    "fault",
    [sqlite3.OperationalError("database or disk is full"), KeyboardInterrupt(), SystemExit(3)],
    ids=["full", "interrupt", "exit"],
)
def test_failed_write_leaves_nothing(
    faulty: Arm, path: Path, prefix: str, fault: BaseException
) -> None:
    """D2, D9, D10: after any error at any statement nothing stays: no row, no count, no lock."""
    with StateDb(path) as db:
        db.create_session("s", "cli")
        db.append_message("s", "user", "before")
        faulty(prefix, fault)
        with pytest.raises((DatabaseFailedError, KeyboardInterrupt, SystemExit)):
            db.append_message("s", "user", "never")

        with closing(sqlite3.connect(path, timeout=0)) as foreign:
            foreign.execute("BEGIN IMMEDIATE")
        db.append_message("s", "user", "after")
        assert texts(db) == ["before", "after"]
    assert_consistent(path)


def test_connection_with_failed_rollback_is_closed(faulty: Arm, path: Path) -> None:
    """D9: closing rolls back a transaction whose rollback failed."""
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
    """Let calls wait behind a foreign writer, so that one transaction carries them all."""
    outcomes: list[object] = [None] * len(calls)

    def run(index: int) -> None:
        try:
            outcomes[index] = calls[index]()
        except Exception as error:  # noqa: BLE001 - the test examines it
            outcomes[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(calls))]
    with closing(sqlite3.connect(path, isolation_level=None)) as foreign:
        foreign.execute("BEGIN IMMEDIATE")
        for number, thread in enumerate(threads, start=1):
            thread.start()
            while len(db._writers._waiting) < number:
                pass
    for thread in threads:
        thread.join()
    return outcomes


def test_failing_write_fails_without_its_batch(db: StateDb, path: Path) -> None:
    """D2: the other writes of the batch succeed, once each."""
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


def test_failed_batch_commit_is_retried_per_write(faulty: Arm, path: Path) -> None:
    """D2: after a failed common commit, every write that can succeed by itself does."""
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


def test_concurrent_processes_and_foreign_writers_all_succeed(db: StateDb, path: Path) -> None:
    """D3: neither writers with tickets nor one without is refused; no write is lost."""
    some = [Child(APPEND_SOME, path, name, 40) for name in ("a", "b", "c")]
    foreign = Child(FOREIGN_WRITES, path, 100)
    for process in (*some, foreign):
        process.finish()
        assert process.process.returncode == 0

    assert {s.id: s.message_count for s in db.list_sessions()} == {
        "a": 80,
        "b": 80,
        "c": 80,
        "s": 100,
    }
    assert_consistent(path)


def test_threads_of_a_process_write_in_order(db: StateDb, path: Path) -> None:
    """D4: first come, first served."""
    names = [str(number) for number in range(8)]
    in_one_batch(db, path, [partial(db.append_message, "s", "user", name) for name in names])
    assert texts(db) == names


def test_write_out_of_patience_names_the_owner(path: Path) -> None:
    """D5, D2: it is refused in time, names the owner, and is not done when the owner continues.

    holder: |--- in a transaction, stopped ---------|
    writer:    |--- waits ---| OutOfPatienceError
    """
    with StateDb(path) as db:
        db.create_session("s", "cli")
    with child(HOLD_IN_A_WRITE, path) as holder, StateDb(path, patience_s=0.2) as db:
        assert holder.read_line() == "holding"
        os.kill(holder.process.pid, signal.SIGSTOP)
        named = rf"no turn in 0\.2 s; process {holder.process.pid} \(.*\), which is stopped"
        with pytest.raises(OutOfPatienceError, match=named):
            db.append_message("s", "user", "never")
        os.kill(holder.process.pid, signal.SIGCONT)
        holder.send_line()
        assert holder.read_line() == "done"
        db.append_message("s", "user", "after")
        assert texts(db) == [None, "after"]


def test_foreign_lock_owner_is_named(db: StateDb, path: Path) -> None:
    """D5: a program without a ticket is found by its lock."""
    hold = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("holding", flush=True)
sys.stdin.readline()
"""
    db._patience_s = 0.2
    with child(hold, path) as foreign:
        assert foreign.read_line() == "holding"
        pid = foreign.process.pid
        with pytest.raises(OutOfPatienceError, match=rf"process {pid} .* has no ticket"):
            db.append_message("s", "user", "never")


def test_killed_lock_owner_is_succeeded(db: StateDb, path: Path) -> None:
    """D5, D9: its unfinished write is gone, and no writer waits for it."""
    with child(HOLD_IN_A_WRITE, path) as holder:
        assert holder.read_line() == "holding"
        holder.process.kill()
        db.append_message("s", "user", "after")
    assert texts(db) == ["after"]
    assert_consistent(path)


def test_stuck_ticket_lock_is_bypassed(
    db: StateDb, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D3: a hanging ticket holder that holds no lock of SQLite refuses no write."""
    monkeypatch.setattr(write_queue, "GRACE_S", 0.05)
    db.append_message("s", "user", "before")
    hanging = TicketLock(str(path))
    hanging.acquire()
    for text in ("a", "b"):
        db.append_message("s", "user", text)
    hanging.release()
    hanging.close()
    db.append_message("s", "user", "after")
    assert texts(db) == ["before", "a", "b", "after"]


ACQUIRE_TICKET = """
import sys
from reference_impl.state_db.ticket_lock import TicketLock
lock = TicketLock(sys.argv[1])
print("coming", flush=True)
lock.acquire()
print("first", flush=True)
sys.stdin.readline()
lock.release()
print("left", flush=True)
"""


def tickets_drawn(path: Path) -> int:
    """The number of tickets that were drawn."""
    return int.from_bytes(path.with_name("state.db.line").read_bytes()[:8], sys.byteorder)


def test_processes_acquire_tickets_in_order_of_arrival(path: Path) -> None:
    """D4: no process is overtaken, however fast the others are.

    ticket: |--- 1 ---|--- 2 ---|--- 3 ---|
    """
    with ExitStack() as stack:
        lock = TicketLock(str(path))
        lock.acquire()
        waiting = []
        for number in range(3):
            waiting.append(stack.enter_context(child(ACQUIRE_TICKET, path)))
            assert waiting[-1].read_line() == "coming"
            while tickets_drawn(path) < number + 2:
                pass
        lock.release()
        for number, process in enumerate(waiting):
            assert process.read_line() == "first"
            first = lock.owner()
            assert first is not None
            assert first.pid == process.process.pid
            assert lock.mark() == number + 2  # its ticket: the first was ours
            process.send_line()
        lock.close()


def test_dead_ticket_holder_is_not_waited_for(path: Path) -> None:
    """D5: but earlier tickets still are.

    ticket: |--- 1 ------------|
               |--- 2 ---X            dies waiting
               |--- 3 ---------|--- first
    """
    first, dying, waiting = TicketLock(str(path)), TicketLock(str(path)), TicketLock(str(path))
    first.acquire()
    dying._draw()
    third = threading.Thread(target=waiting.acquire)
    third.start()
    while awaited_lock(third) != "the previous ticket":
        pass
    dying.close()  # the system does the same when a process dies
    while awaited_lock(third) != "all previous tickets":
        assert third.is_alive(), "it did not wait for the first"
    first.release()
    third.join()
    for lock in (first, waiting):
        lock.close()


def awaited_lock(thread: threading.Thread) -> str:
    """The lock that a thread in `acquire` waits for."""
    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None and frame.f_code.co_name != "_lock":
        frame = frame.f_back
    if frame is None or frame.f_back is None or frame.f_back.f_code.co_name != "acquire":
        return ""
    return "the previous ticket" if frame.f_locals["length"] == 1 else "all previous tickets"


def test_write_without_patience_is_tried_once(path: Path) -> None:
    """D3: a write that need not wait is not refused."""
    with StateDb(path, patience_s=0.0) as db:
        db.create_session("s", "cli")
        db.append_message("s", "user", "x")
        assert texts(db) == ["x"]


def test_interrupted_write_is_withdrawn(db: StateDb, path: Path) -> None:
    """D2: a write that was waiting when its caller was interrupted never happens."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as foreign:
            foreign.execute("BEGIN IMMEDIATE")
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with pytest.raises(KeyboardInterrupt):
                db.append_message("s", "user", "never")
    finally:
        signal.signal(signal.SIGALRM, previous)
    db.append_message("s", "user", "after")
    assert texts(db) == ["after"]


def test_missing_ticket_lock_makes_writers_poll(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """D3: without such locks in the system only fairness is lost, and it is logged."""
    monkeypatch.setattr(ticket_lock, "fcntl", None)
    with StateDb(path) as db:
        db.create_session("s", "cli")
        db.append_message("s", "user", "x")
        assert texts(db) == ["x"]
        assert not db.is_fair
    assert "no ticket lock here, so writers poll" in caplog.text


# D6: the write-ahead log -------------------------------------------------------------------------


def write_much(db: StateDb, path: Path, much_bytes: int) -> list[int]:
    """Write that many bytes, and read in between; returns the log's length after each write."""
    log = path.with_name("state.db-wal")
    text, lengths = "." * 30_000, []
    for _ in range(much_bytes // len(text)):
        db.append_message("s", "user", text)
        db.search("absent")
        lengths.append(log.stat().st_size)
    return lengths


def test_wal_stays_short_under_writes_and_reads(db: StateDb, path: Path) -> None:
    """D6: much more is written than the log may hold."""
    assert max(write_much(db, path, 5 * LIMIT_BYTES)) <= 16 << 20


def test_wal_is_short_again_after_a_long_read(db: StateDb, path: Path) -> None:
    """D6: only a long read lets the log grow."""
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM sessions").fetchall()
        assert max(write_much(db, path, 3 * LIMIT_BYTES)) > 16 << 20
    assert min(write_much(db, path, LIMIT_BYTES)) <= LIMIT_BYTES


# D7, D8, D11: opening and closing ----------------------------------------------------------------


def test_concurrent_creation_succeeds(path: Path) -> None:
    """D8: all succeed, and the file is whole."""
    names = [f"s{number}" for number in range(6)]
    for process in [Child(APPEND_SOME, path, name, 1) for name in names]:
        process.finish()
        assert process.process.returncode == 0
    with StateDb(path) as db:
        assert sorted(session.id for session in db.list_sessions()) == names
    assert_consistent(path)


def test_open_read_and_close_wait_for_no_writer(db: StateDb, path: Path) -> None:
    """D8: none takes the write lock, so all succeed while another connection has it."""
    db.append_message("s", "user", "x")
    with closing(sqlite3.connect(path, isolation_level=None)) as foreign:
        foreign.execute("BEGIN IMMEDIATE")
        with StateDb(path, patience_s=0.0) as reader:
            assert texts(reader) == ["x"]
            assert len(reader.search("x")) == 1


def test_garbage_collected_handle_is_closed(path: Path) -> None:
    """D8: no file and no thread of it stays."""
    before = (set(Path("/proc/self/fd").iterdir()), threading.active_count())
    db = StateDb(path)
    db.create_session("s", "cli")
    db.get_session("s")
    del db
    assert (set(Path("/proc/self/fd").iterdir()), threading.active_count()) == before


def test_closed_handle_raises(db: StateDb) -> None:
    db.close()
    db.close()
    with pytest.raises(ClosedError, match="the handle is closed"):
        db.append_message("s", "user", "x")
    with pytest.raises(ClosedError, match="the handle is closed"):
        db.get_session("s")


def test_close_refuses_waiting_writes(db: StateDb, path: Path) -> None:
    """D2: a write that waited when its handle was closed raises, and never happens."""
    with closing(sqlite3.connect(path, isolation_level=None)) as foreign:
        foreign.execute("BEGIN IMMEDIATE")
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


def test_files_locked_by_sqlite_are_never_opened(path: Path) -> None:
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
foreign = sqlite3.connect(sys.argv[1], isolation_level=None)
foreign.execute("BEGIN IMMEDIATE")
try:
    db.append_message("s", "user", "x")
except OutOfPatienceError:
    print("waited")
foreign.close()
db.close()
print(*(name for name in opened if name in (sys.argv[1], sys.argv[1] + "-shm")))
"""
    assert Child(program, path).finish() == "waited"


def test_handle_works_on_both_sides_of_a_fork(path: Path) -> None:
    """D8, D11: neither process has the other's connections, so neither drops the other's locks."""
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


# D10: broken files -------------------------------------------------------------------------------


def test_file_that_is_no_database_raises(path: Path) -> None:
    path.write_bytes(b"not a database at all " * 100)
    with pytest.raises(DatabaseFailedError, match=r"state\.db: file is not a database"):
        StateDb(path)


def test_impossible_path_raises(path: Path) -> None:
    path.mkdir()
    with pytest.raises(DatabaseFailedError, match="unable to open database file"):
        StateDb(path)
    with pytest.raises(DatabaseFailedError, match=r"state\.db"):
        StateDb(Path("/dev/null/state.db"))


def test_full_disk_leaves_acknowledged_writes_readable(faulty: Arm, path: Path) -> None:
    with StateDb(path) as db:
        db.create_session("s", "cli")
        db.append_message("s", "user", "kept")
        faulty("COMMIT", sqlite3.OperationalError("database or disk is full"))
        with pytest.raises(DatabaseFailedError, match=r"state\.db: database or disk is full"):
            db.append_message("s", "user", "refused")
        assert texts(db) == ["kept"]


def test_sync_leaves_rows_of_an_older_server(db: StateDb) -> None:
    """D13: they have no details, and a large session is not written again for these."""
    for role, text in (("user", "a"), ("assistant", "b")):
        db.append_message("s", role, text)
    before = db.get_messages("s")
    messages = ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})
    sync = StateSync(db)
    sync(Session(session_id="s", messages=messages))
    assert db.get_messages("s") == before

    sync(Session(session_id="s", messages=(messages[0], {**messages[1], "content": "c"})))
    assert [(message.content, message.finish_reason) for message in db.get_messages("s")] == [
        ("a", None),
        ("c", "stop"),
    ]


def test_sync_copies_the_present_end_of_a_session(db: StateDb) -> None:
    """When and why, also where the database has a former end, or missed a reopening."""
    db.end_session("s", "former")
    sync = StateSync(db)
    ends: tuple[tuple[object, str | None], ...] = ((3.5, "done"), (4, "again"), ("never", None))
    for at, reason in ends:
        sync(Session(session_id="s", extra={"ended_at": at, "end_reason": reason}))
        found = db.get_session("s")
        assert found is not None
        assert (found.ended_at, found.end_reason) == (at if reason else None, reason)


def test_sync_is_one_transaction(db: StateDb, monkeypatch: pytest.MonkeyPatch) -> None:
    """S14: what a kill leaves is the session before the sync, or all of it."""
    written: list[Changes] = []
    write = StateDb.write

    def counted(db: StateDb, changes: Changes) -> object:
        written.append(changes)
        return write(db, changes)

    monkeypatch.setattr(StateDb, "write", counted)
    messages = ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})
    session = Session(
        session_id="new",
        title="called",
        messages=messages,
        extra={"system_prompt": "be brief", "input_tokens": 3, "ended_at": 2.0},
    )
    sync = StateSync(db)
    sync(session)
    sync(session)

    assert len(written) == 1
    found = db.get_session("new")
    assert found is not None
    assert (found.title, found.system_prompt, found.ended_at) == ("called", "be brief", 2.0)
    assert [message.content for message in db.get_messages("new")] == ["a", "b"]


def test_failed_change_undoes_all_of_its_set(db: StateDb) -> None:
    """D2: a title that is taken leaves no message of the same set behind."""
    db.set_title("s", "taken")
    db.create_session("t", "cli")
    changes = db.changes("t").append_message(Draft("user", "lost")).set_title("taken")
    with pytest.raises(TitleTakenError):
        db.write(changes)
    assert db.get_messages("t") == []
