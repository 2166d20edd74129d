"""Patches: for a while, every module finds our two-world replacements where the originals were.

A module may have taken `from time import sleep` long ago, so replacements go in by identity: every
global of every loaded module that *is* an original is replaced, and put back in the end. Threads
that are not under control notice nothing, because every replacement asks first (`control.py`).

A lock that exists already is no global of that kind. `adopt` replaces the ones that a module's
globals lead to; whatever it cannot reach stays native, and `escapes.py` tells of it.
"""

from __future__ import annotations

import _thread
import concurrent.futures.thread
import itertools
import logging
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from types import ModuleType, TracebackType
from typing import Any, Self

from harness.schedule import databases, files, network, threads
from harness.schedule.clock import nanoseconds
from harness.schedule.control import scheduler
from harness.schedule.primitives import Lock, RLock, Signal
from harness.schedule.scheduler import Unwound

_LOCK = type(_thread.allocate_lock())
_RLOCK = type(_thread.RLock())
_UNTOUCHED = ("_", "importlib", "posix", "linecache", "tokenize", "harness.schedule")
_CONDITION = ("acquire", "release", "_release_save", "_acquire_restore", "_is_owned")
_sleep = time.sleep
_excepthook = threading.excepthook
_simple_queue = queue.SimpleQueue
_counter = threading._counter  # type: ignore[attr-defined]  # noqa: SLF001 - numbers its threads
_handle_native = logging.Logger.handle
_clocks: dict[str, Callable[[], Any]] = {
    name: getattr(time, name)
    for name in ("monotonic", "monotonic_ns", "time", "time_ns", "perf_counter", "perf_counter_ns")
}


def sleep(seconds: float) -> None:
    """`time.sleep`, of virtual time under control."""
    run = scheduler()
    if run is None:
        _sleep(seconds)
    elif seconds < 0:
        raise ValueError("sleep length must be non-negative")
    else:
        run.sleep(nanoseconds(seconds))


def _clock(name: str) -> Callable[[], Any]:
    native = _clocks[name]
    of_day = name.startswith("time")
    whole = name.endswith("_ns")

    def read() -> Any:
        run = scheduler()
        if run is None:
            return native()
        clock = run.clock
        now_ns = clock.read() + (clock.epoch_ns if of_day else clock.origin_ns)
        return now_ns if whole else now_ns / 1e9

    read.__name__ = read.__qualname__ = name
    return read


def _handle(logger: logging.Logger, record: logging.LogRecord) -> None:
    """`logging.Logger.handle`; who logs all it catches need not tell of its unwinding."""
    if not record.exc_info or record.exc_info[0] is not Unwound:
        _handle_native(logger, record)


def _unraised(native: Callable[[Any], Any]) -> Callable[[Any], None]:
    """A finalizer that was unwound cannot raise; its thread is told again when it next waits."""

    def hook(unraisable: Any) -> None:
        if unraisable.exc_type is not Unwound:
            native(unraisable)

    return hook


def _excepted(args: Any) -> None:
    run = scheduler()
    if run is None:
        _excepthook(args)
    elif args.exc_value is not None:
        run.escaped(args.exc_value)


_REPLACEMENTS: list[tuple[Any, Any]] = [
    (_thread.allocate_lock, Lock),
    (threading.Lock, Lock),
    (threading.RLock, RLock),
    (_thread.RLock, RLock),
    (_thread.start_new_thread, threads.start_new_thread),
    (time.sleep, sleep),
    (queue.SimpleQueue, queue._PySimpleQueue),  # type: ignore[attr-defined]  # noqa: SLF001 - CPython's own
    (threading.excepthook, _excepted),
    *((native, _clock(name)) for name, native in _clocks.items()),
    *files.replacements(),
    *databases.replacements(),
    *threads.replacements(),
]


class Patches:
    """What was replaced, and where. A context manager; inside another, it only adds what is new."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def __enter__(self) -> Self:
        by_identity = {id(original): replacement for original, replacement in _REPLACEMENTS}
        for module in list(sys.modules.values()):
            if not isinstance(module, ModuleType) or module.__name__.startswith(_UNTOUCHED):
                continue
            names = vars(module)
            for name, value in list(names.items()):
                if (replacement := by_identity.get(id(value))) is not None:
                    self._put(module, name, replacement)
        if not _entered:
            # Condition makes one of these for each waiter: they are signals, not locks.
            self._put(threading, "_allocate_lock", Signal)
            self._put(_thread, "start_new_thread", threads.start_new_thread)
            self._put(sys, "unraisablehook", _unraised(sys.unraisablehook))
            self._put(logging.Logger, "handle", _handle)
            self._undo.append(network.patch())
            adopt(concurrent.futures.thread)
        _entered.append(self)
        return self

    def _put(self, owner: Any, name: str, value: Any) -> None:
        original = vars(owner)[name]
        self._undo.append(lambda: setattr(owner, name, original))
        setattr(owner, name, value)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _entered.remove(self)
        while self._undo:
            self._undo.pop()()
        threading._counter = _counter  # type: ignore[attr-defined]  # noqa: SLF001


_entered: list[Patches] = []


def number_threads_anew() -> None:
    """Begin the names of threads and pools at 1, so that every schedule tells the same story."""
    threading._counter = itertools.count(1).__next__  # type: ignore[attr-defined]  # noqa: SLF001
    concurrent.futures.ThreadPoolExecutor._counter = itertools.count().__next__  # type: ignore[attr-defined]  # noqa: SLF001


_installed: list[Patches] = []


def install() -> None:
    """Patch from now on, so that modules imported later make two-world locks as they load."""
    if not _installed:
        _installed.append(Patches().__enter__())


def uninstall() -> None:
    """Undo `install`. Locks made meanwhile go on working."""
    while _installed:
        _installed.pop().__exit__(None, None, None)


def adopt(*modules: ModuleType) -> tuple[str, ...]:
    """Replace the native locks that these modules' globals lead to; returns their names.

    Followed are dicts, lists, classes of these modules, and objects whose class is one of them or
    of `threading` and `queue`. A lock that is held now stays as it is, and so does one that only a
    closure, a default argument or a slot knows.
    """
    adoption = _Adoption({module.__name__ for module in modules} | {"threading", "queue"})
    for module in modules:
        own = [(key, value) for key, value in vars(module).items() if key[:2] != "__"]
        adoption.visit(own, vars(module).__setitem__, module.__name__.rpartition(".")[2])
    return tuple(adoption.names)


class _Adoption:
    """One walk through what some modules know, during which a lock gets at most one twin."""

    def __init__(self, homes: set[str]) -> None:
        self.names: list[str] = []
        self._homes = homes
        self._twins: dict[int, Any] = {}
        self._seen: dict[int, Any] = {}  # kept, so that no other object gets its identity

    def visit(
        self, items: Iterable[tuple[Any, Any]], put: Callable[[Any, Any], None], path: str
    ) -> None:
        """Replace the locks among these items, by `put`, and go on to what they lead to."""
        for key, value in list(items):
            name = f"{path}.{key}" if isinstance(key, str) else f"{path}[{key!r}]"
            if isinstance(value, _LOCK | _RLOCK | _simple_queue):
                if (twin := self._twin(value, name)) is not None:
                    put(key, twin)
            elif id(value) not in self._seen:
                self._seen[id(value)] = value
                self._enter(value, name)

    def _enter(self, value: Any, name: str) -> None:
        if isinstance(value, dict):
            self.visit(value.items(), value.__setitem__, name)
        elif isinstance(value, list):
            self.visit(enumerate(value), value.__setitem__, name)
        elif isinstance(value, type):
            if value.__module__ in self._homes - {"threading", "queue"}:
                self.visit(vars(value).items(), partial(setattr, value), name)
        elif type(value).__module__ in self._homes and hasattr(value, "__dict__"):
            self.visit(vars(value).items(), vars(value).__setitem__, name)
            if isinstance(value, threading.Condition):
                _rebind(value)

    def _twin(self, native: Any, name: str) -> Any:
        if id(native) not in self._seen:
            self._seen[id(native)] = native
            self._twins[id(native)] = twin = _counterpart(native, name)
            if twin is not None:
                self.names.append(name)
        return self._twins[id(native)]


def _counterpart(native: Any, name: str) -> Any:
    """A two-world twin of a native lock or queue; None if it is in use."""
    if isinstance(native, _simple_queue):
        return queue._PySimpleQueue() if native.empty() else None  # type: ignore[attr-defined]  # noqa: SLF001
    if not native.acquire(blocking=False):
        return None
    native.release()
    twin = RLock() if isinstance(native, _RLOCK) else Lock()
    twin.label = name
    return twin


def _rebind(condition: threading.Condition) -> None:
    """A condition keeps its lock's methods as its own; let them be the new lock's."""
    lock = condition._lock  # type: ignore[attr-defined]  # noqa: SLF001 - where CPython keeps it
    for method in _CONDITION:
        vars(condition).pop(method, None)
        if hasattr(lock, method):
            setattr(condition, method, getattr(lock, method))
