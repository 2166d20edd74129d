"""Checks that CPython's synchronization works unchanged under control, in virtual time."""

from __future__ import annotations

import _thread
import queue
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from time import monotonic as captured_monotonic
from time import sleep as captured_sleep
from typing import Any

import pytest

from harness.core.verdict import Validity
from harness.schedule import Budget, Result, Run, clock, explore
from harness.schedule.program import Body

FEW = Budget(schedules=300, seconds=20.0)


def explore_valid(body: Body) -> Result:
    """Explore a body that must hold in every schedule."""
    result = explore(body, budget=FEW)
    assert result.validity is Validity.VALID, result.story
    return result


def test_queue_delivers_every_item_once_in_order() -> None:
    def body(run: Run) -> None:
        channel: queue.Queue[int | None] = queue.Queue(maxsize=1)
        got: list[int] = []

        def produce() -> None:
            for item in (1, 2, None):
                channel.put(item)

        def consume() -> None:
            while (item := channel.get()) is not None:
                got.append(item)

        run.thread(produce)
        run.thread(consume)
        run.join()
        assert got == [1, 2]

    explore_valid(body)


def test_simple_queue_wakes_reader() -> None:
    def body(run: Run) -> None:
        channel: queue.SimpleQueue[int] = queue.SimpleQueue()
        run.thread(channel.put, 7)
        assert channel.get() == 7

    explore_valid(body)


def test_empty_queue_times_out_in_virtual_time() -> None:
    def body(run: Run) -> None:
        with pytest.raises(queue.Empty):
            queue.Queue[int]().get(timeout=3600.0)
        assert run.now_ns >= 3600 * 10**9

    explore_valid(body)


def test_event_wakes_all_waiters() -> None:
    def body(run: Run) -> None:
        event = threading.Event()
        results: list[bool] = []
        for _ in range(2):
            run.thread(lambda: results.append(event.wait()))
        run.thread(event.set)
        run.join()
        assert results == [True, True]

    explore_valid(body)


def test_condition_timeout_takes_virtual_time() -> None:
    def body(run: Run) -> None:
        condition = threading.Condition()
        with condition:
            assert not condition.wait(timeout=60.0)
        assert run.now_ns == 60 * 10**9

    explore_valid(body)


def test_semaphore_admits_at_most_its_value() -> None:
    def body(run: Run) -> None:
        semaphore = threading.BoundedSemaphore(2)
        inside: list[int] = []

        def enter() -> None:
            with semaphore:
                inside.append(1)
                assert len(inside) <= 2
                time.sleep(0.1)
                inside.pop()

        for _ in range(3):
            run.thread(enter)
        run.join()

    explore_valid(body)


def test_barrier_releases_all_threads_together() -> None:
    def body(run: Run) -> None:
        barrier = threading.Barrier(2)
        order: list[str] = []

        def meet() -> None:
            order.append("before")
            barrier.wait()
            order.append("after")

        run.thread(meet)
        run.thread(meet)
        run.join()
        assert order == ["before", "before", "after", "after"]

    explore_valid(body)


def test_timer_fires_after_its_delay() -> None:
    def body(run: Run) -> None:
        fired: list[int] = []
        timer = threading.Timer(90.0, lambda: fired.append(run.now_ns))
        timer.start()
        timer.join()
        assert fired == [90 * 10**9]

    explore_valid(body)


def test_thread_of_code_under_test_is_scheduled() -> None:
    """Its name, identity and end are those of an ordinary thread."""

    def body(run: Run) -> list[str]:  # noqa: ARG001 - the body starts threads itself
        seen: list[str] = []

        def work(letter: str) -> None:
            assert threading.current_thread() in (first, second)
            seen.append(letter)

        first = threading.Thread(target=work, args=("a",), name="first")
        second = threading.Thread(target=work, args=("b",), daemon=True)
        assert not first.is_alive()
        first.start()
        second.start()
        first.join()
        second.join()
        assert not first.is_alive()
        assert not second.is_alive()
        assert first.ident is not None
        return seen

    def outcome(run: Run) -> str:
        return "".join(body(run))

    assert set(explore_valid(outcome).outcomes) == {"ab", "ba"}


def test_raw_thread_is_scheduled() -> None:
    def body(run: Run) -> None:  # noqa: ARG001 - the body starts threads itself
        done = threading.Event()
        _thread.start_new_thread(done.set, ())
        assert done.wait()

    explore_valid(body)


def test_thread_pool_runs_work_and_shuts_down() -> None:
    def body(run: Run) -> None:  # noqa: ARG001 - the body starts threads itself
        with ThreadPoolExecutor(max_workers=2) as pool:
            assert sorted(pool.map(abs, (-1, -2))) == [1, 2]

    explore_valid(body)


def test_thread_pool_without_shutdown_is_no_deadlock() -> None:
    def body(run: Run) -> None:  # noqa: ARG001 - the body starts threads itself
        pool = ThreadPoolExecutor(max_workers=1)
        assert pool.submit(abs, -3).result() == 3

    explore_valid(body)


def test_names_imported_before_are_under_control() -> None:
    """`from time import sleep` at the head of a module does not escape."""

    def body(run: Run) -> None:
        began_s = captured_monotonic()
        captured_sleep(1000.0)
        assert captured_monotonic() - began_s == pytest.approx(1000.0)
        assert run.now_ns == 1000 * 10**9

    explore_valid(body)


@pytest.mark.parametrize("uptime_s", [0.1, 964.123456789, 4_000.123456789, 2.0**22 - 0.3])
def test_minute_is_exact_at_any_uptime(uptime_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A float of 4,060 s is coarser than one of 4,000 s, and a minute between them too short."""
    monkeypatch.setattr(clock, "monotonic_ns", lambda: int(uptime_s * 1e9))

    def body(run: Run) -> None:  # noqa: ARG001 - the body needs the clock only
        assert time.monotonic() >= uptime_s
        for _ in range(4):
            time.sleep(0.123456789)
            began_s = time.monotonic()
            time.sleep(60.0)
            assert time.monotonic() - began_s == 60.0

    explore_valid(body)


def test_spin_on_clock_reaches_its_deadline() -> None:
    def body(run: Run) -> None:
        def spin() -> None:
            deadline_s = time.monotonic() + 2.0
            while time.monotonic() < deadline_s:
                pass

        run.thread(spin)
        run.join()

    explore_valid(body)


def test_reentrant_lock_is_held_until_last_release() -> None:
    def body(run: Run) -> None:
        lock = threading.RLock()
        inside: list[int] = []

        def enter() -> None:
            with lock:
                with lock:
                    inside.append(1)
                assert inside == [1]
                inside.pop()

        run.thread(enter)
        run.thread(enter)
        run.join()

    explore_valid(body)


def test_nonblocking_acquire_fails_while_lock_is_held() -> None:
    """Both results occur among the schedules."""

    def body(run: Run) -> bool:
        lock = threading.Lock()
        tried: list[bool] = []

        def hold() -> None:
            with lock:
                time.sleep(0.0)

        def attempt() -> None:
            got = lock.acquire(blocking=False)
            tried.append(got)
            if got:
                lock.release()

        run.thread(hold)
        run.thread(attempt)
        run.join()
        return tried[0]

    assert set(explore_valid(body).outcomes) == {True, False}


def test_installed_lock_works_in_tasks_and_threads() -> None:
    """A lock created after `install` guards tasks, and afterwards plain threads."""
    from harness.schedule import install, uninstall  # noqa: PLC0415 - used here only

    install()
    try:
        lock = threading.Lock()
    finally:
        uninstall()

    def body(run: Run) -> None:
        inside: list[int] = []

        def enter() -> None:
            with lock:
                inside.append(1)
                time.sleep(0.5)
                assert inside == [1]
                inside.pop()

        run.thread(enter)
        run.thread(enter)
        run.join()

    explore_valid(body)
    with lock:
        acquired: list[bool] = []
        thread = threading.Thread(target=lambda: acquired.append(lock.acquire(blocking=False)))
        thread.start()
        thread.join()
    assert acquired == [False]
    assert lock.acquire(blocking=False)
    lock.release()


def test_thread_local_is_empty_in_every_thread() -> None:
    """Workers are reused, but without the thread-locals of earlier tasks."""

    def body(run: Run) -> None:
        def work() -> None:
            assert not hasattr(_local, "mark")
            _local.mark = 1

        run.thread(work)
        run.thread(work)
        run.join()

    explore_valid(body)


_local = threading.local()


def test_exploration_restores_patches_and_threads() -> None:
    """After a failing exploration the patches are undone, and no thread is left."""
    before: dict[str, Any] = dict(vars(threading))
    sleep, original_open, count = time.sleep, open, threading.active_count()

    def body(run: Run) -> None:
        run.thread(threading.Lock().acquire)
        run.thread(lambda: 1 / 0)
        run.join()

    assert explore(body, budget=FEW).finding is not None
    assert {k: v for k, v in vars(threading).items() if before.get(k) is not v} == {}
    assert time.sleep is sleep
    assert open is original_open
    assert threading.active_count() == count


def test_install_stays_in_force_during_exploration() -> None:
    """Patches installed before an exploration stay until `uninstall`."""
    from harness.schedule import install, uninstall  # noqa: PLC0415 - used here only

    sleep = time.sleep
    install()
    try:
        assert time.sleep is not sleep
        explore_valid(lambda run: run.join(run.thread(time.sleep, 60.0)))
        assert time.sleep is not sleep
    finally:
        uninstall()
    assert time.sleep is sleep
