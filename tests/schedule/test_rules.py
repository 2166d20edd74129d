"""Locks are judged while schedules run; files and databases wait in virtual time."""

from __future__ import annotations

import fcntl
import os
import socket
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from harness.core.verdict import Validity
from harness.schedule import Budget, LockRules, Run, calling, explore
from harness.schedule.program import Body

FEW = Budget(schedules=300, seconds=20.0)


class Cache:
    """Two locks, and a provider that is called under one of them, or under none."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.streams = threading.RLock()
        self.provide = calling("provider", lambda: None)

    def nest(self) -> None:
        """Take the second lock inside the first."""
        with self.lock, self.streams:
            pass

    def nest_backwards(self) -> None:
        """Take the first lock inside the second."""
        with self.streams, self.lock:
            pass

    def provide_under_lock(self) -> None:
        """Call out with a lock in hand."""
        with self.lock:
            self.provide()

    def provide_after(self) -> None:
        """Let go first."""
        with self.lock:
            pass
        self.provide()


def using(*methods: str) -> Body:
    """A body that uses a fresh cache by these methods, one after the other."""

    def body(run: Run) -> None:
        cache = Cache()
        run.thread(lambda: [getattr(cache, method)() for method in methods], name="a")
        run.join()

    return body


def test_a_provider_called_under_a_lock_is_found_at_once() -> None:
    rules = LockRules(free_during=(("provider", "Cache.*"),))
    finding = explore(using("provide_under_lock"), budget=FEW, rules=rules).finding
    assert finding is not None
    assert (finding.kind, finding.message) == ("held", "Cache.lock is held during provider")
    assert explore(using("provide_after"), budget=FEW, rules=rules).finding is None


def test_another_lock_may_be_held_meanwhile() -> None:
    rules = LockRules(free_during=(("provider", "Cache.streams"),))
    assert explore(using("provide_under_lock"), budget=FEW, rules=rules).finding is None


def test_a_forbidden_nesting_is_found_in_its_direction_only() -> None:
    rules = LockRules(never_nested=(("Cache.lock", "Cache.streams"),))
    finding = explore(using("nest"), budget=FEW, rules=rules).finding
    assert finding is not None
    assert finding.kind == "nested"
    assert explore(using("nest_backwards"), budget=FEW, rules=rules).finding is None


def test_opposite_orders_are_found_before_they_deadlock() -> None:
    """The very first schedule, in which nothing goes wrong, gives the cycle away."""

    def body(run: Run) -> None:
        cache = Cache()
        run.thread(cache.nest, name="a")
        run.thread(cache.nest_backwards, name="b")
        run.join()

    result = explore(body, budget=FEW, rules=LockRules())
    assert result.finding is not None
    assert result.finding.kind == "lock-order"
    assert result.schedules == 1


def test_opposite_orders_in_one_thread_are_no_deadlock() -> None:
    result = explore(using("nest", "nest_backwards"), budget=FEW, rules=LockRules())
    assert result.validity is Validity.VALID


def test_opposite_orders_under_one_gate_are_no_deadlock() -> None:
    def body(run: Run) -> None:
        cache, gate = Cache(), threading.Lock()

        def guarded(method: str) -> None:
            with gate:
                getattr(cache, method)()

        run.thread(guarded, "nest", name="a")
        run.thread(guarded, "nest_backwards", name="b")
        run.join()

    assert explore(body, budget=FEW, rules=LockRules()).validity is Validity.VALID


def test_a_lock_can_be_named_by_hand() -> None:
    def body(run: Run) -> None:
        cache = Cache()
        cache.lock.label = "THE_LOCK"  # type: ignore[attr-defined]  # it is ours under control
        run.thread(cache.provide_under_lock)
        run.join()

    rules = LockRules(free_during=(("provider", "THE_LOCK"),))
    assert explore(body, budget=FEW, rules=rules).finding is not None


def test_a_database_used_under_a_lock_is_found() -> None:
    def body(run: Run) -> None:  # noqa: ARG001 - one thread is enough
        cache = Cache()
        with closing(sqlite3.connect(":memory:")) as connection, cache.lock:
            connection.execute("SELECT 1")

    rules = LockRules(free_during=(("sqlite", "*"),))
    finding = explore(body, budget=FEW, rules=rules).finding
    assert finding is not None
    assert finding.kind == "held"


def test_a_socket_used_under_a_lock_is_found() -> None:
    def body(run: Run) -> None:  # noqa: ARG001 - one thread is enough
        cache = Cache()
        left, right = socket.socketpair()
        with left, right, cache.lock:
            left.send(b"x")

    rules = LockRules(free_during=(("network", "*"),))
    finding = explore(body, budget=FEW, rules=rules).finding
    assert finding is not None
    assert finding.message.startswith("Cache.lock is held during network")


def test_a_check_before_a_rename_is_interleaved_at_the_files(tmp_path: Path) -> None:
    """Both believe that they came first.

    a: [exists?]                     [replace]
    b:           [exists?] [replace]
    """

    def body(run: Run) -> None:
        file = tmp_path / "claimed"
        file.unlink(missing_ok=True)
        won: list[str] = []

        def claim(name: str) -> None:
            first = not file.exists()
            draft = tmp_path / name
            draft.write_text(name)
            draft.replace(file)
            if first:
                won.append(name)

        run.thread(claim, "a")
        run.thread(claim, "b")
        run.join()
        assert len(won) == 1

    finding = explore(body, budget=FEW).finding
    assert finding is not None
    assert "replace a -> claimed" in finding.story


def test_a_blocking_flock_waits_in_virtual_time(tmp_path: Path) -> None:
    def body(run: Run) -> None:
        inside: list[int] = []

        def enter() -> None:
            fd = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                inside.append(1)
                os.write(fd, b"x")
                assert inside == [1]
                inside.pop()
                fcntl.flock(fd, fcntl.LOCK_UN)
            finally:
                os.close(fd)

        run.thread(enter)
        run.thread(enter)
        run.join()

    result = explore(body, budget=FEW)
    assert result.validity is Validity.VALID, result.story


def test_a_flock_nobody_lets_go_of_is_a_deadlock(tmp_path: Path) -> None:
    def body(run: Run) -> None:  # noqa: ARG001 - one thread is enough
        first = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
        second = os.open(tmp_path / "lock", os.O_RDWR)
        try:
            fcntl.flock(first, fcntl.LOCK_EX)
            fcntl.flock(second, fcntl.LOCK_EX)
        finally:
            os.close(first)
            os.close(second)

    finding = explore(body, budget=FEW).finding
    assert finding is not None
    assert finding.kind == "deadlock"


def write_twice(path: Path, run: Run, patience_s: float, begin: str) -> None:
    """Two threads write in transactions of their own; each holds the lock for a virtual second."""
    with closing(sqlite3.connect(path)) as made:
        made.execute("DROP TABLE IF EXISTS t")
        made.execute("CREATE TABLE t(x)")
        made.commit()

    def write(x: int) -> None:
        with closing(sqlite3.connect(path, timeout=patience_s, isolation_level=None)) as own:
            own.execute(begin)
            own.execute("INSERT INTO t VALUES(?)", (x,))
            threading.Event().wait(timeout=1.0)
            own.execute("COMMIT")

    run.thread(write, 1, name="a")
    run.thread(write, 2, name="b")
    run.join()
    with closing(sqlite3.connect(path)) as made:
        assert made.execute("SELECT count(*) FROM t").fetchone() == (2,)


def test_a_busy_database_is_waited_for_in_virtual_time(tmp_path: Path) -> None:
    """With patience for two seconds nobody is refused."""
    result = explore(
        lambda run: write_twice(tmp_path / "d", run, 2.0, "BEGIN IMMEDIATE"),
        budget=Budget(schedules=40, seconds=20.0),
    )
    assert result.validity is Validity.VALID, result.story


def test_patience_that_is_too_short_is_found(tmp_path: Path) -> None:
    """With patience for half a second somebody is refused, and that escapes."""
    finding = explore(
        lambda run: write_twice(tmp_path / "d", run, 0.5, "BEGIN IMMEDIATE"),
        budget=Budget(schedules=100, seconds=20.0),
    ).finding
    assert finding is not None
    assert "database is locked" in finding.message


@pytest.mark.parametrize("pragma", ["PRAGMA busy_timeout = 1500", "PRAGMA busy_timeout(1500)"])
def test_patience_asked_by_pragma_counts(pragma: str) -> None:
    def body(run: Run) -> None:  # noqa: ARG001 - one thread is enough
        with closing(sqlite3.connect(":memory:")) as connection:
            connection.execute(pragma)
            assert connection.patience_ns == 1_500_000_000  # type: ignore[attr-defined]

    assert explore(body, budget=FEW).validity is Validity.VALID
