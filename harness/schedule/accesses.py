"""Makes the accesses of modules under test that race points, and finds which ones do.

While a schedule is followed, every access of the modules calls a hook, which tells `Races` what it
touches. The accesses that race become points from the next schedule on; those alone are hooked in
schedules that are not followed, which otherwise run at full speed.
"""

from __future__ import annotations

import builtins
import collections
import functools
import gc
import sys
import threading
import time
import weakref
from _thread import get_ident
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import CodeType, FunctionType, MemberDescriptorType, ModuleType
from typing import Any

from harness.schedule.control import in_charge
from harness.schedule.races import Races
from harness.schedule.scheduler import Scheduler
from harness.schedule.sites import HOOK, MEMO, Site, Source
from harness.schedule.tasks import LIBRARY

SPINS = 20_000  # accesses of one site without a step, after which its loop gets a point
_SPINS_MIN = 1_000  # after a second too
_SPIN_S = 1.0
_monotonic = time.monotonic
_CONTAINERS = (
    *(dict, list, set, bytearray, array, collections.deque, collections.UserDict),
    *(collections.UserList, weakref.WeakSet, weakref.WeakValueDictionary),
    weakref.WeakKeyDictionary,
)
_LOOPED = (dict, list, set, collections.deque, collections.defaultdict, collections.OrderedDict)
_DICT: dict[Any, Any] = {}
_VIEWS: tuple[type, ...] = (type(_DICT.keys()), type(_DICT.values()), type(_DICT.items()))
_OF_OBJECTS = ("item", "value")  # accesses that only a change of the object itself can change
_UNCHANGING = frozenset({bool, bytes, float, int, str, type(None)})
_STEPS_ALL = 4  # the steps of a loop that are all points
_are_containers: dict[type, bool] = {}
_CONTAINER_MODULES = frozenset({"collections", "weakref", "_weakrefset", "_collections_abc"})
_HARNESS = str(Path(__file__).resolve().parents[1])
STDLIB = str(Path(threading.__file__).parent)

_sites: list[Site] = []
_numbers: dict[Site, int] = {}
_sources: dict[tuple[str, str, int], Source] = {}
_by_globals: dict[int, list[FunctionType]] = {}  # by identity of the module's namespace
_full: dict[tuple[str, str, int], Mapping[tuple[str, int], CodeType]] = {}


def is_under_test(file: str) -> bool:
    """Whether a source file is neither CPython's, nor an installed package's, nor the harness's."""
    if file.startswith(("<", _HARNESS, STDLIB)):
        return False
    return "site-packages" not in file and "dist-packages" not in file


def number_of(site: Site) -> int:
    """Number a site, for its hook."""
    if site not in _numbers:
        _numbers[site] = len(_sites)
        _sites.append(site)
    return _numbers[site]


class Accesses:
    """The accesses of some modules, of which those that race are points."""

    def __init__(self, scheduler: Scheduler, points: Iterable[str] = (), *, stock: bool) -> None:
        """Begin with these points, by key; `stock` leaves out those where CPython cannot switch."""
        self._scheduler = scheduler
        self._stock = stock
        self.points = frozenset(points)
        self.modules: list[str] = []
        self.unfollowed: list[str] = []
        self.races = Races(scheduler)
        self.spinning: dict[Site, str] = {}  # a site and the task that spins on it
        self.disturbed = False  # whether a site became a point during the schedule
        self._active: set[int] = set()
        self._is_followed = False
        self._known = 0
        self._keys: dict[str, tuple[str, str, int]] = {}
        self._lean: dict[str, Mapping[tuple[str, int], CodeType]] = {}
        self._functions: list[tuple[str, FunctionType, CodeType]] = []
        self._heartbeat = -1
        self._counts: dict[int, int] = {}
        self._wears: bool | None = None

    # -- the functions ---------------------------------------------------------------------------

    def begin(self) -> None:
        """Install the hook."""
        vars(builtins)[HOOK] = self._on_access

    def end(self) -> None:
        """Give every function its own code back."""
        for _, function, code in self._functions:
            function.__code__ = code
        self._functions.clear()
        # A thread that was left behind in a real wait may still run code with the hook.
        vars(builtins)[HOOK] = _ignore

    def follow(self, names: Iterable[str]) -> None:
        """Follow the accesses of these modules too."""
        new = [name for name in dict.fromkeys(names) if name not in self.modules]
        for name in new:
            self.modules.append(name)
            module = sys.modules.get(name)
            file = getattr(module, "__file__", None) or "<unknown>"
            try:
                assert module is not None
                key = (name, file, Path(file).stat().st_mtime_ns)
                if key not in _sources:
                    _sources[key] = source = Source(module, file)
                    _full[key] = source.compiled(number_of)
            except (OSError, SyntaxError, ValueError, AssertionError):
                self.unfollowed.append(name)
            else:
                self._keys[name] = key
        wanted = {id(vars(sys.modules[name])): name for name in new if name in self._keys}
        if not wanted:
            return
        if not wanted.keys() <= _by_globals.keys():
            _by_globals.clear()
            _by_globals.update(_functions_by_globals())
        for namespace, name in wanted.items():
            self._functions += [
                (name, function, function.__code__)
                for function in _by_globals.get(namespace, ())
                if function.__code__.co_filename == self._keys[name][1]
            ]
        self._activate(new)
        self._wears = None

    def _activate(self, names: Iterable[str]) -> None:
        """Compile the functions of these modules that have points."""
        for name in names:
            if name not in self._keys:
                continue
            points = {key for key in self.points if key.startswith(f"{name}:")}
            source = _sources[self._keys[name]]
            self._lean[name] = source.compiled(number_of, points) if points else {}
        self._active = {number for number, site in enumerate(_sites) if site.key in self.points}

    def wear(self, *, followed: bool) -> None:
        """Give the functions their code for the next schedule, and begin it."""
        self._is_followed = followed
        self.disturbed = False
        if followed:
            self.races.begin()
            self._heartbeat = -1
        if self._wears is followed:
            return
        self._wears = followed
        for name, function, code in self._functions:
            key = (code.co_qualname, code.co_firstlineno)
            codes = _full[self._keys[name]] if followed else self._lean[name]
            new = codes.get(key, code)
            if new.co_freevars != code.co_freevars:
                new = code
            if function.__code__ is not new:
                function.__code__ = new

    def commit(self) -> bool:
        """Make the accesses that were found to race points; return whether there are new ones."""
        found = len(self.races.found) + len(self.spinning)
        if found == self._known:
            return False
        self._known = found
        sites = [site for pair in self.races.found for site in pair]
        racing = {site.key for site in sites if site.feasible or site.loops or not self._stock}
        points = self.points | racing | {site.key for site in self.spinning}
        new = points - self.points
        self.points = points
        self._activate({key.partition(":")[0] for key in new})
        self._wears = None
        return bool(new)

    @property
    def lines(self) -> int:
        """The number of lines that have a point."""
        return len({tuple(key.split(":")[:2]) for key in self.points})

    @property
    def conflicts(self) -> tuple[str, ...]:
        """The accesses that race, as sentences."""
        return tuple(dict.fromkeys(_sentence(*pair) for pair in self.races.found))

    @property
    def left_out(self) -> tuple[str, ...]:
        """The racing accesses that are no points, as a stock CPython cannot switch there."""
        if not self._stock:
            return ()
        sites = {site for pair in self.races.found for site in pair}
        apart = (site for site in sites if site.key not in self.points)
        return tuple(sorted({f"{site.where} {site.text}" for site in apart}))

    def endless(self) -> tuple[str, ...]:
        """The loops that spin on memory that no other task was seen to write."""
        racing = {site for pair in self.races.found for site in pair}
        return tuple(
            f"{task} polls `{site.text}` in a loop without a point, at {site.file}:{site.line}"
            for site, task in self.spinning.items()
            if site not in racing
        )

    # -- the hook --------------------------------------------------------------------------------

    def _on_access(self, subject: Any, number: int) -> Any:
        if not in_charge or (run := in_charge[0]).current.ident != get_ident() or run.unwinding:
            return subject
        site = _sites[number]
        if number in self._active and (site.feasible or not (self._stock and site.loops)):
            run.point("write" if site.writes else "read", site)
            if run.footprint is not None:
                run.footprint.touch_anything()
        if self._is_followed:
            if site.kind not in _OF_OBJECTS or type(subject) not in _UNCHANGING:
                self._count(run, number, site)
            self._record(subject, site)
        if site.loops and (container := _looped_container(subject)) is not None:
            return Loop(subject, container, site, self._on_step)
        return subject

    def _on_step(self, container: Any, site: Site) -> None:
        """Read the next item of a loop."""
        if not in_charge or (run := in_charge[0]).current.ident != get_ident() or run.unwinding:
            return
        if _numbers[site] in self._active:
            run.point("read", replace(site, text=f"next of {site.text}", feasible=True))
            if run.footprint is not None:
                run.footprint.touch_anything()
        if self._is_followed:
            self.races.access(container, "", site, write=False)

    def _count(self, run: Scheduler, number: int, site: Site) -> None:
        """Count accesses since the last step; a loop that only polls memory gets a point."""
        if run.heartbeat != self._heartbeat:
            self._heartbeat = run.heartbeat
            self._counts.clear()
            self._since_s = _monotonic()
        count = self._counts[number] = self._counts.get(number, 0) + 1
        is_long = count % _SPINS_MIN == 0 and _monotonic() - self._since_s > _SPIN_S
        if count >= SPINS or is_long:
            self.spinning[site] = run.current.name
            self.disturbed = True
            self._active.add(number)

    def _record(self, subject: Any, site: Site) -> None:
        access = self.races.access
        match site.kind:
            case "attribute":
                self._attribute(subject, site)
            case "method":
                if not _is_container(subject):
                    self._attribute(subject, site)
                elif _is_native(subject, site.name):
                    access(subject, "", site, write=site.writes)
            case "item":
                if _is_container(subject) and _is_native(subject, site.name):
                    access(subject, "", site, write=site.writes)
            case "value":
                container = _container_of_view(subject)
                if _is_container(container):
                    access(container, "", site, write=site.writes)
            case "named":
                self._attribute(subject[0], replace(site, name=subject[1]))
            case _:
                self._variable(subject, site)

    def _variable(self, subject: Any, site: Site) -> None:
        """Record a use of a variable, or of what a function keeps: a state, or a result."""
        home = sys.modules[site.module]
        match site.kind:
            case "global":
                self.races.access(home, site.name, site, write=site.writes)
            case "closure":
                self.races.access(subject.__closure__[0], "", site, write=site.writes)
            case "call":
                self._called(subject, site)
            case _ if subject is True:  # a result of lru_cache
                self.races.access(home, f"{site.function}()", site, write=True)
            case _:
                self.races.access(subject, site.name, site, write=True)

    def _attribute(self, subject: Any, site: Site) -> None:
        kind = type(subject)
        is_write = site.writes and site.kind in {"attribute", "named"}
        if kind is ModuleType:
            if subject.__name__ in self.modules:
                self.races.access(subject, site.name, site, write=is_write)
            return
        home = kind.__module__
        is_ours = home.startswith("harness.schedule") and home not in self.modules
        if home in LIBRARY or is_ours:
            return
        if isinstance(subject, threading.local):
            return
        if site.kind == "method":
            self._called(getattr(subject, "__dict__", {}).get(site.name), site)
        for owner in () if is_write else _owners(subject, site.name):
            value = vars(owner)[site.name]
            if isinstance(value, MemberDescriptorType):
                break  # a slot
            if type(value) is functools.cached_property:
                break  # no result yet: its function will write it
            if hasattr(type(value), "__get__"):
                self._called(value, site)
                return  # a method or a property, whose code has accesses of its own
            self.races.access(owner, site.name, site, write=False)
        self.races.access(subject, site.name, site, write=is_write)

    def _called(self, function: Any, site: Site) -> None:
        """Record that a result is looked up which `functools` keeps."""
        if type(function) is MEMO:
            home = sys.modules.get(function.__module__)
            self.races.access(home, f"{function.__qualname__}()", site, write=False)


def forget_functions() -> None:
    """Forget which functions there are: the next search looks for them again."""
    _by_globals.clear()


def _functions_by_globals() -> dict[int, list[FunctionType]]:
    """Return every function, by the identity of its module's namespace."""
    found: dict[int, list[FunctionType]] = {}
    gc.unfreeze()
    for function in gc.get_objects():
        if isinstance(function, FunctionType):
            found.setdefault(id(function.__globals__), []).append(function)
    gc.freeze()
    return found


def _ignore(subject: Any, _number: int) -> Any:
    """The hook outside of explorations."""
    return subject


def _owners(subject: Any, name: str) -> list[type]:
    """Return the class from which an object or a class has an attribute, if not its own."""
    if isinstance(subject, type):
        classes = subject.__mro__
    elif name in getattr(subject, "__dict__", ()):
        return []
    else:
        classes = type(subject).__mro__
    return [owner for owner in classes if name in vars(owner)][:1]


def _is_container(subject: Any) -> bool:
    kind = type(subject)
    known = _are_containers.get(kind)
    if known is None:
        known = _are_containers[kind] = issubclass(kind, _CONTAINERS)
    return known


def _is_native(subject: Any, name: str) -> bool:
    """Whether a container's method is the one of its base class."""
    method = getattr(type(subject), name, None)
    return not isinstance(method, FunctionType) or method.__module__ in _CONTAINER_MODULES


class Loop:
    """A container through which a loop steps, with a call before some of its steps.

    CPython can switch at the head of each turn. These are: the second to fourth step, those after
    8, 16, 32 ... items, and the last, where a loop learns that a dict has changed its size.
    """

    __slots__ = ("_before", "_container", "_site", "_subject")

    def __init__(
        self, subject: Any, container: Any, site: Site, before: Callable[[Any, Site], None]
    ) -> None:
        self._subject = subject
        self._container = container
        self._site = site
        self._before = before

    def __iter__(self) -> Iterator[Any]:
        """Step through the items."""
        return self._steps(iter(self._subject))

    def _steps(self, items: Iterator[Any]) -> Iterator[Any]:
        for done, item in enumerate(items, start=1):
            yield item
            is_last = done >= len(self._container)
            if done < _STEPS_ALL or done & (done - 1) == 0 or is_last:
                self._before(self._container, self._site)


def _container_of_view(subject: Any) -> Any:
    """Return the dict of a view, or the subject itself."""
    return gc.get_referents(subject)[0] if isinstance(subject, _VIEWS) else subject


def _looped_container(subject: Any) -> Any:
    """Return the container of whose own iterator a loop steps through the subject; else None."""
    container = _container_of_view(subject)
    return container if type(container) in _LOOPED else None


def _sentence(first: Site, second: Site) -> str:
    if not first.writes:
        first, second = second, first
    if first.key == second.key:
        return f"{first.where} {_act(first)} in several threads, no common lock"
    return f"{first.where} {_act(first)}, {second.where} {_act(second)}, no common lock"


def _act(site: Site) -> str:
    return f"{'writes' if site.writes else 'reads'} {site.text}"


def modules_of(body: Any, named: Collection[str]) -> list[str]:
    """The modules whose accesses are followed from the first schedule on."""
    names = list(named)
    todo = [body, *vars(body).values()] if hasattr(body, "__dict__") else [body]
    for item in todo:
        function = getattr(item, "__func__", item)
        function = getattr(function, "func", function)
        code = getattr(function, "__code__", None)
        if code is not None and is_under_test(code.co_filename):
            names.append(function.__module__)
        elif isinstance(item, type) and item.__module__ in sys.modules:
            file = getattr(sys.modules[item.__module__], "__file__", None) or "<unknown>"
            names += [item.__module__] if is_under_test(file) else []
    return list(dict.fromkeys(names))
