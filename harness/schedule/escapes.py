"""Detects escapes: operations of code under test that bypass the scheduler.

`Audit` profiles the calls into C of one schedule and recognises those that wait for something real:
a native lock, a socket, a child process; it also names the native locks that the objects in use
hold. `StallDetector` checks from outside, during all schedules, for a task that holds the baton but
neither takes a step nor computes: it waits for something real.
"""

from __future__ import annotations

import _thread
import asyncio
import gc
import os
import random
import select
import socket
import sys
import time
import weakref
from collections.abc import Mapping
from inspect import CO_COROUTINE
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any

from harness.schedule.accesses import is_under_test
from harness.schedule.asyncio_tasks.loop import state_of
from harness.schedule.control import in_charge
from harness.schedule.scheduler import Scheduler
from harness.schedule.tasks import Task

_LOCKS = (type(_thread.allocate_lock()), type(_thread.RLock()))
_STANDING_ON_LOCKS = ("threading", "queue")
_CALLS = {id(time.sleep): "time.sleep", id(select.select): "select.select"}
_METHODS = {
    "lock": {"acquire", "__enter__", "acquire_lock"},
    "RLock": {"acquire", "__enter__"},
    "SimpleQueue": {"get"},
    "socket": {"accept", "connect", "recv", "recv_into", "recvfrom", "sendall"},
    "epoll": {"poll"},
    "poll": {"poll"},
    "posix": {"waitpid", "wait", "wait3", "wait4", "waitid"},
}
_HELD_BRIEFLY = ("asyncio.events", "asyncio.mixins")  # their locks: never during a step
_SHARED_RANDOM = random._inst  # noqa: SLF001 - that of random.random
_FINALIZE = weakref.finalize.__init__.__code__
_SAMPLES = 4
_COMPUTE_MAX_S = 30.0
_OVERTIME_S = 0.5  # the longest computation without a step after the end of the search
_IDLE = 0.2  # processor time over elapsed time; a task below this share does not compute
_monotonic = time.monotonic
_OURS = ("harness.schedule", "threading", "importlib", "_pytest", "logging", "weakref")


class Audit:
    """Profiles the calls of one schedule, on every thread on which it is entered."""

    def __init__(self) -> None:
        self.found: dict[str, None] = {}
        self.modules: dict[str, None] = {}  # the modules under test of which code ran
        self.chance: dict[str, None] = {}  # the uses of randomness without a seed
        self.finalizers: dict[str, None] = {}  # of objects that the collector may have to free
        self._seen: set[CodeType] = set()
        self._returned: set[CodeType] = set()
        self._made = {id(item) for item in gc.get_objects(generation=0) if isinstance(item, _LOCKS)}

    def enter(self) -> None:
        """Profile the calling thread."""
        sys.setprofile(self._on_event)

    def leave(self) -> None:
        """Stop profiling the calling thread."""
        sys.setprofile(None)

    def _on_event(self, frame: FrameType, event: str, arg: Any) -> None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith(_OURS):
            if frame.f_code is _FINALIZE:
                self.finalizers[f"weakref.finalize at {_place(_caller(frame))}"] = None
            return
        if event == "c_call":
            wait = _real_wait(arg)
            if wait:
                self.found[f"{wait} at {_place(frame)}"] = None
            elif _is_chance(arg):
                self.chance[f"{arg.__name__} at {_place(_caller(frame))}"] = None
        elif event == "return" and frame.f_code not in self._returned:
            self._returned.add(frame.f_code)
            if is_under_test(frame.f_code.co_filename):
                self._note_made_locks(frame)
        elif event == "call" and frame.f_code not in self._seen:
            self._seen.add(frame.f_code)
            self._note_first_call(frame, module)

    def _note_first_call(self, frame: FrameType, module: str) -> None:
        """Record the module of this code, what it uses, and its finalizer."""
        if is_under_test(frame.f_code.co_filename):
            self.modules[module] = None
            if frame.f_code.co_flags & CO_COROUTINE:
                self._note_loop(module)
        if module in _HELD_BRIEFLY:
            return
        self._note_native_locks(frame.f_globals, frame.f_code, module.rpartition(".")[2])
        subject = frame.f_locals.get("self") if "self" in frame.f_code.co_varnames else None
        finalizer = getattr(type(subject), "__del__", None)
        if isinstance(finalizer, FunctionType) and finalizer.__module__ == module:
            code = finalizer.__code__
            place = f"{code.co_filename}:{code.co_firstlineno}"
            self.finalizers[f"{code.co_qualname} at {place}"] = None
        if subject is not None and type(subject).__module__ == module:
            names = {**vars(type(subject)), **getattr(subject, "__dict__", {})}
            self._note_native_locks(names, frame.f_code, type(subject).__qualname__)

    def _note_made_locks(self, frame: FrameType) -> None:
        """Record the native locks that exist since this schedule began, and who made them."""
        for item in gc.get_objects(generation=0):  # the collector is off: all that is new
            if not isinstance(item, _LOCKS) or id(item) in self._made:
                continue
            self._made.add(id(item))
            holders = [referrer for referrer in gc.get_referrers(item) if referrer is not frame]
            if not any(_is_of_the_harness(holder) for holder in holders):
                self.found[
                    f"a native lock, made in {_place(frame)}, which is not under control:"
                    " call harness.schedule.install() before its factory is imported"
                ] = None

    def _note_loop(self, module: str) -> None:
        """Record an event loop that runs this code and is not under control."""
        loop = asyncio._get_running_loop()  # noqa: SLF001 - without an error if none runs
        if loop is not None and state_of(loop) is None:
            kind = f"{type(loop).__module__}.{type(loop).__qualname__}"
            self.found[
                f"an event loop, {kind}, which runs {module} and is not under control: only"
                " asyncio's own selector loop is, made during the schedule"
            ] = None

    def _note_native_locks(self, names: Mapping[str, Any], code: CodeType, owner: str) -> None:
        """Record the native locks among the names that this code uses."""
        for name in code.co_names:
            if _holds_a_native_lock(names.get(name)):
                self.found[f"a native lock, {owner}.{name}, which is not under control"] = None


def _is_of_the_harness(holder: Any) -> bool:
    home = getattr(type(holder), "__module__", "")
    if isinstance(holder, FrameType):
        home = holder.f_globals.get("__name__", "")
    return home.startswith(("harness.schedule", "importlib", "_frozen_importlib"))


def _is_chance(function: Any) -> bool:
    """Whether a call into C draws from the generator that all modules share, without a seed."""
    return getattr(function, "__self__", None) is _SHARED_RANDOM or function is os.urandom


def _caller(frame: FrameType) -> FrameType:
    """Return the innermost frame that is under test, or this one."""
    caller: FrameType | None = frame
    while caller is not None:
        if is_under_test(caller.f_code.co_filename):
            return caller
        caller = caller.f_back
    return frame


def _place(frame: FrameType) -> str:
    return f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}"


def _holds_a_native_lock(value: Any) -> bool:
    """Return whether a value is a native lock, or an Event, Condition, Queue built on one."""
    if type(value).__module__ in _STANDING_ON_LOCKS and hasattr(value, "__dict__"):
        return any(_holds_a_native_lock(inner) for inner in vars(value).values())
    return isinstance(value, _LOCKS)


def _real_wait(function: Any) -> str:
    """Return the name of a call into C that waits for something real; empty for another call."""
    if id(function) in _CALLS:
        return _CALLS[id(function)]
    owner = getattr(function, "__self__", None)
    name = getattr(function, "__name__", "")
    if isinstance(owner, socket.socket) and owner.gettimeout() == 0:
        return ""  # it does not wait
    kind = getattr(owner, "__name__", type(owner).__name__)
    return f"{kind}.{name}" if name in _METHODS.get(kind, ()) else ""


class StallDetector:
    """Checks the task that holds the baton at intervals, from another thread."""

    def __init__(self, scheduler: Scheduler, ends_s: float | None = None) -> None:
        """Let no task compute without a step beyond `ends_s`, the end of the search."""
        self._scheduler = scheduler
        self._ends_s = ends_s
        self._seen: tuple[int, Task | None] = (-1, None)
        self._checks = 0

    def check(self) -> str:
        """Return why the current task has escaped control; empty if it has not."""
        if not in_charge:
            self._checks = 0
            return ""
        run = self._scheduler
        now = (run.heartbeat, run.current)
        if now != self._seen:
            self._seen = now
            self._checks = 0
            self._since_s = _monotonic()
            self._processor_ns, _ = _usage(run.current)
            return ""
        self._checks += 1
        elapsed_s = _monotonic() - self._since_s
        used_ns, state = _usage(run.current)
        is_idle = (used_ns - self._processor_ns) / 1e9 < _IDLE * elapsed_s
        if self._checks >= _SAMPLES and is_idle and state == "S":
            return "waits for something real, outside the control of schedules"
        is_over = self._ends_s is not None and _monotonic() > self._ends_s
        if elapsed_s > (_OVERTIME_S if is_over else _COMPUTE_MAX_S):
            return f"took no step for {elapsed_s:.1f} s"
        return ""


def _usage(task: Task) -> tuple[int, str]:
    """Return the processor time of a task's thread so far, and its state in the kernel."""
    folder = Path(f"/proc/self/task/{task.worker.native_id}")
    try:
        used_ns = int((folder / "schedstat").read_text().split()[0])
        state = (folder / "stat").read_text().rpartition(") ")[2][0]
    except OSError:
        return 0, "?"
    return used_ns, state
