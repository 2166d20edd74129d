"""Files: an operation on one is a point at which others may act; waiting for one is virtual.

Nothing is simulated: the file is real, and so is its lock. Only two things differ under control.
A blocking `flock` becomes a series of refusals, with a virtual millisecond between them; and
`fsync` returns without asking the disk, because no schedule ends in a power loss.
"""

from __future__ import annotations

import builtins
import fcntl
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.schedule.control import scheduler
from harness.schedule.scheduler import Scheduler

_flock = fcntl.flock
_lockf = fcntl.lockf
_SYNCS = ("fsync", "fdatasync")
_OPERATIONS = ("open", "write", "rename", "replace", "unlink", "remove", "truncate", "link")


def note(run: Scheduler, kind: str, target: str) -> None:
    """A file operation is about to happen. The file system counts as one thing others may see."""
    run.point(kind, target)
    if run.footprint is not None:
        run.footprint.touch("files", write=True)


def _stepping(original: Callable[..., Any], kind: str, instead: Any = None) -> Callable[..., Any]:
    @functools.wraps(original)
    def operation(*args: Any, **kwargs: Any) -> Any:
        run = scheduler()
        if run is None:
            return original(*args, **kwargs)
        note(run, kind, " -> ".join(_named(arg) for arg in args[:2] if _names_a_file(arg)))
        return original(*args, **kwargs) if instead is None else instead()

    return operation


def _names_a_file(argument: Any) -> bool:
    return isinstance(argument, str | bytes | os.PathLike) or type(argument) is int


def _named(argument: Any) -> str:
    if type(argument) is int:
        return f"fd {argument}"
    if isinstance(argument, bytes):
        return f"{len(argument)} bytes"
    return Path(argument).name


def _patient(original: Callable[..., Any], kind: str) -> Callable[..., Any]:
    @functools.wraps(original)
    def lock(fd: Any, operation: int, *args: Any) -> Any:
        run = scheduler()
        if run is None:
            return original(fd, operation, *args)
        number = fd if type(fd) is int else fd.fileno()
        what = f"{kind} of fd {number}"
        note(run, "unlock" if operation & fcntl.LOCK_UN else "lock", what)
        while True:
            try:
                return original(fd, operation | fcntl.LOCK_NB, *args)
            except BlockingIOError:
                if operation & fcntl.LOCK_NB:
                    raise
                run.poll(what)

    return lock


def replacements() -> list[tuple[Any, Any]]:
    """Originals, and what stands in for them."""
    return [
        *((getattr(os, name), _stepping(getattr(os, name), name)) for name in _OPERATIONS),
        *((getattr(os, name), _stepping(getattr(os, name), name, lambda: None)) for name in _SYNCS),
        (builtins.open, _stepping(builtins.open, "open")),
        (_flock, _patient(_flock, "flock")),
        (_lockf, _patient(_lockf, "lockf")),
    ]
