"""The scheduler: real threads pass one baton, and whoever holds it is the only one to act.

A *task* is a thread under control. Before every visible operation (taking a lock, after giving it
back, waiting, touching a file, at finer levels a line or an opcode) the task that acts asks who is
next, and hands the baton over itself: there is no thread in the middle, so a schedule costs one
wake-up a switch. A task that waits does so for one thing, its *gate*; it can act when the gate is
not locked. That is all there is to blocking: locks, conditions, queues, joins and sleeps are gates.

Whatever ends a schedule early (a deadlock, an escaped exception, too many steps) is noted as its
`Ending`. Then every task is *unwound*: the next time it acts, `Unwound` is raised in it.
Knows nothing of strategies beyond the one question, and nothing of the primitives built on it.
"""

from __future__ import annotations

import sys
from _thread import get_ident, get_native_id
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from harness.core.errors import HarnessError
from harness.schedule.clock import Clock
from harness.schedule.workers import Pool, Worker, allocate_baton

if TYPE_CHECKING:
    from harness.schedule.primitives import Lock

REFUSALS = 1_000  # how often a task may go on, unwound, before we leave it parked for ever
_FRUITLESS = 1_000  # polls in a row, with nobody else acting, before they count as a deadlock
_FOREVER: Callable[[], bool] = lambda: True  # noqa: E731 - a gate's question, not a function


LIBRARY = frozenset({"threading", "queue", "concurrent.futures.thread", "concurrent.futures._base"})
ESCAPED = "escaped"


NONDETERMINISTIC = "nondeterministic"


class NondeterministicError(HarnessError):
    """The program did not repeat itself under the same choices, so no search of it can be whole."""


class LostError(HarnessError):
    """The body itself waits for something real, and its thread with it."""


class Unwound(BaseException):
    """Raised in a task whose schedule is over, so that its frames let go of what they hold."""


class Gate(Protocol):
    """What a task can wait for."""

    @property
    def locked(self) -> Callable[[], bool]:
        """Whether the waiter has to wait on."""
        ...

    @property
    def label(self) -> str:
        """What people call it."""
        ...


class Task:
    """A thread under control. `number` is its place in the order of birth; the body is 0."""

    __slots__ = (
        "baton",
        "born",
        "daemon",
        "deadline_ns",
        "done",
        "gate",
        "gate_locked",
        "held",
        "ident",
        "kind",
        "lost",
        "name",
        "number",
        "polls",
        "refusals",
        "started",
        "target",
        "timed_out",
        "worker",
    )

    def __init__(self, number: int, name: str, worker: Worker, *, daemon: bool) -> None:
        """Prepare a task that will run on this worker."""
        self.number = number
        self.name = name
        self.worker = worker
        self.baton = worker.baton
        self.ident = worker.ident
        self.daemon = daemon
        self.started = False
        self.done: list[Callable[[], None]] = []  # what to do, in order, when it ends
        self.gate: Any = None
        self.gate_locked: Callable[[], bool] | None = None
        self.deadline_ns: int | None = None
        self.timed_out = False
        self.polls = False
        self.lost = False  # it escaped control, and the schedule ended without it
        self.kind = "start"
        self.target: Any = None
        self.held: dict[Lock, None] = {}
        self.refusals = 0
        self.born = 0  # how many locks it has made

    def __repr__(self) -> str:
        return f"<task {self.number} {self.name}>"


@dataclass(frozen=True, slots=True)
class Ending:
    """How a schedule ended before its body did, or because its body failed."""

    kind: str  # what `Finding.kind` may be; or escaped, nondeterministic, pruned
    message: str
    task: str
    error: BaseException | None = None
    stacks: tuple[tuple[str, str], ...] = ()


class Chooser(Protocol):
    """Who is next. Asked only when more than one task can act."""

    def choose(self, enabled: list[Task], current: Task) -> Task:
        """Pick one of the enabled tasks; `current` is the one that asks."""
        ...


class Observer(Protocol):
    """Sees each operation just before it happens, in the order in which they happen."""

    def sees(self, task: Task, kind: str, target: Any) -> None:
        """`task` is about to do `kind` to `target`."""
        ...


class _All:
    """The gate of whoever waits for other tasks to end."""

    label = "all threads"

    def __init__(self, scheduler: Scheduler, tasks: list[Task]) -> None:
        alive = scheduler.alive
        self.locked: Callable[[], bool] = lambda: any(task in alive for task in tasks)


class _Others:
    """The gate of a body that has returned: it waits for every thread that is no daemon."""

    label = "the remaining threads"

    def __init__(self, scheduler: Scheduler) -> None:
        alive = scheduler.alive
        self.locked: Callable[[], bool] = lambda: any(not t.daemon for t in alive[1:])


class Pause:
    """The gate of a sleeper: only time opens it."""

    locked = staticmethod(_FOREVER)

    def __init__(self, label: str) -> None:
        self.label = label


PAUSE = Pause("time")


class Scheduler:
    """Runs schedules one after the other, all on the thread that made it and its workers."""

    def __init__(self, *, steps: int) -> None:
        """At most `steps` visible operations a schedule; more is a livelock."""
        self.step_budget = steps
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
        self.parked_for_ever: list[str] = []
        self._body_returned = False
        self._own = Worker.__new__(Worker)
        self._own.baton = allocate_baton()
        self._own.baton.acquire()

    # -- one schedule ---------------------------------------------------------------------------

    def settle(self) -> None:
        """The calling thread will run the bodies."""
        self._own.ident = get_ident()
        self._own.native_id = get_native_id()

    def run(
        self,
        body: Callable[[], Any],
        chooser: Chooser,
        enter: Callable[[Task], None],
        leave: Callable[[Task], None],
    ) -> Any:
        """Run the body as task 0, and everything it starts, under this chooser.

        `enter` and `leave` are called on each task's own thread, around it. Returns what the body
        returned; None, with `ending` set, if the schedule ended otherwise.
        """
        self.body = Task(0, "main", self._own, daemon=False)
        self.body.started = True
        self.current = self.body
        self.born = 1
        self.alive[:] = [self.body]
        self.clock.rewind()
        self.steps = 0
        self.choices = []
        self.ending = None
        self.unwinding = False
        self._body_returned = False
        self._idle_polls = 0
        self._ask = chooser.choose
        self._tiring = max(1, self.step_budget // 2)
        self._enter = enter
        self._leave = leave
        self.leftovers: dict[Lock, None] = {}
        result = None
        enter(self.body)
        try:
            result = body()
            self._body_returned = True
            if len(self.alive) > 1:
                self.wait("end", _Others(self))
        except Unwound:
            pass
        except BaseException as error:  # noqa: BLE001 - whatever escapes is what we look for
            self.end(_escaped(error, self.body))
        finally:
            leave(self.body)
            if self.body.lost:
                raise SystemExit  # the arena went on without this thread long ago
            self._unwind()
        return None if self.ending else result

    def end(self, ending: Ending) -> None:
        """Note how the schedule ended. The first note counts."""
        if not self.unwinding:
            self.ending = ending
            self.unwinding = True

    def escaped(self, error: BaseException) -> None:
        """An exception left the current task, by way of `threading.excepthook`."""
        self.end(_escaped(error, self.current))

    def fail(self, ending: Ending) -> NoReturn:
        """End the schedule now, from within a task. Does not return."""
        if not self.unwinding:
            self.ending = ending
            self._abort(self.current)
        raise Unwound

    # -- what primitives ask --------------------------------------------------------------------

    def point(self, kind: str, target: Any) -> None:
        """The current task is about to do something others may see: who is next?"""
        task = self.current
        if self.unwinding:
            self._count_refusal(task)
            return
        task.kind = kind
        task.target = target
        self._dispatch(task)
        if self.observer is not None:
            self.observer.sees(task, kind, target)

    def passed(self, kind: str, target: Any) -> None:
        """The current task has just done something others may see: who is next?"""
        task = self.current
        if self.unwinding:
            self._count_refusal(task)
            return
        if self.observer is not None:
            self.observer.sees(task, kind, target)
        task.kind = kind
        task.target = target
        self._dispatch(task)

    def wait(self, kind: str, gate: Any, timeout_ns: int | None = None) -> bool:
        """The current task waits until the gate opens, and acts then; False if time ran out."""
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
        try:
            self._dispatch(task)
        finally:
            task.gate = task.gate_locked = task.deadline_ns = None
        timed_out, task.timed_out = task.timed_out, False
        if self.observer is not None:
            self.observer.sees(task, "timeout" if timed_out else kind, gate)
        return not timed_out

    def sleep(self, duration_ns: int) -> None:
        """The current task waits for virtual time only."""
        if duration_ns <= 0:
            self.point("yield", None)
        else:
            self.wait("sleep", PAUSE, duration_ns)

    def poll(self, what: str) -> None:
        """The current task was refused by something we cannot see into: it tries again later.

        Later is a virtual millisecond, when nobody else can act. If nobody else ever acts again,
        a thousand times over, that is a deadlock.
        """
        self.current.polls = True
        try:
            self.wait("poll", Pause(what), 1_000_000)
        finally:
            self.current.polls = False

    def spawn(self, job: Callable[[], object], name: str, *, daemon: bool) -> Task:
        """Start a task. It acts when it is chosen, not before."""
        if self.unwinding:
            raise Unwound
        task = Task(self.born, name, self.pool.take(), daemon=daemon)
        self.born += 1
        task.worker.job = lambda: self._live(task, job)
        self.alive.append(task)
        if self.footprint is not None:
            self.footprint.touch_anything()
        return task

    def join(self, tasks: list[Task]) -> None:
        """The current task waits until these have ended."""
        self.wait("join", _All(self, tasks))

    def lose(self, reason: str) -> None:
        """The task that acts has escaped control; end the schedule without it.

        Called from outside, while everybody else is parked. If it ever comes back it finds itself a
        thread like any other, and ends when its function does.
        """
        task = self.current
        message = f"{task.name} {reason}"
        self.ending = Ending(ESCAPED, message, task.name, stacks=self.stacks())
        self.unwinding = True
        task.lost = True
        if task is self.body:
            self._unwind()
            self.pool.close()
            raise LostError(message)
        self.alive.remove(task)
        self._hand_to_body()

    # -- passing the baton ----------------------------------------------------------------------

    def _dispatch(self, task: Task) -> None:
        self.steps += 1
        self.heartbeat += 1
        self.clock.reads = 0
        if self.steps >= self._tiring:
            self._tire()
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
        footprint = self.footprint
        if footprint is not None:
            footprint.step(task, enabled)
        if len(enabled) == 1:
            return enabled[0]
        try:
            chosen = self._ask(enabled, task)
        except NondeterministicError as error:
            self.fail(Ending(NONDETERMINISTIC, str(error), task.name))
        self.choices.append(chosen.number)
        return chosen

    def _jump(self, task: Task) -> list[Task]:
        """Nobody can act: let time pass to the next deadline, or find that it never comes."""
        waiting = [t for t in self.alive if t.deadline_ns is not None]
        if self._body_returned:  # what daemons sleep for keeps no process alive
            waiting = [t for t in waiting if not t.daemon]
        if waiting and all(t.polls for t in waiting):
            self._idle_polls += 1
            if self._idle_polls > _FRUITLESS:
                waiting = []
        if not waiting:
            self._stuck(task)
        if self.footprint is not None:
            self.footprint.touch_anything()
        now_ns = min(t.deadline_ns for t in waiting if t.deadline_ns is not None)
        self.clock.now_ns = max(now_ns, self.clock.now_ns)
        due = [t for t in self.alive if t.deadline_ns is not None and t.deadline_ns <= now_ns]
        for sleeper in due:
            sleeper.timed_out = True
            sleeper.gate_locked = sleeper.deadline_ns = None
        return due

    def _stuck(self, task: Task) -> None:
        """Nobody will ever act again. Fatal, unless the body has returned and nobody is owed."""
        blocked = [t for t in self.alive if t.gate is not None]
        if self._body_returned:
            # A pool's idle worker, or a consumer, waits to be told of work that never comes: so
            # does it in any program that ends. Waiting for a lock that somebody holds is another
            # matter.
            blocked = [t for t in blocked[1:] if _owed(t)]
            if not blocked:
                self._abort(task)
                raise Unwound
        waits = "; ".join(f"{t.name} waits for {t.gate.label}{_owner(t.gate)}" for t in blocked)
        self.fail(Ending("deadlock", waits, task.name, stacks=self.stacks()))

    def _tire(self) -> None:
        """Half the budget is spent: be fair from now on. All of it: this never ends.

        A thread that spins until another has acted ends under every fair schedule, but under few of
        those that we try; only one that does not end even then is a livelock.
        """
        if self.steps > self.step_budget:
            message = f"no end after {self.step_budget} steps, half of them fair"
            self.fail(Ending("livelock", message, self.current.name, stacks=self.stacks()))
        self._tiring = self.step_budget + 1
        self._ask = _in_turn

    # -- birth and death of tasks ---------------------------------------------------------------

    def _live(self, task: Task, job: Callable[[], object]) -> None:
        task.started = True
        if not self.unwinding:
            self._enter(task)
            try:
                if self.observer is not None:
                    self.observer.sees(task, "start", None)
                job()
            except Unwound:
                pass
            except BaseException as error:  # noqa: BLE001 - whatever escapes is what we look for
                self.end(_escaped(error, task))
            finally:
                self._leave(task)
        self._bury(task)

    def _bury(self, task: Task) -> None:
        if task.lost:
            raise SystemExit
        for ended in task.done:
            ended()
        self.alive.remove(task)
        self.leftovers.update(task.held)
        self.pool.give(task.worker)
        if self.unwinding:
            self._hand_to_body()
            return
        task.kind, task.target = "end", None
        try:
            chosen = self._next_after(task)
        except Unwound:
            return  # the baton went to the body already
        self.current = chosen
        chosen.baton.release()

    def _next_after(self, task: Task) -> Task:
        if self.observer is not None:
            self.observer.sees(task, "end", None)
        return self._next(task)

    def _abort(self, task: Task) -> None:
        """End the schedule: the body goes first, and then unwinds everybody else."""
        self.unwinding = True
        if task is self.body:
            return
        if task in self.alive:
            self._hand_to_body()
            task.baton.acquire()
        else:
            self._hand_to_body()

    def _hand_to_body(self) -> None:
        self.current = self.body
        self.body.baton.release()

    def _count_refusal(self, task: Task) -> None:
        """A task goes on though its schedule is over: cleaning up, let us hope."""
        task.refusals += 1
        if task.refusals < REFUSALS:
            return
        if task.refusals > 2 * REFUSALS and task is not self.body:
            # It catches everything and goes on. It keeps its thread, parked, and we say so.
            self.parked_for_ever.append(task.name)
            self.alive.remove(task)
            self._hand_to_body()
            task.baton.acquire()  # the body let go of it once, to unwind it, and never again
        raise Unwound

    def _unwind(self) -> None:
        """Raise in every task that is left, one at a time, until all have ended."""
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
        del self.alive[:]
        self.pool.sweep()

    def stacks(self) -> tuple[tuple[str, str], ...]:
        """Where every task is now, innermost call last."""
        frames = sys._current_frames()  # noqa: SLF001 - there is no other way to see a stack
        return tuple(
            (task.name, told(frames.get(task.ident)) if task.started else "not begun")
            for task in self.alive
        )


class Footprint(Protocol):
    """What a transition touched, for searches that need to know which ones commute."""

    def touch_anything(self) -> None:
        """The transition under way may depend on any other."""
        ...

    def touch(self, target: Any, *, write: bool) -> None:
        """The transition under way touches this."""
        ...

    def step(self, task: Task, enabled: list[Task]) -> None:
        """One transition ended here, and another begins."""
        ...


def told(frame: FrameType | None) -> str:
    """A stack as lines `file:line function`, innermost last, without our own frames."""
    lines: list[str] = []
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if not name.startswith("harness.schedule"):
            code = frame.f_code
            lines.append(f"{code.co_filename}:{frame.f_lineno} {code.co_qualname}")
        frame = frame.f_back
    return "\n".join(reversed(lines))


def _in_turn(enabled: list[Task], current: Task) -> Task:
    """The next in order of birth, and after the youngest the oldest."""
    return next((task for task in enabled if task.number > current.number), enabled[0])


def _owner(gate: Any) -> str:
    owner = getattr(gate, "owner", None)
    return f", which {owner.name} holds" if owner is not None else ""


def _owed(task: Task) -> bool:
    """Whether this task waits for a lock that another one took."""
    owner = getattr(task.gate, "owner", None)
    return owner is not None and owner is not task


def _escaped(error: BaseException, task: Task) -> Ending:
    kind = "assertion" if isinstance(error, AssertionError) else "exception"
    text = str(error).strip().splitlines()
    message = f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
    return Ending(kind, message, task.name, error=error)
