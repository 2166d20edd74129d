"""The loop's queue of callbacks: before each one, other threads may act."""

# The attributes of CPython are private:
# ruff: noqa: SLF001

from __future__ import annotations

from _thread import get_ident
from collections import deque
from typing import Any

from harness.schedule.asyncio_tasks.loop import LoopState
from harness.schedule.asyncio_tasks.observed import observe
from harness.schedule.asyncio_tasks.task import FIRST, Task, stepped

_append = deque.append
_popleft = deque.popleft


class ReadyQueue(deque[Any]):
    """Replaces `BaseEventLoop._ready`."""

    state: LoopState

    def append(self, handle: Any) -> None:
        """Add a callback. For a thread other than the loop's that is a step."""
        state = self.state
        run = state.run
        if not state.is_over:
            thread, own = run.current, state.thread
            if own is not thread and own is not None and thread.ident == get_ident():
                run.point("call_soon", state)
            if run.footprint is not None:
                run.footprint.publish(state)
        _append(self, handle)

    def popleft(self) -> Any:
        """Take the next callback, after other threads had the chance to act."""
        if self[0]._cancelled:
            return _popleft(self)
        state = self.state
        run = state.run
        run.turn(state)
        if run.footprint is not None:
            run.footprint.touch(state, write=True)
        if self[0]._cancelled:
            return _popleft(self)
        is_free = state.is_relaxed and len(self) > 1
        handle = self._take_any() if is_free else _popleft(self)
        if run.observer is not None:
            observe(run, handle)
        return handle

    def _take_any(self) -> Any:
        """Take the first callback of any task, or the first that is no step of a task."""
        state = self.state
        first: dict[int, int] = {}  # of each task's number, and 0 of all else: the first callback
        for index, handle in enumerate(self):
            if not handle._cancelled:
                task = stepped(handle)
                if task is None:
                    number = 0
                else:
                    number = task.number if type(task) is Task else state.number_of(task)
                if number not in first:
                    first[number] = index
        if len(first) == 1:
            (index,) = first.values()
        else:
            strands = [state.strand(number) for number in first]
            run = state.run
            chosen = run.pick(strands)
            if chosen is not strands[0]:
                run.out_of_turn += 1
            index = first[chosen.number - FIRST]
        if not index:
            return _popleft(self)
        handle = self[index]
        del self[index]
        return handle
