"""The default executor of a controlled loop: a controlled thread for each job.

CPython's pool takes a hundred steps for a job, nearly all of them inside its queue. These jobs are
threads all the same, which start, interleave and end as those of the pool do; at most as many run
at a time as the pool has workers, and the others wait in order. A pool that the program makes or
sets itself is CPython's own.
"""

from __future__ import annotations

import concurrent.futures
from collections import deque
from collections.abc import Callable
from typing import Any

from harness.schedule.asyncio_tasks.loop import LoopState
from harness.schedule.asyncio_tasks.task import JobFuture
from harness.schedule.primitives import creation_key

WORKERS: int = concurrent.futures.ThreadPoolExecutor()._max_workers  # noqa: SLF001 - the stock limit


class Jobs:
    """Runs the jobs of one loop."""

    def __init__(self, state: LoopState) -> None:
        self._state = state
        self.key = creation_key(self)
        self._waiting: deque[tuple[JobFuture, Callable[[], Any]]] = deque()
        self._running = 0
        self._begun = 0
        self._is_shut = False
        self._cancelled: set[Any] = set()
        self._ended: list[Any] = []  # futures that wait for the end of all jobs

    def start(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> JobFuture:
        """Run a job in a thread of its own; return the loop's future of its result."""
        if self._is_shut:
            raise RuntimeError("cannot schedule new futures after shutdown")
        future = JobFuture(self._state.run.number_strand(), self._state.loop)
        future.add_done_callback(self._cancel)
        if self._state.run.footprint is not None:
            self._state.run.footprint.publish(self)
        self._waiting.append((future, lambda: function(*arguments)))
        if self._running < WORKERS:
            self._running += 1
            self._begun += 1
            self._state.run.spawn(self._work, f"asyncio_{self._begun - 1}", daemon=False)
        return future

    def _work(self) -> None:
        """Run jobs until none waits; the body of a controlled thread."""
        state = self._state
        while self._waiting:
            if state.run.footprint is not None:
                state.run.footprint.touch(self, write=False)
            future, job = self._waiting.popleft()
            if future in self._cancelled:
                continue  # before it began, as in a pool
            try:
                result, error = job(), None
            except BaseException as raised:
                if state.run.unwinding:
                    raise
                result, error = None, raised
            self._tell(_complete, future, result, error)
        self._running -= 1
        if not self._running:
            for ended in self._ended:
                self._tell(_complete, ended, None, None)

    def _cancel(self, future: Any) -> None:
        """Note that a future was cancelled: a round later than it was, as in a pool."""
        if future.cancelled():
            self._cancelled.add(future)

    def _tell(self, *call: Any) -> None:
        """Call a function in the loop, unless it is closed."""
        if not self._state.loop.is_closed():
            self._state.loop.call_soon_threadsafe(*call)

    async def end(self) -> None:
        """Refuse further jobs, and wait until all have ended."""
        self._is_shut = True
        if self._running:
            ended = self._state.loop.create_future()
            self._ended.append(ended)
            await ended

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002 - the signature of an executor
        """Refuse further jobs."""
        self._is_shut = True


def _complete(future: Any, result: Any, error: BaseException | None) -> None:
    """Give a job's result to its future, in the loop."""
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
