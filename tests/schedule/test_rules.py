"""Checks lock rules, and that files and databases wait in virtual time under control."""

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
        """Acquire the second lock inside the first."""
        with self.lock, self.streams:
            pass

    def nest_backwards(self) -> None:
        """Acquire the first lock inside the second."""
        with self.streams, self.lock:
            pass

    def provide_under_lock(self) -> None:
        """Call the provider while holding a lock."""
        with self.lock:
            self.provide()

    def provide_after(self) -> None:
        """Release the lock, and then call the provider."""
        with self.lock:
            pass
        self.provide()


def using(*methods: str) -> Body:
    """Make a body that calls these methods of a fresh cache in order."""

    def body(run: Run) -> None:
        cache = Cache()
        run.thread(lambda: [getattr(cache, method)() for method in methods], name="a")
        run.join()

    return body


def test_provider_call_under_lock_is_found() -> None:
    rules = LockRules(free_during=(("provider", "Cache.*"),))
    finding = explore(using("provide_under_lock"), budget=FEW, rules=rules).finding
    assert finding is not None
    assert (finding.kind, finding.message) == ("held", "Cache.lock is held during provider")
    assert explore(using("provide_after"), budget=FEW, rules=rules).finding is None


def test_provider_call_under_other_lock_is_valid() -> None:
    rules = LockRules(free_during=(("provider", "Cache.streams"),))
    assert explore(using("provide_under_lock"), budget=FEW, rules=rules).finding is None


def test_forbidden_nesting_is_found_in_one_direction() -> None:
    rules = LockRules(never_nested=(("Cache.lock", "Cache.streams"),))
    finding = explore(using("nest"), budget=FEW, rules=rules).finding
    assert finding is not None
    assert finding.kind == "nested"
    assert explore(using("nest_backwards"), budget=FEW, rules=rules).finding is None


def test_opposite_lock_orders_are_found_without_deadlock() -> None:
    """The first schedule, which does not deadlock, shows the cycle."""

    def body(run: Run) -> None:
        cache = Cache()
        run.thread(cache.nest, name="a")
        run.thread(cache.nest_backwards, name="b")
        run.join()

    result = explore(body, budget=FEW, rules=LockRules())
    assert result.finding is not None
    assert result.finding.kind == "lock-order"
    assert result.schedules == 1


def test_opposite_orders_in_one_thread_are_valid() -> None:
    result = explore(using("nest", "nest_backwards"), budget=FEW, rules=LockRules())
    assert result.validity is Validity.VALID


def test_opposite_orders_under_common_lock_are_valid() -> None:
    def body(run: Run) -> None:
        cache, gate = Cache(), threading.Lock()

        def guarded(method: str) -> None:
            with gate:
                getattr(cache, method)()

        run.thread(guarded, "nest", name="a")
        run.thread(guarded, "nest_backwards", name="b")
        run.join()

    assert explore(body, budget=FEW, rules=LockRules()).validity is Validity.VALID


def test_lock_label_can_be_set() -> None:
    def body(run: Run) -> None:
        cache = Cache()
        cache.lock.label = "THE_LOCK"  # type: ignore[attr-defined]  # a controlled lock has a label
        run.thread(cache.provide_under_lock)
        run.join()

    rules = LockRules(free_during=(("provider", "THE_LOCK"),))
    assert explore(body, budget=FEW, rules=rules).finding is not None


def test_database_use_under_lock_is_found() -> None:
    def body(run: Run) -> None:  # noqa: ARG001 - one thread is enough
        cache = Cache()
        with closing(sqlite3.connect(":memory:")) as connection, cache.lock:
            connection.execute("SELECT 1")

    rules = LockRules(free_during=(("sqlite", "*"),))
    finding = explore(body, budget=FEW, rules=rules).finding
    assert finding is not None
    assert finding.kind == "held"


def test_socket_use_under_lock_is_found() -> None:
    def body(run: Run) -> None:  # noqa: ARG001 - one thread is enough
        cache = Cache()
        left, right = socket.socketpair()
        with left, right, cache.lock:
            left.send(b"x")

    rules = LockRules(free_during=(("network", "*"),))
    finding = explore(body, budget=FEW, rules=rules).finding
    assert finding is not None
    assert finding.message.startswith("Cache.lock is held during network")


def test_check_before_rename_race_is_found(tmp_path: Path) -> None:
    """Both threads see no file, and both claim it.

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


def test_blocking_flock_waits_in_virtual_time(tmp_path: Path) -> None:
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


def test_unreleased_flock_is_deadlock(tmp_path: Path) -> None:
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


def write_twice(path: Path, run: Run, timeout_s: float, begin: str) -> None:
    """Run two threads that each write in a transaction of one virtual second."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE IF EXISTS t")
        connection.execute("CREATE TABLE t(x)")
        connection.commit()

    def write(x: int) -> None:
        with closing(sqlite3.connect(path, timeout=timeout_s, isolation_level=None)) as writer:
            writer.execute(begin)
            writer.execute("INSERT INTO t VALUES(?)", (x,))
            threading.Event().wait(timeout=1.0)
            writer.execute("COMMIT")

    run.thread(write, 1, name="a")
    run.thread(write, 2, name="b")
    run.join()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (2,)


def test_busy_database_waits_in_virtual_time(tmp_path: Path) -> None:
    """With a busy timeout of two seconds no writer is refused."""
    result = explore(
        lambda run: write_twice(tmp_path / "d", run, 2.0, "BEGIN IMMEDIATE"),
        budget=Budget(schedules=40, seconds=20.0),
    )
    assert result.validity is Validity.VALID, result.story


def test_short_busy_timeout_is_found(tmp_path: Path) -> None:
    """With a busy timeout of half a second one writer raises OperationalError."""
    finding = explore(
        lambda run: write_twice(tmp_path / "d", run, 0.5, "BEGIN IMMEDIATE"),
        budget=Budget(schedules=100, seconds=20.0),
    ).finding
    assert finding is not None
    assert "database is locked" in finding.message


@pytest.mark.parametrize("pragma", ["PRAGMA busy_timeout = 1500", "PRAGMA busy_timeout(1500)"])
def test_busy_timeout_pragma_takes_effect(pragma: str) -> None:
    def body(run: Run) -> None:  # noqa: ARG001 - one thread is enough
        with closing(sqlite3.connect(":memory:")) as connection:
            connection.execute(pragma)
            assert connection.busy_timeout_ns == 1_500_000_000  # type: ignore[attr-defined]

    assert explore(body, budget=FEW).validity is Validity.VALID
