"""The calls that a simulated disk records, and the faults that it injects into them."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum


class SimulatedCrash(BaseException):
    """Simulates the death of the process: every later call on the folder raises it again."""


class Kind(StrEnum):
    """The kinds of change that a call makes."""

    CREATE = "create"
    WRITE = "write"
    TRUNCATE = "truncate"
    SYNC = "sync"
    SYNC_FOLDER = "sync folder"
    RENAME = "rename"
    LINK = "link"
    UNLINK = "unlink"
    MKDIR = "mkdir"
    RMDIR = "rmdir"


NEEDS_SPACE = frozenset({Kind.CREATE, Kind.WRITE, Kind.LINK, Kind.MKDIR, Kind.SYNC})


@dataclass(frozen=True, slots=True)
class Call:
    """One change that the code requested; `number` counts from 1, `length` is in bytes."""

    number: int
    kind: Kind
    name: str
    length: int = 0

    def __str__(self) -> str:
        return f"{self.number}: {self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class InjectedFault:
    """Replaces a call: a write writes `bytes_written` bytes, others do nothing; then `error`."""

    error: BaseException | None
    bytes_written: int = 0


Fault = Callable[[Call], InjectedFault | None]


def no_fault(_: Call) -> None:
    """Inject nothing."""


def crash_before(number: int) -> Fault:
    """Crash the process before that call."""
    return lambda call: InjectedFault(SimulatedCrash(call)) if call.number == number else None


def tear(number: int) -> Fault:
    """Crash the process after half of that call, a write."""
    return lambda call: (
        InjectedFault(SimulatedCrash(call), call.length // 2)
        if call.number == number and call.length > 1
        else None
    )


def shorten(number: int) -> Fault:
    """Make that call, a write, write half of its bytes and return that number."""
    return lambda call: (
        InjectedFault(None, call.length // 2) if call.number == number and call.length > 1 else None
    )


def fail_once(code: int) -> Callable[[int], Fault]:
    """Fail that call alone with this error number."""
    return lambda number: lambda call: _failure(code, call) if call.number == number else None


def fail_from(code: int) -> Callable[[int], Fault]:
    """Fail that call and all later ones with this error number: the error is permanent."""
    return lambda number: lambda call: _failure(code, call) if call.number >= number else None


def fail_torn_twice(code: int) -> Callable[[int], Fault]:
    """Fail that call after half of what it writes, and the next call, which may have undone it."""

    def at(number: int) -> Fault:
        def fault(call: Call) -> InjectedFault | None:
            if call.number == number:
                return InjectedFault(OSError(code, os.strerror(code), call.name), call.length // 2)
            return _failure(code, call) if call.number == number + 1 else None

        return fault

    return at


def _failure(code: int, call: Call) -> InjectedFault | None:
    if code == errno.ENOSPC and call.kind not in NEEDS_SPACE:
        return None
    return InjectedFault(OSError(code, os.strerror(code), call.name))


# By the name that a history gives them: what happens at a numbered change. The caller of "power"
# takes an image of what was synced, that of "kill" one of all completed calls.
STRIKES: Mapping[str, Callable[[int], Fault]] = {
    "kill": crash_before,
    "kill torn": tear,
    "power": crash_before,
    "power torn": tear,
    "full": fail_from(errno.ENOSPC),
    "full once": fail_once(errno.ENOSPC),
    "broken once": fail_once(errno.EIO),
    "broken twice": fail_torn_twice(errno.EIO),
    "short write": shorten,
}
