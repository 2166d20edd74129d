"""Replaces locks, clocks, threads and file operations in every loaded module during exploration.

A module may have run `from time import sleep` before, so the replacement is by identity: every
global of every loaded module that *is* an original is replaced, and restored at the end. Threads
that are not under control see no difference, because every replacement asks `control.py` first.

`adopt` replaces existing locks that are reachable from a module's globals; a lock that it cannot
reach stays native, and `escapes.py` reports it.
"""

from __future__ import annotations

import _thread
import concurrent.futures.thread
import functools
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

from harness.schedule import asyncio_tasks, databases, files, network, threads
from harness.schedule.captured import replace_captured
from harness.schedule.clock import nanoseconds
from harness.schedule.control import scheduler
from harness.schedule.primitives import Lock, RLock, Signal
from harness.schedule.tasks import Unwound

_LOCK = type(_thread.allocate_lock())
_RLOCK = type(_thread.RLock())
_UNTOUCHED = ("_", "importlib", "posix", "linecache", "tokenize", "harness.schedule")
_WITH_LOCKS = ("concurrent.futures.thread", "tempfile", "_strptime")  # that their calls take
_CONDITION = ("acquire", "release", "_release_save", "_acquire_restore", "_is_owned")
_sleep = time.sleep
_excepthook = threading.excepthook
_simple_queue = queue.SimpleQueue
_counter = threading._counter  # type: ignore[attr-defined]  # noqa: SLF001 - CPython's numbering of threads
_handle_native = logging.Logger.handle
_clocks: dict[str, Callable[[], Any]] = {
    name: getattr(time, name)
    for name in ("monotonic", "monotonic_ns", "time", "time_ns", "perf_counter", "perf_counter_ns")
}


def sleep(seconds: float) -> None:
    """`time.sleep`; under control it takes virtual time."""
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
    """`logging.Logger.handle`, without records of the unwinding of a task."""
    if not record.exc_info or record.exc_info[0] is not Unwound:
        _handle_native(logger, record)


def _unraised(native: Callable[[Any], Any]) -> Callable[[Any], None]:
    """Ignore Unwound in a finalizer, which cannot raise; the next wait raises it again."""

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


_TAKEN: tuple[Any, ...] = (  # what a default argument or a field may name
    *(_thread.allocate_lock, threading.Lock, threading.RLock, _thread.RLock, _simple_queue),
    *(_sleep, *_clocks.values()),
)
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
    *asyncio_tasks.REPLACEMENTS,
]


def _captured() -> tuple[dict[int, tuple[Any, Any]], set[int]]:
    """Return the replacements of what code may have taken early, and the objects to spare."""
    taken = {id(item) for item in _TAKEN}
    pairs = {id(pair[0]): pair for pair in _REPLACEMENTS if id(pair[0]) in taken}
    spared = {id(_clocks), id(_TAKEN)}
    for _, replacement in _REPLACEMENTS:
        spared.add(id(getattr(replacement, "__dict__", None)))
        spared.update(map(id, getattr(replacement, "__closure__", None) or ()))
    return pairs, spared


class _InOrder(dict[Any, None]):
    """The threads of a pool in order of creation: a set has them in order of their addresses."""

    def add(self, thread: Any) -> None:
        """See `set.add`."""
        self[thread] = None


_make_pool = concurrent.futures.ThreadPoolExecutor.__init__


@functools.wraps(_make_pool)
def _make_pool_in_order(pool: Any, *args: Any, **kwargs: Any) -> None:
    _make_pool(pool, *args, **kwargs)
    if scheduler() is not None:
        pool._threads = _InOrder()  # noqa: SLF001 - the attribute of CPython


class Patches:
    """A context manager that installs the replacements; nested, it adds the missing ones only."""

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
                    self._replace(module, name, replacement)
        if not _entered:
            self._undo += replace_captured(*_captured())
            # Condition makes one lock for each waiter with this function: signals, not locks.
            self._replace(threading, "_allocate_lock", Signal)
            self._replace(_thread, "start_new_thread", threads.start_new_thread)
            self._replace(sys, "unraisablehook", _unraised(sys.unraisablehook))
            self._replace(logging.Logger, "handle", _handle)
            self._replace(concurrent.futures.ThreadPoolExecutor, "__init__", _make_pool_in_order)
            self._undo.append(network.patch())
            self._undo.append(asyncio_tasks.patch())
        adopt(*(sys.modules[name] for name in _WITH_LOCKS if name in sys.modules))
        _entered.append(self)
        return self

    def _replace(self, owner: Any, name: str, value: Any) -> None:
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


def are_patched() -> bool:
    """Whether the replacements are installed."""
    return bool(_entered)


def restart_thread_numbers() -> None:
    """Restart the numbers in names of threads and pools, so that schedules have equal names."""
    threading._counter = itertools.count(1).__next__  # type: ignore[attr-defined]  # noqa: SLF001
    concurrent.futures.ThreadPoolExecutor._counter = itertools.count().__next__  # type: ignore[attr-defined]  # noqa: SLF001


_installed: list[Patches] = []


def install() -> None:
    """Patch from now on, so that modules imported later create controllable locks."""
    if not _installed:
        _installed.append(Patches().__enter__())


def uninstall() -> None:
    """Undo `install`. Locks created meanwhile keep working."""
    while _installed:
        _installed.pop().__exit__(None, None, None)


def adopt(*modules: ModuleType) -> tuple[str, ...]:
    """Replace the native locks reachable from these modules' globals; returns their names.

    The search follows dicts, lists, classes of these modules, and objects whose class is one of
    them or of `threading` and `queue`. A lock that is held stays native, and so does a lock that
    only a closure, a default argument or a slot refers to.
    """
    adoption = _Adoption({module.__name__ for module in modules} | {"threading", "queue"})
    for module in modules:
        own = [(key, value) for key, value in vars(module).items() if key[:2] != "__"]
        adoption.visit(own, vars(module).__setitem__, module.__name__.rpartition(".")[2])
    return tuple(adoption.names)


class _Adoption:
    """One search through the globals of modules, in which a lock gets at most one replacement."""

    def __init__(self, homes: set[str]) -> None:
        self.names: list[str] = []
        self._homes = homes
        self._replacements: dict[int, Any] = {}
        self._seen: dict[int, Any] = {}  # holds references, so that no identity is reused

    def visit(
        self, items: Iterable[tuple[Any, Any]], put: Callable[[Any, Any], None], path: str
    ) -> None:
        """Replace the locks among these items with `put`, and search the other items."""
        for key, value in list(items):
            name = f"{path}.{key}" if isinstance(key, str) else f"{path}[{key!r}]"
            if isinstance(value, _LOCK | _RLOCK | _simple_queue):
                if (replacement := self._replacement_of(value, name)) is not None:
                    put(key, replacement)
            elif id(value) not in self._seen:
                self._seen[id(value)] = value
                self._enter(value, name)

    def _enter(self, value: Any, name: str) -> None:
        if isinstance(value, dict):
            self.visit(value.items(), value.__setitem__, name)
        elif isinstance(value, list):
            self.visit(enumerate(value), value.__setitem__, name)
        elif isinstance(value, functools.cached_property):  # which has a lock until 3.11
            self.visit(vars(value).items(), partial(setattr, value), name)
        elif isinstance(value, type):
            if value.__module__ in self._homes - {"threading", "queue"}:
                self.visit(vars(value).items(), partial(setattr, value), name)
        elif type(value).__module__ in self._homes and hasattr(value, "__dict__"):
            self.visit(vars(value).items(), vars(value).__setitem__, name)
            if isinstance(value, threading.Condition):
                _rebind(value)

    def _replacement_of(self, native: Any, name: str) -> Any:
        if id(native) not in self._seen:
            self._seen[id(native)] = native
            self._replacements[id(native)] = replacement = _make_replacement(native, name)
            if replacement is not None:
                self.names.append(name)
        return self._replacements[id(native)]


def _make_replacement(native: Any, name: str) -> Any:
    """Return a controllable copy of a native lock or queue; None if it is in use."""
    if isinstance(native, _simple_queue):
        return queue._PySimpleQueue() if native.empty() else None  # type: ignore[attr-defined]  # noqa: SLF001
    if not native.acquire(blocking=False):
        return None
    native.release()
    replacement = RLock() if isinstance(native, _RLOCK) else Lock()
    replacement.label = name
    return replacement


def _rebind(condition: threading.Condition) -> None:
    """Update the lock methods that a condition copied, to those of its new lock."""
    lock = condition._lock  # type: ignore[attr-defined]  # noqa: SLF001 - the attribute of CPython
    for method in _CONDITION:
        vars(condition).pop(method, None)
        if hasattr(lock, method):
            setattr(condition, method, getattr(lock, method))
