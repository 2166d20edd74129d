"""Turns a thread that code under test starts into a task; other threads stay native.

CPython 3.11 and 3.12 start a thread and wait for a lock that the interpreter releases at its end;
3.13 has handles. Both are implemented by one `Signal` that fires when the task ends.
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
    """`_thread.start_new_thread`, under control and outside."""
    if scheduler() is None:
        return _start_native(function, args, kwargs or {})
    return _start(lambda: function(*args, **(kwargs or {})), getattr(function, "__self__", None))


def set_sentinel() -> Any:
    """`_thread._set_sentinel` of 3.11 and 3.12: a lock that is released at this thread's end."""
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
        """Return whether the task has ended."""
        return not self._ended.locked()

    def _set_done(self) -> None:
        self._ended.fire()


class StartedEvent:
    """Replaces the Event by which a new thread signals to its starter that it runs.

    The Event costs eight steps, all inside CPython, of which two can affect a schedule: the starter
    waits, and another task can run just before the new thread's code begins.
    """

    def __init__(self, name: str) -> None:
        self._signal = Signal(f"the start of {name}")
        self._signal.acquire()

    def set(self) -> None:
        """Signal the starter; other tasks may act then."""
        self._signal.fire()
        if (run := scheduler()) is not None:
            run.passed("begin", self._signal)

    def is_set(self) -> bool:
        """Return whether the thread has started."""
        return not self._signal.locked()

    def wait(self, timeout: float | None = None) -> bool:  # noqa: ARG002 - never passed
        """Wait until the thread has started."""
        with self._signal:
            return True


def make_handle() -> Any:
    """Make a handle: a native one outside control."""
    assert _handle_native is not None
    return _handle_native() if scheduler() is None else Handle()


def start_joinable_thread(
    function: Callable[[], object],
    handle: Any = None,
    daemon: bool = True,  # noqa: FBT001, FBT002 - the signature of _thread.start_joinable_thread
) -> Any:
    """`_thread.start_joinable_thread` of 3.13, under control and outside."""
    thread = getattr(function, "__self__", None)
    controlled = scheduler() is not None
    if handle is None or isinstance(handle, Handle) is not controlled:
        handle = make_handle()  # the handle was made for the other kind of thread
        if thread is not None:
            thread._handle = handle  # noqa: SLF001 - the attribute of 3.13
    if not controlled:
        assert _joinable_native is not None
        return _joinable_native(function, handle=handle, daemon=daemon)
    handle.ident = _start(function, thread, handle)
    return handle


def replacements() -> list[tuple[Any, Any]]:
    """Return the originals of this CPython with their replacements."""
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
    name = thread.name if isinstance(thread, threading.Thread) else f"thread-{run.task_count}"
    task = run.spawn(
        lambda: _without_system_exit(job), name, daemon=bool(getattr(thread, "daemon", True))
    )
    if handle is not None:
        handle._ended.label = f"the end of {name}"  # noqa: SLF001 - defined here
        task.done.append(handle._ended.fire)  # noqa: SLF001 - defined here
    if isinstance(thread, threading.Thread):
        thread._started = StartedEvent(name)  # type: ignore[attr-defined]  # noqa: SLF001
        # A thread that never began is still in `_limbo` when its schedule ends.
        task.done.append(lambda: threading._limbo.pop(thread, None))  # type: ignore[attr-defined]  # noqa: SLF001
    return task.ident


def _without_system_exit(job: Callable[[], object]) -> None:
    """Run the job; a raw thread may end itself with SystemExit, which is no escape."""
    try:
        job()
    except SystemExit:
        return
