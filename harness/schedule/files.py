"""File operations under control: each is a point, and a wait for a file lock is virtual.

Files and their locks are real. Two operations differ under control: a blocking `flock` becomes a
series of non-blocking attempts, one virtual millisecond apart; and `fsync` returns without a sync,
because no schedule ends in a power loss.
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
    """Make a point before a file operation. The file system counts as one shared object."""
    run.point(kind, target)
    if run.footprint is not None:
        run.footprint.touch("files", write=True)


def _with_point(
    original: Callable[..., Any], kind: str, replacement: Any = None
) -> Callable[..., Any]:
    @functools.wraps(original)
    def operation(*args: Any, **kwargs: Any) -> Any:
        run = scheduler()
        if run is None:
            return original(*args, **kwargs)
        note(run, kind, " -> ".join(_label(arg) for arg in args[:2] if _names_a_file(arg)))
        return original(*args, **kwargs) if replacement is None else replacement()

    return operation


def _names_a_file(argument: Any) -> bool:
    return isinstance(argument, str | bytes | os.PathLike) or type(argument) is int


def _label(argument: Any) -> str:
    if type(argument) is int:
        return f"fd {argument}"
    if isinstance(argument, bytes):
        return f"{len(argument)} bytes"
    return Path(argument).name


def _virtual_wait(original: Callable[..., Any], kind: str) -> Callable[..., Any]:
    @functools.wraps(original)
    def lock(fd: Any, operation: int, *args: Any) -> Any:
        run = scheduler()
        if run is None:
            return original(fd, operation, *args)
        number = fd if type(fd) is int else fd.fileno()
        label = f"{kind} of fd {number}"
        note(run, "unlock" if operation & fcntl.LOCK_UN else "lock", label)
        while True:
            try:
                return original(fd, operation | fcntl.LOCK_NB, *args)
            except BlockingIOError:
                if operation & fcntl.LOCK_NB:
                    raise
                run.poll(label)

    return lock


def replacements() -> list[tuple[Any, Any]]:
    """Return the originals with their replacements."""
    return [
        *((getattr(os, name), _with_point(getattr(os, name), name)) for name in _OPERATIONS),
        *(
            (getattr(os, name), _with_point(getattr(os, name), name, lambda: None))
            for name in _SYNCS
        ),
        (builtins.open, _with_point(builtins.open, "open")),
        (_flock, _virtual_wait(_flock, "flock")),
        (_lockf, _virtual_wait(_lockf, "lockf")),
    ]
