"""Threads: what code under test starts becomes a task; what anybody else starts stays a thread.

CPython 3.11 and 3.12 start a thread and watch a lock that the interpreter opens when it ends; 3.13
hands out handles. Both come down to one `Signal` that fires when the task ends.
"""

from __future__ import annotations

import _thread
import threading
from collections.abc import Callable
from typing import Any

from harness.schedule.control import scheduler
from harness.schedule.primitives import Signal

_start_native = _thread.start_new_thread
_sentinel_native: Callable[[], Any] | None = getattr(_thread, "_set_sentinel", None)
_joinable_native: Callable[..., int] | None = getattr(_thread, "start_joinable_thread", None)
_handle_native: Callable[[], Any] | None = getattr(_thread, "_ThreadHandle", None)


def start_new_thread(
    function: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any] | None = None
) -> int:
    """`_thread.start_new_thread`, in both worlds."""
    if scheduler() is None:
        return _start_native(function, args, kwargs or {})
    return _start(lambda: function(*args, **(kwargs or {})), getattr(function, "__self__", None))


def set_sentinel() -> Any:
    """`_thread._set_sentinel` of 3.11 and 3.12: a lock that opens when this thread has ended."""
    assert _sentinel_native is not None
    run = scheduler()
    if run is None:
        return _sentinel_native()
    ended = Signal(f"the end of {run.current.name}")
    run.current.done.append(ended.fire)
    return ended


class Handle:
    """`_thread._ThreadHandle` of 3.13, for a thread that is a task."""

    def __init__(self) -> None:
        self.ident = 0
        self._ended = Signal("the end of a thread")
        self._ended.acquire()

    def join(self, timeout: float | None = None) -> None:
        """Wait until the task has ended, at most `timeout` seconds."""
        if self._ended.acquire(timeout=-1 if timeout is None else timeout):
            self._ended.release()

    def is_done(self) -> bool:
        """Whether it has ended."""
        return not self._ended.locked()

    def _set_done(self) -> None:
        self._ended.fire()


class Started:
    """Stands in for the Event by which a new thread tells its starter that it lives.

    The Event costs eight steps, all inside CPython, of which two could matter to anybody: the
    starter waits, and the new thread can be overtaken just before its own code begins.
    """

    def __init__(self, name: str) -> None:
        self._signal = Signal(f"the start of {name}")
        self._signal.acquire()

    def set(self) -> None:
        """Tell the starter; others may act now."""
        self._signal.fire()
        if (run := scheduler()) is not None:
            run.passed("begin", self._signal)

    def is_set(self) -> bool:
        """Whether the thread lives, or did."""
        return not self._signal.locked()

    def wait(self, timeout: float | None = None) -> bool:  # noqa: ARG002 - nobody gives one
        """Wait until it lives."""
        with self._signal:
            return True


def make_handle() -> Any:
    """A handle for the world in which it is asked for."""
    assert _handle_native is not None
    return _handle_native() if scheduler() is None else Handle()


def start_joinable_thread(
    function: Callable[[], object],
    handle: Any = None,
    daemon: bool = True,  # noqa: FBT001, FBT002 - the signature of _thread.start_joinable_thread
) -> Any:
    """`_thread.start_joinable_thread` of 3.13, in both worlds."""
    thread = getattr(function, "__self__", None)
    controlled = scheduler() is not None
    if handle is None or isinstance(handle, Handle) is not controlled:
        handle = make_handle()  # it was made in the other world
        if thread is not None:
            thread._handle = handle  # noqa: SLF001 - where 3.13 keeps it
    if not controlled:
        assert _joinable_native is not None
        return _joinable_native(function, handle=handle, daemon=daemon)
    handle.ident = _start(function, thread, handle)
    return handle


def replacements() -> list[tuple[Any, Any]]:
    """Originals of this CPython, and what stands in for them."""
    if _sentinel_native is not None:
        pairs: list[tuple[Any, Any]] = [(_sentinel_native, set_sentinel)]
    else:
        pairs = []
    if _joinable_native is not None:
        pairs += [(_joinable_native, start_joinable_thread), (_handle_native, make_handle)]
    return pairs


def _start(job: Callable[[], object], thread: Any, handle: Handle | None = None) -> int:
    run = scheduler()
    assert run is not None
    name = thread.name if isinstance(thread, threading.Thread) else f"thread-{run.born}"
    task = run.spawn(lambda: _quietly(job), name, daemon=bool(getattr(thread, "daemon", True)))
    if handle is not None:
        handle._ended.label = f"the end of {name}"  # noqa: SLF001 - it is ours
        task.done.append(handle._ended.fire)  # noqa: SLF001 - it is ours
    if isinstance(thread, threading.Thread):
        thread._started = Started(name)  # type: ignore[attr-defined]  # noqa: SLF001
        # One that never began is still in limbo when its schedule ends.
        task.done.append(lambda: threading._limbo.pop(thread, None))  # type: ignore[attr-defined]  # noqa: SLF001
    return task.ident


def _quietly(job: Callable[[], object]) -> None:
    """A raw thread may end itself with SystemExit; that is no escape."""
    try:
        job()
    except SystemExit:
        return
