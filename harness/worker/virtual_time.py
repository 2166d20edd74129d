"""Virtual time for an adapter: waits take no real time, and work takes its real time.

`wrap` runs an adapter in *virtual time*: a set of threads with a clock of its own, which stands
still while any of them works and jumps to the next deadline when all of them wait. Threads, files
and SQLite are real; only waits are shortened. Of several deadlines the earliest fires alone, and
the next one fires only after all threads wait again: so timers keep their order, and their effects
do not depend on the speed of the machine.

One lock class replaces `threading.Lock`. CPython's Condition, Event, Semaphore, Queue, Timer,
Thread and pools are written in Python over a lock, a thread start and a clock, and run on it
unchanged. The thread that begins virtual time, its *owner*, and every thread that a member starts
are *members*; any other thread of the process finds locks and clocks unchanged.

A read of the clock takes a virtual microsecond, so no two readings are equal and a loop on the
clock ends. A wait inside C (a socket, a selector, a file lock, another process) counts as work: it
holds time back. A default argument that a module bound before virtual time began stays real, so
import the code under test late. The module imports the standard library only, because it runs
beside any package.
"""

import _thread
import heapq
import itertools
import math
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Self

READ_NS = 1_000  # virtual duration of a read of the clock
PATIENCE_S = 30.0  # real time within which some thread has to begin or end a wait

_allocate = _thread.allocate_lock
_get_ident = _thread.get_ident
_start_native = _thread.start_new_thread
_sentinel_native: Callable[[], Any] | None = getattr(_thread, "_set_sentinel", None)  # until 3.12
_joinable_native: Callable[..., Any] | None = getattr(_thread, "start_joinable_thread", None)
_handle_native: Callable[[], Any] | None = getattr(_thread, "_ThreadHandle", None)  # since 3.13
_sleep = time.sleep
_monotonic = time.monotonic

_active: list["VirtualTime"] = []  # at most one
_mutex = _thread.RLock()  # guards the waits; a finalizer may need it while it is held


class StuckError(Exception):
    """Time cannot pass: all threads wait without a deadline, or one waits for something real."""


class ThreadsLeftError(Exception):
    """Virtual time ended while some of its threads still run."""


class Member:
    """A thread in virtual time."""

    __slots__ = ("ended", "wait")

    def __init__(self) -> None:
        self.ended: list[Lock] = []  # released at its end, for the threads that join it
        self.wait: Wait | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether the thread waits."""
        return self.wait is not None and not self.wait.is_over


class Wait:
    """A member's wait for a lock. `bell` is released when the lock is free or the time is up."""

    __slots__ = ("bell", "is_late", "is_over")

    def __init__(self) -> None:
        self.bell = _allocate()
        self.bell.acquire()
        self.is_over = False
        self.is_late = False


class VirtualTime:
    """A clock for its member threads, from construction to `end`. Also a context manager."""

    def __init__(self) -> None:
        """Begin, with the calling thread as owner. Raises RuntimeError if one is active."""
        if _active:
            raise RuntimeError("virtual time is already active in this process")
        self.jumps = 0
        self.now_ns = 0
        self.epoch_ns = time.time_ns()
        self.origin_ns = time.monotonic_ns()
        self.members: dict[int, Member] = {}
        self._owner = self._add_member()
        self._busy = 1
        self._rings = 0
        self._deadlines: list[tuple[int, int, Wait]] = []
        self._numbers = itertools.count()
        self._is_stuck = False
        self._undo = list(_replace())
        _active.append(self)

    def end(self) -> None:
        """Return to real time. Raises ThreadsLeftError if member threads still run."""
        with _mutex:
            _active.remove(self)
            del self.members[_get_ident()]
            for member in self.members.values():
                if member.wait is not None:
                    self._ring(member.wait)
        for module, name, original in self._undo:
            setattr(module, name, original)
        if names := sorted(self._names().values()):
            raise ThreadsLeftError(f"{len(names)} threads still run: {', '.join(names)}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        self.end()

    def read(self) -> int:
        """Return the virtual time since the beginning, in nanoseconds."""
        self.now_ns += READ_NS
        return self.now_ns

    # Waits

    def wait(self, lock: "Lock", timeout_s: float) -> bool:
        """Acquire a lock that is held; False after the timeout. A negative timeout means none.

        Raises StuckError, in the owner only.
        """
        member = self.members[_get_ident()]
        deadline_ns = None if timeout_s < 0 else self.now_ns + math.ceil(timeout_s * 1e9)
        is_late = self._is_next(deadline_ns)
        while True:
            wait = Wait()
            due = (deadline_ns or 0, next(self._numbers), wait)
            with _mutex:
                # Queue first, then try: `Lock.release` releases first, and then reads the queue.
                lock.waits.append(wait)
                is_acquired = lock.native.acquire(blocking=False)
                if is_acquired or is_late:
                    lock.waits.remove(wait)
                    return is_acquired
                member.wait = wait
                if deadline_ns is not None:
                    heapq.heappush(self._deadlines, due)
                self._begin_wait()
            try:
                self._await_bell(wait)
            finally:
                with _mutex:
                    if not wait.is_over:  # it was interrupted
                        self._ring(wait)
                    if wait in lock.waits:
                        lock.waits.remove(wait)
                    if due in self._deadlines:
                        self._deadlines.remove(due)
                        heapq.heapify(self._deadlines)
            if self not in _active:
                remaining_s = -1 if deadline_ns is None else max(0, deadline_ns - self.now_ns) / 1e9
                return lock.native.acquire(timeout=remaining_s)
            is_late = wait.is_late

    def _is_next(self, deadline_ns: int | None) -> bool:
        """Return whether all other members wait for longer, and jump then. An optimisation."""
        with _mutex:
            if self._busy > 1 or deadline_ns is None:
                return False
            if self._deadlines and self._deadlines[0][0] <= deadline_ns:
                return False
            self.jumps += 1
            self.now_ns = max(self.now_ns, deadline_ns)
            return True

    def _await_bell(self, wait: Wait) -> None:
        is_owner = wait is self._owner.wait
        rings = self._rings
        while not wait.is_over:
            rang = wait.bell.acquire(timeout=PATIENCE_S if is_owner else -1)
            if not rang and self._rings == rings:
                raise StuckError(f"no wait ended within {PATIENCE_S:g} s: {self._locations()}")
            rings = self._rings
        if self._is_stuck and is_owner:
            self._is_stuck = False
            raise StuckError(f"all threads wait without a deadline: {self._locations()}")

    def _begin_wait(self) -> None:
        """Count one busy thread less; after the last one, jump. Called under the mutex."""
        self._busy -= 1
        if self._busy or self not in _active:
            return
        # Every entry of the heap waits: a released wait removes its entry, and is busy then.
        if self._deadlines:
            deadline_ns, _, wait = heapq.heappop(self._deadlines)
            self.jumps += 1
            self.now_ns = max(self.now_ns, deadline_ns)
            wait.is_late = True
            self._ring(wait)
        elif self._owner.wait is not None:
            self._is_stuck = True
            self._ring(self._owner.wait)

    def _ring(self, wait: Wait) -> bool:
        """End a thread's wait; False if it has ended. Called under the mutex."""
        if wait.is_over:
            return False
        wait.is_over = True
        self._busy += 1
        self._rings += 1
        wait.bell.release()
        return True

    def wake(self, lock: "Lock") -> None:
        """End the longest wait for this lock, after its release."""
        with _mutex:
            while lock.waits and not self._ring(lock.waits.popleft()):
                pass

    # Threads

    def start(self, job: Callable[[], object], *ended: "Lock") -> int:
        """Start a member thread, and return its identity. Its end releases the locks `ended`."""

        def run() -> None:
            self._add_member().ended.extend(ended)
            try:
                job()
            finally:
                self._remove_member()

        with _mutex:
            self._busy += 1
        try:
            return _start_native(run, ())
        except BaseException:
            with _mutex:
                self._begin_wait()
            raise

    def _add_member(self) -> Member:
        member = self.members[_get_ident()] = Member()
        return member

    def _remove_member(self) -> None:
        for lock in self.members[_get_ident()].ended:
            lock.release()
        with _mutex:
            del self.members[_get_ident()]
            self._begin_wait()

    def _names(self) -> dict[int, str]:
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        return {ident: names.get(ident, "a raw thread") for ident in list(self.members)}

    def _locations(self) -> str:
        """Describe where each busy member is; if all wait, where they wait."""
        names, frames = self._names(), sys._current_frames()  # noqa: SLF001 - the only way to look
        busy = [ident for ident in names if not self.members[ident].is_waiting]
        locations = []
        for ident in busy or names:
            frame = frames.get(ident)
            while frame is not None and frame.f_globals.get("__name__") in (__name__, "threading"):
                frame = frame.f_back
            locations.append(names[ident])
            if frame is not None:
                locations[-1] += f" at {Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
        return "; ".join(locations)


def _current() -> VirtualTime | None:
    """Return the virtual time of which the calling thread is a member."""
    return _active[0] if _active and _get_ident() in _active[0].members else None


# Replacements of CPython's functions; for threads that are not members they act as the originals


class Lock:
    """`threading.Lock`. A native lock holds its state, so it works in virtual and in real time."""

    __slots__ = ("__weakref__", "locked", "native", "waits")

    def __init__(self) -> None:
        self.native = _allocate()
        self.locked: Callable[[], bool] = self.native.locked
        self.waits: deque[Wait] = deque()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:  # noqa: FBT001, FBT002 - the signature of threading.Lock
        """See `threading.Lock.acquire`."""
        if self.native.acquire(False):  # noqa: FBT003 - quicker than by keyword
            return True
        virtual = _current()
        if virtual is None or not blocking or timeout == 0:
            return self.native.acquire(blocking, timeout)
        return virtual.wait(self, timeout)

    __enter__ = acquire

    def release(self) -> None:
        """See `threading.Lock.release`."""
        self.native.release()
        if self.waits and _active:
            _active[0].wake(self)

    def __exit__(self, *_raised: object) -> None:
        self.release()

    def _at_fork_reinit(self) -> None:
        Lock.__init__(self)


class Handle:
    """`_thread._ThreadHandle` of 3.13, for a thread that is a member."""

    def __init__(self) -> None:
        self.ident = 0
        self.ended = acquired_lock()

    def join(self, timeout: float | None = None) -> None:
        """Wait until the thread has ended."""
        if self.ended.acquire(timeout=-1 if timeout is None else timeout):
            self.ended.release()

    def is_done(self) -> bool:
        """Return whether the thread has ended."""
        return not self.ended.locked()

    def _set_done(self) -> None:
        if self.ended.locked():
            self.ended.release()


def acquired_lock() -> Lock:
    """Return a new lock that is held."""
    lock = Lock()
    lock.acquire()
    return lock


def sleep(seconds: float) -> None:
    """`time.sleep`."""
    virtual = _current()
    if virtual is None or seconds < 0:
        _sleep(seconds)
    else:
        virtual.wait(acquired_lock(), seconds)


def start_new_thread(
    function: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any] | None = None
) -> int:
    """`_thread.start_new_thread`."""
    virtual = _current()
    if virtual is None:
        return _start_native(function, args, kwargs or {})
    return virtual.start(lambda: function(*args, **(kwargs or {})))


def set_sentinel() -> Any:
    """`_thread._set_sentinel`: a lock that is released when the calling thread has ended."""
    assert _sentinel_native is not None
    virtual = _current()
    if virtual is None:
        return _sentinel_native()
    ended = Lock()
    virtual.members[_get_ident()].ended.append(ended)
    return ended


def make_handle() -> Any:
    """`_thread._ThreadHandle`."""
    assert _handle_native is not None
    return _handle_native() if _current() is None else Handle()


def start_joinable_thread(
    function: Callable[[], object],
    handle: Any = None,
    daemon: bool = True,  # noqa: FBT001, FBT002 - the signature of _thread.start_joinable_thread
) -> Any:
    """`_thread.start_joinable_thread`."""
    virtual = _current()
    if handle is None or isinstance(handle, Handle) is (
        virtual is None
    ):  # made in the other kind of time
        handle = make_handle()
        if (thread := getattr(function, "__self__", None)) is not None:
            thread._handle = handle  # noqa: SLF001 - where 3.13 keeps it
    if virtual is None:
        assert _joinable_native is not None
        return _joinable_native(function, handle=handle, daemon=daemon)
    handle.ident = virtual.start(function, handle.ended)
    return handle


def _clock(name: str) -> Callable[[], Any]:
    native = getattr(time, name)
    is_wall_clock = name.startswith("time")
    is_whole = name.endswith("_ns")

    def read() -> Any:
        virtual = _current()
        if virtual is None:
            return native()
        now_ns = virtual.read() + (virtual.epoch_ns if is_wall_clock else virtual.origin_ns)
        return now_ns if is_whole else now_ns / 1e9

    read.__name__ = read.__qualname__ = name
    return read


_CLOCKS = ("monotonic", "monotonic_ns", "time", "time_ns", "perf_counter", "perf_counter_ns")
_REPLACEMENTS: list[tuple[Any, Any]] = [
    (_allocate, Lock),
    (threading.Lock, Lock),
    (_start_native, start_new_thread),
    (_sentinel_native, set_sentinel),
    (_joinable_native, start_joinable_thread),
    (_handle_native, make_handle),
    (_sleep, sleep),
    (queue.SimpleQueue, queue._PySimpleQueue),  # type: ignore[attr-defined]  # noqa: SLF001 - CPython's own
    *((getattr(time, name), _clock(name)) for name in _CLOCKS),
]


def _replace() -> Iterator[tuple[ModuleType, str, Any]]:
    """Replace the originals among all modules' globals; yield module, name and original of each."""
    replacements = {
        id(original): replacement for original, replacement in _REPLACEMENTS if original
    }
    for module in list(sys.modules.values()):
        if not isinstance(module, ModuleType) or module.__name__.startswith(("_", "importlib")):
            continue
        for name, value in list(vars(module).items()):
            if (
                replacement := replacements.get(id(value))
            ) is not None and module is not _THIS_MODULE:
                yield module, name, value
                setattr(module, name, replacement)
    # threading.RLock() then makes the Python RLock, which is built on a lock.
    yield threading, "_CRLock", threading._CRLock  # type: ignore[attr-defined]  # noqa: SLF001
    threading._CRLock = None  # type: ignore[attr-defined]  # noqa: SLF001


_THIS_MODULE = sys.modules[__name__]


# An adapter in virtual time


class VirtualTimeAdapter:
    """Runs an adapter in virtual time, and reports how much time passed."""

    def __init__(self, open_adapter: Callable[[Path], Any], folder: Path) -> None:
        self._began_s = _monotonic(), time.process_time()
        self._lapse = VirtualTime()
        try:
            self._adapter = open_adapter(folder)
        except BaseException:
            self._lapse.end()
            raise

    def __getattr__(self, function: str) -> Any:
        """Return any other function of the adapter."""
        return getattr(self._adapter, function)

    def elapsed(self) -> dict[str, float]:
        """Return seconds since the beginning, virtual, real and of the processor, and the jumps."""
        real_s, processor_s = self._began_s
        return {
            "virtual_s": self._lapse.now_ns / 1e9,
            "real_s": _monotonic() - real_s,
            "processor_s": time.process_time() - processor_s,
            "jumps": self._lapse.jumps,
        }

    def close(self) -> None:
        """Close the adapter, and return to real time. Raises ThreadsLeftError."""
        try:
            self._adapter.close()
        finally:
            self._lapse.end()


def wrap(open_adapter: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """Wrap `open_adapter` so that the adapter runs in virtual time, owned by the caller."""
    return partial(VirtualTimeAdapter, open_adapter)
