"""The scheduler: runs real threads one at a time; they pass a baton at every visible operation.

A *task* is a thread under control. At every visible operation (before it acquires a lock, after it
releases one, before a wait or a file operation, at finer levels before a line or an opcode) the
current task asks for the next task, and passes the baton to it directly: there is no thread in
between, so a schedule costs one wake-up for each switch. A waiting task waits for one object, its
*gate*, and can act when the gate is not locked: locks, conditions, queues, joins and sleeps are all
gates.

An event that ends a schedule early (a deadlock, an escaped exception, too many steps) is recorded
as its `Ending`. Then every task is *unwound*: `Unwound` is raised in it at its next operation. The
module knows strategies only by `Chooser`, and does not know the primitives that are built on it.
"""

from __future__ import annotations

import ctypes
import sys
from _thread import get_ident, get_native_id
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from harness.schedule.clock import SPIN_NS, Clock
from harness.schedule.workers import Pool, Worker, allocate_baton

if TYPE_CHECKING:
    from harness.schedule.primitives import Lock
from harness.schedule.tasks import (
    ESCAPED,
    NONDETERMINISTIC,
    PAUSE,
    Chooser,
    Ending,
    Footprint,
    Loop,
    LostError,
    NondeterministicError,
    Observer,
    Pause,
    Task,
    Unwound,
    format_stack,
)

TIME = -1  # the number of the choice that time passes although a task could act
TIMERS = 1  # such choices in one schedule, if a search does not set another number
REFUSALS = 1_000  # operations of an unwound task, after which its thread counts as lost
_FRUITLESS = 1_000  # consecutive polls without another task's step that count as a deadlock


class _All:
    """The gate of a task that waits for the end of other tasks."""

    label = "all threads"

    def __init__(self, scheduler: Scheduler, tasks: list[Task]) -> None:
        alive = scheduler.alive
        self.locked: Callable[[], bool] = lambda: any(task in alive for task in tasks)


class _Others:
    """The gate of a body that has returned: it waits for every non-daemon thread."""

    label = "the remaining threads"

    def __init__(self, scheduler: Scheduler) -> None:
        alive = scheduler.alive
        self.locked: Callable[[], bool] = lambda: any(not t.daemon for t in alive[1:])


class _Passing(Task):
    """The choice that time passes to the next deadline although a task could act."""

    __slots__ = ()

    def __init__(self, worker: Worker) -> None:
        """Offer it under its own number, with a target that no operation has."""
        super().__init__(TIME, "time", worker, daemon=True)
        self.target = Pause("the next deadline")


class Scheduler:
    """Runs schedules one after the other, on its thread and its pool of workers."""

    def __init__(self, *, steps: int, timers: int = TIMERS, order: str = "drift") -> None:
        """Limit a schedule to `steps` visible operations; more is a livelock.

        In one schedule at most `timers` deadlines pass although another task could act. `order` is
        that of the callbacks of event loops.
        """
        self.step_budget = steps
        self.timers = timers
        self.order = order
        self.loops: list[Loop] = []  # that the program made in this schedule
        self.has_loops = False  # in any schedule
        self.has_input = False  # from sockets or pipes of event loops, in any schedule
        self.out_of_turn = 0  # callbacks that ran before the first one of their loop's queue
        self._strands = 0
        self.has_offered_time = False  # in any schedule
        self.clock = Clock()
        self.pool = Pool()
        self.alive: list[Task] = []
        self.steps = 0
        self.heartbeat = 0
        self.choices: list[int] = []
        self.ending: Ending | None = None
        self.unwinding = False
        self.observer: Observer | None = None
        self.footprint: Footprint | None = None
        self.lost_threads: list[str] = []
        self._body_returned = False
        self._own = Worker.__new__(Worker)
        self._own.baton = allocate_baton()
        self._own.baton.acquire()
        self._own.ident = 0
        self._passing = _Passing(self._own)
        self.body = self.current = Task(0, "main", self._own, daemon=False)

    # -- one schedule ---------------------------------------------------------------------------

    def bind_thread(self) -> None:
        """Bind the body's task to the calling thread, which runs the bodies."""
        self._own.ident = get_ident()
        self._own.native_id = get_native_id()

    def run(
        self,
        body: Callable[[], Any],
        chooser: Chooser,
        enter: Callable[[Task], None],
        leave: Callable[[Task], None],
    ) -> Any:
        """Run the body as task 0, and all threads that it starts, under this chooser.

        `enter` and `leave` are called on each task's thread, around it. Returns the body's value;
        None, with `ending` set, if the schedule ended otherwise.
        """
        self._begin(chooser, enter, leave)
        result = None
        enter(self.body)
        try:
            result = body()
            self._body_returned = True
            if len(self.alive) > 1:
                self.wait("end", _Others(self))
            for loop in self.loops:
                loop.judge()
        except Unwound:
            pass
        except BaseException as error:  # noqa: BLE001 - an escaped exception is a finding
            self.end(_escaped(error, self.body))
        finally:
            leave(self.body)
            if self.body.lost:
                raise SystemExit  # the executor continued without this thread
            self._unwind()
        return None if self.ending else result

    def _begin(
        self, chooser: Chooser, enter: Callable[[Task], None], leave: Callable[[Task], None]
    ) -> None:
        """Reset what belongs to one schedule."""
        self.body = Task(0, "main", self._own, daemon=False)
        self.body.started = True
        self.current = self.body
        self.task_count = 1
        self.alive[:] = [self.body]
        self.clock.rewind()
        self.steps = 0
        self.choices = []
        self.ending = None
        self.unwinding = False
        self._body_returned = False
        self._idle_polls = 0
        self.out_of_turn = 0
        self._strands = 0
        self._ask = chooser.choose
        self._is_early = getattr(chooser, "early", True)
        self._timed = 0  # the tasks that wait with a timeout
        self._timers_left = self.timers
        self._fair_after = max(1, self.step_budget // 2)
        self._enter = enter
        self._leave = leave
        self.leftovers: dict[Lock, None] = {}

    @property
    def party_count(self) -> int:
        """The number of threads and asyncio tasks of the schedule."""
        return self.task_count + self._strands

    def end(self, ending: Ending) -> None:
        """Record how the schedule ended. The first record counts."""
        if not self.unwinding:
            self.ending = ending
            self.unwinding = True

    def escaped(self, error: BaseException) -> None:
        """Record an exception that left the current task through `threading.excepthook`."""
        self.end(_escaped(error, self.current))

    def fail(self, ending: Ending) -> NoReturn:
        """End the schedule now, from a task. Does not return."""
        if not self.unwinding:
            self.ending = ending
            self._abort(self.current)
        raise Unwound

    # -- interface for primitives ---------------------------------------------------------------

    def point(self, kind: str, target: Any) -> None:
        """Let the chooser switch before a visible operation of the current task."""
        task = self.current
        if self.unwinding:
            self._count_refusal(task)
            return
        task.kind = kind
        task.target = target
        self._dispatch(task)
        if self.observer is not None:
            self.observer.observe(task, kind, target)

    def passed(self, kind: str, target: Any) -> None:
        """Let the chooser switch after a visible operation of the current task."""
        task = self.current
        if self.unwinding:
            self._count_refusal(task)
            return
        if self.observer is not None:
            self.observer.observe(task, kind, target)
        task.kind = kind
        task.target = target
        self._dispatch(task)

    def wait(self, kind: str, gate: Any, timeout_ns: int | None = None) -> bool:
        """Wait in the current task until the gate is unlocked; False after the timeout."""
        task = self.current
        if self.unwinding:
            self._count_refusal(task)
            if gate.locked():
                raise Unwound
            return True
        task.kind = kind
        task.target = gate
        task.gate = gate
        task.gate_locked = gate.locked
        if timeout_ns is not None:
            task.deadline_ns = self.clock.now_ns + timeout_ns
            self._timed += 1
        try:
            self._dispatch(task)
        finally:
            task.gate = task.gate_locked = task.deadline_ns = None
            if timeout_ns is not None:
                self._timed -= 1
        timed_out, task.timed_out = task.timed_out, False
        is_early, task.early = task.early, False
        if self.observer is not None:
            late = "early timeout" if is_early else "timeout"
            self.observer.observe(task, late if timed_out else kind, gate)
        return not timed_out

    def sleep(self, duration_ns: int) -> None:
        """Wait in the current task for virtual time only."""
        if duration_ns <= 0:
            self.point("yield", None)
        else:
            self.wait("sleep", PAUSE, duration_ns)

    def poll(self, label: str) -> None:
        """Wait before a retry of an operation whose gate the scheduler cannot see.

        The retry comes after a virtual millisecond, when no other task can act. If no other task
        acts for `_FRUITLESS` retries, that is a deadlock.
        """
        self.current.polls = True
        try:
            self.wait("poll", Pause(label), 1_000_000)
        finally:
            self.current.polls = False

    # -- interface for event loops --------------------------------------------------------------

    def number_strand(self) -> int:
        """Return a number for an asyncio task, in order of creation."""
        self._strands += 1
        return self._strands

    def turn(self, loop: Any, deadline_ns: int | None = None) -> None:
        """Let the chooser switch before the current task goes on with its event loop.

        `deadline_ns` is when the loop's next timer is due: time may pass although the loop is busy.
        """
        task = self.current
        if self.unwinding:
            raise Unwound
        if deadline_ns is None and self.footprint is None and len(self.alive) == 1:
            # There is no other thread: `_count_step`, inlined, as this is most of what a loop does.
            self.steps += 1
            self.heartbeat += 1
            self.clock.reads = 0
            self._idle_polls = 0
            if self.steps >= self._fair_after:
                self._enforce_fairness()
            return
        task.kind = "turn"
        task.target = loop
        if deadline_ns is None:
            self._dispatch(task)
        else:
            self._turn_or_time(task, deadline_ns)
        if self.footprint is not None:
            self.footprint.touch_anything()

    def _turn_or_time(self, task: Task, deadline_ns: int) -> None:
        task.deadline_ns = deadline_ns
        self._timed += 1
        try:
            self._dispatch(task)
        finally:
            task.deadline_ns = None
            self._timed -= 1
        is_early, task.early, task.timed_out = task.early, False, False
        if is_early and self.observer is not None:
            self.observer.observe(task, "early timer", None)

    def turn_idle(self, loop: Any, timeout_ns: int | None) -> None:
        """Wait in the current task until its event loop is woken, or its next timer is due."""
        if self.unwinding:
            raise Unwound
        is_alone = self.footprint is None and self.observer is None and len(self.alive) == 1
        if is_alone and timeout_ns is not None and loop.is_asleep:
            self._count_step()  # nothing but its next timer can wake it
            self.clock.now_ns += timeout_ns
            return
        self.wait("idle", loop, timeout_ns)
        if self.footprint is not None:
            self.footprint.touch_anything()

    def pick(self, options: list[Any]) -> Any:
        """Let the chooser pick one of these callbacks; the first is the one that is next."""
        if self.unwinding:
            raise Unwound
        if self._ask is _in_turn:
            return options[0]
        if self.footprint is not None:
            self.footprint.touch_anything()
            self.footprint.step(self.current, options)
            self.footprint.touch_anything()
        return self._choose(options, options[0])

    def pick_or_later(self, options: list[Any], *, is_held: bool) -> Any:
        """Let the chooser pick one of these due timers, or None: they come a little later.

        That counts as an early deadline of those that were due with them, unless they are held
        already. Recorded in every schedule, to replay it.
        """
        if not (self._timers_left or is_held) or self._ask is _in_turn:
            return options[0] if len(options) == 1 else self.pick(options)
        self.has_offered_time = True
        if not self._is_early:
            chosen = options[0] if len(options) == 1 else self.pick(options)
            if len(options) == 1:
                self.choices.append(chosen.number)
            return chosen
        chosen = self.pick([*options, self._passing])
        if chosen is not self._passing:
            return chosen
        if not is_held:
            self._timers_left -= 1
        if self.observer is not None:
            self.observer.observe(self.current, "late timer", None)
        return None

    def advance(self, deadline_ns: int | None) -> None:
        """Let time pass to this deadline, or a little, for a program that is never idle."""
        now_ns = self.clock.now_ns + SPIN_NS if deadline_ns is None else deadline_ns
        self._pass_time(now_ns, self.alive)

    def spawn(self, job: Callable[[], object], name: str, *, daemon: bool) -> Task:
        """Create a task. It runs only when the chooser picks it."""
        if self.unwinding:
            raise Unwound
        task = Task(self.task_count, name, self.pool.take(), daemon=daemon)
        self.task_count += 1
        task.worker.job = lambda: self._run_task(task, job)
        self.alive.append(task)
        if self.footprint is not None:
            self.footprint.spawned(task)
        return task

    def join(self, tasks: list[Task]) -> None:
        """Wait in the current task until these tasks have ended."""
        self.wait("join", _All(self, tasks))
        if self.footprint is not None:
            self.footprint.joined(tasks)

    def lose(self, reason: str) -> None:
        """End the schedule without the current task, which has escaped control.

        Called from another thread, while all other tasks wait. If the task continues later, it is
        an uncontrolled thread, which ends with its function.
        """
        task = self.current
        stack = dict(self.stacks()).get(task.name, "")
        message = f"{task.name} {reason}, at {stack.rpartition(chr(10))[2]}"
        self.ending = Ending(ESCAPED, message, task.name, stacks=self.stacks())
        self.unwinding = True
        task.lost = True
        _interrupt(task)
        if task is self.body:
            self._unwind()
            self.pool.close()
            raise LostError(message)
        self.alive.remove(task)
        self._pass_to_body()

    # -- switches -------------------------------------------------------------------------------

    def _count_step(self) -> None:
        """Count a step of the only thread."""
        self.steps += 1
        self.heartbeat += 1
        self.clock.reads = 0
        self._idle_polls = 0
        if self.steps >= self._fair_after:
            self._enforce_fairness()

    def _dispatch(self, task: Task) -> None:
        self.steps += 1
        self.heartbeat += 1
        self.clock.reads = 0
        if self.steps >= self._fair_after:
            self._enforce_fairness()
        chosen = self._next(task)
        if chosen is not task:
            self.current = chosen
            chosen.baton.release()
            task.baton.acquire()
            if self.unwinding:
                raise Unwound

    def _next(self, task: Task) -> Task:
        enabled = [t for t in self.alive if (locked := t.gate_locked) is None or not locked()]
        if not enabled:
            enabled = self._jump(task)
        elif not task.polls:
            self._idle_polls = 0
        if self._timed and self._timers_left and (waiting := self._waiting(enabled)):
            return self._next_or_time(task, enabled, waiting)
        footprint = self.footprint
        if footprint is not None:
            footprint.step(task, enabled)
        if len(enabled) == 1:
            return enabled[0]
        return self._choose(enabled, task)

    def _choose(self, enabled: list[Task], task: Task) -> Task:
        try:
            chosen = self._ask(enabled, task)
        except NondeterministicError as error:
            self.fail(Ending(NONDETERMINISTIC, str(error), task.name))
        self.choices.append(chosen.number)
        return chosen

    def _waiting(self, enabled: list[Task]) -> list[Task]:
        """Return the tasks that only their deadline lets continue, and busy event loops."""
        return [
            t
            for t in self.alive
            if t.deadline_ns is not None
            and (t.gate is None or t not in enabled)
            and not (self._body_returned and t.daemon)
        ]

    def _next_or_time(self, task: Task, enabled: list[Task], waiting: list[Task]) -> Task:
        """Choose a task, or that time passes first; recorded in every schedule, to replay it."""
        self.has_offered_time = True
        mover = task
        while waiting:
            offered = [*enabled, self._passing]
            if self.footprint is not None:
                self.footprint.step(mover, offered)
            if self._is_early:
                chosen = self._choose(offered, task)
            elif len(enabled) > 1:
                chosen = self._choose(enabled, task)
            else:
                chosen = enabled[0]
                self.choices.append(chosen.number)
            if chosen is not self._passing:
                return chosen
            self._timers_left -= 1
            now_ns = min(t.deadline_ns for t in waiting if t.deadline_ns is not None)
            for waiter in self._pass_time(now_ns, waiting):
                waiter.early = True
                if waiter.gate is not None:
                    enabled.append(waiter)
            enabled.sort(key=_number)
            mover = self._passing
            waiting = self._waiting(enabled) if self._timers_left else []
        if self.footprint is not None:
            self.footprint.step(mover, enabled)
        return enabled[0] if len(enabled) == 1 else self._choose(enabled, task)

    def _pass_time(self, now_ns: int, waiting: list[Task]) -> list[Task]:
        """Advance time, and return those of these tasks that are due then."""
        if self.footprint is not None:
            self.footprint.touch_anything()
        self.clock.now_ns = max(now_ns, self.clock.now_ns)
        due = [t for t in waiting if t.deadline_ns is not None and t.deadline_ns <= now_ns]
        for waiter in due:
            waiter.timed_out = True
            waiter.gate_locked = waiter.deadline_ns = None
        return due

    def _jump(self, task: Task) -> list[Task]:
        """Advance time to the next deadline, as no task can act; without one report a deadlock."""
        waiting = [t for t in self.alive if t.deadline_ns is not None]
        if self._body_returned:  # a daemon's deadline does not keep a process alive
            waiting = [t for t in waiting if not t.daemon]
        if waiting and all(t.polls for t in waiting):
            self._idle_polls += 1
            if self._idle_polls > _FRUITLESS:
                waiting = []
        if self.loops:
            self._check_outside(task)
        if not waiting:
            self._report_deadlock(task)
        now_ns = min(t.deadline_ns for t in waiting if t.deadline_ns is not None)
        return self._pass_time(now_ns, self.alive)

    def _check_outside(self, task: Task) -> None:
        """Report a loop that something outside the schedule may wake: it has escaped control."""
        for waiter in self.alive:
            if getattr(waiter.gate, "is_external", False):
                message = (
                    f"the event loop of {waiter.name} waits for a socket or pipe,"
                    " which may be of something outside the schedule"
                )
                self.fail(Ending(ESCAPED, message, task.name, stacks=self.stacks()))

    def _report_deadlock(self, task: Task) -> None:
        """Report a deadlock, unless the body has returned and no task waits for an owned lock."""
        blocked = [t for t in self.alive if t.gate is not None]
        if self._body_returned:
            # A pool's idle worker, or a consumer, waits for work that never comes, as in any
            # program that ends. A wait for a lock that another task holds is a deadlock.
            blocked = [t for t in blocked[1:] if _waits_for_owned_lock(t)]
            if not blocked:
                self._abort(task)
                raise Unwound
        waits = "; ".join(f"{t.name} waits for {_awaited(t.gate)}{_owner(t.gate)}" for t in blocked)
        self.fail(Ending("deadlock", waits, task.name, stacks=self.stacks()))

    def _enforce_fairness(self) -> None:
        """Switch to a fair chooser after half of the steps, and report a livelock after all.

        A thread that spins until another one has acted ends under every fair schedule, but under
        few of those that strategies choose; a livelock is one that does not end even then.
        """
        if self.steps > self.step_budget:
            message = f"no end after {self.step_budget} steps, half of them fair"
            self.fail(Ending("livelock", message, self.current.name, stacks=self.stacks()))
        self._fair_after = self.step_budget + 1
        self._timers_left = 0
        self._ask = _in_turn

    # -- start and end of tasks -----------------------------------------------------------------

    def _run_task(self, task: Task, job: Callable[[], object]) -> None:
        task.started = True
        if not self.unwinding:
            self._enter(task)
            try:
                if self.observer is not None:
                    self.observer.observe(task, "start", None)
                job()
            except Unwound:
                pass
            except BaseException as error:  # noqa: BLE001 - an escaped exception is a finding
                self.end(_escaped(error, task))
            finally:
                self._leave(task)
        self._finish(task)

    def _finish(self, task: Task) -> None:
        if task.lost:
            raise SystemExit
        for ended in task.done:
            ended()
        self.alive.remove(task)
        self.leftovers.update(task.held)
        self.pool.give(task.worker)
        if self.unwinding:
            self._pass_to_body()
            return
        task.kind, task.target = "end", None
        try:
            chosen = self._next_after(task)
        except Unwound:
            return  # the body already has the baton
        self.current = chosen
        chosen.baton.release()

    def _next_after(self, task: Task) -> Task:
        if self.observer is not None:
            self.observer.observe(task, "end", None)
        return self._next(task)

    def _abort(self, task: Task) -> None:
        """End the schedule: the body continues first, and then unwinds all other tasks."""
        self.unwinding = True
        if task is self.body:
            return
        if task in self.alive:
            self._pass_to_body()
            task.baton.acquire()
        else:
            self._pass_to_body()

    def _pass_to_body(self) -> None:
        self.current = self.body
        self.body.baton.release()

    def _count_refusal(self, task: Task) -> None:
        """Count an operation of a task whose schedule is over: usually a cleanup."""
        task.refusals += 1
        if task.refusals < REFUSALS:
            return
        if task.refusals > 2 * REFUSALS and task is not self.body:
            # The task catches every Unwound. Its thread waits from now on, and is reported.
            self.lost_threads.append(task.name)
            self.alive.remove(task)
            self._pass_to_body()
            task.baton.acquire()  # the body released the baton once, to unwind the task
        raise Unwound

    def _unwind(self) -> None:
        """Raise Unwound in every remaining task, one at a time, until all have ended."""
        self.unwinding = True
        for task in self.alive[1:]:
            if not task.started:
                self.pool.put(task.worker)
                for ended in task.done:
                    ended()
                continue
            self.current = task
            task.baton.release()
            self.body.baton.acquire()
        self.leftovers.update(self.body.held)
        for lock in self.leftovers:
            if lock.owner is not None:
                lock.reset()
        self.current = self.body
        for loop in self.loops:
            loop.close()
        self.loops.clear()
        del self.alive[:]
        self.pool.sweep()

    def stacks(self) -> tuple[tuple[str, str], ...]:
        """Return the present stack of every task, innermost call last."""
        frames = sys._current_frames()  # noqa: SLF001 - the only way to read a stack
        threads = [
            (task.name, format_stack(frames.get(task.ident)) if task.started else "not begun")
            for task in self.alive
        ]
        return (*threads, *(stack for loop in self.loops for stack in loop.stacks()))


def _interrupt(task: Task) -> None:
    """Raise Unwound in the thread of a lost task when it next runs Python code."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(task.ident), ctypes.py_object(Unwound)
    )


def _number(task: Task) -> int:
    return task.number


def _in_turn(enabled: list[Task], current: Task) -> Task:
    """Return the next task in order of creation, and after the last one the first."""
    return next((task for task in enabled if task.number > current.number), enabled[0])


def _awaited(gate: Any) -> str:
    """Return what a task at this gate waits for: a loop says more than its label."""
    return str(getattr(gate, "awaited", None) or gate.label)


def _owner(gate: Any) -> str:
    owner = getattr(gate, "owner", None)
    return f", which {owner.name} holds" if owner is not None else ""


def _waits_for_owned_lock(task: Task) -> bool:
    """Return whether this task waits for a lock that another task holds."""
    owner = getattr(task.gate, "owner", None)
    return owner is not None and owner is not task


def _escaped(error: BaseException, task: Task) -> Ending:
    kind = "assertion" if isinstance(error, AssertionError) else "exception"
    text = str(error).strip().splitlines()
    message = f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
    return Ending(kind, message, task.name, error=error)
