"""The loop's timers: which are due, and in which orders they may run.

Computing takes no time on the virtual clock, so timers tie that would not in reality. Two timers
that were made at different instants and are due at the same one may come in either order. Two
that were made at one instant keep the order in which they were made, as with a real clock.
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import TYPE_CHECKING, Any

from harness.schedule.asyncio_tasks.task import FIRST, Strand

if TYPE_CHECKING:
    from harness.schedule.asyncio_tasks.loop import LoopState

RESOLUTION_S = 1e-6  # timers that are closer are due at the same instant
_RESOLUTION_NS = 1_000
_FORGOTTEN = 64
_UNKNOWN = (None, 0, 0)  # a timer that a loop's own `call_at` made
_TIE = type("Tie", (), {"label": "timers that are due at the same instant"})()


class Timers:
    """When each timer of a loop was made."""

    def __init__(self, state: LoopState) -> None:
        self._state = state
        self._made: dict[int, tuple[Any, int, int]] = {}  # the timer, its number, the instant
        self._count = 0

    def note(self, timer: Any) -> None:
        """Record that a timer was made."""
        if len(self._made) > _FORGOTTEN + 2 * len(self._scheduled):
            left = {id(each) for each in self._scheduled}
            self._made = {key: made for key, made in self._made.items() if key in left}
        self._count += 1
        self._made[id(timer)] = (timer, self._count, self._state.run.clock.now_ns)

    @property
    def _scheduled(self) -> list[Any]:
        return self._state.loop._scheduled  # type: ignore[no-any-return]  # noqa: SLF001

    def instant(self, timeout_s: float) -> int:
        """Return when a wait of this length ends: on a whole microsecond, so that ends can tie."""
        ends_ns = self._state.run.clock.now_ns + timeout_s * 1e9
        return round(ends_ns / _RESOLUTION_NS) * _RESOLUTION_NS

    def next_ns(self) -> int | None:
        """Return when the next timer is due, if it is later than now."""
        clock = self._state.run.clock
        for timer in self._scheduled[:1]:
            left_s = timer._when - (clock.now_ns + clock.origin_ns) / 1e9  # noqa: SLF001
            if left_s >= RESOLUTION_S:
                return self.instant(left_s)
        return None

    def run_due(self, events: list[Any]) -> list[Any]:
        """Put timers that are due into the queue, if several are; return the events that are left.

        A loop handles its events first, so they are handled here if the timers are.
        """
        scheduled = self._scheduled
        if len(scheduled) < 2:  # noqa: PLR2004 - no order
            return events
        clock = self._state.run.clock
        ends_s = (clock.now_ns + clock.origin_ns) / 1e9 + RESOLUTION_S
        due = [t for t in scheduled if t._when < ends_s and not t._cancelled]  # noqa: SLF001
        if len(due) < 2:  # noqa: PLR2004
            return events
        loop = self._state.loop
        loop._process_events(events)  # noqa: SLF001
        rest = [t for t in scheduled if not (t._when < ends_s) or t._cancelled]  # noqa: SLF001
        scheduled[:] = rest
        heapq.heapify(scheduled)
        due.sort(key=self._by_instant)
        while due:
            timer = self._next(due)
            due.remove(timer)
            timer._scheduled = False  # noqa: SLF001
            deque.append(loop._ready, timer)  # noqa: SLF001
        return []

    def _next(self, due: list[Any]) -> Any:
        """Choose among the timers that no other one must precede."""
        free = [timer for timer in due if not any(self._precedes(other, timer) for other in due)]
        if len(free) == 1:
            return free[0]
        strands = [Strand(FIRST + self._number(timer), "a timer", _TIE) for timer in free]
        return free[strands.index(self._state.run.pick(strands))]

    def _precedes(self, first: Any, second: Any) -> bool:
        if first is second:
            return False
        later_s = second._when - first._when  # noqa: SLF001
        if abs(later_s) >= RESOLUTION_S:
            return bool(later_s > 0)
        _, number, instant = self._made.get(id(first), _UNKNOWN)
        _, other_number, other_instant = self._made.get(id(second), _UNKNOWN)
        return instant == other_instant and number < other_number

    def _number(self, timer: Any) -> int:
        return self._made.get(id(timer), _UNKNOWN)[1]

    def _by_instant(self, timer: Any) -> tuple[int, int]:
        return round(timer._when / RESOLUTION_S), self._number(timer)  # noqa: SLF001
