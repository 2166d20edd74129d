"""Escapes: what code under test does where no scheduler can see it.

Two looks, for two kinds. `Audit` listens to one schedule's calls into C and knows by identity the
ones that wait for real: a native lock, a socket, a child process; it also names the native locks
that the objects at work hold. `Watch` looks from outside, all the time, for a task that holds
the baton but neither takes a step nor computes: whatever it waits for, it is real.
"""

from __future__ import annotations

import _thread
import select
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from harness.schedule.control import in_charge
from harness.schedule.scheduler import Scheduler, Task

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
_SAMPLES = 4
_COMPUTES_S = 30.0
_IDLE = 0.2  # of the time that went by: less processor than this is no computing
_monotonic = time.monotonic
_OURS = ("harness.schedule", "threading", "importlib", "_pytest", "logging", "weakref")


class Audit:
    """Listens to the calls of one schedule, on every thread it is entered on."""

    def __init__(self) -> None:
        self.found: dict[str, None] = {}
        self._heard: set[CodeType] = set()

    def enter(self) -> None:
        """Listen on the calling thread."""
        sys.setprofile(self._hears)

    def leave(self) -> None:
        """Listen no more."""
        sys.setprofile(None)

    def _hears(self, frame: FrameType, event: str, arg: Any) -> None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith(_OURS):
            return
        if event == "c_call":
            what = _real_wait(arg)
            if what:
                code = frame.f_code
                self.found[f"{what} at {code.co_filename}:{frame.f_lineno} {code.co_name}"] = None
        elif event == "call" and frame.f_code not in self._heard:
            self._heard.add(frame.f_code)
            self._looks_at(frame.f_globals, frame.f_code, module.rpartition(".")[2])
            subject = frame.f_locals.get("self") if "self" in frame.f_code.co_varnames else None
            if subject is not None and type(subject).__module__ == module:
                names = {**vars(type(subject)), **getattr(subject, "__dict__", {})}
                self._looks_at(names, frame.f_code, type(subject).__qualname__)

    def _looks_at(self, names: Mapping[str, Any], code: CodeType, owner: str) -> None:
        """Note the native locks among those names that this code uses."""
        for name in code.co_names:
            if _holds_a_native_lock(names.get(name)):
                self.found[f"a native lock, in {owner}.{name}, that nobody controls"] = None


def _holds_a_native_lock(value: Any) -> bool:
    """Whether it is one, or an Event, Condition, Queue or the like that stands on one."""
    if type(value).__module__ in _STANDING_ON_LOCKS and hasattr(value, "__dict__"):
        return any(_holds_a_native_lock(inner) for inner in vars(value).values())
    return isinstance(value, _LOCKS)


def _real_wait(function: Any) -> str:
    """The name of a call into C that waits for something real; empty for any other."""
    if id(function) in _CALLS:
        return _CALLS[id(function)]
    owner = getattr(function, "__self__", None)
    name = getattr(function, "__name__", "")
    kind = getattr(owner, "__name__", type(owner).__name__)
    return f"{kind}.{name}" if name in _METHODS.get(kind, ()) else ""


class Watch:
    """Looks at the task that holds the baton, every now and then, from outside."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._seen: tuple[int, Task | None] = (-1, None)
        self._looks = 0

    def look(self) -> str:
        """Why the task that acts has escaped; empty while it has not."""
        if not in_charge:
            self._looks = 0
            return ""
        run = self._scheduler
        now = (run.heartbeat, run.current)
        if now != self._seen:
            self._seen = now
            self._looks = 0
            self._since_s = _monotonic()
            self._processor_ns, _ = _usage(run.current)
            return ""
        self._looks += 1
        elapsed_s = _monotonic() - self._since_s
        used_ns, state = _usage(run.current)
        idle = (used_ns - self._processor_ns) / 1e9 < _IDLE * elapsed_s
        if self._looks >= _SAMPLES and idle and state == "S":
            return "waits for something real, which no schedule controls"
        if elapsed_s > _COMPUTES_S:
            return f"has been at it for {elapsed_s:.0f} s without a step"
        return ""


def _usage(task: Task) -> tuple[int, str]:
    """Processor time of a task's thread so far, and its state as the kernel sees it."""
    folder = Path(f"/proc/self/task/{task.worker.native_id}")
    try:
        used_ns = int((folder / "schedstat").read_text().split()[0])
        state = (folder / "stat").read_text().rpartition(") ")[2][0]
    except OSError:
        return 0, "?"
    return used_ns, state
