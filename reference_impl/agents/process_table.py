"""Finds the shells of background processes among the processes of the machine (`/proc`)."""

from __future__ import annotations

import time
from contextlib import suppress

from reference_impl.storage import files

BIRTH_S = 1.0  # how long to wait until a new process has its arguments

_KERNEL_THREAD = 0x00200000  # a flag in /proc/*/stat
_PLACE = 5  # of the argument that tells our shells apart


def pids(marks: set[bytes]) -> dict[bytes, int]:
    """Find the pids of our shells by the argument that each was given.

    A process has no arguments for a moment after it was spawned, and this may run that early.
    """
    ends_at_s = time.monotonic() + BIRTH_S
    while True:
        found, starting = _scan(marks)
        if not starting or len(found) == len(marks) or time.monotonic() > ends_at_s:
            return found
        time.sleep(BIRTH_S / 100)


def _scan(marks: set[bytes]) -> tuple[dict[bytes, int], int]:
    """Find them, and count the processes that cannot be identified yet."""
    found: dict[bytes, int] = {}
    starting = 0
    for name in files.names("/proc") if marks else ():
        if not name.isdecimal():
            continue
        with suppress(OSError):
            arguments = files.read_whole(f"/proc/{name}/cmdline").split(b"\0")
            if arguments == [b""]:
                starting += _may_have_arguments(name)
            elif set(arguments[_PLACE : _PLACE + 1]) & marks and _leads_a_session(name):
                found[arguments[_PLACE]] = int(name)
    return found, starting


def _may_have_arguments(pid: str) -> bool:
    """Whether it is neither dead nor a kernel thread; those never have arguments."""
    state, *numbers = _status(pid)
    return state not in b"ZX" and not int(numbers[5]) & _KERNEL_THREAD


def _leads_a_session(pid: str) -> bool:
    """Our shells do; a child of one that has not called exec yet has the same arguments."""
    return _status(pid)[3] == pid.encode()


def _status(pid: str) -> list[bytes]:
    """State, parent, group, session, ... of a process: fields after its name. Raises OSError."""
    return files.read_whole(f"/proc/{pid}/stat").rpartition(b") ")[2].split()
