"""Known races that a working explorer finds: each interpreter proves that its hooks are called.

Instrumentation depends on the interpreter: on the code that its compiler makes, on its monitoring
events, on the classes of its library. Where a hook is silently never called a search is green, as
it has no points. So the first search of a process that finds nothing is followed by a search for a
known race at the same level; if it is not found, the verdict is *unknown*.
"""

from __future__ import annotations

import platform
import threading
from collections.abc import Callable

from harness.schedule.program import Body, Run
from harness.schedule.trace import Level


class Plain:
    """A counter without a lock: its accesses must be seen."""

    def __init__(self) -> None:
        self.value = 0

    def add(self) -> None:
        """Read, and then write."""
        value = self.value
        self.value = value + 1


class Locked(Plain):
    """A counter that reads and writes in two critical sections: its lock must be controlled."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()

    def add(self) -> None:
        """Read, and then write."""
        with self._lock:
            value = self.value
        with self._lock:
            self.value = value + 1


class Waiting(Plain):
    """A counter that adds only if it waited for as long as it could: its clock must be virtual."""

    def __init__(self) -> None:
        super().__init__()
        self._event = threading.Event()

    def add(self) -> None:
        """Wait for an hour, or until the other thread is here."""
        if not self._event.wait(3600.0):
            self.value += 1
        self._event.set()


KINDS: dict[Level, tuple[type[Plain], ...]] = {
    Level.SYNC: (Plain, Locked, Waiting),
    Level.LINE: (Plain,),
    Level.OPCODE: (Plain,),
}


_missed: dict[Level, tuple[str, ...]] = {}  # of this process, by level


def missed(level: Level, is_found: Callable[[Body], bool]) -> tuple[str, ...]:
    """Say which canaries `is_found` does not find at a level; asked once in a process."""
    if level not in _missed:
        _missed[level] = tuple(
            f"the canary race {kind.__name__} is not found at {level} level on"
            f" {platform.python_implementation()} {platform.python_version()}: the explorer's hooks"
            " do not work on this interpreter"
            for kind in KINDS[level]
            if not is_found(_body(kind))
        )
    return _missed[level]


def forget() -> None:
    """Ask again at the next search."""
    _missed.clear()


def _body(kind: type[Plain]) -> Body:
    def canary(run: Run) -> None:
        counter = kind()
        run.thread(counter.add, name="a")
        run.thread(counter.add, name="b")
        run.join()
        assert counter.value == len("ab"), counter.value

    return canary
