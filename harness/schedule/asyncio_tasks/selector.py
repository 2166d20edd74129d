"""The selector of a controlled loop: an idle loop waits at a gate, not in the kernel.

Sockets and pipes are real: they are asked without waiting. What arrives from outside cannot be
scheduled, so an idle loop that could only be woken by it has escaped control.
"""

from __future__ import annotations

import select
import selectors
from typing import Any

from harness.schedule.asyncio_tasks.loop import ROUNDS, LoopState

_READS = select.POLLIN | select.POLLPRI
_WRITES = select.POLLOUT


class Selector(selectors.PollSelector):
    """Replaces the selector of a loop."""

    state: LoopState

    def has_events(self) -> bool:
        """Whether a socket or pipe is ready."""
        return bool(self._fd_to_key) and bool(self._selector.poll(0))  # type: ignore[attr-defined]

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait as long as the loop has nothing to do; other threads may act in any case."""
        state = self.state
        run = state.run
        state.thread = thread = run.current
        thread.strand = None
        scheduled = state.loop._scheduled  # noqa: SLF001 - the attribute of CPython
        if state.timers.held:
            state.timers.restore()
            timeout = 0
        if timeout == 0 and not scheduled and state.rounds < ROUNDS:
            state.rounds += 1
            run.turn(state)
        else:
            self._wait(timeout)
        if run.footprint is not None:
            run.footprint.touch(state, write=True)
        state.is_awake = False
        events = self._events() if self._fd_to_key else []  # type: ignore[attr-defined]
        is_tie = len(scheduled) > 1 or state.timers.held
        return state.timers.run_due(events) if is_tie else events

    def _wait(self, timeout: float | None) -> None:
        """Wait for an event or the next timer; a busy loop only takes a turn."""
        state = self.state
        run = state.run
        timers = state.timers
        wait_ns = None if timeout is None else timers.instant(timeout) - run.clock.now_ns
        if wait_ns is None or wait_ns > 0:
            state.rounds = 0
            run.turn_idle(state, wait_ns)
            return
        state.rounds += 1
        is_polling = state.rounds > ROUNDS
        next_ns = timers.next_ns() if state.drifts or is_polling else None
        run.turn(state, next_ns if state.drifts else None)
        if is_polling:
            # The program polls with sleep(0): in reality that takes time.
            run.advance(next_ns)

    def _events(self) -> list[Any]:
        ready = dict(self._selector.poll(0))  # type: ignore[attr-defined]
        events = []
        for key in self.get_map().values():
            mask = ready.get(key.fd, 0)
            if mask:
                found = (selectors.EVENT_WRITE if mask & ~_READS else 0) | (
                    selectors.EVENT_READ if mask & ~_WRITES else 0
                )
                events.append((key, found & key.events))
                self.state.run.has_input = True
        return events
