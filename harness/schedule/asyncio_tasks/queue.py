"""The loop's queue of callbacks: before each one, other threads may act."""

# The attributes of CPython are private:
# ruff: noqa: SLF001

from __future__ import annotations

from _thread import get_ident
from collections import deque
from typing import Any

from harness.schedule.asyncio_tasks.loop import LoopState
from harness.schedule.asyncio_tasks.observed import observe
from harness.schedule.asyncio_tasks.task import FIRST, Strand, stepped

_append = deque.append
_popleft = deque.popleft


class OutOfTurn:
    """The target of a choice that asyncio's queue does not have."""

    feasible = False
    label = "the event loop's queue"


_OUT_OF_TURN = OutOfTurn()


class ReadyQueue(deque[Any]):
    """Replaces `BaseEventLoop._ready`."""

    state: LoopState

    def append(self, handle: Any) -> None:
        """Add a callback. For a thread other than the loop's that is a step."""
        state = self.state
        run = state.run
        if not state.is_over:
            thread = run.current
            if state.thread not in (thread, None) and thread.ident == get_ident():
                run.point("call_soon", state)
            if run.footprint is not None:
                run.footprint.publish(state)
        _append(self, handle)

    def popleft(self) -> Any:
        """Take the next callback, after other threads had the chance to act."""
        state = self.state
        run = state.run
        if self[0]._cancelled:
            return _popleft(self)
        run.turn(state)
        state.touch()
        if self[0]._cancelled:
            return _popleft(self)
        is_free = state.is_relaxed and len(self) > 1
        handle = self._take_any() if is_free else _popleft(self)
        if run.observer is not None:
            observe(run, handle)
        return handle

    def _take_any(self) -> Any:
        """Take the first callback of any task, or the first that is no step of a task."""
        indices: dict[Any, int] = {}
        for index, handle in enumerate(self):
            if not handle._cancelled:
                indices.setdefault(stepped(handle), index)
        state = self.state
        strands = [
            Strand(FIRST + (state.number_of(task) if task else 0), "a callback", _OUT_OF_TURN)
            for task in indices
        ]
        run = state.run
        chosen = strands[0] if len(strands) == 1 else run.pick(strands)
        if chosen is not strands[0]:
            run.out_of_turn += 1
        index = list(indices.values())[strands.index(chosen)]
        handle = self[index]
        del self[index]
        return handle
