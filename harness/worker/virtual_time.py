"""Time-lapse: an hour of waiting passes in no time, and work takes the time it takes.

`wrap` lets an adapter live in a *lapse*: a world of threads with a clock of its own, which stands
still while any of them works and jumps to the next deadline when all of them wait. Threads run
freely and for real, and so do files and SQLite; only waiting is made short. Of several deadlines
the earliest fires alone, and the next not before everybody waits again: so timers keep their order,
and what they find does not depend on how fast the machine is.

One lock of ours stands where `threading.Lock` was. CPython's own Condition, Event, Semaphore,
Queue, Timer, Thread and pools are written in Python over a lock, a thread start and a clock, and
run on it unchanged. Whoever begins the lapse, its *keeper*, and every thread that a member starts
is a member; any other thread of the process finds locks and clocks as they always were.

A look at the clock takes a microsecond, so that no two moments are alike and nobody spins for ever.
What waits inside C (a socket, a selector, a file lock, another process) works, as far as we can
tell: it holds time back. What a module took before the lapse as a default argument stays real, so
import late what shall live in here. Nothing but the standard library: it runs beside any package.
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

LOOK_NS = 1_000
PATIENCE_S = 30.0  # of real time, in which somebody has to wait, or to be done with waiting

_allocate = _thread.allocate_lock
_get_ident = _thread.get_ident
_start_native = _thread.start_new_thread
_sentinel_native: Callable[[], Any] | None = getattr(_thread, "_set_sentinel", None)  # until 3.12
_joinable_native: Callable[..., Any] | None = getattr(_thread, "start_joinable_thread", None)
_handle_native: Callable[[], Any] | None = getattr(_thread, "_ThreadHandle", None)  # since 3.13
_sleep = time.sleep
_monotonic = time.monotonic

_begun: list["Lapse"] = []  # at most one
_mutex = _thread.RLock()  # guards who waits; a finalizer may need it where it is held already


class StuckError(Exception):
    """Time cannot pass: everybody waits for ever, or somebody for what is outside."""


class LeftBehindError(Exception):
    """The lapse ended, and threads of it have not."""


class Member:
    """A thread in the lapse."""

    __slots__ = ("ended", "wait")

    def __init__(self) -> None:
        self.ended: list[Lock] = []  # opened at its end, for whoever joins it
        self.wait: Wait | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether it does nothing."""
        return self.wait is not None and not self.wait.is_over


class Wait:
    """A member's waiting for a lock. The bell rings when that has come, or is late."""

    __slots__ = ("bell", "is_late", "is_over")

    def __init__(self) -> None:
        self.bell = _allocate()
        self.bell.acquire()
        self.is_over = False
        self.is_late = False


class Lapse:
    """A world with a clock of its own, from its making to its `end`. A context manager, too."""

    def __init__(self) -> None:
        """Begin it, with the calling thread as its keeper. Raises RuntimeError inside another."""
        if _begun:
            raise RuntimeError("time is lapsing already")
        self.jumps = 0
        self.now_ns = 0
        self.epoch_ns = time.time_ns()
        self.origin_ns = time.monotonic_ns()
        self.members: dict[int, Member] = {}
        self._keeper = self._joined()
        self._busy = 1
        self._rings = 0
        self._deadlines: list[tuple[int, int, Wait]] = []
        self._numbers = itertools.count()
        self._is_stuck = False
        self._undo = list(_replace())
        _begun.append(self)

    def end(self) -> None:
        """Return to real time. Raises LeftBehindError if threads are left, which return too."""
        with _mutex:
            _begun.remove(self)
            del self.members[_get_ident()]
            for member in self.members.values():
                if member.wait is not None:
                    self._ring(member.wait)
        for module, name, original in self._undo:
            setattr(module, name, original)
        if left := sorted(self._names().values()):
            raise LeftBehindError(f"{len(left)} threads go on: {', '.join(left)}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        self.end()

    def read(self) -> int:
        """The time since the beginning, in nanoseconds."""
        self.now_ns += LOOK_NS
        return self.now_ns

    # Waiting

    def wait(self, lock: "Lock", timeout_s: float) -> bool:
        """Take a lock that somebody has; False if it stays so. A negative timeout is none.

        Raises StuckError, in the keeper only.
        """
        member = self.members[_get_ident()]
        deadline_ns = None if timeout_s < 0 else self.now_ns + math.ceil(timeout_s * 1e9)
        is_late = self._is_next(deadline_ns)
        while True:
            wait = Wait()
            due = (deadline_ns or 0, next(self._numbers), wait)
            with _mutex:
                # First in, then tried: whoever gives it back does so first, and then looks in.
                lock.waits.append(wait)
                is_ours = lock.native.acquire(blocking=False)
                if is_ours or is_late:
                    lock.waits.remove(wait)
                    return is_ours
                member.wait = wait
                if deadline_ns is not None:
                    heapq.heappush(self._deadlines, due)
                self._rest()
            try:
                self._listen(wait)
            finally:
                with _mutex:
                    if not wait.is_over:  # it was interrupted
                        self._ring(wait)
                    if wait in lock.waits:
                        lock.waits.remove(wait)
                    if due in self._deadlines:
                        self._deadlines.remove(due)
                        heapq.heapify(self._deadlines)
            if self not in _begun:
                left_s = -1 if deadline_ns is None else max(0, deadline_ns - self.now_ns) / 1e9
                return lock.native.acquire(timeout=left_s)
            is_late = wait.is_late

    def _is_next(self, deadline_ns: int | None) -> bool:
        """Whether all others wait, and for longer; then the time has come. Only to be quicker."""
        with _mutex:
            if self._busy > 1 or deadline_ns is None:
                return False
            if self._deadlines and self._deadlines[0][0] <= deadline_ns:
                return False
            self.jumps += 1
            self.now_ns = max(self.now_ns, deadline_ns)
            return True

    def _listen(self, wait: Wait) -> None:
        is_keeper = wait is self._keeper.wait
        rings = self._rings
        while not wait.is_over:
            rang = wait.bell.acquire(timeout=PATIENCE_S if is_keeper else -1)
            if not rang and self._rings == rings:
                raise StuckError(f"nothing came to its end in {PATIENCE_S:g} s: {self._places()}")
            rings = self._rings
        if self._is_stuck and is_keeper:
            self._is_stuck = False
            raise StuckError(f"everybody waits, and nobody for a time: {self._places()}")

    def _rest(self) -> None:
        """One thread less is busy; the last one lets time jump. Under the mutex."""
        self._busy -= 1
        if self._busy or self not in _begun:
            return
        # All that is in the heap waits: whoever has been rung takes itself out, and is busy then.
        if self._deadlines:
            deadline_ns, _, wait = heapq.heappop(self._deadlines)
            self.jumps += 1
            self.now_ns = max(self.now_ns, deadline_ns)
            wait.is_late = True
            self._ring(wait)
        elif self._keeper.wait is not None:
            self._is_stuck = True
            self._ring(self._keeper.wait)

    def _ring(self, wait: Wait) -> bool:
        """Let a thread go on that waits; False if it does already. Under the mutex."""
        if wait.is_over:
            return False
        wait.is_over = True
        self._busy += 1
        self._rings += 1
        wait.bell.release()
        return True

    def wake(self, lock: "Lock") -> None:
        """The lock was given back: let the one go on that has waited longest."""
        with _mutex:
            while lock.waits and not self._ring(lock.waits.popleft()):
                pass

    # Threads

    def start(self, job: Callable[[], object], *ended: "Lock") -> int:
        """Start a thread that is a member; `ended` are opened at its end. Returns its identity."""

        def live() -> None:
            self._joined().ended.extend(ended)
            try:
                job()
            finally:
                self._leave()

        with _mutex:
            self._busy += 1
        try:
            return _start_native(live, ())
        except BaseException:
            with _mutex:
                self._rest()
            raise

    def _joined(self) -> Member:
        member = self.members[_get_ident()] = Member()
        return member

    def _leave(self) -> None:
        for lock in self.members[_get_ident()].ended:
            lock.release()
        with _mutex:
            del self.members[_get_ident()]
            self._rest()

    def _names(self) -> dict[int, str]:
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        return {ident: names.get(ident, "a raw thread") for ident in list(self.members)}

    def _places(self) -> str:
        """Where every member is that does not wait; if all do, where they wait."""
        names, frames = self._names(), sys._current_frames()  # noqa: SLF001 - the only way to look
        busy = [ident for ident in names if not self.members[ident].is_waiting]
        told = []
        for ident in busy or names:
            frame = frames.get(ident)
            while frame is not None and frame.f_globals.get("__name__") in (__name__, "threading"):
                frame = frame.f_back
            told.append(names[ident])
            if frame is not None:
                told[-1] += f" at {Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
        return "; ".join(told)


def _here() -> Lapse | None:
    """The lapse that the calling thread is a member of."""
    return _begun[0] if _begun and _get_ident() in _begun[0].members else None


# What stands where CPython's own was, and is as that one for whoever is no member


class Lock:
    """`threading.Lock`. The truth about it is its native one, so it works in and out of a lapse."""

    __slots__ = ("__weakref__", "locked", "native", "waits")

    def __init__(self) -> None:
        self.native = _allocate()
        self.locked: Callable[[], bool] = self.native.locked
        self.waits: deque[Wait] = deque()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:  # noqa: FBT001, FBT002 - the signature of threading.Lock
        """As `threading.Lock.acquire`."""
        if self.native.acquire(False):  # noqa: FBT003 - quicker than by keyword
            return True
        lapse = _here()
        if lapse is None or not blocking or timeout == 0:
            return self.native.acquire(blocking, timeout)
        return lapse.wait(self, timeout)

    __enter__ = acquire

    def release(self) -> None:
        """As `threading.Lock.release`."""
        self.native.release()
        if self.waits and _begun:
            _begun[0].wake(self)

    def __exit__(self, *_raised: object) -> None:
        self.release()

    def _at_fork_reinit(self) -> None:
        Lock.__init__(self)


class Handle:
    """`_thread._ThreadHandle` of 3.13, for a thread that is a member."""

    def __init__(self) -> None:
        self.ident = 0
        self.ended = taken()

    def join(self, timeout: float | None = None) -> None:
        """Wait until the thread has ended."""
        if self.ended.acquire(timeout=-1 if timeout is None else timeout):
            self.ended.release()

    def is_done(self) -> bool:
        """Whether it has."""
        return not self.ended.locked()

    def _set_done(self) -> None:
        if self.ended.locked():
            self.ended.release()


def taken() -> Lock:
    """A lock that somebody has."""
    lock = Lock()
    lock.acquire()
    return lock


def sleep(seconds: float) -> None:
    """`time.sleep`."""
    lapse = _here()
    if lapse is None or seconds < 0:
        _sleep(seconds)
    else:
        lapse.wait(taken(), seconds)


def start_new_thread(
    function: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any] | None = None
) -> int:
    """`_thread.start_new_thread`."""
    lapse = _here()
    if lapse is None:
        return _start_native(function, args, kwargs or {})
    return lapse.start(lambda: function(*args, **(kwargs or {})))


def set_sentinel() -> Any:
    """`_thread._set_sentinel`: a lock that opens when the calling thread has ended."""
    assert _sentinel_native is not None
    lapse = _here()
    if lapse is None:
        return _sentinel_native()
    ended = Lock()
    lapse.members[_get_ident()].ended.append(ended)
    return ended


def make_handle() -> Any:
    """`_thread._ThreadHandle`."""
    assert _handle_native is not None
    return _handle_native() if _here() is None else Handle()


def start_joinable_thread(
    function: Callable[[], object],
    handle: Any = None,
    daemon: bool = True,  # noqa: FBT001, FBT002 - the signature of _thread.start_joinable_thread
) -> Any:
    """`_thread.start_joinable_thread`."""
    lapse = _here()
    if handle is None or isinstance(handle, Handle) is (lapse is None):  # made in the other world
        handle = make_handle()
        if (thread := getattr(function, "__self__", None)) is not None:
            thread._handle = handle  # noqa: SLF001 - where 3.13 keeps it
    if lapse is None:
        assert _joinable_native is not None
        return _joinable_native(function, handle=handle, daemon=daemon)
    handle.ident = lapse.start(function, handle.ended)
    return handle


def _clock(name: str) -> Callable[[], Any]:
    native = getattr(time, name)
    is_of_day = name.startswith("time")
    is_whole = name.endswith("_ns")

    def look() -> Any:
        lapse = _here()
        if lapse is None:
            return native()
        now_ns = lapse.read() + (lapse.epoch_ns if is_of_day else lapse.origin_ns)
        return now_ns if is_whole else now_ns / 1e9

    look.__name__ = look.__qualname__ = name
    return look


_CLOCKS = ("monotonic", "monotonic_ns", "time", "time_ns", "perf_counter", "perf_counter_ns")
_STAND_INS: list[tuple[Any, Any]] = [
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
    """Put what stands in where an original is a module's global; where, and what was there."""
    stand_ins = {id(original): stand_in for original, stand_in in _STAND_INS if original}
    for module in list(sys.modules.values()):
        if not isinstance(module, ModuleType) or module.__name__.startswith(("_", "importlib")):
            continue
        for name, value in list(vars(module).items()):
            if (stand_in := stand_ins.get(id(value))) is not None and module is not _OURSELVES:
                yield module, name, value
                setattr(module, name, stand_in)
    # So that an RLock is the one in Python, which is made of a lock.
    yield threading, "_CRLock", threading._CRLock  # type: ignore[attr-defined]  # noqa: SLF001
    threading._CRLock = None  # type: ignore[attr-defined]  # noqa: SLF001


_OURSELVES = sys.modules[__name__]


# An adapter in a lapse


class Lapsed:
    """An adapter that lives in a lapse, and tells how time goes by."""

    def __init__(self, open_adapter: Callable[[Path], Any], folder: Path) -> None:
        self._began_s = _monotonic(), time.process_time()
        self._lapse = Lapse()
        try:
            self._adapter = open_adapter(folder)
        except BaseException:
            self._lapse.end()
            raise

    def __getattr__(self, function: str) -> Any:
        """All else is the adapter's."""
        return getattr(self._adapter, function)

    def elapsed(self) -> dict[str, float]:
        """Seconds since the beginning, by both clocks and of the processor; jumps of time."""
        real_s, processor_s = self._began_s
        return {
            "virtual_s": self._lapse.now_ns / 1e9,
            "real_s": _monotonic() - real_s,
            "processor_s": time.process_time() - processor_s,
            "jumps": self._lapse.jumps,
        }

    def close(self) -> None:
        """Close the adapter, and return to real time. Raises LeftBehindError."""
        try:
            self._adapter.close()
        finally:
            self._lapse.end()


def wrap(open_adapter: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """Open the adapter in a lapse, which its opener keeps."""
    return partial(Lapsed, open_adapter)
