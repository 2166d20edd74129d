"""The executor: runs schedules of one body, one after the other, and detects stalls.

Schedules run on a separate thread, pinned to one core, because passing the baton between two cores
costs four times as much. The caller's thread detects stalls (`escapes.py`). Patches, the garbage
collector and the core affinity are restored in every case.
"""

from __future__ import annotations

import _thread
import gc
import importlib
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any, TypeVar

from harness.core.errors import HarnessError, UsageError
from harness.schedule.accesses import Accesses, forget_functions, modules_of
from harness.schedule.asyncio_tasks.order import LoopOrder
from harness.schedule.control import in_charge
from harness.schedule.escapes import Audit, StallDetector
from harness.schedule.exhaustive import PRUNED
from harness.schedule.locks import LockRules
from harness.schedule.monitor import Monitor
from harness.schedule.patches import Patches, adopt, are_patched, restart_thread_numbers
from harness.schedule.program import Body, Run
from harness.schedule.races import Both, Races
from harness.schedule.scheduler import TIMERS, Scheduler
from harness.schedule.tasks import Chooser, Ending, Observer, Task
from harness.schedule.trace import Level, Settrace, Tracer

T = TypeVar("T")
_BETWEEN_COLLECTIONS = 256  # schedules
_CHECK_S = 0.05
_ABORT_S = 5.0
_allocate = _thread.allocate_lock
_start = _thread.start_new_thread
_monotonic = time.monotonic


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings that all schedules of an exploration share."""

    level: Level = Level.SYNC
    modules: tuple[str, ...] = ()  # their lines or opcodes are points, their locks are adopted
    steps: int = 20_000  # a schedule with more steps is a livelock
    rules: LockRules | None = None
    timers: int = TIMERS  # the deadlines that may pass early in one schedule
    points: tuple[str, ...] = ()  # accesses that are points, by `Site.key`
    order: LoopOrder = LoopOrder.DRIFT  # of the callbacks of event loops
    stock: bool = False  # whether lines and accesses are points only where CPython can switch
    adopted: tuple[str, ...] = ()  # other modules whose locks are adopted, if they are loaded


@dataclass(frozen=True, slots=True)
class Execution:
    """One executed schedule: its choices, its ending, and the body's return value."""

    choices: tuple[int, ...]
    ending: Ending | None
    outcome: Any
    steps: int
    tasks: int
    out_of_turn: int = 0  # callbacks that asyncio's queue would not have run next

    @property
    def is_pruned(self) -> bool:
        """Whether the schedule was abandoned because an equivalent one ran before."""
        return self.ending is not None and self.ending.kind == PRUNED


class Executor:
    """Executes schedules of one body."""

    def __init__(self, body: Body, setting: Settings) -> None:
        self.body = body
        self.setting = setting
        self.scheduler = Scheduler(steps=setting.steps, timers=setting.timers, order=setting.order)
        self.situations: Counter[str] = Counter()
        self.stopping = False
        self._executed = 0
        self._tracer: Tracer | None = None
        self._audit: Audit | None = None
        self.accesses: Accesses | None = None
        self.adopted: list[str] = []  # the modules whose existing locks are controlled
        if setting.level is Level.SYNC:
            self.accesses = Accesses(self.scheduler, setting.points, stock=setting.stock)
        else:
            tracing = Monitor if sys.version_info >= (3, 12) else Settrace
            self._tracer = tracing(
                self.scheduler, setting.level, setting.modules, stock=setting.stock
            )

    @property
    def lines(self) -> int:
        """The number of lines that are points, of those that ran so far."""
        if self.accesses is not None:
            return self.accesses.lines
        return self._tracer.lines if self._tracer is not None else 0

    def execute(
        self, chooser: Chooser, observer: Observer | None = None, *, followed: bool = False
    ) -> Execution:
        """Execute one schedule. Called on the executor's thread, by the argument of `supervise`.

        Of a schedule that is `followed` the accesses that race are found.
        """
        if self.accesses is not None:
            self.accesses.wear(followed=followed)
            if followed:
                return self._execute_followed(chooser, observer, self.accesses.races)
        return self._execute(chooser, observer)

    def _execute_followed(
        self, chooser: Chooser, observer: Observer | None, races: Races
    ) -> Execution:
        run = self.scheduler
        before = run.footprint
        run.footprint = races if before is None else Both(before, races)
        try:
            return self._execute(chooser, observer)
        finally:
            run.footprint = before

    def _execute(self, chooser: Chooser, observer: Observer | None) -> Execution:
        run = self.scheduler
        program = Run(run, self.situations)
        body = self.body
        rules = self.setting.rules
        run.observer = _both(rules.checker(run) if rules else None, observer)
        restart_thread_numbers()
        in_charge.append(run)
        try:
            outcome = run.run(lambda: body(program), chooser, self._enter, self._leave)
        finally:
            if in_charge == [run]:
                in_charge.clear()
        self._executed += 1
        if self._executed % _BETWEEN_COLLECTIONS == 0:
            gc.collect()
        if self.stopping:
            raise SystemExit  # the caller was interrupted and no longer waits
        if run.ending is not None and isinstance(run.ending.error, UsageError):
            raise run.ending.error
        return Execution(
            tuple(run.choices), run.ending, outcome, run.steps, run.party_count, run.out_of_turn
        )

    def audit(self, chooser: Chooser) -> tuple[Audit, Execution]:
        """Execute one schedule, and return what it uses that bypasses the scheduler."""
        audit = self._audit = Audit()
        try:
            execution = self.execute(chooser, followed=True)
        finally:
            self._audit = None
        return audit, execution

    def adopt(self, names: Iterable[str]) -> bool:
        """Control the locks that exist in these modules too; return whether there was one."""
        new = [name for name in names if name not in self.adopted and name in sys.modules]
        self.adopted += new
        return bool(new and adopt(*(sys.modules[name] for name in self.adopted)))

    def _enter(self, task: Task) -> None:
        if task.number:
            task.worker.register(task.name)
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
            task.worker.unregister()

    def supervise(self, function: Callable[[], T], seconds: float | None = None) -> T:
        """Run `function`, which executes schedules, on the executor's thread, and detect stalls.

        After `seconds` a task that computes without a step has stalled. Raises what `function`
        raises, and LostError if the body itself escapes control.
        """
        if in_charge:
            raise HarnessError("an exploration is already running in this process")
        collecting = gc.isenabled()
        is_shared = are_patched()  # several searches in a row look for functions once
        with Patches():
            self.adopt((*modules_of(self.body, self.setting.modules), *self.setting.adopted))
            gc.freeze()  # existing objects need no further collection
            gc.disable()
            try:
                if self._tracer is not None:
                    self._tracer.begin()
                if self.accesses is not None:
                    self.accesses.begin()
                    self.accesses.follow(key.partition(":")[0] for key in self.setting.points)
                return self._supervised(function, seconds)
            finally:
                if self._tracer is not None:
                    self._tracer.end()
                if self.accesses is not None:
                    self.accesses.end()
                if not is_shared:
                    forget_functions()
                in_charge.clear()
                gc.unfreeze()
                if collecting:
                    gc.enable()

    def _supervised(self, function: Callable[[], T], seconds: float | None) -> T:
        done = _allocate()
        done.acquire()
        results: list[T] = []
        errors: list[BaseException] = []
        context = copy_context()

        def run() -> None:
            _pin()
            self.scheduler.bind_thread()
            try:
                results.append(context.run(function))
            except BaseException as error:  # noqa: BLE001 - raised in the caller
                errors.append(error)
            finally:
                self.scheduler.pool.close()
                done.release()

        _start(run, ())
        ends_s = None if seconds is None else _monotonic() + seconds
        detector = StallDetector(self.scheduler, ends_s)
        try:
            while not done.acquire(timeout=_CHECK_S):
                if reason := detector.check():
                    self.scheduler.lose(reason)
        except BaseException:
            self.stopping = True
            done.acquire(timeout=_ABORT_S)
            raise
        if errors:
            raise errors[0]
        return results[0]


class _Both:
    def __init__(self, first: Observer, second: Observer) -> None:
        self._first = first
        self._second = second

    def observe(self, task: Task, kind: str, target: Any) -> None:
        self._second.observe(task, kind, target)
        self._first.observe(task, kind, target)


def _both(first: Observer | None, second: Observer | None) -> Observer | None:
    return _Both(first, second) if first and second else first or second


def known_modules(names: Iterable[str]) -> tuple[str, ...]:
    """Import these modules, and return their names. Raises UsageError for an unknown one."""
    names = tuple(names)
    for name in names:
        if name in sys.modules:
            continue
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise UsageError(
                f"modules: unknown module {name!r}, expected the name of a module that can be"
                f" imported: {error}"
            ) from error
    return names


def _pin() -> None:
    """Pin the calling thread, and those that it starts, to one core, as a batch job."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[os.getpid() % len(cores)]})
    if hasattr(os, "SCHED_BATCH"):
        # A woken thread does not interrupt the one that wakes it, which only then would wait.
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
