"""Workers: real threads that are parked between tasks, and used again for the next schedule.

Starting a thread costs more than a whole schedule of three. A worker is parked on its *baton*, a
native lock that somebody else releases; it runs one task and parks again. One that was left with
thread-locals is not used again, because a new thread has none. Knows nothing of schedules.
"""

from __future__ import annotations

import _thread
import gc
import threading
from collections.abc import Callable
from contextvars import Context

allocate_baton = _thread.allocate_lock
_spawn = _thread.start_new_thread


class Worker:
    """One real thread. It acts only while it holds its baton."""

    __slots__ = ("_ended", "baton", "ident", "job", "native_id", "thread")

    def __init__(self) -> None:
        """Start the thread, and wait until it is parked."""
        self.job: Callable[[], None] | None = None
        self.baton = allocate_baton()
        self._ended = allocate_baton()
        self.baton.acquire()
        self._ended.acquire()
        born = allocate_baton()
        born.acquire()
        _spawn(self._live, (born,))
        born.acquire()

    def _live(self, born: _thread.LockType) -> None:
        self.ident = _thread.get_ident()
        self.native_id = _thread.get_native_id()
        # Code under test asks for the current thread; let it find one, with the task's name.
        self.thread = threading.current_thread()
        self.withdraw()
        born.release()
        while True:
            self.baton.acquire()
            job, self.job = self.job, None
            if job is None:
                break
            # A job passes the baton on as its last act, so what follows may run beside the next
            # task: it touches nothing but this worker.
            Context().run(job)
            del job
        self._ended.release()

    def introduce(self, name: str) -> None:
        """Let `threading.current_thread()` answer with this name."""
        self.thread._name = name  # type: ignore[attr-defined]  # noqa: SLF001 - the setter locks
        threading._active[self.ident] = self.thread  # type: ignore[attr-defined]  # noqa: SLF001

    def withdraw(self) -> None:
        """Be no thread that anybody finds, until the next task."""
        threading._active.pop(self.ident, None)  # type: ignore[attr-defined]  # noqa: SLF001

    def end(self, patience_s: float) -> bool:
        """Let the parked thread go; whether it ended in time."""
        self.baton.release()
        return self._ended.acquire(timeout=patience_s)


class Pool:
    """Workers that are parked now, and those thread-locals that outlive a schedule."""

    def __init__(self) -> None:
        """Look up the thread-locals that exist already; later ones die with their schedule."""
        own = getattr(threading, "_thread_local_info", None)  # 3.13 keeps the thread itself there
        kinds = {threading.local, *_descendants(threading.local)}
        self._locals = [
            thing for thing in gc.get_objects() if type(thing) in kinds and thing is not own
        ]
        self._parked: list[Worker] = []
        self._retired: list[Worker] = []

    def take(self) -> Worker:
        """A parked worker; a new one if there is none."""
        return self._parked.pop() if self._parked else Worker()

    def give(self, worker: Worker) -> None:
        """Take a worker back. Called on its own thread, as the last act of its job but one."""
        if any(vars(thing) for thing in self._locals):
            self._retired.append(worker)
        else:
            self._parked.append(worker)

    def put(self, worker: Worker) -> None:
        """Take back a worker that never began its job."""
        worker.job = None
        self._parked.append(worker)

    def sweep(self) -> None:
        """Let go the workers that cannot be used again. Called between schedules."""
        while self._retired:
            self._retired.pop().end(patience_s=5.0)

    def close(self) -> None:
        """Let all go."""
        self._retired += self._parked
        self._parked.clear()
        self.sweep()


def _descendants(kind: type) -> set[type]:
    children: list[type] = kind.__subclasses__()
    return set(children).union(*(_descendants(child) for child in children))
