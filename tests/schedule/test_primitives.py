"""CPython's own synchronisation runs unchanged under control, in virtual time."""

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


def clean(body: Body) -> Result:
    """Explore what must hold in every schedule."""
    result = explore(body, budget=FEW)
    assert result.validity is Validity.VALID, result.story
    return result


def test_a_queue_hands_over_every_item_once_and_in_order() -> None:
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

    clean(body)


def test_a_simple_queue_wakes_its_reader() -> None:
    def body(run: Run) -> None:
        channel: queue.SimpleQueue[int] = queue.SimpleQueue()
        run.thread(channel.put, 7)
        assert channel.get(timeout=1.0) == 7

    clean(body)


def test_an_empty_queue_times_out_in_virtual_time() -> None:
    def body(run: Run) -> None:
        with pytest.raises(queue.Empty):
            queue.Queue[int]().get(timeout=3600.0)
        assert run.now_ns >= 3600 * 10**9

    clean(body)


def test_an_event_wakes_all_who_wait() -> None:
    def body(run: Run) -> None:
        event = threading.Event()
        woken: list[bool] = []
        for _ in range(2):
            run.thread(lambda: woken.append(event.wait()))
        run.thread(event.set)
        run.join()
        assert woken == [True, True]

    clean(body)


def test_a_condition_waits_with_a_timeout_of_virtual_time() -> None:
    def body(run: Run) -> None:
        condition = threading.Condition()
        with condition:
            assert not condition.wait(timeout=60.0)
        assert run.now_ns == 60 * 10**9

    clean(body)


def test_a_semaphore_admits_no_more_than_it_has() -> None:
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

    clean(body)


def test_a_barrier_lets_all_go_together() -> None:
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

    clean(body)


def test_a_timer_fires_when_its_time_has_come() -> None:
    def body(run: Run) -> None:
        fired: list[int] = []
        timer = threading.Timer(90.0, lambda: fired.append(run.now_ns))
        timer.start()
        timer.join()
        assert fired == [90 * 10**9]

    clean(body)


def test_a_thread_that_code_under_test_starts_is_scheduled_too() -> None:
    """Its name, its identity and its end are those of a thread like any other."""

    def body(run: Run) -> list[str]:  # noqa: ARG001 - it starts threads by itself
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
        second.join(timeout=5.0)
        assert not first.is_alive()
        assert not second.is_alive()
        assert first.ident is not None
        return seen

    def outcome(run: Run) -> str:
        return "".join(body(run))

    assert set(clean(outcome).outcomes) == {"ab", "ba"}


def test_a_raw_thread_is_scheduled_too() -> None:
    def body(run: Run) -> None:  # noqa: ARG001 - it starts threads by itself
        done = threading.Event()
        _thread.start_new_thread(done.set, ())
        assert done.wait(timeout=1.0)

    clean(body)


def test_a_pool_runs_its_work_and_shuts_down() -> None:
    def body(run: Run) -> None:  # noqa: ARG001 - it starts threads by itself
        with ThreadPoolExecutor(max_workers=2) as pool:
            assert sorted(pool.map(abs, (-1, -2))) == [1, 2]

    clean(body)


def test_a_pool_that_is_never_shut_down_is_no_deadlock() -> None:
    def body(run: Run) -> None:  # noqa: ARG001 - it starts threads by itself
        pool = ThreadPoolExecutor(max_workers=1)
        assert pool.submit(abs, -3).result() == 3

    clean(body)


def test_a_name_that_was_taken_before_is_under_control_too() -> None:
    """`from time import sleep` at the head of a module does not escape."""

    def body(run: Run) -> None:
        began_s = captured_monotonic()
        captured_sleep(1000.0)
        assert captured_monotonic() - began_s == pytest.approx(1000.0)
        assert run.now_ns == 1000 * 10**9

    clean(body)


@pytest.mark.parametrize("uptime_s", [0.1, 964.123456789, 4_000.123456789, 2.0**22 - 0.3])
def test_a_minute_is_a_minute_on_a_machine_of_any_age(
    uptime_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A float of 4,060 s is coarser than one of 4,000 s, and a minute between them too short."""
    monkeypatch.setattr(clock, "monotonic_ns", lambda: int(uptime_s * 1e9))

    def body(run: Run) -> None:  # noqa: ARG001 - it needs only the clock
        assert time.monotonic() >= uptime_s
        for _ in range(4):
            time.sleep(0.123456789)
            began_s = time.monotonic()
            time.sleep(60.0)
            assert time.monotonic() - began_s == 60.0

    clean(body)


def test_a_reader_that_spins_on_the_clock_gets_to_its_deadline() -> None:
    def body(run: Run) -> None:  # noqa: ARG001 - it needs only the clock
        deadline_s = time.monotonic() + 2.0
        while time.monotonic() < deadline_s:
            pass

    clean(body)


def test_a_reentrant_lock_is_held_until_its_last_release() -> None:
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

    clean(body)


def test_a_try_fails_while_another_holds_the_lock() -> None:
    """Both answers are met."""

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

    assert set(clean(body).outcomes) == {True, False}


def test_a_lock_made_before_the_run_works_in_both_worlds() -> None:
    """A module-level lock made under `install` guards tasks, and afterwards plain threads."""
    from harness.schedule import install, uninstall  # noqa: PLC0415 - where it is used

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

    clean(body)
    with lock:
        taken: list[bool] = []
        thread = threading.Thread(target=lambda: taken.append(lock.acquire(blocking=False)))
        thread.start()
        thread.join()
    assert taken == [False]
    assert lock.acquire(blocking=False)
    lock.release()


def test_a_thread_local_is_new_in_every_thread() -> None:
    """Workers are used again, but never look as if they had lived before."""

    def body(run: Run) -> None:
        def work() -> None:
            assert not hasattr(_local, "mark")
            _local.mark = 1

        run.thread(work)
        run.thread(work)
        run.join()

    clean(body)


_local = threading.local()


def test_everything_is_as_it_was_afterwards() -> None:
    """Patches are undone, no thread is left, whatever happened in between."""
    before: dict[str, Any] = dict(vars(threading))
    sleep, connect, count = time.sleep, open, threading.active_count()

    def body(run: Run) -> None:
        run.thread(threading.Lock().acquire)
        run.thread(lambda: 1 / 0)
        run.join()

    assert explore(body, budget=FEW).finding is not None
    assert {k: v for k, v in vars(threading).items() if before.get(k) is not v} == {}
    assert time.sleep is sleep
    assert open is connect
    assert threading.active_count() == count


def test_install_may_be_in_force_while_exploring() -> None:
    """What was installed before stays so afterwards, until it is undone."""
    from harness.schedule import install, uninstall  # noqa: PLC0415 - where it is used

    sleep = time.sleep
    install()
    try:
        assert time.sleep is not sleep
        clean(lambda run: run.join(run.thread(time.sleep, 60.0)))
        assert time.sleep is not sleep
    finally:
        uninstall()
    assert time.sleep is sleep
