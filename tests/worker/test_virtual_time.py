"""Checks that waits in virtual time take their time by every clock, and no real time."""

from __future__ import annotations

import queue
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.worker import virtual_time
from harness.worker.virtual_time import StuckError, ThreadsLeftError, VirtualTime, wrap

HOUR_S = 3600.0
DAY_S = 24 * HOUR_S


@pytest.fixture
def active_time() -> Iterator[VirtualTime]:
    with VirtualTime() as active_time:
        yield active_time


def _started(*functions: Callable[[], object]) -> list[threading.Thread]:
    threads = [threading.Thread(target=function, daemon=True) for function in functions]
    for thread in threads:
        thread.start()
    return threads


@pytest.mark.usefixtures("active_time")
def test_timer_fires_after_its_delay() -> None:
    """A timer of an hour fires neither before nor long after an hour of the virtual clock."""
    fired: list[float] = []
    began_s = time.monotonic()
    timer = threading.Timer(HOUR_S, lambda: fired.append(time.monotonic() - began_s))
    timer.start()
    timer.join()

    assert fired == [pytest.approx(HOUR_S, abs=1e-3)]


def test_thousand_virtual_years_take_little_real_time() -> None:
    """A sleep of a thousand years ends within the timeout of a test."""
    with VirtualTime() as active_time:
        time.sleep(1000 * 365 * DAY_S)

    assert active_time.now_ns / 1e9 >= 1000 * 365 * DAY_S


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=12))
def test_sleeps_end_in_order_of_deadlines(delays_s: list[int]) -> None:
    """A thread with an earlier deadline runs earlier, for any number of threads."""
    ended: list[int] = []

    def wait(delay_s: int) -> None:
        time.sleep(delay_s)
        ended.append(delay_s)

    with VirtualTime():
        for thread in _started(*(partial(wait, delay_s) for delay_s in delays_s)):
            thread.join()

    assert ended == sorted(delays_s)


@pytest.mark.usefixtures("active_time")
def test_clock_stands_still_while_thread_works(tmp_path: Path) -> None:
    """A sleep of a second ends after the writer has written, whatever real time that takes.

    writer:  |--- ten thousand real rows ------|
    sleeper:    |--- one second -------------------|
    """
    order: list[str] = []
    working = threading.Event()

    def write() -> None:
        with sqlite3.connect(tmp_path / "db", check_same_thread=False) as connection:
            working.set()
            connection.execute("CREATE TABLE t(x)")
            for number in range(10_000):
                connection.execute("INSERT INTO t VALUES (?)", (number,))
        connection.close()
        order.append("written")

    def sleep() -> None:
        working.wait()
        time.sleep(1.0)
        order.append("slept")

    for thread in _started(write, sleep):
        thread.join()

    assert order == ["written", "slept"]


def test_all_clocks_advance_equally(active_time: VirtualTime) -> None:
    """A day passes on each of the six clocks."""
    clocks = (time.time, time.monotonic, time.perf_counter)
    clocks_ns = (time.time_ns, time.monotonic_ns, time.perf_counter_ns)
    before = [clock() for clock in clocks] + [clock() / 1e9 for clock in clocks_ns]
    time.sleep(DAY_S)
    after = [clock() for clock in clocks] + [clock() / 1e9 for clock in clocks_ns]

    assert [now - then for then, now in zip(before, after, strict=True)] == [
        pytest.approx(DAY_S, abs=1e-3)
    ] * 6
    assert active_time.now_ns / 1e9 == pytest.approx(DAY_S, abs=1e-2)


@pytest.mark.usefixtures("active_time")
def test_event_wait_ends_when_event_is_set() -> None:
    """A wait of at most a day for an event that is set after an hour takes an hour."""
    event = threading.Event()
    began_s = time.monotonic()
    setter = threading.Timer(HOUR_S, event.set)
    setter.start()
    is_set = event.wait(DAY_S)

    assert is_set
    assert time.monotonic() - began_s == pytest.approx(HOUR_S, abs=1e-3)
    setter.join()


@pytest.mark.usefixtures("active_time")
def test_wait_with_timeout_takes_whole_timeout() -> None:
    """Each kind of wait with a timeout takes its whole timeout."""
    held_lock = threading.Lock()
    held_lock.acquire()
    never = threading.Event()
    thread = threading.Thread(target=never.wait, daemon=True)
    thread.start()
    waits: tuple[Callable[[], bool], ...] = (
        lambda: not held_lock.acquire(timeout=60.0),
        lambda: not threading.Event().wait(60.0),
        lambda: not threading.Semaphore(0).acquire(timeout=60.0),
        lambda: _outlives_join(thread),
        lambda: _is_empty(queue.Queue()),
        lambda: _is_empty(queue.SimpleQueue()),
    )
    for wait in waits:
        began_s = time.monotonic()
        assert wait()
        assert time.monotonic() - began_s == pytest.approx(60.0, abs=1e-3)
    never.set()
    thread.join()


def _outlives_join(thread: threading.Thread) -> bool:
    thread.join(60.0)
    return thread.is_alive()


def _is_empty(waiting: queue.Queue[int] | queue.SimpleQueue[int]) -> bool:
    with pytest.raises(queue.Empty):
        waiting.get(timeout=60.0)
    return True


@pytest.mark.usefixtures("active_time")
def test_zero_timeout_does_not_wait_for_threads() -> None:
    """A wait of zero seconds returns while another thread is busy."""
    real_lock = virtual_time._allocate()
    real_lock.acquire()
    (busy,) = _started(real_lock.acquire)
    began_s = time.monotonic()

    assert not threading.Event().wait(0)
    assert time.monotonic() - began_s < 1e-3
    real_lock.release()
    busy.join()


@pytest.mark.usefixtures("active_time")
def test_locks_exclude_and_wake_all_waiters() -> None:
    """Eight threads of a pool share one lock: no update is lost, and every waiter proceeds."""
    lock, rlock = threading.Lock(), threading.RLock()
    count = 0

    def add(_: int) -> None:
        nonlocal count
        for _ in range(50):
            with lock, rlock, rlock:
                before = count
                time.sleep(random.random())
                count = before + 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(8)))

    assert count == 8 * 50


def test_deadlock_raises_stuck_error() -> None:
    """A deadlock raises an error that names where the owner waits, and does not hang."""
    with VirtualTime() as active_time:
        with pytest.raises(StuckError, match=r"all threads wait.*test_virtual_time\.py"):
            threading.Event().wait()
        time.sleep(HOUR_S)

    assert active_time.now_ns / 1e9 >= HOUR_S


def test_real_wait_raises_stuck_error_with_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread in a real wait holds time back; after PATIENCE_S the owner's error names it."""
    monkeypatch.setattr(virtual_time, "PATIENCE_S", 0.05)
    real_lock = virtual_time._allocate()
    real_lock.acquire()
    with VirtualTime():
        thread = threading.Thread(target=real_lock.acquire, name="far away", daemon=True)
        thread.start()
        with pytest.raises(StuckError, match="far away"):
            time.sleep(HOUR_S)

        real_lock.release()
        thread.join()


def test_end_restores_clocks_and_locks() -> None:
    """The original functions return, and locks made in virtual time work in real time."""
    before = (time.sleep, time.time, threading.Lock, threading.RLock(), queue.SimpleQueue)
    with VirtualTime():
        lock, condition = threading.Lock(), threading.Condition()
        time.sleep(DAY_S)

    after = (time.sleep, time.time, threading.Lock, threading.RLock(), queue.SimpleQueue)
    assert before[:3] + before[4:] == after[:3] + after[4:]
    assert type(before[3]) is type(after[3])
    held = threading.Event()

    def hold() -> None:
        with lock, condition:
            held.set()
            condition.wait()

    (thread,) = _started(hold)
    held.wait()
    with condition:
        condition.notify()
    thread.join()
    assert not lock.locked()


def test_other_thread_keeps_real_time() -> None:
    """A thread that is no member reads the real clock, and can use the members' locks."""
    readings: list[float] = []
    lock = threading.Lock()
    begin, ended = virtual_time._allocate(), virtual_time._allocate()
    begin.acquire()
    ended.acquire()

    def read_clock() -> None:
        with begin:
            readings.append(time.time())
        ended.release()

    (thread,) = _started(read_clock)
    real_s = time.time()
    with VirtualTime():
        time.sleep(DAY_S)
        with lock:
            begin.release()
            ended.acquire()

    thread.join()
    assert 0 <= readings[0] - real_s < DAY_S / 2


def test_close_names_threads_that_still_run(tmp_path: Path) -> None:
    """Threads that outlive the adapter return to real time, and the error names them."""
    never = []

    class LeakyAdapter:
        def __init__(self, _folder: Path) -> None:
            never.append(threading.Event())
            threading.Thread(target=never[0].wait, name="leaked", daemon=True).start()

        def rest(self) -> float:
            began_s = time.monotonic()
            time.sleep(HOUR_S)
            return time.monotonic() - began_s

        def close(self) -> None:
            pass

    adapter = wrap(LeakyAdapter)(tmp_path)
    assert adapter.rest() == pytest.approx(HOUR_S, abs=1e-3)
    assert adapter.elapsed()["virtual_s"] == pytest.approx(HOUR_S, abs=1e-2)
    with pytest.raises(ThreadsLeftError, match="leaked"):
        adapter.close()
    never[0].set()


def test_second_virtual_time_is_refused() -> None:
    """A second virtual time raises RuntimeError, and the first one goes on."""
    with VirtualTime() as active_time:
        with pytest.raises(RuntimeError, match="already"):
            VirtualTime()
        time.sleep(DAY_S)

    assert active_time.now_ns / 1e9 >= DAY_S
