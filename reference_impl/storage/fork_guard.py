"""The fork guard: what must not be open while the process forks is closed before, everywhere.

SQLite's locks do not follow into a child, but its memory of having them does: a connection opened
in a child would skip locks that only the parent has, and could write into a log that the parent
deletes. So whoever keeps connections joins here, and a fork finds none of them open. This covers
`os.fork` and what is built on it; `subprocess` replaces the child before it could do harm.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol


class Pausable(Protocol):
    """Something that keeps connections, threads or locks of its own."""

    def pause(self) -> None:
        """Have nothing open, and open nothing before `resume`."""
        ...

    def resume(self) -> None:
        """Go on, in the process that forked."""
        ...

    def restart(self) -> None:
        """Begin anew in the child, where no other thread is left."""
        ...


def guard(keeper: Pausable) -> None:
    """Pause this one, for as long as it lives, whenever the process forks."""
    _keepers.add(keeper)


_keepers: weakref.WeakSet[Pausable] = weakref.WeakSet()
_forking = threading.Lock()
_paused: list[Pausable] = []


def _before() -> None:
    _forking.acquire()
    for keeper in list(_keepers):
        keeper.pause()
        _paused.append(keeper)


def _in_parent() -> None:
    while _paused:
        _paused.pop().resume()
    _forking.release()


def _in_child() -> None:
    while _paused:
        _paused.pop().restart()
    _forking.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
