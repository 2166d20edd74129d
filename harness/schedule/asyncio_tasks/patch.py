"""Puts loops that a program makes under control: a few methods of asyncio's own loop classes.

The loop, its `_run_once`, and the tasks in C stay asyncio's. A loop of another kind, or one whose
class changes how callbacks are queued, is left as it is; `escapes.py` reports it by name.
"""

# The attributes of CPython that are read and set here are private:
# ruff: noqa: SLF001

from __future__ import annotations

import asyncio
import inspect
import sys
import warnings
from asyncio import base_events, locks, selector_events
from collections.abc import Callable, Iterator
from typing import Any

from harness.core.errors import HarnessError
from harness.schedule.asyncio_tasks.jobs import Jobs
from harness.schedule.asyncio_tasks.loop import ATTRIBUTE, LoopState, state_of
from harness.schedule.asyncio_tasks.queue import ReadyQueue
from harness.schedule.asyncio_tasks.selector import Selector
from harness.schedule.asyncio_tasks.timers import RESOLUTION_S
from harness.schedule.asyncio_tasks.waits import HOLDER
from harness.schedule.control import scheduler
from harness.schedule.tasks import Ending, Unwound

Loop = base_events.BaseEventLoop
UnixLoop = asyncio.SelectorEventLoop
SelectorLoop = selector_events.BaseSelectorEventLoop
_QUEUEING = ("_run_once", "run_forever", "call_soon", "_call_soon", "call_soon_threadsafe", "time")
_stock = {name: getattr(Loop, name) for name in _QUEUEING}


def _is_stock(loop: Any) -> bool:
    """Whether a loop's class queues and runs callbacks as asyncio's own does."""
    kind = type(loop)
    return all(getattr(kind, name) is method for name, method in _stock.items())


def _init(loop: Any, selector: Any = None) -> None:
    run = scheduler()
    if run is None or run.unwinding or not _is_stock(loop):
        _native_init(loop, selector)
        return
    controlled = Selector()
    _native_init(loop, controlled)
    controlled.state = state = LoopState(loop, run, controlled)
    vars(loop)[ATTRIBUTE] = state
    loop._ready = queue = ReadyQueue()
    queue.state = state
    loop._clock_resolution = RESOLUTION_S
    loop.time = run.clock.monotonic_s


def _make_self_pipe(loop: Any) -> None:
    if isinstance(loop._selector, Selector):
        loop._ssock = loop._csock = None
        loop._internal_fds += 1
    else:
        _native_make_pipe(loop)


def _close_self_pipe(loop: Any) -> None:
    if isinstance(loop._selector, Selector):
        loop._internal_fds -= 1
    else:
        _native_close_pipe(loop)


def _write_to_self(loop: Any) -> None:
    if (state := state_of(loop)) is not None:
        state.wake()
    else:
        _native_write(loop)


def _create_task(loop: Any, coroutine: Any, **options: Any) -> Any:
    state = state_of(loop)
    if state is None:
        return _native_create_task(loop, coroutine, **options)
    loop._check_closed()
    if loop._task_factory is None:
        return state.make_task(coroutine, options)
    return state.adopt(_native_create_task(loop, coroutine, **options))


def _call_at(loop: Any, when: Any, callback: Any, *args: Any, context: Any = None) -> Any:
    timer = _native_call_at(loop, when, callback, *args, context=context)
    if (state := state_of(loop)) is not None:
        state.timers.note(timer)
    return timer


def _call_exception_handler(loop: Any, context: dict[str, Any]) -> None:
    error = context.get("exception")
    if isinstance(error, Unwound):
        return
    state = vars(loop).get(ATTRIBUTE)
    if state is None:
        _native_handle(loop, context)
    elif not state.is_over and not state.run.unwinding:
        subject = context.get("task") or context.get("future")
        if loop._exception_handler is not None or not (error or subject):
            _native_handle(loop, context)
        else:
            state.report(error, context.get("message", ""), subject)


def _run_in_executor(loop: Any, executor: Any, function: Any, *args: Any) -> Any:
    state = state_of(loop)
    is_default = executor is None and isinstance(loop._default_executor, Jobs | None)
    if state is None or not is_default:
        return _native_run_in_executor(loop, executor, function, *args)
    loop._check_closed()
    loop._check_default_executor()
    if loop._default_executor is None:
        loop._default_executor = Jobs(state)
    return loop._default_executor.start(function, args)


async def shutdown_default_executor(loop: Any, *args: Any, **options: Any) -> None:
    """Wait for the jobs; a task has this name in a story, which leaves it out."""
    jobs = loop._default_executor
    if not isinstance(jobs, Jobs):
        await _native_shutdown_executor(loop, *args, **options)
        return
    loop._executor_shutdown_called = True
    await jobs.end()


def _run_until_complete(loop: Any, future: Any) -> Any:
    """Run the loop; what `asyncio.run` does at its end needs no round if the loop has no work.

    That is an end of generators and jobs that do not exist. It takes the tasks' numbers all the
    same, so that later tasks have the names that they have in stock asyncio.
    """
    state = state_of(loop)
    if (
        state is None
        or getattr(future, "cr_code", None) not in _HOUSEKEEPING
        or not state.is_quiet
        or not isinstance(loop._default_executor, Jobs | None)
        or asyncio._get_running_loop() is not None
    ):
        return _native_run_until_complete(loop, future)
    state.run.number_strand()
    try:
        future.send(None)
    except StopIteration as done:
        return done.value
    raise HarnessError(f"{future.__qualname__} waits in a loop that has nothing to do")


def _add_signal_handler(loop: Any, number: int, callback: Any, *args: Any) -> None:
    """Keep the handler. No signal comes in a schedule, and so a search is never exhausted."""
    state = state_of(loop)
    if state is None:
        _native_add_signal_handler(loop, number, callback, *args)
        return
    if asyncio.iscoroutine(callback) or asyncio.iscoroutinefunction(callback):
        raise TypeError("coroutines cannot be used with add_signal_handler()")
    loop._check_signal(number)
    loop._check_closed()
    loop._signal_handlers[number] = asyncio.Handle(callback, args, loop)
    state.run.has_input = True


def _remove_signal_handler(loop: Any, number: int) -> Any:
    if state_of(loop) is None:
        return _native_remove_signal_handler(loop, number)
    loop._check_signal(number)
    return loop._signal_handlers.pop(number, None) is not None


def _as_completed(awaitables: Any, *, timeout: float | None = None) -> Any:
    """Make the tasks in the order of the awaitables: asyncio makes them in that of addresses."""
    if asyncio.isfuture(awaitables) or inspect.isawaitable(awaitables):
        return _native_as_completed(awaitables, timeout=timeout)
    if sys.version_info < (3, 13):
        return _as_completed_lazily(awaitables, timeout)
    return _native_as_completed(_tasks_in_order(awaitables), timeout=timeout)


def _as_completed_lazily(awaitables: Any, timeout: float | None) -> Iterator[Any]:
    yield from _native_as_completed(_tasks_in_order(awaitables), timeout=timeout)


def _tasks_in_order(awaitables: Any) -> Any:
    loop = asyncio._get_running_loop()
    if loop is None or state_of(loop) is None:
        return awaitables
    distinct = dict.fromkeys(awaitables)
    return [asyncio.ensure_future(awaitable, loop=loop) for awaitable in distinct]


async def _acquire(self: Any) -> bool:
    acquired: bool = await _native_acquire(self)
    if scheduler() is not None:
        vars(self)[HOLDER] = asyncio.current_task()
    return acquired


def _warn_unawaited(coroutine: Any) -> None:
    run = scheduler()
    if run is None:
        _native_warn(coroutine)
    elif not run.unwinding:
        code = coroutine.cr_code
        where = f"{code.co_filename.rpartition('/')[2]}:{code.co_firstlineno}"
        message = f"coroutine {coroutine.__qualname__} ({where}) was never awaited"
        run.end(Ending("unawaited", message, run.current.name))


_PATCHES: list[tuple[Any, str, Any]] = [
    (SelectorLoop, "__init__", _init),
    (SelectorLoop, "_make_self_pipe", _make_self_pipe),
    (SelectorLoop, "_close_self_pipe", _close_self_pipe),
    (SelectorLoop, "_write_to_self", _write_to_self),
    (Loop, "create_task", _create_task),
    (Loop, "call_at", _call_at),
    (Loop, "call_exception_handler", _call_exception_handler),
    (Loop, "run_in_executor", _run_in_executor),
    (Loop, "shutdown_default_executor", shutdown_default_executor),
    (Loop, "run_until_complete", _run_until_complete),
    (UnixLoop, "add_signal_handler", _add_signal_handler),
    (UnixLoop, "remove_signal_handler", _remove_signal_handler),
    (locks.Lock, "acquire", _acquire),
    (warnings, "_warn_unawaited_coroutine", _warn_unawaited),
]
_HOUSEKEEPING = (Loop.shutdown_asyncgens.__code__, shutdown_default_executor.__code__)
_native_as_completed: Any = asyncio.as_completed
REPLACEMENTS: list[tuple[Any, Any]] = [(asyncio.as_completed, _as_completed)]
_natives = [vars(owner)[name] for owner, name, _ in _PATCHES]
(
    _native_init,
    _native_make_pipe,
    _native_close_pipe,
    _native_write,
    _native_create_task,
    _native_call_at,
    _native_handle,
    _native_run_in_executor,
    _native_shutdown_executor,
    _native_run_until_complete,
    _native_add_signal_handler,
    _native_remove_signal_handler,
    _native_acquire,
    _native_warn,
) = _natives


def patch() -> Callable[[], None]:
    """Patch asyncio; returns the function that undoes it."""
    before = [(owner, name, vars(owner)[name]) for owner, name, _ in _PATCHES]
    for owner, name, replacement in _PATCHES:
        setattr(owner, name, replacement)

    def undo() -> None:
        for owner, name, method in before:
            setattr(owner, name, method)

    return undo
