"""Answers questions about the inside of a Python server, in whose process it runs.

The server's process calls `start` before it imports the server's own modules. Questions are lines
of JSON on a Unix socket. `change_constants` gives names of modules another value as soon as the
module was executed, so that a bound of half a minute can be met within a second. It is stand-alone,
so that the process needs no harness.
"""

import collections
import gc
import importlib
import importlib.abc
import importlib.util
import inspect
import json
import queue
import re
import socket
import sqlite3
import sys
import threading
import types
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

CONTAINERS = (dict, list, set, collections.deque, weakref.WeakValueDictionary)
NESTED = (dict, list, set, tuple, collections.deque)
# Whatever hold something of the system, or of another thread.
COUNTED: tuple[type, ...] = (
    *(queue.Queue, threading.Event, threading.Thread, threading.Timer),
    *(sqlite3.Connection, socket.socket),
)
SWITCH_S = 1e-6  # between threads that race
HELD_S = 30.0  # the longest that a thread is held back
MEMBERS_MAX = 2000  # of a container whose members are counted
EVERY_CAP = "*"  # the name of all constants that bound a cache
CAP_NAME = re.compile(
    r"_?[A-Z_]*(CACHE|FACTS|DEDUPE|TOMBSTONE|SWEEP|SEEN|LRU)[A-Z_]*_(MAX|MAX_ENTRIES|CAP|LIMIT|THRESHOLD)"
    r"|[A-Z_]*DEDUPE_MAX"
)


class Finder(importlib.abc.MetaPathFinder):
    """Sets names of modules right after these were executed."""

    def __init__(self, constants: dict[str, Any]) -> None:
        """`constants` has the value by the full name of each constant."""
        self._constants = constants
        self._busy = False

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:  # noqa: ARG002
        """Find the module as usual, and let it be changed once it is loaded."""
        package = name.rpartition(".")[0]
        keys = (name + ".", f"{package}.{EVERY_CAP}")
        wanted = [key for key in self._constants if key.startswith(keys)]
        if self._busy or not wanted:
            return None
        self._busy = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._busy = False
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: types.ModuleType) -> None:
            execute(module)
            for key in wanted:
                if key == keys[1]:
                    lower_caps(module, self._constants[key])
                else:
                    change(module, key[len(name) + 1 :], self._constants[key])

        vars(spec.loader)["exec_module"] = exec_module
        return spec


def change(module: Any, path: str, value: Any) -> None:
    """Set an attribute by its dotted path, if the module has it."""
    *owners, name = path.split(".")
    owner = module
    for part in owners:
        owner = getattr(owner, part, None)
    if owner is not None and hasattr(owner, name):
        setattr(owner, name, value)


def lower_caps(module: Any, cap: int) -> None:
    """Let each cache of the module hold this number of entries, as far as a constant says."""
    for name, value in list(vars(module).items()):
        if type(value) is int and value > cap and CAP_NAME.fullmatch(name):
            setattr(module, name, cap)


def change_constants(constants: dict[str, Any]) -> None:
    """Give these constants another value when their modules are imported.

    `package.*` stands for all constants that bound a cache in the modules of the package.
    """
    sys.meta_path.insert(0, Finder(constants))


def start(path: str) -> None:
    """Answer questions on a Unix socket at `path`, until the process ends."""
    listener = socket.socket(socket.AF_UNIX)
    Path(path).unlink(missing_ok=True)  # of a process that was killed
    listener.bind(path)
    listener.listen()
    threading.Thread(target=_serve, args=(listener,), name="harness-probe", daemon=True).start()


def _serve(listener: socket.socket) -> None:
    held: list[Any] = []
    while True:
        connection, _ = listener.accept()
        with connection, connection.makefile("rw", encoding="utf-8") as lines:
            for line in lines:
                question = json.loads(line)
                try:
                    function = FUNCTIONS[question["function"]]
                    answer = {"result": function(held, **question["argument"])}
                except Exception as error:  # noqa: BLE001  it is the answer
                    answer = {"error": repr(error)}
                lines.write(json.dumps(answer) + "\n")
                lines.flush()


def sizes(_held: list[Any], package: str) -> dict[str, int]:
    """The sizes of all containers that are global in the package's modules, by `module.name`.

    A member that is a container counts with its own members. Containers in the attributes of a
    global object, whose class is the package's, are called `module.name.attribute`.
    """
    found: dict[str, int] = {}
    seen: set[int] = set()
    for name, module in sorted(sys.modules.items()):
        if module is None or not name.startswith(package + "."):
            continue
        for key, value in sorted(vars(module).items()):
            if key.startswith("__"):
                continue
            _measure(f"{name[len(package) + 1 :]}.{key}", value, found, seen)
            kind = type(value)
            if getattr(kind, "__module__", "").startswith(package + "."):
                for attribute, inner in sorted(getattr(value, "__dict__", {}).items()):
                    _measure(f"{name[len(package) + 1 :]}.{key}.{attribute}", inner, found, seen)
            if hasattr(value, "cache_info") and value.cache_info().maxsize is None:
                found[f"{name}.{key}()"] = value.cache_info().currsize
    return found


def _measure(name: str, value: Any, found: dict[str, int], seen: set[int]) -> None:
    if not isinstance(value, CONTAINERS) or id(value) in seen:
        return
    if getattr(value, "maxlen", None) is not None:  # it is bounded
        return
    seen.add(id(value))
    try:
        members = list(value.values()) if hasattr(value, "values") else list(value)
    except RuntimeError:  # it changed meanwhile
        members = []
    size = len(value)
    if len(members) <= MEMBERS_MAX:
        size += sum(len(member) for member in members if isinstance(member, NESTED))
    found[name] = size


def holders(_held: list[Any], package: str, key: str) -> list[str]:
    """Names of the global containers, as in `sizes`, that have a member or key with this text."""
    found = []
    for name, value in _containers_of(package):
        try:
            members = list(value.items()) if hasattr(value, "items") else list(value)
        except RuntimeError:  # it changed meanwhile
            continue
        if any(_has(member, key) for member in members):
            found.append(name)
    return found


def _has(member: Any, key: str) -> bool:
    """Whether a member is this text, or a pair of which a part is."""
    if isinstance(member, tuple):
        return any(_has(part, key) for part in member)
    return isinstance(member, str) and member == key


def _containers_of(package: str) -> list[tuple[str, Any]]:
    found = []
    for name, module in sorted(sys.modules.items()):
        if module is None or not name.startswith(package + "."):
            continue
        for key, value in sorted(vars(module).items()):
            if key.startswith("__"):
                continue
            inner = getattr(value, "__dict__", {})
            is_own = getattr(type(value), "__module__", "").startswith(package + ".")
            parts = {f"{key}.{at}": part for at, part in inner.items()} if is_own else {}
            short = name[len(package) + 1 :]
            found += [
                (f"{short}.{at}", part)
                for at, part in {key: value, **parts}.items()
                if isinstance(part, CONTAINERS)
            ]
    by_id = {id(value): (name, value) for name, value in reversed(found)}
    return sorted(by_id.values(), key=lambda pair: pair[0])


def census(_held: list[Any], package: str) -> dict[str, int]:
    """The number of living objects of each class of the package, and of each class in `COUNTED`."""
    gc.collect()
    found: collections.Counter[str] = collections.Counter()
    for instance in gc.get_objects():
        kind = type(instance)
        if kind in COUNTED or str(getattr(kind, "__module__", "")).startswith(package + "."):
            found[f"objects of {kind.__module__}.{kind.__qualname__}"] += 1
    return dict(found)


def held(_held: list[Any], package: str) -> dict[str, int]:
    """The sizes of the containers in attributes of all objects of the package's classes.

    By `module.Class.attribute`, added up over all objects of the class.
    """
    gc.collect()
    found: collections.Counter[str] = collections.Counter()
    for instance in gc.get_objects():
        kind = type(instance)
        if not str(getattr(kind, "__module__", "")).startswith(package + "."):
            continue
        for name, value in attributes(instance):
            if isinstance(value, NESTED) and not isinstance(value, tuple):
                found[f"{kind.__module__}.{kind.__qualname__}.{name}"] += len(value)
    return dict(found)


def attributes(instance: Any) -> list[tuple[str, Any]]:
    """Name and value of each attribute that the object itself has."""
    slots = [name for kind in type(instance).__mro__ for name in getattr(kind, "__slots__", ())]
    in_slots = [(name, getattr(instance, name)) for name in slots if hasattr(instance, name)]
    return [*in_slots, *getattr(instance, "__dict__", {}).items()]


def process(_held: list[Any]) -> dict[str, int]:
    """Threads, descriptors, and the objects that the collector knows."""
    gc.collect()
    return {
        "threads": threading.active_count(),
        "fds": sum(1 for _ in Path("/proc/self/fd").iterdir()),
        "objects": len(gc.get_objects()),
    }


def hold(held: list[Any], module: str, function: str, argument: list[Any]) -> Any:
    """Acquire the lock that a function returns, as a slow call of the server would hold it."""
    lock = getattr(importlib.import_module(module), function)(*argument)
    held.append(lock)
    return lock.acquire(timeout=5)


def release(held: list[Any]) -> None:
    """Release every lock that is held."""
    while held:
        held.pop().release()


_run = threading.Thread.run
_may_begin: dict[str, threading.Event] = {}


def hold_workers(_held: list[Any], key: str) -> None:
    """Let no thread begin that gets this text as an argument, as on a busy machine."""
    _may_begin[key] = threading.Event()

    def run(thread: threading.Thread) -> None:
        arguments = (
            *getattr(thread, "_args", ()),
            *getattr(thread, "_kwargs", {}).values(),
        )
        for held_key, may_begin in list(_may_begin.items()):
            if any(isinstance(each, str) and each == held_key for each in arguments):
                may_begin.wait(HELD_S)
        _run(thread)

    vars_of_thread: Any = threading.Thread
    vars_of_thread.run = run


def let_workers(_held: list[Any], key: str) -> None:
    """Let the threads with this argument begin."""
    _may_begin.pop(key, threading.Event()).set()


def call(_held: list[Any], module: str, path: str, argument: list[Any]) -> None:
    """Call what a dotted path in a module names."""
    function: Any = importlib.import_module(module)
    for name in path.split("."):
        function = getattr(function, name)
    function(*argument)


def fields(_held: list[Any], module: str, name: str, key: str) -> list[Any]:
    """The value of a key in each member of a global mapping."""
    members = getattr(importlib.import_module(module), name)
    return [member[key] for member in list(members.values())]


def has(_held: list[Any], module: str, name: str) -> bool:
    """Whether a module has that name."""
    try:
        return hasattr(importlib.import_module(module), name)
    except ImportError:
        return False


def starters(_held: list[Any], package: str) -> list[str]:
    """Names of the functions that start a thread of the package, and can stop it again."""
    found = []
    for name, module in sorted(sys.modules.items()):
        if module is None or not name.startswith(package + "."):
            continue
        for key, value in sorted(vars(module).items()):
            if not inspect.isfunction(value) or value.__module__ != name:
                continue
            stop = getattr(module, key.replace("start_", "stop_", 1), None)
            if key.startswith("start_") and _is_free(value) and _is_free(stop):
                found.append(f"{name}.{key}")
    return found


def _is_free(function: Any) -> bool:
    """Whether a function needs no argument."""
    if not inspect.isfunction(function):
        return False
    parameters = inspect.signature(function).parameters.values()
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return all(p.default is not p.empty or p.kind in kinds for p in parameters)


def start_at_once(_held: list[Any], starter: str, callers: int, times: int) -> int:
    """Stop what a function starts, and start it from several threads at once, a few times.

    Returns the most threads that were alive more than after one call alone.
    """
    module_name, _, name = starter.rpartition(".")
    module = importlib.import_module(module_name)
    begin, end = getattr(module, name), getattr(module, name.replace("start_", "stop_", 1))
    switch_s = sys.getswitchinterval()
    most = 0
    try:
        sys.setswitchinterval(SWITCH_S)
        for _ in range(times):
            end()
            before = set(threading.enumerate())
            barrier = threading.Barrier(callers)

            def call(barrier: threading.Barrier = barrier) -> None:
                barrier.wait()
                begin()

            threads = [threading.Thread(target=call) for _ in range(callers)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            most = max(most, len(set(threading.enumerate()) - before))
    finally:
        sys.setswitchinterval(switch_s)
    return most


FUNCTIONS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        sizes,
        holders,
        census,
        held,
        process,
        hold,
        release,
        hold_workers,
        let_workers,
        call,
        fields,
        has,
        starters,
        start_at_once,
    )
}
