"""What the explorer knows of one event loop: its thread, its tasks, and whether it may go on."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from harness.schedule.asyncio_tasks.order import LoopOrder
from harness.schedule.asyncio_tasks.task import FIRST, Strand, Task, frames, make, name_of
from harness.schedule.asyncio_tasks.timers import Timers
from harness.schedule.asyncio_tasks.waits import sentence
from harness.schedule.primitives import creation_key
from harness.schedule.scheduler import Scheduler
from harness.schedule.tasks import Ending
from harness.schedule.tasks import Task as Thread

ATTRIBUTE = "_controlled_loop"  # of a loop: its state here
ROUNDS = 1_000  # of a loop that is never idle; from then on time passes in each


class OutOfTurn:
    """The target of a choice that asyncio's queue does not have."""

    feasible = False
    label = "the event loop's queue"


_OUT_OF_TURN = OutOfTurn()


def state_of(loop: Any) -> LoopState | None:
    """Return the state of a loop under control; None for another one, or after its schedule."""
    try:
        state: LoopState | None = loop.__dict__.get(ATTRIBUTE)
    except AttributeError:  # a loop written in C
        return None
    return None if state is None or state.is_over else state


class LoopState:
    """One loop of one schedule. It is the gate at which the loop's thread waits when idle."""

    def __init__(self, loop: Any, run: Scheduler, selector: Any) -> None:
        self.loop = loop
        self.run = run
        self.key = creation_key(self)
        self.is_relaxed = run.order == LoopOrder.RELAXED
        self.drifts = run.order != LoopOrder.FIFO
        self.selector = selector
        self.thread: Thread | None = None  # that runs the loop
        self.tasks: list[Any] = []
        self._numbers: dict[int, int] = {}  # of tasks that the program made, by identity
        self._strands: dict[int, Strand] = {}
        self.timers = Timers(self)
        self.is_awake = False  # another thread has woken the loop
        self.is_over = False
        self.rounds = 0  # since the loop was idle
        run.loops.append(self)
        run.has_loops = True

    # -- the gate ------------------------------------------------------------------------------

    def locked(self) -> bool:
        """Whether an idle loop has to wait."""
        return not self.is_awake and not self.selector.has_events()

    @property
    def is_external(self) -> bool:
        """Whether the loop waits for sockets or pipes, which something outside may write to."""
        return bool(self.selector._fd_to_key)  # noqa: SLF001 - `get_map` is slow

    @property
    def is_asleep(self) -> bool:
        """Whether nothing but a timer, or another thread, can wake the idle loop."""
        return not self.is_awake and not self.selector._fd_to_key  # noqa: SLF001

    label = "the event loop"

    @property
    def awaited(self) -> str:
        """What an idle loop waits for."""
        if self.loop._ready:  # noqa: SLF001 - the attribute of CPython
            return (
                "its event loop to be woken: call_soon in another thread gave it a callback"
                " (call_soon_threadsafe wakes the loop)"
            )
        pending = [task for task in self.tasks if not task.done()]
        waits = "; ".join(sentence(task) for task in pending)
        return f"its event loop: {waits}" if waits else "its event loop, which has no task"

    def wake(self) -> None:
        """Wake the loop, as a byte in its pipe does."""
        self.is_awake = True
        if self.run.footprint is not None:
            self.run.footprint.publish(self)

    # -- the end of the schedule ---------------------------------------------------------------

    def judge(self) -> None:
        """Report exceptions that were never retrieved, and tasks that were left behind."""
        for task in self.tasks:
            if task.done():
                if task._log_traceback:  # noqa: SLF001 - CPython's own mark
                    error = task.exception()
                    self.report(error, "its exception was never retrieved", task)
            elif task._log_destroy_pending and not self.loop.is_running():  # noqa: SLF001
                self.report(None, f"destroyed pending: {sentence(task)}", task)

    def report(self, error: BaseException | None, message: str, task: Any) -> None:
        """End the schedule with this failure of a task or callback, or pass it to the handler.

        Without an error it is a task that was left behind.
        """
        name = name_of(task) if isinstance(task, asyncio.Task) else self.run.current.name
        if self.loop._exception_handler is not None:  # noqa: SLF001 - the program handles it
            self.loop.call_exception_handler({"message": message, "exception": error, "task": task})
            return
        if error is None:
            self.run.end(Ending("pending", message, name))
            return
        kind = "assertion" if isinstance(error, AssertionError) else "exception"
        text = next(iter(str(error).strip().splitlines()), "")
        what = f"{type(error).__name__}: {text}" if text else type(error).__name__
        self.run.end(Ending(kind, f"{what} ({message})", name, error=error))

    def close(self) -> None:
        """End what an unwound schedule leaves, without a warning of its own."""
        self.is_over = True
        for task in self.tasks:
            if task.done():
                if task._log_traceback:  # noqa: SLF001
                    task._log_traceback = False  # noqa: SLF001
            else:
                task._log_destroy_pending = False  # noqa: SLF001
                with suppress(BaseException):
                    task.get_coro().close()
            asyncio.tasks._unregister_task(task)  # noqa: SLF001 - the set of all tasks
        self.tasks.clear()
        loop = self.loop
        if not loop.is_closed():
            loop._closed = True  # noqa: SLF001 - a schedule that ended early leaves it open
            loop._thread_id = None  # noqa: SLF001
            loop._ready.clear()  # noqa: SLF001
            loop._scheduled.clear()  # noqa: SLF001
            with suppress(BaseException):
                self.selector.close()
        run = self.run
        vars(self).clear()  # else only the garbage collector would free the loop
        self.run = run
        self.is_over = True

    def stacks(self) -> list[tuple[str, str]]:
        """Return where each pending task is suspended, the innermost call last."""
        return [(name_of(task), _stack(task)) for task in self.tasks if not task.done()]

    def make_task(self, coroutine: Any, options: dict[str, Any]) -> Any:
        """Make a task with a number and a name of this schedule."""
        number = self.run.number_strand()
        if options.get("name") is None:
            options["name"] = f"Task-{number}"
        task = make(number, coroutine, self.loop, options)
        self.tasks.append(task)
        return task

    def adopt(self, task: Any) -> Any:
        """Name and keep a task that the program's own factory made."""
        if isinstance(task, asyncio.Task):
            number = self.number_of(task)
            if str(task.get_name()).startswith("Task-"):
                task.set_name(f"Task-{number}")
        return task

    def strand(self, number: int) -> Strand:
        """Return the choice of the next step of the task of this number; 0: of another callback."""
        found = self._strands.get(number)
        if found is None:
            found = self._strands[number] = Strand(FIRST + number, "a callback", _OUT_OF_TURN)
        return found

    @property
    def is_quiet(self) -> bool:
        """Whether the loop has nothing to do, and no other thread can give it anything."""
        loop = self.loop
        run = self.run
        return not (
            loop._ready  # noqa: SLF001 - the attributes of CPython
            or loop._scheduled  # noqa: SLF001
            or self.timers.held
            or loop._asyncgens  # noqa: SLF001
            or loop._task_factory is not None  # noqa: SLF001
            or loop._debug  # noqa: SLF001
            or self.selector._fd_to_key  # noqa: SLF001
            or len(run.alive) > 1
            or run.unwinding
        )

    def number_of(self, task: Any) -> int:
        """Return a task's number; one that the program made itself gets one now, and is kept."""
        if isinstance(task, Task):
            return task.number
        number = self._numbers.get(id(task))
        if number is None:
            number = self._numbers[id(task)] = self.run.number_strand()
            self.tasks.append(task)
        return number


def _stack(task: Any) -> str:
    lines = [
        f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_qualname}"
        for frame in frames(task)
        if not frame.f_globals.get("__name__", "").startswith("harness.schedule")
    ]
    return "\n".join(lines)
