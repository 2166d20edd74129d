"""Small programs of threads, asyncio tasks, and both: each broken and corrected.

The standard library only, so that every explorer of schedules can run them. A program of threads
has a `setup`, workers and an invariant; a program of tasks is a coroutine function that raises.
Some are public races of libraries, reduced in our own words.
"""

# The programs are untyped, as those of most users, and a script's data, not a package:
# mypy: ignore-errors
# ruff: noqa: INP001, D103, ANN201, ANN001, ANN204, ANN202
# ruff: noqa: PLR2004, ASYNC110, PERF401

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

THREADS, TASKS, MIXED = "threads", "tasks", "mixed"


@dataclass(frozen=True)
class Program:
    """One variant of a program. `workers` each get what `setup` made; `main` is a coroutine."""

    name: str
    kind: str
    broken: bool
    setup: Callable[[], Any] | None = None
    workers: tuple[Callable[[Any], Any], ...] = ()
    holds: Callable[[Any], bool] = lambda _: True
    main: Callable[[], Any] | None = None


PROGRAMS: list[Program] = []


def threads(make: Callable[[bool], tuple[Any, ...]]) -> None:
    """Register a program of threads: `make(broken)` returns setup, workers and invariant."""
    for broken in (True, False):
        setup, workers, holds = make(broken)
        PROGRAMS.append(Program(make.__name__, THREADS, broken, setup, tuple(workers), holds))


def coroutine(kind: str) -> Callable[[Callable[[bool], Any]], None]:
    """Register a program that is a coroutine function: `make(broken)` returns it."""

    def register(make: Callable[[bool], Any]) -> None:
        for broken in (True, False):
            PROGRAMS.append(Program(make.__name__, kind, broken, main=make(broken)))

    return register


# Threads


@threads
def lost_update(broken):
    class Counter:
        def __init__(self):
            self.lock, self.value = threading.Lock(), 0

        def add(self):
            if broken:
                with self.lock:
                    seen = self.value
                with self.lock:
                    self.value = seen + 1
            else:
                with self.lock:
                    self.value += 1

    return Counter, [Counter.add, Counter.add], lambda c: c.value == 2


@threads
def lazy_singleton(broken):
    """Two threads find no instance, and both make one."""

    class Holder:
        def __init__(self):
            self.lock, self.made, self.instance = threading.Lock(), [], None

        def make(self):
            self.made.append(1)
            return object()

        def get(self):
            if broken:
                if self.instance is None:
                    self.instance = self.make()
            else:
                with self.lock:
                    if self.instance is None:
                        self.instance = self.make()

    return Holder, [Holder.get, Holder.get], lambda h: len(h.made) == 1


@threads
def torn_audit(broken):
    """A transfer between two accounts is seen half done."""

    class Bank:
        def __init__(self):
            self.lock, self.a, self.b, self.seen = threading.Lock(), 10, 0, 10

        def transfer(self):
            with self.lock:
                self.a -= 5
                if not broken:
                    self.b += 5
            if broken:
                with self.lock:
                    self.b += 5

        def audit(self):
            with self.lock:
                self.seen = self.a + self.b

    return Bank, [Bank.transfer, Bank.audit], lambda b: b.seen == 10


@threads
def opposite_locks(broken):
    class Two:
        def __init__(self):
            self.first, self.second = threading.Lock(), threading.Lock()

        def forward(self):
            with self.first, self.second:
                pass

        def backward(self):
            one, other = (self.second, self.first) if broken else (self.first, self.second)
            with one, other:
                pass

    return Two, [Two.forward, Two.backward], lambda _: True


@threads
def lost_wakeup(broken):
    """A flag is looked at outside of the condition: the notification comes in between."""

    class Gate:
        def __init__(self):
            self.condition, self.open = threading.Condition(), False

        def enter(self):
            if broken:
                if not self.open:
                    with self.condition:
                        self.condition.wait()
            else:
                with self.condition:
                    while not self.open:
                        self.condition.wait()

        def let_in(self):
            with self.condition:
                self.open = True
                self.condition.notify_all()

    return Gate, [Gate.enter, Gate.let_in], lambda g: g.open


@threads
def empty_pool(broken):
    """Two threads see one free connection, and both take it."""

    class Pool:
        def __init__(self):
            self.lock, self.free, self.failed = threading.Lock(), [1], 0

        def size(self):
            with self.lock:
                return len(self.free)

        def take(self):
            try:
                if broken:
                    if self.size():
                        with self.lock:
                            self.free.pop()
                else:
                    with self.lock:
                        if self.free:
                            self.free.pop()
            except IndexError:
                self.failed += 1

    return Pool, [Pool.take, Pool.take], lambda p: not p.failed


@threads
def once_handler(broken):
    """An event emitter calls a handler that is to run once twice (an early pyee)."""

    class Emitter:
        def __init__(self):
            self.lock, self.calls, self.handlers = threading.Lock(), [], ["once"]

        def snapshot(self):
            with self.lock:
                return list(self.handlers)

        def emit(self):
            for handler in self.snapshot():
                with self.lock:
                    if not broken and handler not in self.handlers:
                        continue
                    if handler in self.handlers:
                        self.handlers.remove(handler)
                self.calls.append(handler)

    return Emitter, [Emitter.emit, Emitter.emit], lambda e: len(e.calls) == 1


@threads
def evicting_cache(broken):
    """Two threads see a full cache and evict: it loses an entry that fitted (cachetools)."""

    class Cache:
        def __init__(self):
            self.lock, self.entries = threading.Lock(), {"x": 0, "y": 0}

        def put(self, key):
            if broken:
                with self.lock:
                    full = len(self.entries) >= 2
                if full:
                    with self.lock:
                        self.entries.pop(next(iter(self.entries)))
                with self.lock:
                    self.entries[key] = 1
            else:
                with self.lock:
                    if len(self.entries) >= 2:
                        self.entries.pop(next(iter(self.entries)))
                    self.entries[key] = 1

    return (
        Cache,
        [lambda c: c.put("a"), lambda c: c.put("b")],
        lambda c: len(c.entries) == 2 and ("x" not in c.entries),
    )


@threads
def double_close(broken):
    class Shared:
        def __init__(self):
            self.lock, self.users, self.closed = threading.Lock(), 2, 0

        def release(self):
            if broken:
                with self.lock:
                    self.users -= 1
                with self.lock:
                    if self.users == 0:
                        self.closed += 1
            else:
                with self.lock:
                    self.users -= 1
                    if self.users == 0:
                        self.closed += 1

    return Shared, [Shared.release, Shared.release], lambda s: s.closed == 1


@threads
def changing_registry(broken):
    """A loop over a dict to which another thread adds."""

    class Registry:
        def __init__(self):
            self.lock, self.entries, self.failed = threading.Lock(), {1: 1, 2: 2, 3: 3}, False

        def name(self, key):
            return f"{key}"

        def listing(self):
            try:
                if broken:
                    for key in self.entries:
                        self.name(key)
                else:
                    with self.lock:
                        keys = list(self.entries)
                    for key in keys:
                        self.name(key)
            except RuntimeError:
                self.failed = True

        def add(self):
            with self.lock:
                self.entries[4] = 4

    return Registry, [Registry.listing, Registry.add], lambda r: not r.failed


@threads
def emptied_queue(broken):
    """Two consumers see one item, and one of them gets an exception."""

    class Work:
        def __init__(self):
            self.queue, self.failed = queue.Queue(), 0
            self.queue.put(1)

        def consume(self):
            try:
                if not broken:
                    with suppress(queue.Empty):
                        self.queue.get_nowait()
                elif not self.queue.empty():
                    self.queue.get_nowait()
            except queue.Empty:
                self.failed += 1

    return Work, [Work.consume, Work.consume], lambda w: not w.failed


@threads
def second_writer(broken):
    """A lock for writers lets in two, of three threads."""

    class Writers:
        def __init__(self):
            self.lock, self.writing, self.most = threading.Condition(), 0, 0

        def begin(self):
            with self.lock:
                while self.writing:
                    self.lock.wait()
                if not broken:
                    self.writing += 1
            if broken:
                with self.lock:
                    self.writing += 1

        def write(self):
            self.begin()
            with self.lock:
                self.most = max(self.most, self.writing)
            with self.lock:
                self.writing -= 1
                self.lock.notify()

    return Writers, [Writers.write] * 3, lambda w: w.most == 1


# Tasks


@coroutine(TASKS)
def lost_update_over_await(broken):
    async def main():
        balance, lock = [0], asyncio.Lock()

        async def add():
            seen = balance[0]
            await asyncio.sleep(0)
            balance[0] = seen + 1

        async def pay():
            if broken:
                await add()
            else:
                async with lock:
                    await add()

        await asyncio.gather(*(pay() for _ in range(3)))
        assert balance == [3]

    return main


@coroutine(TASKS)
def cache_stampede(broken):
    """Two tasks find no entry, and both load it (async caches)."""

    async def main():
        entries, loads, lock = {}, [], asyncio.Lock()

        async def load():
            loads.append(1)
            await asyncio.sleep(0.01)
            entries["key"] = 1

        async def get():
            if broken:
                if "key" not in entries:
                    await load()
            else:
                async with lock:
                    if "key" not in entries:
                        await load()

        await asyncio.gather(get(), get())
        assert len(loads) == 1

    return main


@coroutine(TASKS)
def opposite_locks_of_tasks(broken):
    async def main():
        first, second = asyncio.Lock(), asyncio.Lock()

        async def both(outer, inner):
            async with outer:
                await asyncio.sleep(0)
                async with inner:
                    pass

        pair = (second, first) if broken else (first, second)
        await asyncio.gather(both(first, second), both(*pair))

    return main


async def cancelled(task):
    """Cancel a task when its wait of 10 ms ends: just before or just after."""
    await asyncio.sleep(0.004)
    await asyncio.sleep(0.006)
    task.cancel()


@coroutine(TASKS)
def leaked_connection(broken):
    """A client gives up between taking a connection and using it (async pools)."""

    async def main():
        free = asyncio.Semaphore(1)

        async def client():
            await free.acquire()
            if broken:
                await asyncio.sleep(0.01)
                free.release()
            else:
                try:
                    await asyncio.sleep(0.01)
                finally:
                    free.release()

        task = asyncio.create_task(client())
        await asyncio.gather(cancelled(task), task, return_exceptions=True)
        await asyncio.wait_for(free.acquire(), 10)

    return main


@coroutine(TASKS)
def lost_item(broken):
    """A consumer is cancelled with an item in hand."""

    async def main():
        items, done = asyncio.Queue(), []
        items.put_nowait(1)

        async def consume():
            item = await items.get()
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                if not broken:
                    items.put_nowait(item)
                raise
            done.append(item)

        task = asyncio.create_task(consume())
        await asyncio.gather(cancelled(task), task, return_exceptions=True)
        assert len(done) + items.qsize() == 1

    return main


@coroutine(TASKS)
def one_notified(broken):
    """A condition wakes one of two waiters of different kinds."""

    async def main():
        condition, state = asyncio.Condition(), {"a": False, "b": False}

        async def wait(name):
            async with condition:
                await condition.wait_for(lambda: state[name])

        async def allow(name, delay_s):
            await asyncio.sleep(delay_s)
            async with condition:
                state[name] = True
                if broken:
                    condition.notify(1)
                else:
                    condition.notify_all()

        await asyncio.gather(wait("a"), wait("b"), allow("b", 0.01), allow("a", 0.02))

    return main


@coroutine(TASKS)
def rate_limit(broken):
    """A limiter looks, awaits, and then counts (rate limiters)."""

    async def main():
        taken, refused, lock = [], [], asyncio.Lock()

        async def allow():
            if len(taken) >= 1:
                refused.append(1)
                return
            await asyncio.sleep(0)  # the store
            taken.append(1)

        async def call():
            if broken:
                await allow()
            else:
                async with lock:
                    await allow()

        await asyncio.gather(call(), call())
        assert len(taken) == 1

    return main


@coroutine(TASKS)
def second_connection(broken):
    """Two requests find no connection, and both make one."""

    async def main():
        made, connecting = [], {}

        async def connect():
            await asyncio.sleep(0.01)
            made.append(1)

        async def request():
            if broken:
                if not made:
                    await connect()
            else:
                if "task" not in connecting:
                    connecting["task"] = asyncio.ensure_future(connect())
                await connecting["task"]

        await asyncio.gather(request(), request(), request())
        assert len(made) == 1

    return main


@coroutine(TASKS)
def refreshed_twice(broken):
    """Two requests see an expired token, and the second refresh makes the first token invalid."""

    async def main():
        token, issued, lock = {"value": 0, "expired": True}, [0], asyncio.Lock()

        async def refresh():
            if token["expired"]:
                await asyncio.sleep(0)
                issued[0] += 1
                token["value"], token["expired"] = issued[0], False

        async def request():
            if broken:
                await refresh()
            else:
                async with lock:
                    await refresh()
            mine = token["value"]
            await asyncio.sleep(0)
            assert mine == issued[0], "the token is invalid"

        await asyncio.gather(request(), request())

    return main


@coroutine(TASKS)
def work_and_timeout(broken):
    """Work of a second is given a second, and may be done although it timed out."""

    async def main():
        done = []

        async def work():
            await asyncio.sleep(0.5)
            done.append("half")
            await asyncio.sleep(0.5)
            done.append("all")

        try:
            await asyncio.wait_for(work(), 1)
        except TimeoutError:
            assert not broken, "it was to be in time"

    return main


@coroutine(TASKS)
def too_many_at_once(broken):
    async def main():
        active, most, free = [0], [0], asyncio.Semaphore(2)

        async def use():
            active[0] += 1
            most[0] = max(most[0], active[0])
            await asyncio.sleep(0)
            active[0] -= 1

        async def job():
            if broken:
                while active[0] >= 2:
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0)
                await use()
            else:
                async with free:
                    await use()

        await asyncio.gather(*(job() for _ in range(3)))
        assert most[0] <= 2

    return main


@coroutine(TASKS)
def dropped_at_shutdown(broken):
    """A job is accepted while the worker ends."""

    async def main():
        jobs, done, closed = asyncio.Queue(), [], []

        async def worker():
            while True:
                job = await jobs.get()
                if job is None:
                    return
                done.append(job)

        async def submit():
            if broken:
                if not closed:
                    await asyncio.sleep(0)
                    jobs.put_nowait("job")
                    return 1
            elif not closed:
                jobs.put_nowait("job")
                return 1
            return 0

        async def close():
            closed.append(1)
            jobs.put_nowait(None)

        _, accepted, _ = await asyncio.gather(worker(), submit(), close())
        assert len(done) == accepted

    return main


# Threads and tasks


@coroutine(MIXED)
def worker_and_task(broken):
    """A job of a pool and a task change one number."""

    async def main():
        lock, total = threading.Lock(), [0]

        def add():
            if broken:
                with lock:
                    seen = total[0]
                with lock:
                    total[0] = seen + 1
            else:
                with lock:
                    total[0] += 1

        async def task():
            add()

        await asyncio.gather(asyncio.to_thread(add), task())
        assert total == [2]

    return main


@coroutine(MIXED)
def two_workers(broken):
    """Two jobs of a pool meet in a dict."""

    async def main():
        lock, entries, made = threading.Lock(), {}, []

        def make():
            made.append(1)
            return 1

        def get():
            if broken:
                if "key" not in entries:
                    entries["key"] = make()
            else:
                with lock:
                    if "key" not in entries:
                        entries["key"] = make()

        await asyncio.gather(asyncio.to_thread(get), asyncio.to_thread(get))
        assert len(made) == 1

    return main


@coroutine(MIXED)
def unwoken_loop(broken):
    """A thread gives the loop a callback without waking it."""

    async def main():
        loop = asyncio.get_running_loop()
        answer = loop.create_future()
        call = loop.call_soon if broken else loop.call_soon_threadsafe
        thread = threading.Thread(target=lambda: call(answer.set_result, 1))
        thread.start()
        await answer
        thread.join()

    return main


@coroutine(MIXED)
def lock_and_loop(broken):
    """A thread holds a lock and waits for the loop, which waits for the lock."""

    async def main():
        lock, done = threading.Lock(), threading.Event()
        loop = asyncio.get_running_loop()

        def client():
            if broken:
                with lock:
                    loop.call_soon_threadsafe(done.set)
                    done.wait()
            else:
                with lock:
                    pass
                loop.call_soon_threadsafe(done.set)
                done.wait()

        async def task():
            with lock:
                pass

        await asyncio.gather(asyncio.to_thread(client), task())

    return main


@coroutine(MIXED)
def starved_pool(broken):
    """A job waits for another job of a pool of one worker."""

    async def main():
        loop, go = asyncio.get_running_loop(), threading.Event()
        with ThreadPoolExecutor(1 if broken else 2) as pool:
            first = loop.run_in_executor(pool, go.wait)
            second = loop.run_in_executor(pool, go.set)
            await asyncio.gather(first, second)

    return main


@coroutine(MIXED)
def snapshot_of_growing_list(broken):
    """A job counts in two steps what a task moves."""

    async def main():
        lock, left, right, seen = threading.Lock(), [1], [], []

        def count():
            if broken:
                with lock:
                    number = len(left)
                with lock:
                    number += len(right)
            else:
                with lock:
                    number = len(left) + len(right)
            seen.append(number)

        async def move():
            with lock:
                right.append(left.pop())

        await asyncio.gather(asyncio.to_thread(count), move())
        assert seen == [1]

    return main
