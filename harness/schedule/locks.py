"""Lock rules: which locks may not be held or nested, checked while schedules run.

Locks are named by where they are created (`Cache._lock`, `config.CACHE_LOCK`) or by their `label`;
rules name them by shell patterns. A cycle in the order in which locks are nested is a deadlock that
has not happened yet (Havelund, "Using Runtime Analysis to Guide Model Checking of Java Programs",
SPIN 2000): reported only if different threads, alive at the same time, nested the same
locks in opposite orders with no common lock around both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache, wraps
from typing import Any, ParamSpec, TypeVar

from harness.schedule.control import scheduler
from harness.schedule.primitives import Lock
from harness.schedule.scheduler import Scheduler
from harness.schedule.tasks import Ending, Task

P = ParamSpec("P")
R = TypeVar("R")
_FILES = {"open", "write", "fsync", "fdatasync", "rename", "replace", "unlink", "remove", "lock"}
_matches = lru_cache(maxsize=4096)(fnmatchcase)


@dataclass(frozen=True, slots=True)
class LockRules:
    """Rules that hold in every schedule.

    `never_nested` lists pairs: no lock of the second pattern is acquired while one of the first is
    held. `free_during` lists pairs: while the call runs, no lock of the pattern is held. Calls are
    `sqlite`, `file`, `network`, and the names given to `calling`. Cycles are reported unless
    `ordered` is False.
    """

    never_nested: tuple[tuple[str, str], ...] = ()
    free_during: tuple[tuple[str, str], ...] = ()
    ordered: bool = True

    def checker(self, run: Scheduler) -> LockChecker:
        """Make an observer that checks one schedule."""
        return LockChecker(self, run)


def calling(name: str, function: Callable[P, R]) -> Callable[P, R]:
    """Wrap a function so that each call of it is a step with this name for the rules."""

    @wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        run = scheduler()
        if run is not None:
            run.point("call", name)
        return function(*args, **kwargs)

    return called


@dataclass(frozen=True, slots=True)
class _Nesting:
    """One thread acquired `inner` while it held `outer` and the locks `around` both."""

    outer: Lock
    inner: Lock
    task: Task
    around: frozenset[Lock]


class LockChecker:
    """Checks one schedule against the rules."""

    def __init__(self, rules: LockRules, run: Scheduler) -> None:
        self._rules = rules
        self._run = run
        self._nestings: list[_Nesting] = []

    def observe(self, task: Task, kind: str, target: Any) -> None:
        """Check one operation; a broken rule ends the schedule."""
        if not task.held:
            return
        if kind in ("acquire", "try") and isinstance(target, Lock):
            self._check_nesting(task, target, waits=kind == "acquire")
            return
        for call, locks in self._rules.free_during:
            if _matches(_call_name(kind, target), call):
                for lock in task.held:
                    if _matches(lock.label, locks):
                        message = f"{lock.label} is held during {_call_name(kind, target)}"
                        self._run.fail(
                            Ending("held", message, task.name, stacks=self._run.stacks())
                        )

    def _check_nesting(self, task: Task, inner: Lock, *, waits: bool) -> None:
        """Check a nested acquisition; only one that waits can be part of a deadlock."""
        for outer in task.held:
            for first, second in self._rules.never_nested:
                if _matches(outer.label, first) and _matches(inner.label, second):
                    message = f"{inner.label} is acquired while {outer.label} is held"
                    self._run.fail(Ending("nested", message, task.name, stacks=self._run.stacks()))
        if waits and self._rules.ordered and len(self._run.alive) > 1:
            held = frozenset(task.held)
            for outer in task.held:
                self._check_order(_Nesting(outer, inner, task, held - {outer}))

    def _check_order(self, new: _Nesting) -> None:
        if any(
            old.outer is new.outer and old.inner is new.inner and old.task is new.task
            for old in self._nestings
        ):
            return
        self._nestings.append(new)
        if cycle := self._cycle([new]):
            message = "; ".join(
                f"{n.task.name} acquires {n.inner.label} in {n.outer.label}" for n in cycle
            )
            self._run.fail(Ending("lock-order", message, new.task.name, stacks=self._run.stacks()))

    def _cycle(self, path: list[_Nesting]) -> list[_Nesting]:
        """Return a path from the last lock back to the first one; empty if there is none."""
        if path[-1].inner is path[0].outer:
            return path
        for step in self._nestings:
            if (
                step.outer is path[-1].inner
                and all(step.task is not n.task for n in path)
                and all(step.around.isdisjoint(n.around) for n in path)
                and (cycle := self._cycle([*path, step]))
            ):
                return cycle
        return []


def _call_name(kind: str, target: Any) -> str:
    if kind == "call":
        return str(target)
    return "file" if kind in _FILES else kind
