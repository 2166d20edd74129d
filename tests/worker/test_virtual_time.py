"""Who lives in a lapse finds that time passes as it should, and nobody notices that it does not."""

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

from harness.worker import virtual_time as time_lapse
from harness.worker.virtual_time import Lapse, LeftBehindError, StuckError, wrap

HOUR_S = 3600.0
DAY_S = 24 * HOUR_S


@pytest.fixture
def lapse() -> Iterator[Lapse]:
    with Lapse() as lapse:
        yield lapse


def _started(*acts: Callable[[], object]) -> list[threading.Thread]:
    threads = [threading.Thread(target=act, daemon=True) for act in acts]
    for thread in threads:
        thread.start()
    return threads


@pytest.mark.usefixtures("lapse")
def test_a_timer_set_for_an_hour_fires_after_an_hour() -> None:
    """Neither before nor long after, by the clock that everybody reads."""
    fired: list[float] = []
    began_s = time.monotonic()
    timer = threading.Timer(HOUR_S, lambda: fired.append(time.monotonic() - began_s))
    timer.start()
    timer.join()

    assert fired == [pytest.approx(HOUR_S, abs=1e-3)]


def test_an_hour_takes_no_hour() -> None:
    """A thousand years, by a clock that is outside, are over within the patience of a test."""
    with Lapse() as lapse:
        time.sleep(1000 * 365 * DAY_S)

    assert lapse.now_ns / 1e9 >= 1000 * 365 * DAY_S


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=12))
def test_timers_keep_their_order(delays_s: list[int]) -> None:
    """Whoever is due earlier acts earlier, however many threads wait."""
    woken: list[int] = []

    def wait(delay_s: int) -> None:
        time.sleep(delay_s)
        woken.append(delay_s)

    with Lapse():
        for thread in _started(*(partial(wait, delay_s) for delay_s in delays_s)):
            thread.join()

    assert woken == sorted(delays_s)


@pytest.mark.usefixtures("lapse")
def test_time_does_not_pass_while_anybody_is_busy(tmp_path: Path) -> None:
    """A second is over when the writer has written, however long that takes him.

    writer:  |--- ten thousand rows, really ---|
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


def test_all_clocks_tell_the_same_time(lapse: Lapse) -> None:
    """A day passes on each of them, and none ever goes back."""
    clocks = (time.time, time.monotonic, time.perf_counter)
    whole = (time.time_ns, time.monotonic_ns, time.perf_counter_ns)
    before = [clock() for clock in clocks] + [clock() / 1e9 for clock in whole]
    time.sleep(DAY_S)
    after = [clock() for clock in clocks] + [clock() / 1e9 for clock in whole]

    assert [now - then for then, now in zip(before, after, strict=True)] == [
        pytest.approx(DAY_S, abs=1e-3)
    ] * 6
    assert lapse.now_ns / 1e9 == pytest.approx(DAY_S, abs=1e-2)


@pytest.mark.usefixtures("lapse")
def test_a_wait_that_is_met_takes_no_longer() -> None:
    """Who waits for an event, at most a day, waits the hour that it takes."""
    met = threading.Event()
    began_s = time.monotonic()
    setter = threading.Timer(HOUR_S, met.set)
    setter.start()
    is_met = met.wait(DAY_S)

    assert is_met
    assert time.monotonic() - began_s == pytest.approx(HOUR_S, abs=1e-3)
    setter.join()


@pytest.mark.usefixtures("lapse")
def test_a_wait_that_is_not_met_ends_in_time() -> None:
    """For each thing that can be waited for with a timeout, the whole timeout passes."""
    taken = threading.Lock()
    taken.acquire()
    never = threading.Event()
    thread = threading.Thread(target=never.wait, daemon=True)
    thread.start()
    waits: tuple[Callable[[], bool], ...] = (
        lambda: not taken.acquire(timeout=60.0),
        lambda: not threading.Event().wait(60.0),
        lambda: not threading.Semaphore(0).acquire(timeout=60.0),
        lambda: _goes_on(thread),
        lambda: _is_empty(queue.Queue()),
        lambda: _is_empty(queue.SimpleQueue()),
    )
    for wait in waits:
        began_s = time.monotonic()
        assert wait()
        assert time.monotonic() - began_s == pytest.approx(60.0, abs=1e-3)
    never.set()
    thread.join()


def _goes_on(thread: threading.Thread) -> bool:
    thread.join(60.0)
    return thread.is_alive()


def _is_empty(waiting: queue.Queue[int] | queue.SimpleQueue[int]) -> bool:
    with pytest.raises(queue.Empty):
        waiting.get(timeout=60.0)
    return True


@pytest.mark.usefixtures("lapse")
def test_a_wait_of_no_time_waits_for_nobody() -> None:
    """A look whether an event is set does not depend on what others do meanwhile."""
    outside = time_lapse._allocate()
    outside.acquire()
    (busy,) = _started(outside.acquire)
    began_s = time.monotonic()

    assert not threading.Event().wait(0)
    assert time.monotonic() - began_s < 1e-3
    outside.release()
    busy.join()


@pytest.mark.usefixtures("lapse")
def test_locks_exclude_and_are_handed_on() -> None:
    """Eight threads of a pool meet at one lock: no update is lost, and nobody is forgotten."""
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


def test_a_world_in_which_nobody_will_ever_act_is_an_error() -> None:
    """A deadlock is told of, with the place where its keeper waits, and does not hang."""
    with Lapse() as lapse:
        with pytest.raises(StuckError, match=r"everybody waits.*test_virtual_time\.py"):
            threading.Event().wait()
        time.sleep(HOUR_S)

    assert lapse.now_ns / 1e9 >= HOUR_S


def test_somebody_who_waits_for_the_outside_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread in a real wait holds time back; the keeper says where, when his patience ends."""
    monkeypatch.setattr(time_lapse, "PATIENCE_S", 0.05)
    outside = time_lapse._allocate()
    outside.acquire()
    with Lapse():
        thread = threading.Thread(target=outside.acquire, name="far away", daemon=True)
        thread.start()
        with pytest.raises(StuckError, match="far away"):
            time.sleep(HOUR_S)

        outside.release()
        thread.join()


def test_nothing_is_left_of_a_lapse() -> None:
    """Clocks, locks and threads are what they were, and locks made in there go on working."""
    before = (time.sleep, time.time, threading.Lock, threading.RLock(), queue.SimpleQueue)
    with Lapse():
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


def test_a_thread_outside_finds_everything_as_it_was() -> None:
    """Its clock is the real one, and it may take and give back the locks of those inside."""
    seen: list[float] = []
    lock = threading.Lock()
    go, gone = time_lapse._allocate(), time_lapse._allocate()
    go.acquire()
    gone.acquire()

    def look() -> None:
        with go:
            seen.append(time.time())
        gone.release()

    (thread,) = _started(look)
    real_s = time.time()
    with Lapse():
        time.sleep(DAY_S)
        with lock:
            go.release()
            gone.acquire()

    thread.join()
    assert 0 <= seen[0] - real_s < DAY_S / 2


def test_threads_that_outlive_the_adapter_are_named(tmp_path: Path) -> None:
    """They return to real time, and are told of by name."""
    never = []

    class Forgetful:
        def __init__(self, _folder: Path) -> None:
            never.append(threading.Event())
            threading.Thread(target=never[0].wait, name="forgotten", daemon=True).start()

        def rest(self) -> float:
            began_s = time.monotonic()
            time.sleep(HOUR_S)
            return time.monotonic() - began_s

        def close(self) -> None:
            pass

    adapter = wrap(Forgetful)(tmp_path)
    assert adapter.rest() == pytest.approx(HOUR_S, abs=1e-3)
    assert adapter.elapsed()["virtual_s"] == pytest.approx(HOUR_S, abs=1e-2)
    with pytest.raises(LeftBehindError, match="forgotten"):
        adapter.close()
    never[0].set()


def test_one_lapse_at_a_time() -> None:
    """A second one is refused, and changes nothing."""
    with Lapse() as lapse:
        with pytest.raises(RuntimeError, match="already"):
            Lapse()
        time.sleep(DAY_S)

    assert lapse.now_ns / 1e9 >= DAY_S
