"""The crowd: members are processes of their own, and what they note survives what kills them."""

from __future__ import annotations

import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psutil
import pytest

from harness.contract.checkers.state_db.fairness import nobody_hangs
from harness.contract.checkers.state_db.lock_discipline import locks_are_used_well, transactions
from harness.contract.workloads.database_writers import (
    ABILITY,
    OLD_VERSION,
    Crowd,
    Doom,
    Round,
    Step,
    crowd,
)
from harness.core.errors import HarnessError, UsageError
from harness.core.history import History, Journal, Outcome, read
from harness.engine.context import Stage
from harness.faults.nemesis import Pause, await_stopped
from harness.processes.pool import ProcessInstance, Stable
from harness.targets.registry import find_target, list_targets
from harness.targets.sqlite.target import CROWD, POLICIES

S1: dict[str, str] = {"session": "s1"}
CREATE: Step = ("create", {**S1, "source": "cli"})


PEEPING = """
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
def staged(folder: Path, policy: str = "constant-1ms") -> Iterator[Crowd]:
    target = find_target(f"sqlite@{policy}")
    with (
        Journal(folder / "history", time.monotonic_ns) as journal,
        crowd(Stage(target, ABILITY, "seed", 1, journal)) as gathered,
    ):
        yield gathered


def told(folder: Path) -> History:
    (history,) = read(folder / "history")
    return history


def test_members_are_processes_and_their_notes_become_one_history(tmp_path: Path) -> None:
    """Each hand is one process of the history, with its operations in order on one clock."""
    before_ns = time.monotonic_ns()
    with staged(tmp_path) as gathered:
        gathered.ask(CREATE)
        with gathered.gathered():
            members = [gathered.fork([Round([append(f"m{n}")], 5)]) for n in range(3)]
            pids = {member.pid for member in members}
        assert gathered.bury_all() == [0, 0, 0]
        (messages,) = gathered.ask(("messages", S1))
    after_ns = time.monotonic_ns()
    history = told(tmp_path)
    appends = [op for op in history if op.function == "append"]
    assert len(pids) == 3
    assert {op.process for op in appends} == {n for each in members for n in each.processes}
    assert sorted(text for _, text in messages.result) == sorted(
        op.argument["text"] for op in appends
    )
    assert all(before_ns < op.invoked_ns <= (op.completed_ns or 0) < after_ns for op in appends)
    times = [op.invoked_ns for op in history]
    assert times == sorted(times)
    assert not any(map(psutil.pid_exists, pids))


def test_who_is_gathered_starts_when_all_are_there(tmp_path: Path) -> None:
    """Nobody opens the file while the gate is shut."""
    with staged(tmp_path) as gathered:
        with gathered.gathered():
            member = gathered.fork([Round([CREATE])])
            assert not gathered.database.exists()
            assert member.told() == []
        gathered.bury_all()
        assert gathered.database.exists()


def test_a_doomed_member_dies_at_its_statement_and_leaves_its_question(tmp_path: Path) -> None:
    """Killed inside its third transaction: two are there, and of the third nobody knows."""
    with staged(tmp_path) as gathered:
        gathered.ask(CREATE)
        doom = Doom(signal.SIGKILL, at=3, match="UPDATE sessions")
        member = gathered.fork([Round([append("m")], 9)], doom=doom)
        assert gathered.bury(member) == -signal.SIGKILL
        (messages,) = gathered.ask(("messages", S1))
    assert messages.result == [["user", "m 0"], ["user", "m 1"]]
    history = told(tmp_path)
    outcomes = [op.outcome for op in history if op.function == "append"]
    assert outcomes == [Outcome.OK, Outcome.OK, Outcome.INFO]
    (struck,) = (op for op in history if op.function == "struck")
    assert struck.argument["statement"].startswith("UPDATE sessions")
    assert [fault.name for fault in history.faults] == [f"kill member {member.pid}"]


def test_a_member_can_stand_still_inside_a_transaction(tmp_path: Path) -> None:
    """It stops itself at a statement, holds the lock, and goes on when it is told to."""
    with staged(tmp_path) as gathered:
        gathered.ask(CREATE)
        doom = Doom(signal.SIGSTOP, match="UPDATE sessions")
        member = gathered.fork([Round([append("m")])], doom=doom)
        await_stopped(member.pid)
        other = sqlite3.connect(gathered.database, timeout=0, isolation_level=None)
        with closing(other), pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
        Pause(member.pid).heal()
        assert gathered.bury(member) == 0


def test_an_old_schema_is_one_that_says_so(tmp_path: Path) -> None:
    """The file's mark of its version is reset, also that of a table of versions."""
    with staged(tmp_path) as gathered:
        gathered.ask(CREATE)
        marks = ("PRAGMA user_version", "SELECT version FROM schema_version")
        with closing(sqlite3.connect(gathered.database)) as other, other:
            other.execute("PRAGMA user_version = 7")
            other.execute("CREATE TABLE schema_version AS SELECT 22 AS version")
        gathered.age()
        with closing(sqlite3.connect(gathered.database)) as other:
            assert [other.execute(mark).fetchone()[0] for mark in marks] == [0, OLD_VERSION]


def test_a_file_without_a_log_has_one_of_no_bytes(tmp_path: Path) -> None:
    with staged(tmp_path) as gathered:
        assert gathered.log_bytes() == 0
        doom = Doom(signal.SIGKILL, match="UPDATE sessions")
        gathered.fork([Round([CREATE, append("m")])], doom=doom)
        gathered.bury_all()
        assert gathered.log_bytes() > 0


def test_who_is_left_is_ended_with_the_crowd(tmp_path: Path) -> None:
    """A member that waits for ever is killed, and what it noted is kept."""
    with staged(tmp_path) as gathered:
        member = gathered.fork([Round([CREATE, ("await", {"name": "never"})])])
        gathered.await_told(member, "create")
    assert not psutil.pid_exists(member.pid)
    assert [op.outcome for op in told(tmp_path) if op.function == "await"] == [Outcome.INFO]


def test_a_member_that_hangs_is_ended_and_the_history_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no failure of ours, but of whatever it waits for."""
    monkeypatch.setattr("harness.contract.workloads.database_writers.HANG_S", 0.05)
    with staged(tmp_path) as gathered:
        member = gathered.fork([Round([("await", {"name": "never"})])])
        assert gathered.bury(member) == -signal.SIGKILL
    history = told(tmp_path)
    assert [fault.name for fault in history.faults] == [f"hang of member {member.pid}"]
    assert not nobody_hangs(history).is_valid


def test_a_long_call_tells_how_long_it_lacked_a_processor(tmp_path: Path) -> None:
    """One that sleeps lacks none to speak of; the note encloses its call."""
    with staged(tmp_path) as gathered:
        gathered.ask(CREATE)
        gathered.fork([Round([("pin", {"pause_s": 0.05})])])
        gathered.bury_all()
    history = told(tmp_path)
    (pin,) = (op for op in history if op.function == "pin")
    (note,) = (op for op in history if op.function == "unscheduled" and op.process == pin.process)
    assert note.invoked_ns <= pin.invoked_ns < (pin.completed_ns or 0) <= (note.completed_ns or 0)
    assert 0 <= note.result <= (note.completed_ns or 0)


def test_a_refusal_is_an_answer_and_a_member_that_breaks_is_our_failure(tmp_path: Path) -> None:
    with staged(tmp_path) as gathered:
        (refused,) = gathered.ask(("messages", {"nonsense": 1}))
        assert refused.outcome is Outcome.FAIL
        assert refused.error.startswith("TypeError")
        with pytest.raises(HarnessError, match="broke with exit code 1"):
            gathered.ask(("a step without an argument",))  # type: ignore[arg-type]


def test_a_watched_member_tells_how_its_transactions_began(tmp_path: Path) -> None:
    """The policy with deferred transactions is caught at it, the other is not."""
    for policy, is_valid in (("busy-30s", False), ("jitter-15", True)):
        folder = tmp_path / policy
        folder.mkdir()
        with staged(folder, policy) as gathered:
            gathered.ask(CREATE)
            gathered.fork([Round([append("m"), ("messages", S1)])], watched=True)
            gathered.bury_all()
        history = told(folder)
        assert len(list(transactions(history))) == 1
        assert locks_are_used_well(history).is_valid is is_valid


def test_who_opens_the_file_behind_sqlite_is_seen(tmp_path: Path) -> None:
    """Opened as a file, by whatever means, while it is watched."""
    (tmp_path / "peeping.py").write_text(PEEPING)
    (tmp_path / "shared").mkdir()
    parent = ProcessInstance(Stable((tmp_path / "peeping.py", CROWD), {}), tmp_path / "shared")
    with (
        Journal(tmp_path / "history", time.monotonic_ns) as journal,
        closing(parent),
        closing(Crowd(parent, tmp_path / "shared", journal)) as gathered,
    ):
        gathered.fork([Round([("peek", {"name": "state.db"}), ("peek", {"name": "other"})])])
        gathered.fork(
            [Round([("peek", {"name": "state.db"}), ("peek", {"name": "other"})])], watched=True
        )
        gathered.bury_all()
    assert [op.argument for op in told(tmp_path) if op.function == "opened_behind"] == [
        {"file": "state.db"}
    ]


def test_a_reader_keeps_its_snapshot_and_a_holder_the_lock(tmp_path: Path) -> None:
    with staged(tmp_path) as gathered:
        gathered.ask(CREATE)
        gathered.fork([Round([append("m")], 50)])
        gathered.fork([Round([("pin", {"pause_s": 0.005})], 5)])
        gathered.fork([Round([("hold", {"strokes": 3, "pause_s": 0.001})])])
        gathered.bury_all()
        (inspection, size) = gathered.ask(("inspect", {}), ("log_bytes", {}))
    pins = [op.result for op in told(tmp_path) if op.function == "pin"]
    assert all(first == last for first, last in pins)
    assert inspection.result == {"integrity": "ok", "full_text": "ok", "drift": []}
    assert size.result >= 0


def test_damage_of_the_counters_and_of_the_index_is_found(tmp_path: Path) -> None:
    """What `inspect` tells is what is wrong, not merely that something is."""
    with staged(tmp_path) as gathered:
        gathered.ask(CREATE, append("alpha"))
        with sqlite3.connect(gathered.database) as vandal:
            vandal.execute("UPDATE sessions SET message_count = 7")
            vandal.execute("DROP TRIGGER words_come")
            vandal.execute(
                "INSERT INTO messages(session_id, role, content, timestamp)"
                " VALUES ('s1', 'user', 'beta', 0)"
            )
        vandal.close()
        (inspection,) = gathered.ask(("inspect", {}))
    assert inspection.result["drift"] == [["s1", 7, 2]]
    assert "words" in inspection.result["full_text"]


def test_each_policy_is_a_target_and_others_are_not() -> None:
    for policy in POLICIES:
        assert find_target(f"sqlite@{policy}").name == f"sqlite@{policy}"
    with pytest.raises(UsageError, match="jitter-15"):
        find_target("sqlite@hope")
    assert any("busy-30s" in str(row["what"]) for row in list_targets())
