"""Locks that are scheduled under control and native elsewhere.

CPython's Condition, Event, Semaphore, Barrier, Queue, Timer and pools are written in Python over a
lock, a thread start and a clock; they run on these locks unchanged. A native lock always holds the
state, so that the lock excludes tasks and uncontrolled threads alike.
"""

from __future__ import annotations

import _thread
import linecache
import re
import sys
from collections.abc import Callable
from itertools import islice
from types import CodeType, FrameType, TracebackType

from harness.schedule.clock import nanoseconds
from harness.schedule.control import in_charge, scheduler
from harness.schedule.tasks import LIBRARY, Task

_allocate = _thread.allocate_lock
_get_ident = _thread.get_ident
_MAKERS = LIBRARY | {__name__}
_BINDING = re.compile(r"(\w+)\s*(?::[^=]+)?=(?!=)")


class Lock:
    """`threading.Lock`, under control and outside. `owner` is the task that holds it, or None."""

    __slots__ = ("__weakref__", "_name", "_native", "_site", "key", "locked", "owner")

    def __init__(self) -> None:
        """Record where the lock is created: that is its label until another one is set."""
        self._native = _allocate()
        self.locked: Callable[[], bool] = self._native.locked
        self.owner: Task | None = None
        self.key = creation_key(self)
        self._name: str | None = None
        frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - the creator gives the name
        while frame is not None and frame.f_globals.get("__name__") in _MAKERS:
            frame = frame.f_back
        self._site = (frame.f_code, frame.f_lasti) if frame is not None else None

    @property
    def label(self) -> str:
        """The lock's name: the one set, or else the class or module and the attribute."""
        if self._name is None:
            self._name = _name_from_source(*self._site) if self._site is not None else "a lock"
        return self._name

    @label.setter
    def label(self, name: str) -> None:
        self._name = name

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:  # noqa: FBT001, FBT002 - the signature of threading.Lock
        """See `threading.Lock.acquire`; `timeout` in seconds, of virtual time under control."""
        if not in_charge or (run := in_charge[0]).current.ident != _get_ident():
            return self._native.acquire(blocking, timeout)
        if not blocking:
            if timeout != -1:
                raise ValueError("can't specify a timeout for a non-blocking call")
            run.point("try", self)
        elif timeout == -1:
            run.wait("acquire", self)
        elif timeout < 0:
            raise ValueError("timeout value must be a non-negative number")
        elif not run.wait("acquire", self, nanoseconds(timeout)):
            return False
        if run.footprint is not None:
            run.footprint.touch(self, write=True)
        if not self._native.acquire(False):  # noqa: FBT003 - its signature
            return False
        self.owner = task = run.current
        task.held[self] = None
        return True

    __enter__ = acquire

    def release(self) -> None:
        """See `threading.Lock.release`."""
        if not in_charge or (run := in_charge[0]).current.ident != _get_ident():
            self._native.release()
            return
        if run.unwinding and not self._native.locked():
            return  # the lock was released just before this task was unwound
        self._native.release()
        if self.owner is not None:
            self.owner.held.pop(self, None)
            self.owner = None
        if run.footprint is not None:
            run.footprint.touch(self, write=True)
        run.passed("release", self)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def reset(self) -> None:
        """Release the lock from any holder, after the schedule in which it was acquired."""
        self.owner = None
        if self._native.locked():
            self._native.release()

    def _at_fork_reinit(self) -> None:
        self._native = _allocate()
        self.locked = self._native.locked
        self.owner = None

    def __repr__(self) -> str:
        return f"<{'locked' if self.locked() else 'unlocked'} lock {self.label}>"


class RLock(Lock):
    """`threading.RLock`, under control and outside."""

    __slots__ = ("_count", "_holder")

    def __init__(self) -> None:
        super().__init__()
        self._holder: int | None = None
        self._count = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:  # noqa: FBT001, FBT002 - the signature of threading.RLock
        """See `threading.RLock.acquire`."""
        me = _get_ident()
        if self._holder == me:
            self._count += 1
            return True
        if not Lock.acquire(self, blocking, timeout):
            return False
        self._holder = me
        self._count = 1
        return True

    __enter__ = acquire

    def release(self) -> None:
        """See `threading.RLock.release`."""
        if self._holder != _get_ident():
            if (run := scheduler()) is not None and run.unwinding:
                return  # see Lock.release
            raise RuntimeError("cannot release un-acquired lock")
        self._count -= 1
        if not self._count:
            self._holder = None
            Lock.release(self)

    def reset(self) -> None:
        """Release the lock from any holder, after the schedule in which it was acquired."""
        self._holder = None
        self._count = 0
        super().reset()

    # The methods that threading.Condition requires of a reentrant lock.

    def _release_save(self) -> tuple[int, int | None]:
        if self._holder != _get_ident():
            raise RuntimeError("cannot release un-acquired lock")
        state = (self._count, self._holder)
        self._count = 0
        self._holder = None
        Lock.release(self)
        return state

    def _acquire_restore(self, state: tuple[int, int | None]) -> None:
        Lock.acquire(self)
        self._count, self._holder = state

    def _is_owned(self) -> bool:
        return self._holder == _get_ident()

    def _recursion_count(self) -> int:
        return self._count if self._is_owned() else 0

    def _at_fork_reinit(self) -> None:
        super()._at_fork_reinit()
        self._holder = None
        self._count = 0


class Signal:
    """A lock that its creator acquires immediately and another thread releases to wake a waiter.

    `threading.Condition` makes one for each waiter, and the end of a thread is one. No other thread
    knows the lock at its first acquisition, and its release has no effect until the waiter acts, so
    neither is a point at which schedules could differ.
    """

    __slots__ = ("__weakref__", "_native", "key", "label", "locked")

    def __init__(self, label: str = "a notification") -> None:
        self._native = _allocate()
        self.locked: Callable[[], bool] = self._native.locked
        self.key = creation_key(self)
        self.label = label

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:  # noqa: FBT001, FBT002 - the signature of threading.Lock
        """See `threading.Lock.acquire`."""
        run = scheduler()
        if run is not None and run.footprint is not None:
            run.footprint.touch(self, write=True)
        if self._native.acquire(False):  # noqa: FBT003 - its signature
            return True
        if run is None or not blocking:
            return self._native.acquire(blocking, timeout)
        if not run.wait("wait", self, None if timeout < 0 else nanoseconds(timeout)):
            return False
        if run.footprint is not None:
            run.footprint.touch(self, write=True)
        return self._native.acquire(False)  # noqa: FBT003 - its signature

    __enter__ = acquire

    def release(self) -> None:
        """Wake the waiter."""
        self._native.release()
        run = scheduler()
        if run is not None and run.footprint is not None:
            run.footprint.touch(self, write=True)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def fire(self) -> None:
        """Release the lock if it is held."""
        if self._native.locked():
            self.release()

    def _at_fork_reinit(self) -> None:
        self._native = _allocate()
        self.locked = self._native.locked


def creation_key(item: object) -> int:
    """Return a key that is equal in every schedule: the creating task, and its count of creations.

    The key of an object created before the schedule is its identity.
    """
    if not in_charge or (task := in_charge[0].current).ident != _get_ident():
        return id(item)
    task.creations += 1
    return task.number << 32 | task.creations


def _name_from_source(code: CodeType, instruction: int) -> str:
    """Read a lock's name from the line that creates it: `Counter._lock`, `agents.CACHE_LOCK`."""
    positions = next(islice(code.co_positions(), instruction // 2, None), (None,) * 4)
    number = positions[0] or code.co_firstlineno
    before = linecache.getline(code.co_filename, number)[: positions[2]]
    names = _BINDING.findall(before)
    owner = code.co_qualname.rpartition(".")[0].removesuffix(".<locals>")
    module = code.co_filename.rpartition("/")[2].removesuffix(".py")
    return f"{owner or module}.{names[-1] if names else f'line {number}'}"
