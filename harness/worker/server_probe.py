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
import os
import re
import socket
import sys
import threading
import weakref

CONTAINERS = (dict, list, set, collections.deque, weakref.WeakValueDictionary)
NESTED = (dict, list, set, tuple, collections.deque)
SWITCH_S = 1e-6  # between threads that race
MEMBERS_MAX = 2000  # of a container whose members are counted
EVERY_CAP = "*"  # the name of all constants that bound a cache
CAP_NAME = re.compile(
    r"_?[A-Z_]*(CACHE|FACTS|DEDUPE|TOMBSTONE|SWEEP|SEEN|LRU)[A-Z_]*_(MAX|MAX_ENTRIES|CAP|LIMIT|THRESHOLD)"
    r"|[A-Z_]*DEDUPE_MAX"
)


class Finder(importlib.abc.MetaPathFinder):
    """Sets names of modules right after these were executed."""

    def __init__(self, constants):
        """`constants` has the value by the full name of each constant."""
        self._constants = constants
        self._busy = False

    def find_spec(self, name, path=None, target=None):
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

        def exec_module(module):
            execute(module)
            for key in wanted:
                if key == keys[1]:
                    lower_caps(module, self._constants[key])
                else:
                    change(module, key[len(name) + 1 :], self._constants[key])

        spec.loader.exec_module = exec_module
        return spec


def change(module, path, value):
    """Set an attribute by its dotted path, if the module has it; a module of a package is skipped."""
    *owners, name = path.split(".")
    owner = module
    for part in owners:
        owner = getattr(owner, part, None)
    if owner is not None and hasattr(owner, name):
        setattr(owner, name, value)


def lower_caps(module, cap):
    """Let each cache of the module hold this number of entries at most, as far as a constant says."""
    for name, value in list(vars(module).items()):
        if type(value) is int and value > cap and CAP_NAME.fullmatch(name):
            setattr(module, name, cap)


def change_constants(constants):
    """Give these constants another value when their modules are imported.

    `package.*` stands for all constants that bound a cache in the modules of the package.
    """
    sys.meta_path.insert(0, Finder(constants))


def start(path):
    """Answer questions on a Unix socket at `path`, until the process ends."""
    listener = socket.socket(socket.AF_UNIX)
    if os.path.exists(path):  # of a process that was killed
        os.unlink(path)
    listener.bind(path)
    listener.listen()
    threading.Thread(target=_serve, args=(listener,), name="harness-probe", daemon=True).start()


def _serve(listener):
    held = []
    while True:
        connection, _ = listener.accept()
        with connection, connection.makefile("rw", encoding="utf-8") as lines:
            for line in lines:
                question = json.loads(line)
                try:
                    function = FUNCTIONS[question["function"]]
                    answer = {"result": function(held, **question["argument"])}
                except Exception as error:  # it is the answer
                    answer = {"error": repr(error)}
                lines.write(json.dumps(answer) + "\n")
                lines.flush()


def sizes(_held, package):
    """The sizes of all containers that are global in the package's modules, by `module.name`.

    A member that is a container counts with its own members. Containers in the attributes of a
    global object, whose class is the package's, are called `module.name.attribute`.
    """
    found, seen = {}, set()
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


def _measure(name, value, found, seen):
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


def process(_held):
    """Threads, descriptors, and the objects that the collector knows."""
    gc.collect()
    return {
        "threads": threading.active_count(),
        "fds": len(os.listdir("/proc/self/fd")),
        "objects": len(gc.get_objects()),
    }


def hold(held, module, function, argument):
    """Acquire the lock that a function returns, as a slow call of the server would hold it."""
    lock = getattr(importlib.import_module(module), function)(*argument)
    held.append(lock)
    return lock.acquire(timeout=5)


def release(held):
    """Release every lock that is held."""
    while held:
        held.pop().release()


def has(_held, module, name):
    """Whether a module has that name."""
    try:
        return hasattr(importlib.import_module(module), name)
    except ImportError:
        return False


def starters(_held, package):
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


def _is_free(function):
    """Whether a function needs no argument."""
    if not inspect.isfunction(function):
        return False
    parameters = inspect.signature(function).parameters.values()
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return all(p.default is not p.empty or p.kind in kinds for p in parameters)


def start_at_once(_held, starter, callers, times):
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

            def call(barrier=barrier):
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


FUNCTIONS = {
    function.__name__: function
    for function in (sizes, process, hold, release, has, starters, start_at_once)
}
