"""Tests of the writer processes: gates, signals, logs, and the functions of every writer."""

from __future__ import annotations

import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psutil
import pytest

from harness.contract.checkers.state_db.fairness import no_hangs
from harness.contract.checkers.state_db.lock_discipline import check_lock_discipline, transactions
from harness.contract.workloads.database_writers import (
    ABILITY,
    OLD_VERSION,
    PATIENCE_S,
    Round,
    SelfSignal,
    Step,
    Writer,
    WriterPool,
    writer_pool,
)
from harness.core.errors import HarnessError, UsageError
from harness.core.history import History, Journal, Outcome, read
from harness.engine.context import Context
from harness.faults.process_faults import Pause, wait_until_stopped
from harness.processes.pool import ProcessInstance, ProcessPool
from harness.targets.registry import find_target, list_targets
from harness.targets.sqlite.target import POLICIES, WRITERS

S1: dict[str, str] = {"session": "s1"}
CREATE: Step = ("create", {**S1, "source": "cli"})


PEEKING = """
class Adapter:
    def __init__(self, folder):
        self.folder = folder

    def peek(self, name):
        (self.folder / name).open("ab").close()

    def close(self):
        pass

open_adapter = Adapter
"""


def append(name: str) -> Step:
    return "append", {**S1, "role": "user", "text": f"{name} {{n}}"}


@contextmanager
def opened(folder: Path, policy: str = "constant-1ms") -> Iterator[WriterPool]:
    target = find_target(f"sqlite@{policy}")
    with (
        Journal(folder / "history", time.monotonic_ns) as journal,
        writer_pool(Context(target, ABILITY, "seed", 1, journal)) as pool,
    ):
        yield pool


def logged(folder: Path) -> History:
    (history,) = read(folder / "history")
    return history


def test_writer_logs_merge_into_one_history(tmp_path: Path) -> None:
    """Each thread is one process of the history, with its operations in order on one clock."""
    before_ns = time.monotonic_ns()
    with opened(tmp_path) as pool:
        pool.ask(CREATE)
        with pool.starting_together():
            writers = [pool.fork([Round([append(f"m{n}")], 5)]) for n in range(3)]
            pids = {writer.pid for writer in writers}
        assert pool.wait_for_all() == [0, 0, 0]
        (messages,) = pool.ask(("messages", S1))
    after_ns = time.monotonic_ns()
    history = logged(tmp_path)
    appends = history.of("append")
    assert len(pids) == 3
    assert {op.process for op in appends} == {n for each in writers for n in each.processes}
    assert sorted(text for _, text in messages.result) == sorted(
        op.argument["text"] for op in appends
    )
    assert all(before_ns < op.invoked_ns <= (op.completed_ns or 0) < after_ns for op in appends)
    times = [op.invoked_ns for op in history]
    assert times == sorted(times)
    assert not any(map(psutil.pid_exists, pids))


def test_writers_start_together_at_the_gate(tmp_path: Path) -> None:
    """No writer opens the file while the gate is closed."""
    with opened(tmp_path) as pool:
        with pool.starting_together():
            writer = pool.fork([Round([CREATE])])
            assert not pool.database.exists()
            assert writer.operations() == []
        pool.wait_for_all()
        assert pool.database.exists()


def test_writer_kills_itself_at_chosen_statement(tmp_path: Path) -> None:
    """Killed inside its third transaction: two appends are stored, the third is unknown."""
    with opened(tmp_path) as pool:
        pool.ask(CREATE)
        self_signal = SelfSignal(signal.SIGKILL, at=3, match="UPDATE sessions")
        writer = pool.fork([Round([append("m")], 9)], signal_at=self_signal)
        assert pool.wait_for_exit(writer) == -signal.SIGKILL
        (messages,) = pool.ask(("messages", S1))
    assert messages.result == [["user", "m 0"], ["user", "m 1"]]
    history = logged(tmp_path)
    outcomes = [op.outcome for op in history.of("append")]
    assert outcomes == [Outcome.OK, Outcome.OK, Outcome.INFO]
    (struck,) = history.of("struck")
    assert struck.argument["statement"].startswith("UPDATE sessions")
    assert [fault.name for fault in history.faults] == [f"kill writer {writer.pid}"]


def test_writer_stops_itself_inside_a_transaction(tmp_path: Path) -> None:
    """It stops at a statement, holds the lock, and continues when it is resumed."""
    with opened(tmp_path) as pool:
        pool.ask(CREATE)
        self_signal = SelfSignal(signal.SIGSTOP, match="UPDATE sessions")
        writer = pool.fork([Round([append("m")])], signal_at=self_signal)
        wait_until_stopped(writer.pid)
        other = sqlite3.connect(pool.database, timeout=0, isolation_level=None)
        with closing(other), pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
        Pause(writer.pid).heal()
        assert pool.wait_for_exit(writer) == 0


def test_age_resets_both_schema_versions(tmp_path: Path) -> None:
    """The pragma and the table of versions."""
    with opened(tmp_path) as pool:
        pool.ask(CREATE)
        marks = ("PRAGMA user_version", "SELECT version FROM schema_version")
        with closing(sqlite3.connect(pool.database)) as other, other:
            other.execute("PRAGMA user_version = 7")
            other.execute("ALTER TABLE messages ADD COLUMN reasoning TEXT")
            other.execute("CREATE TABLE schema_version AS SELECT 22 AS version")
        pool.age()
        with closing(sqlite3.connect(pool.database)) as other:
            assert [other.execute(mark).fetchone()[0] for mark in marks] == [0, OLD_VERSION]
            columns = other.execute("PRAGMA table_info(messages)").fetchall()
            assert "reasoning" not in {name for _, name, *_ in columns}


def test_log_bytes_without_a_log_is_zero(tmp_path: Path) -> None:
    """The write-ahead log appears with the first write."""
    with opened(tmp_path) as pool:
        assert pool.log_bytes() == 0
        self_signal = SelfSignal(signal.SIGKILL, match="UPDATE sessions")
        pool.fork([Round([CREATE, append("m")])], signal_at=self_signal)
        pool.wait_for_all()
        assert pool.log_bytes() > 0


def test_close_kills_remaining_writers(tmp_path: Path) -> None:
    """A writer that waits without end is killed, and its log is kept."""
    with opened(tmp_path) as pool:
        writer = pool.fork([Round([CREATE, ("await", {"name": "never"})])])
        wait_until_begun(writer, "await")
    assert not psutil.pid_exists(writer.pid)
    assert [op.outcome for op in logged(tmp_path) if op.function == "await"] == [Outcome.INFO]


def wait_until_begun(writer: Writer, function: str) -> None:
    """Wait until the writer has logged that it calls the function."""
    ends_at = time.monotonic() + PATIENCE_S
    while function not in {operation.function for operation in writer.operations()}:
        assert time.monotonic() < ends_at, f"{function} did not begin"
        time.sleep(0.001)


def test_hanging_writer_is_killed_and_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The history says that it hung, and the checker rejects that."""
    monkeypatch.setattr("harness.contract.workloads.database_writers.HANG_S", 0.05)
    with opened(tmp_path) as pool:
        writer = pool.fork([Round([("await", {"name": "never"})])])
        assert pool.wait_for_exit(writer) == -signal.SIGKILL
    history = logged(tmp_path)
    assert [fault.name for fault in history.faults] == [f"hang of writer {writer.pid}"]
    assert not no_hangs(history).is_valid


def test_long_call_logs_its_unscheduled_time(tmp_path: Path) -> None:
    """A call that sleeps lacks no processor; the log entry encloses the call."""
    with opened(tmp_path) as pool:
        pool.ask(CREATE)
        pool.fork([Round([("pin", {"pause_s": 0.05})])])
        pool.wait_for_all()
    history = logged(tmp_path)
    (pin,) = history.of("pin")
    (note,) = (  # on a busy machine other calls of the process are long, too
        op
        for op in history.of("unscheduled")
        if op.process == pin.process and op.invoked_ns <= pin.invoked_ns and pin.meets(op)
    )
    assert note.invoked_ns <= pin.invoked_ns < (pin.completed_ns or 0) <= (note.completed_ns or 0)
    assert 0 <= note.result <= (note.completed_ns or 0)


def test_failing_writer_raises_and_refusal_does_not(tmp_path: Path) -> None:
    """A refused call is a result; an exit code is a failure of the harness."""
    with opened(tmp_path) as pool:
        (refused,) = pool.ask(("messages", {"nonsense": 1}))
        assert refused.outcome is Outcome.FAIL
        assert refused.error.startswith("TypeError")
        with pytest.raises(HarnessError, match="failed with exit code 1"):
            pool.ask(("a step without an argument",))  # type: ignore[arg-type]


def test_traced_writer_logs_how_transactions_begin(tmp_path: Path) -> None:
    """The checker rejects deferred transactions of a policy, and accepts immediate ones."""
    for policy, is_valid in (("busy-30s", False), ("jitter-15", True)):
        folder = tmp_path / policy
        folder.mkdir()
        with opened(folder, policy) as pool:
            pool.ask(CREATE)
            pool.fork([Round([append("m"), ("messages", S1)])], traced=True)
            pool.wait_for_all()
        history = logged(folder)
        assert len(list(transactions(history))) == 1
        assert check_lock_discipline(history).is_valid is is_valid


def test_traced_writer_logs_opens_without_sqlite(tmp_path: Path) -> None:
    """An open of the database as a file is logged, by a traced writer only."""
    (tmp_path / "peeking.py").write_text(PEEKING)
    (tmp_path / "shared").mkdir()
    parent = ProcessInstance(
        ProcessPool((tmp_path / "peeking.py", WRITERS), {}), tmp_path / "shared"
    )
    with (
        Journal(tmp_path / "history", time.monotonic_ns) as journal,
        closing(parent),
        closing(WriterPool(parent, tmp_path / "shared", journal)) as pool,
    ):
        pool.fork([Round([("peek", {"name": "state.db"}), ("peek", {"name": "other"})])])
        pool.fork(
            [Round([("peek", {"name": "state.db"}), ("peek", {"name": "other"})])], traced=True
        )
        pool.wait_for_all()
    assert [op.argument for op in logged(tmp_path) if op.function == "opened_behind"] == [
        {"file": "state.db"}
    ]


def test_pin_keeps_snapshot_and_hold_keeps_lock(tmp_path: Path) -> None:
    """Both functions that every writer has."""
    with opened(tmp_path) as pool:
        pool.ask(CREATE)
        pool.fork([Round([append("m")], 50)])
        pool.fork([Round([("pin", {"pause_s": 0.005})], 5)])
        pool.fork([Round([("hold", {"strokes": 3, "pause_s": 0.001})])])
        pool.wait_for_all()
        (inspection, size) = pool.ask(("inspect", {}), ("log_bytes", {}))
    pins = [op.result for op in logged(tmp_path) if op.function == "pin"]
    assert all(first == last for first, last in pins)
    assert inspection.result == {"integrity": "ok", "full_text": "ok", "drift": []}
    assert size.result >= 0


def test_inspect_reports_counter_and_index_damage(tmp_path: Path) -> None:
    """`inspect` returns what is wrong."""
    with opened(tmp_path) as pool:
        pool.ask(CREATE, append("alpha"))
        with sqlite3.connect(pool.database) as vandal:
            vandal.execute("UPDATE sessions SET message_count = 7")
            vandal.execute("DROP TRIGGER words_come")
            vandal.execute(
                "INSERT INTO messages(session_id, role, content, timestamp)"
                " VALUES ('s1', 'user', 'beta', 0)"
            )
        vandal.close()
        (inspection,) = pool.ask(("inspect", {}))
    assert inspection.result["drift"] == [["s1", 7, 2]]
    assert "words" in inspection.result["full_text"]


def test_each_policy_is_a_target() -> None:
    """Other names raise UsageError with the known ones."""
    for policy in POLICIES:
        assert find_target(f"sqlite@{policy}").name == f"sqlite@{policy}"
    with pytest.raises(UsageError, match="jitter-15"):
        find_target("sqlite@hope")
    assert any("busy-30s" in str(row["what"]) for row in list_targets())
