"""A pool of real threads that wait between tasks and are reused for the next schedule.

Starting a thread costs more than a whole schedule of three threads. A worker waits for its *baton*,
a native lock that another thread releases; it runs one task and waits again. A worker on which a
task left thread-locals is not reused, because a new thread has none. Knows nothing of schedules.
"""

from __future__ import annotations

import _thread
import gc
import threading
from collections.abc import Callable
from contextvars import Context
from itertools import compress

allocate_baton = _thread.allocate_lock
_spawn = _thread.start_new_thread


class Worker:
    """One real thread. It runs only while it holds its baton."""

    __slots__ = ("_ended", "_ready", "baton", "ident", "job", "native_id", "thread")

    def __init__(self) -> None:
        """Start the thread, and wait until it waits for its baton."""
        self.job: Callable[[], None] | None = None
        self.baton = allocate_baton()
        self._ended = allocate_baton()
        self.baton.acquire()
        self._ended.acquire()
        self._ready = allocate_baton()
        self._ready.acquire()
        _spawn(self._run, ())
        self._ready.acquire()

    def _run(self) -> None:
        self.ident = _thread.get_ident()
        self.native_id = _thread.get_native_id()
        # Code under test may ask for the current thread, which then has the task's name.
        self.thread = threading.current_thread()
        self.unregister()
        self._ready.release()
        while True:
            self.baton.acquire()
            job, self.job = self.job, None
            if job is None:
                break
            # A job passes the baton on at its end, so the following code may run concurrently with
            # the next task: it touches this worker only.
            Context().run(job)
            del job
        self._ended.release()

    def register(self, name: str) -> None:
        """Register a thread of this name for `threading.current_thread()`."""
        self.thread._name = name  # type: ignore[attr-defined]  # noqa: SLF001 - the setter locks
        threading._active[self.ident] = self.thread  # type: ignore[attr-defined]  # noqa: SLF001

    def unregister(self) -> None:
        """Remove the thread from `threading`'s table until the next task."""
        threading._active.pop(self.ident, None)  # type: ignore[attr-defined]  # noqa: SLF001

    def end(self, patience_s: float) -> bool:
        """End the waiting thread; return whether it ended within `patience_s`."""
        self.baton.release()
        return self._ended.acquire(timeout=patience_s)


class Pool:
    """The waiting workers, and the thread-locals that outlive a schedule."""

    def __init__(self) -> None:
        """Find the existing thread-locals; later ones end with their schedule."""
        own = getattr(threading, "_thread_local_info", None)  # in 3.13 it holds the thread itself
        kinds = {threading.local, *_descendants(threading.local)}
        items = gc.get_objects()  # all of the process, so no step in Python for each of them
        found = compress(items, map(kinds.__contains__, map(type, items)))
        self._locals = [item for item in found if item is not own]
        self._idle: list[Worker] = []
        self._retired: list[Worker] = []

    def take(self) -> Worker:
        """Return an idle worker, or a new one."""
        return self._idle.pop() if self._idle else Worker()

    def give(self, worker: Worker) -> None:
        """Take a worker back. Called on its own thread, near the end of its job."""
        if any(vars(item) for item in self._locals):
            self._retired.append(worker)
        else:
            self._idle.append(worker)

    def put(self, worker: Worker) -> None:
        """Take back a worker that never began its job."""
        worker.job = None
        self._idle.append(worker)

    def sweep(self) -> None:
        """End the workers that cannot be reused. Called between schedules."""
        while self._retired:
            self._retired.pop().end(patience_s=5.0)

    def close(self) -> None:
        """End all workers."""
        self._retired += self._idle
        self._idle.clear()
        self.sweep()


def _descendants(kind: type) -> set[type]:
    children: list[type] = kind.__subclasses__()
    return set(children).union(*(_descendants(child) for child in children))
