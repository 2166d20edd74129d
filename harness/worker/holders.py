"""Finds the path by which a module, a class or a running function holds an object.

`wrap` lets an adapter of a soak tell which containers grew with a reading, and what holds them. The
module imports the standard library only, as it is loaded beside packages of any name.
"""

from __future__ import annotations

import gc
import re
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from types import CellType, FrameType, FunctionType, ModuleType
from typing import Any, NamedTuple

DEPTH_MAX = 24
SEEN_MAX = 20_000  # objects that are looked at
KEY_CHARS = 40
EVEN_MIN = 0.5  # of the entries for each unit of a reading, the fewest to the most
HOLDERS_MAX = 3
_CONTAINERS = (dict, list, set, deque)
_ATTRIBUTE = re.compile(r"^\['([^']*)'\]")
_HIDDEN = ("harness.", "_pytest", "pluggy")  # what runs the search


class _Step(NamedTuple):
    """How a parent holds a child: a name after that of the parent, or a name of its own."""

    name: str
    is_root: bool = False
    is_dict: bool = False  # the child is the dict of the parent's attributes


def name_of(kind: type) -> str:
    """The full name of a class."""
    return f"{kind.__module__}.{kind.__qualname__}"


def path_to(item: Any, ignored: Iterable[Any] = ()) -> str:
    """The shortest path from a module or a class to an object, else one from a running function.

    Empty if there is none. Looks at referrers breadth first, apart from those that are ignored.
    """
    skipped = {id(ignored_item) for ignored_item in ignored}
    local = _locals(skipped)
    last_resort = local.get(id(item), "")
    below = {id(item): ""}
    level: list[Any] = [item]
    for _ in range(DEPTH_MAX):
        following: list[Any] = []
        skipped |= {id(level), id(following), id(below), id(ignored), id(local)}
        for child in level:
            rest = below[id(child)]
            for parent in gc.get_referrers(child):
                if id(parent) in below or id(parent) in skipped:
                    continue
                step = _step(parent, child)
                if step is None or len(below) > SEEN_MAX:
                    continue
                name = step.name + (_ATTRIBUTE.sub(r".\1", rest, count=1) if step.is_dict else rest)
                if step.is_root:
                    return name
                if id(parent) in local and not last_resort:
                    last_resort = local[id(parent)] + name
                below[id(parent)] = name
                following.append(parent)
        level = following
    return last_resort


def _step(parent: Any, child: Any) -> _Step | None:  # noqa: PLR0911 - one for each kind
    """How a parent holds a child; None where it leads nowhere."""
    match parent:
        case FrameType():
            return None  # `_locals` has them
        case dict():
            return _of_dict(parent, child)
        case type():
            return _of_class(parent, child)
        case list() | tuple() | deque():
            index = next((at for at, value in enumerate(parent) if value is child), None)
            return None if index is None else _Step(f"[{index}]")
        case set() | frozenset():
            return _Step(" (an item)")
        case CellType():
            return _Step("")
        case FunctionType():
            return _Step(f" (in {parent.__qualname__})")
        case _:
            return _of_object(parent, child)


def _locals(skipped: set[int]) -> dict[int, str]:
    """The names of what the variables of running functions refer to, by identity."""
    names: dict[int, str] = {}
    for innermost in sys._current_frames().values():  # noqa: SLF001 - the only way to the stacks
        frame: FrameType | None = innermost
        while frame is not None:
            module = frame.f_globals.get("__name__", "")
            if not module.startswith(_HIDDEN) and frame.f_locals is not frame.f_globals:
                where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
                values = frame.f_locals
                skipped.add(id(values))
                for name, value in values.items():
                    if not name.isidentifier():
                        continue  # such as those of an `assert` that pytest has rewritten
                    own = f"{frame.f_code.co_qualname}() at {where}: {name}"
                    names.setdefault(id(value), own)
            frame = frame.f_back
    return names


def _of_class(kind: type, child: Any) -> _Step | None:
    if isinstance(child, dict) and child.keys() == vars(kind).keys():  # not the proxy of it
        return _Step(name_of(kind), is_root=True, is_dict=True)
    names = [name for name, value in vars(kind).items() if value is child]
    return _Step(f"{name_of(kind)}.{names[0]}", is_root=True) if names else None


def _of_dict(parent: dict[Any, Any], child: Any) -> _Step | None:
    key = next((key for key, value in parent.items() if value is child or key is child), None)
    if key is None:
        return None
    module = _module_of(parent)
    if module is None:
        text = repr(key)
        return _Step(f"[{text if len(text) <= KEY_CHARS else text[:KEY_CHARS] + '...'}]")
    return None if module.startswith(_HIDDEN) else _Step(f"{module}.{key}", is_root=True)


def _of_object(parent: Any, child: Any) -> _Step:
    if getattr(parent, "__dict__", None) is child:
        return _Step("", is_dict=True)
    names = [name for name, value in _attributes(parent) if value is child]
    return _Step(f".{names[0]}" if names else f" (in a {type(parent).__qualname__})")


def _attributes(item: Any) -> Iterator[tuple[str, Any]]:
    yield from getattr(item, "__dict__", {}).items()
    for kind in type(item).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(item, name):
                yield name, getattr(item, name)


def _module_of(names: dict[Any, Any]) -> str | None:
    """The name of the module whose namespace this is."""
    name = names.get("__name__")
    module = sys.modules.get(name) if isinstance(name, str) else None
    return name if isinstance(module, ModuleType) and vars(module) is names else None


class HolderAdapter:
    """An adapter whose `mark` notes the sizes of all containers too."""

    def __init__(self, adapter: Any) -> None:
        self._adapter = adapter
        self._containers: list[Any] = []
        self._marks: list[tuple[dict[str, float], list[int]]] = []

    def __getattr__(self, name: str) -> Any:
        """Every other function is the adapter's."""
        return getattr(self._adapter, name)

    def mark(self) -> None:
        """Note all sizes; the first call lists the containers that there are."""
        self._adapter.mark()
        if not self._marks:
            found = (item for item in gc.get_objects() if isinstance(item, _CONTAINERS))
            self._containers = list(found)
        self._note()

    def holders(self, reading: str) -> list[dict[str, Any]]:
        """The containers that grew from mark to mark in proportion to the reading, and their paths.

        The most even ones come first; garbage has no path and is left out.
        """
        gc.collect()
        self._note()
        steps = [
            (after[0].get(reading, 0) - before[0].get(reading, 0), before[1], after[1])
            for before, after in pairwise(self._marks)
        ]
        steps = [step for step in steps if step[0] > 0]
        ranked = []
        for at in range(len(self._containers) if steps else 0):
            rates = [(after[at] - before[at]) / more for more, before, after in steps]
            if min(rates) > 0 and min(rates) >= EVEN_MIN * max(rates):
                ranked.append((min(rates) / max(rates), self._grown(at), at))
        ranked.sort(reverse=True)
        ours = (self._containers, self._marks, self.__dict__)
        found = []
        for _, grown, at in ranked[: 4 * HOLDERS_MAX]:
            if path := path_to(self._containers[at], ours):
                found.append({"path": path, "entries": grown})
        return found[:HOLDERS_MAX]

    def _note(self) -> None:
        self._marks.append((self._adapter.sample(), [len(item) for item in self._containers]))

    def _grown(self, at: int) -> int:
        return self._marks[-1][1][at] - self._marks[0][1][at]


def wrap(open_adapter: Callable[[Path], Any]) -> Callable[[Path], HolderAdapter]:
    """Wrap `open_adapter`, so that the adapter tells what holds that which grew."""
    return lambda folder: HolderAdapter(open_adapter(folder))
