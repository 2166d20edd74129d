"""Asyncio programs with a bug, each with its correction: what the explorer must tell apart.

Every body takes the run and the variant: `broken` or not.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from harness.schedule import Run

Program = Callable[..., Any]


class Account:
    """A balance that is read, and written after an await."""

    def __init__(self) -> None:
        self.balance = 0
        self.lock = asyncio.Lock()

    async def pay(self) -> None:
        """Add one: another payment may come between reading and writing."""
        seen = self.balance
        await asyncio.sleep(0)
        self.balance = seen + 1

    async def pay_locked(self) -> None:
        """Add one, with no other payment in between."""
        async with self.lock:
            await self.pay()


def lost_update(_run: Run, *, broken: bool) -> None:
    """Two tasks add to one balance over an await."""

    async def main() -> None:
        account = Account()
        pay = account.pay if broken else account.pay_locked
        await asyncio.gather(pay(), pay())
        assert account.balance == 2

    asyncio.run(main())


def tied_timers(_run: Run, *, broken: bool) -> None:
    """A value is expected at the instant at which it is put; the correction waits for it."""

    async def main() -> None:
        box: list[int] = []
        is_put = asyncio.Event()

        async def put() -> None:
            await asyncio.sleep(0.2)
            await asyncio.sleep(0.3)
            box.append(1)
            is_put.set()

        task = asyncio.create_task(put())
        await asyncio.sleep(0.1)
        await asyncio.sleep(0.4)
        if not broken:
            await is_put.wait()
        assert box
        await task

    asyncio.run(main())


def unwoken_loop(run: Run, *, broken: bool) -> None:
    """A thread gives the loop a callback without waking it."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        answer = loop.create_future()
        call = loop.call_soon if broken else loop.call_soon_threadsafe
        run.thread(call, answer.set_result, 1, name="producer")
        await answer

    asyncio.run(main())


def worker_and_task(_run: Run, *, broken: bool) -> None:
    """A job of `to_thread` and a task change one number; the correction does both in the loop."""

    class Total:
        value = 0

    async def main() -> None:
        total = Total()
        lock = threading.Lock()

        def job() -> None:
            with lock:
                seen = total.value
            with lock:
                total.value = seen + 1

        def safe_job() -> None:
            with lock:
                total.value += 1

        async def task() -> None:
            (job if broken else safe_job)()

        await asyncio.gather(asyncio.to_thread(job if broken else safe_job), task())
        assert total.value == 2

    asyncio.run(main())


class Tally:
    """A number without a lock."""

    def __init__(self) -> None:
        self.value = 0

    def add(self) -> None:
        """Read and write."""
        seen = self.value
        self.value = seen + 1


def unlocked_workers(_run: Run, *, broken: bool) -> None:
    """Two jobs change plain memory; the correction lets one of them end first."""

    async def main() -> None:
        tally = Tally()
        if broken:
            await asyncio.gather(asyncio.to_thread(tally.add), asyncio.to_thread(tally.add))
        else:
            await asyncio.to_thread(tally.add)
            await asyncio.to_thread(tally.add)
        assert tally.value == 2

    asyncio.run(main())


def cancelled_holder(run: Run, *, broken: bool) -> None:
    """A task is cancelled between acquire and release; the correction uses `async with`."""

    async def main() -> None:
        lock = asyncio.Lock()

        async def hold() -> None:
            if broken:
                await lock.acquire()
                await asyncio.sleep(0)
                lock.release()
            else:
                async with lock:
                    await asyncio.sleep(0)

        holder = asyncio.create_task(hold(), name="holder")
        run.cancel(holder)
        await asyncio.wait([holder])
        async with lock:
            pass

    asyncio.run(main())


def cancelled_consumer(run: Run, *, broken: bool) -> None:
    """A consumer is cancelled with an item in hand; the correction puts it back."""

    async def main() -> None:
        queue: asyncio.Queue[int] = asyncio.Queue()
        queue.put_nowait(1)
        done: list[int] = []

        async def consume() -> None:
            item = await queue.get()
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                if not broken:
                    queue.put_nowait(item)
                raise
            done.append(item)

        consumer = asyncio.create_task(consume())
        run.cancel(consumer)
        await asyncio.wait([consumer])
        assert len(done) + queue.qsize() == 1

    asyncio.run(main())


def timeout_and_work(_run: Run, *, broken: bool) -> None:
    """Work of a second is given a second; the correction accepts that it was not done."""

    async def main() -> None:
        done: list[int] = []

        async def work() -> None:
            await asyncio.sleep(0.5)
            await asyncio.sleep(0.5)
            done.append(1)

        try:
            await asyncio.wait_for(work(), 1)
            was_in_time = True
        except TimeoutError:
            was_in_time = False
        if broken:
            assert was_in_time
        assert was_in_time == bool(done)

    asyncio.run(main())


def timeout_and_thread(_run: Run, *, broken: bool) -> None:
    """A job that sleeps a second is given a second, and goes on after the timeout."""

    async def main() -> None:
        done: list[int] = []

        def job() -> None:
            time.sleep(1.0)
            done.append(1)

        timed_out = False
        try:
            async with asyncio.timeout(1):
                await asyncio.to_thread(job)
        except TimeoutError:
            timed_out = True
        assert not (broken and timed_out and done), "late, and done all the same"

    asyncio.run(main())


def patience_and_ready_code(_run: Run, *, broken: bool) -> None:
    """A timeout of five seconds passes although code is ready; the correction starts again."""

    async def main() -> None:
        async def step() -> None:
            for _ in range(3):
                await asyncio.sleep(0)

        try:
            await asyncio.wait_for(step(), 5)
        except TimeoutError:
            assert not broken

    asyncio.run(main())


def lock_and_loop(_run: Run, *, broken: bool) -> None:
    """A thread holds a lock and waits for the loop, which waits for the lock."""

    async def main() -> None:
        lock = threading.Lock()
        loop = asyncio.get_running_loop()
        done = threading.Event()

        def client() -> None:
            if broken:
                with lock:
                    loop.call_soon_threadsafe(done.set)
                    done.wait()
            else:
                with lock:
                    pass
                loop.call_soon_threadsafe(done.set)
                done.wait()

        thread = threading.Thread(target=client, name="client")
        thread.start()
        for _ in range(2):
            await asyncio.sleep(0)
            with lock:
                pass
        while thread.is_alive():  # noqa: ASYNC110 - a poll on purpose
            await asyncio.sleep(1)

    asyncio.run(main())


def two_locks(_run: Run, *, broken: bool) -> None:
    """Two tasks take two locks in opposite orders."""

    async def main() -> None:
        first, second = asyncio.Lock(), asyncio.Lock()

        async def both(outer: asyncio.Lock, inner: asyncio.Lock) -> None:
            async with outer:
                await asyncio.sleep(0)
                async with inner:
                    pass

        second_pair = (second, first) if broken else (first, second)
        await asyncio.gather(both(first, second), both(*second_pair))

    asyncio.run(main())


def forgotten_coroutine(_run: Run, *, broken: bool) -> None:
    """A coroutine is called and not awaited."""

    async def save() -> None:
        pass

    async def main() -> None:
        if broken:
            save()  # type: ignore[unused-coroutine]
        else:
            await save()

    asyncio.run(main())


def unheard_failure(_run: Run, *, broken: bool) -> None:
    """A background task fails, and no code asks for its result."""

    async def fail() -> None:
        raise ValueError("no disk")

    async def main() -> None:
        task = asyncio.create_task(fail(), name="saver")
        await asyncio.wait([task])
        if not broken:
            assert isinstance(task.exception(), ValueError)

    asyncio.run(main())


def failing_callback(_run: Run, *, broken: bool) -> None:
    """A callback raises; asyncio only logs it."""

    async def main() -> None:
        asyncio.get_running_loop().call_soon(int, "one" if broken else "1")
        await asyncio.sleep(0)

    asyncio.run(main())


def abandoned_task(_run: Run, *, broken: bool) -> None:
    """A loop is closed with a task in it."""

    async def wait() -> None:
        await asyncio.sleep(10)

    async def main() -> asyncio.Task[None]:
        task = asyncio.create_task(wait(), name="heartbeat")
        await asyncio.sleep(0)
        return task

    loop = asyncio.new_event_loop()
    task = loop.run_until_complete(main())
    if not broken:
        task.cancel()
        loop.run_until_complete(asyncio.wait([task]))
    loop.close()


def starved_pool(_run: Run, *, broken: bool) -> None:
    """A job waits for another job of a pool of one worker; the correction has two."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        go = threading.Event()
        with ThreadPoolExecutor(1 if broken else 2) as pool:
            first = loop.run_in_executor(pool, go.wait)
            second = loop.run_in_executor(pool, go.set)
            await asyncio.gather(first, second)

    asyncio.run(main())


PROGRAMS: dict[Program, str] = {
    lost_update: "assertion",
    tied_timers: "assertion",
    unwoken_loop: "deadlock",
    worker_and_task: "assertion",
    unlocked_workers: "assertion",
    cancelled_holder: "deadlock",
    cancelled_consumer: "assertion",
    timeout_and_work: "assertion",
    timeout_and_thread: "assertion",
    patience_and_ready_code: "assertion",
    lock_and_loop: "deadlock",
    two_locks: "deadlock",
    forgotten_coroutine: "unawaited",
    unheard_failure: "exception",
    failing_callback: "exception",
    abandoned_task: "pending",
    starved_pool: "deadlock",
}
