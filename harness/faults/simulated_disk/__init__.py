"""A simulated disk below code under test: it injects errors, and forgets unsynced data in a crash.

The disk runs in the process of the code under test. While a `SimulatedDisk` is entered, each
change to one folder that goes through a function of `os` or through `open` is carried out, recorded
as a numbered `Call`, and passed to a *fault*, which may fail it or crash the process. Reads are not
intercepted. A crash leaves an `Image`: after the kill of a process, all calls that completed; after
a power loss, everything that was synced, and any part of the rest in any order.

The design follows SQLite's tests, which fail the first call, then the second, and so on until the
operation completes (sqlite.org/testing.html); ALICE, whose file system guarantees only what POSIX
guarantees (Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014); and CrashMonkey
(Mohan et al., "Finding Crash-Consistency Bugs with Bounded Black-Box Crash Testing", OSDI 2018).
A later fsync does not repair a failed one (Rebello et al., "Can Applications Recover from fsync
Failures?", ATC 2020).

The package knows no target, reads no clock, and takes its randomness as an argument. It cannot see
what bypasses `os` and `open`: mmap, C extensions (SQLite), other processes. It imports the standard
library only, and its own modules by relative imports, so any process can load it by its path.
"""

from .calls import (
    NEEDS_SPACE,
    STRIKES,
    Call,
    Fault,
    InjectedFault,
    Kind,
    SimulatedCrash,
    crash_before,
    fail_from,
    fail_once,
    fail_torn_twice,
    no_fault,
    shorten,
    tear,
)
from .exploration import Crash, Failure, every_crash_point, every_failure
from .image import Image
from .layer import SimulatedDisk

__all__ = [
    "NEEDS_SPACE",
    "STRIKES",
    "Call",
    "Crash",
    "Failure",
    "Fault",
    "Image",
    "InjectedFault",
    "Kind",
    "SimulatedCrash",
    "SimulatedDisk",
    "crash_before",
    "every_crash_point",
    "every_failure",
    "fail_from",
    "fail_once",
    "fail_torn_twice",
    "no_fault",
    "shorten",
    "tear",
]
