"""Replaces functions that code took before the exploration: `def __init__(self, make=Lock)`.

A default argument, a `defaultdict`, a field of a dataclass, a closure, a partial, an attribute or
an item of a list or dict can hold an original that no module names any more. The collector knows
every object that refers to one. Those that cannot be changed (tuples, sets, objects of C) keep it;
a lock that they make is found by `escapes.py`.
"""

from __future__ import annotations

import collections
import functools
import gc
import sys
from collections.abc import Callable, Mapping, Sequence
from types import CellType, FunctionType, MemberDescriptorType, ModuleType
from typing import Any

Undo = Callable[[], None]


def replace_captured(replacements: Mapping[int, tuple[Any, Any]], spared: set[int]) -> list[Undo]:
    """Replace the originals, by identity, wherever an object holds one; returns how to undo it.

    `spared` are the identities of objects that keep theirs.
    """
    originals = [original for original, _ in replacements.values()]
    spared = spared | {
        id(vars(module)) for module in list(sys.modules.values()) if _is_module(module)
    }
    spared |= {id(originals), id(replacements)}
    undo: list[Undo] = []
    new = {key: replacement for key, (_, replacement) in replacements.items()}
    holders = [
        holder
        for holder in gc.get_referrers(*originals)
        if id(holder) not in spared and not _is_ours(holder)
    ]
    owners = _owners(holders)
    for holder in holders:
        undo += _replace_in(holder, new, owners.get(id(holder), ()))
    return undo


def _owners(holders: list[Any]) -> dict[int, list[Any]]:
    """Return the functions and classes that refer to each tuple and dict, in one walk."""
    parts = [holder for holder in holders if isinstance(holder, (tuple, dict))]
    owners: dict[int, list[Any]] = {}
    for owner in gc.get_referrers(*parts) if parts else ():
        if isinstance(owner, FunctionType) and owner.__defaults__ is not None:
            owners.setdefault(id(owner.__defaults__), []).append(owner)
        elif isinstance(owner, type):
            owners.setdefault(id(gc.get_referents(vars(owner))[0]), []).append(owner)
    return owners


def _is_module(value: Any) -> bool:
    return isinstance(value, ModuleType)


def _is_ours(holder: Any) -> bool:
    home = getattr(holder, "__module__", None) or getattr(type(holder), "__module__", "")
    return isinstance(home, str) and home.startswith(("harness.schedule", "importlib"))


def _replace_in(  # noqa: PLR0911 - by kind
    holder: Any, new: Mapping[int, Any], owners: Sequence[Any]
) -> list[Undo]:
    match holder:
        case tuple():
            return _replace_defaults(holder, new, owners)
        case CellType():
            return _put(holder, "cell_contents", new[id(holder.cell_contents)], setattr)
        case functools.partial():
            return _replace_partial(holder, new)
        case dict():
            undo = _replace_items(holder, new, owners)
            if isinstance(holder, collections.defaultdict) and id(holder.default_factory) in new:
                undo += _put(holder, "default_factory", new[id(holder.default_factory)], setattr)
            return undo
        case list():
            return [
                step
                for index, value in enumerate(holder)
                if id(value) in new
                for step in _put_item(holder, index, new[id(value)])
            ]
        case FunctionType() | ModuleType() | type():
            return []  # their dicts and tuples are holders of their own
    return _replace_attributes(holder, new)


def _put(holder: Any, name: str, value: Any, put: Callable[[Any, str, Any], None]) -> list[Undo]:
    original = getattr(holder, name)
    try:
        put(holder, name, value)
    except (AttributeError, TypeError):
        return []
    return [lambda: put(holder, name, original)]


def _put_item(holder: Any, key: Any, value: Any) -> list[Undo]:
    original = holder[key]
    holder[key] = value

    def undo() -> None:
        exists = key in holder if isinstance(holder, dict) else key < len(holder)
        if exists and holder[key] is value:
            holder[key] = original

    return [undo]


def _replace_defaults(
    holder: tuple[Any, ...], new: Mapping[int, Any], functions: Sequence[Any]
) -> list[Undo]:
    """Replace default arguments: a tuple of a function."""
    values = tuple(new.get(id(value), value) for value in holder)
    undo: list[Undo] = []
    for function in functions:
        if not _is_ours(function):
            undo += _put(function, "__defaults__", values, setattr)
    return undo


def _replace_partial(holder: Any, new: Mapping[int, Any]) -> list[Undo]:
    state = holder.__reduce__()[2]
    function, arguments, keywords, names = state
    changed = (
        new.get(id(function), function),
        tuple(new.get(id(value), value) for value in arguments),
        {key: new.get(id(value), value) for key, value in keywords.items()},
        names,
    )
    holder.__setstate__(changed)
    return [lambda: holder.__setstate__(state)]


def _replace_items(
    holder: dict[Any, Any], new: Mapping[int, Any], owners: Sequence[Any]
) -> list[Undo]:
    """Replace values of a dict: of the program, of an object, or of a class."""
    keys = [key for key, value in holder.items() if id(value) in new]
    if not keys:
        return []
    owner = owners[0] if owners else None
    undo: list[Undo] = []
    for key in keys:
        value = new[id(holder[key])]
        if owner is None:
            undo += _put_item(holder, key, value)
        elif not _is_ours(owner):
            # A function of Python would become a method; the original, one of C, does not.
            value = staticmethod(value) if isinstance(value, FunctionType) else value
            undo += _put_attribute(owner, key, holder[key], value)
    return undo


def _put_attribute(owner: type, name: str, original: Any, value: Any) -> list[Undo]:
    try:
        setattr(owner, name, value)
    except TypeError:
        return []  # a class of C
    return [lambda: setattr(owner, name, original)]


def _replace_attributes(holder: Any, new: Mapping[int, Any]) -> list[Undo]:
    undo: list[Undo] = []
    for name, value in list(getattr(holder, "__dict__", {}).items()):
        if id(value) in new:
            undo += _put(holder, name, new[id(value)], object.__setattr__)
    for owner in type(holder).__mro__:
        for name, member in list(vars(owner).items()):
            if isinstance(member, MemberDescriptorType):
                value = getattr(holder, name, None)
                if id(value) in new:
                    undo += _put(holder, name, new[id(value)], object.__setattr__)
    return undo
