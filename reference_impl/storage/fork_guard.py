"""The fork guard: closes registered connections, threads and locks before the process forks.

SQLite's locks are not inherited by a child, but its memory of having them is: a connection that a
child inherited would skip locks that only the parent has, and could write into a log that the
parent deletes. So every owner of connections registers here, and none is open during a fork. This
covers `os.fork` and what is built on it; `subprocess` replaces the child before it could do harm.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol


class Pausable(Protocol):
    """An owner of connections, threads or locks."""

    def pause(self) -> None:
        """Close everything, and open nothing before `resume`."""
        ...

    def resume(self) -> None:
        """Continue, in the process that forked."""
        ...

    def restart(self) -> None:
        """Start anew in the child, which has no other thread."""
        ...


def guard(owner: Pausable) -> None:
    """Pause this owner, as long as it is referenced, whenever the process forks."""
    _owners.add(owner)


_owners: weakref.WeakSet[Pausable] = weakref.WeakSet()
_forking = threading.Lock()
_paused: list[Pausable] = []


def _before() -> None:
    _forking.acquire()
    for owner in list(_owners):
        owner.pause()
        _paused.append(owner)


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
