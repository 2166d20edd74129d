"""Modules of a hermes-webui checkout in this process, whose threads an explorer schedules.

They are imported once, before the first schedule, and each schedule begins with their globals as
they were after the import. Where a module needs another one that cannot be loaded alone, an adapter
puts a stand-in in its place for the time of its schedule.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from harness.core.errors import TargetUnavailableError
from harness.schedule import adopt
from harness.targets.hermes_webui import checkout

_replaced: list[tuple[Any, str, Any]] = []  # where, the name, and what was there before
_stand_ins: dict[str, ModuleType | None] = {}  # by name: what was there before


def load(folder: Path, names: Collection[str], *, packages: Path, bytecode: Path) -> None:
    """Import these modules of the checkout, in place of those of another one.

    Raises TargetUnavailableError with the module that cannot be imported.
    """
    reset()
    checkout.forget()
    _silence()
    before, written_to = list(sys.path), sys.pycache_prefix
    sys.path[:0], sys.pycache_prefix = [str(folder), str(packages)], str(bytecode)
    try:
        with tempfile.TemporaryDirectory(prefix="harness-") as home, _environment():
            checkout.set_environment(Path(home))
            for name in names:
                _import(folder, name)
            adopt(*checkout.modules())  # the first schedule needs their locks under control already
    finally:
        sys.path[:], sys.pycache_prefix = before, written_to


def _import(folder: Path, name: str) -> None:
    try:
        checkout.module(name)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise TargetUnavailableError(f"{folder}: no api.{name}: {reason}") from error


def _silence() -> None:
    """Drop what the modules log: each schedule would repeat their lines."""
    logger = logging.getLogger("api")
    logger.propagate = False
    logger.handlers = [logging.NullHandler()]


@contextmanager
def _environment() -> Iterator[None]:
    """Restore the environment of this process afterwards."""
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def reset() -> None:
    """Begin a schedule: the globals are as after the import, and nothing is replaced."""
    remove_stand_ins()
    while _replaced:
        owner, name, value = _replaced.pop()
        setattr(owner, name, value)
    checkout.reset_globals()


def replace(owner: Any, name: str, value: Any) -> Any:
    """Give a name of a module another value for the time of a schedule; returns the former one."""
    before = getattr(owner, name)
    _replaced.append((owner, name, before))
    setattr(owner, name, value)
    return before


def stand_in(name: str, content: Mapping[str, Any]) -> ModuleType:
    """Put a module with this content in the place of one that cannot be loaded alone."""
    made = ModuleType(name)
    vars(made).update(content)
    _stand_ins.setdefault(name, sys.modules.get(name))
    sys.modules[name] = made
    parent, _, child = name.rpartition(".")
    if parent in sys.modules:
        setattr(sys.modules[parent], child, made)
    return made


def remove_stand_ins() -> None:
    """Put back what was there."""
    while _stand_ins:
        name, module = _stand_ins.popitem()
        parent, _, child = name.rpartition(".")
        if module is not None:
            sys.modules[name] = module
        else:
            sys.modules.pop(name, None)
        owner = sys.modules.get(parent)
        if owner is not None and module is None and hasattr(owner, child):
            delattr(owner, child)
        elif owner is not None and module is not None:
            setattr(owner, child, module)
