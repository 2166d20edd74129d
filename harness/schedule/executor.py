"""The arena: where schedules of one body are played, one after the other, and watched.

Playing happens on a thread of its own, pinned to one core, because a baton between two cores costs
four times as much. The caller watches from outside (`escapes.py`), and gets its patches, its
collector and its core back as they were, whatever happens.
"""

from __future__ import annotations

import _thread
import gc
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from contextvars import copy_context
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeVar

from harness.core.errors import HarnessError
from harness.schedule.control import in_charge
from harness.schedule.escapes import Audit, Watch
from harness.schedule.exhaustive import PRUNED
from harness.schedule.locks import LockRules
from harness.schedule.monitor import Monitor
from harness.schedule.patches import Patches, adopt, number_threads_anew
from harness.schedule.program import Body, Run
from harness.schedule.scheduler import Chooser, Ending, Observer, Scheduler, Task
from harness.schedule.trace import Level, Settrace, Tracer

T = TypeVar("T")
_BETWEEN_COLLECTIONS = 256  # schedules
_LOOK_S = 0.05
_LEAVE_S = 5.0
_allocate = _thread.allocate_lock
_start = _thread.start_new_thread


@dataclass(frozen=True, slots=True)
class Setting:
    """What every schedule of an exploration shares."""

    level: Level = Level.SYNC
    modules: tuple[str, ...] = ()  # whose lines or opcodes are points, and whose locks are adopted
    steps: int = 20_000  # more than this in one schedule is a livelock
    rules: LockRules | None = None


@dataclass(frozen=True, slots=True)
class Play:
    """One schedule, played: the choices made, how it ended, what the body returned."""

    choices: tuple[int, ...]
    ending: Ending | None
    outcome: Any
    steps: int
    tasks: int

    @property
    def is_pruned(self) -> bool:
        """Whether it was given up because an equivalent one was played before."""
        return self.ending is not None and self.ending.kind == PRUNED


class Arena:
    """Plays schedules of one body."""

    def __init__(self, body: Body, setting: Setting) -> None:
        self.body = body
        self.setting = setting
        self.scheduler = Scheduler(steps=setting.steps)
        self.meetings: Counter[str] = Counter()
        self.stopping = False
        self._plays = 0
        self._tracer: Tracer | None = None
        self._audit: Audit | None = None
        if setting.level is not Level.SYNC:
            tracing = Monitor if sys.version_info >= (3, 12) else Settrace
            self._tracer = tracing(self.scheduler, setting.level, setting.modules)

    def play(self, chooser: Chooser, observer: Observer | None = None) -> Play:
        """Play one schedule. Called on the arena's own thread, by what `perform` was given."""
        run = self.scheduler
        program = Run(run, self.meetings)
        body = self.body
        rules = self.setting.rules
        run.observer = _both(rules.watch(run) if rules else None, observer)
        number_threads_anew()
        in_charge.append(run)
        try:
            outcome = run.run(lambda: body(program), chooser, self._enter, self._leave)
        finally:
            if in_charge == [run]:
                in_charge.clear()
        self._plays += 1
        if self._plays % _BETWEEN_COLLECTIONS == 0:
            gc.collect()
        if self.stopping:
            raise SystemExit  # the caller was interrupted, and no longer waits
        return Play(tuple(run.choices), run.ending, outcome, run.steps, run.born)

    def audit(self, chooser: Chooser) -> tuple[str, ...]:
        """Play one schedule, and tell what it does where no schedule can see it."""
        audit = self._audit = Audit()
        try:
            self.play(chooser)
        finally:
            self._audit = None
        return tuple(audit.found)

    def _enter(self, task: Task) -> None:
        if task.number:
            task.worker.introduce(task.name)
        if self._audit is not None:
            self._audit.enter()
        elif self._tracer is not None:
            self._tracer.enter()

    def _leave(self, task: Task) -> None:
        if self._audit is not None:
            self._audit.leave()
        elif self._tracer is not None:
            self._tracer.leave()
        if task.number:
            task.worker.withdraw()

    def perform(self, act: Callable[[], T]) -> T:
        """Run `act`, which plays, on a thread of the arena's own, and watch it.

        Raises what `act` raises, and LostError if the body itself escapes control.
        """
        if in_charge:
            raise HarnessError("an exploration is under way already, and there is only one clock")
        collecting = gc.isenabled()
        with Patches():
            adopt(*_loaded(self.setting.modules))
            gc.freeze()  # what is there already need not be looked at again and again
            gc.disable()
            try:
                if self._tracer is not None:
                    self._tracer.begin()
                return self._watched(act)
            finally:
                if self._tracer is not None:
                    self._tracer.end()
                in_charge.clear()
                gc.unfreeze()
                if collecting:
                    gc.enable()

    def _watched(self, act: Callable[[], T]) -> T:
        done = _allocate()
        done.acquire()
        results: list[T] = []
        errors: list[BaseException] = []
        context = copy_context()

        def conduct() -> None:
            _pin()
            self.scheduler.settle()
            try:
                results.append(context.run(act))
            except BaseException as error:  # noqa: BLE001 - the caller gets it
                errors.append(error)
            finally:
                self.scheduler.pool.close()
                done.release()

        _start(conduct, ())
        watch = Watch(self.scheduler)
        try:
            while not done.acquire(timeout=_LOOK_S):
                if reason := watch.look():
                    self.scheduler.lose(reason)
        except BaseException:
            self.stopping = True
            done.acquire(timeout=_LEAVE_S)
            raise
        if errors:
            raise errors[0]
        return results[0]


class _Both:
    def __init__(self, first: Observer, second: Observer) -> None:
        self._first = first
        self._second = second

    def sees(self, task: Task, kind: str, target: Any) -> None:
        self._second.sees(task, kind, target)
        self._first.sees(task, kind, target)


def _both(first: Observer | None, second: Observer | None) -> Observer | None:
    return _Both(first, second) if first and second else first or second


def _loaded(names: Iterable[str]) -> list[ModuleType]:
    return [sys.modules[name] for name in names if name in sys.modules]


def _pin() -> None:
    """Keep the calling thread, and those it starts, on one core; the caller's thread stays free."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[os.getpid() % len(cores)]})
