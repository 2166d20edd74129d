"""The loop's timers: which are due, and in which orders they may run.

Computing takes no time on the virtual clock, so timers tie that would not in reality. Two timers
that were made at different instants and are due at the same one may come in either order. Two
that were made at one instant keep the order in which they were made, as with a real clock. Of
timers that tie the later ones may also come some rounds of the loop after the first, as they do in
reality, where they are due microseconds apart: that is an early deadline as any other.
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
        self._clock = state.run.clock
        self._state = state
        self._made: dict[int, tuple[Any, int, int]] = {}  # the timer, its number, the instant
        self._count = 0
        self.held: list[Any] = []  # due, but a little later than the first of them

    def note(self, timer: Any) -> None:
        """Record that a timer was made."""
        made = self._made
        if len(made) > _FORGOTTEN and len(made) > _FORGOTTEN + 2 * len(self._scheduled):
            left = {id(handle) for handle in self._scheduled}
            made = self._made = {key: entry for key, entry in made.items() if key in left}
        self._count += 1
        made[id(timer)] = (timer, self._count, self._clock.now_ns)

    @property
    def _scheduled(self) -> list[Any]:
        return self._state.loop._scheduled  # type: ignore[no-any-return]  # noqa: SLF001

    def instant(self, timeout_s: float) -> int:
        """Return when a wait of this length ends: on a whole microsecond, so that ends can tie."""
        ends_ns = self._clock.now_ns + timeout_s * 1e9
        return round(ends_ns / _RESOLUTION_NS) * _RESOLUTION_NS

    def next_ns(self) -> int | None:
        """Return when the next timer is due, if it is later than now."""
        clock = self._clock
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
        clock = self._clock
        ends_s = (clock.now_ns + clock.origin_ns) / 1e9 + RESOLUTION_S
        held, self.held = self.held, []
        # The list is a heap: of two that are due one is the first, the other below it.
        if not held and not any(timer._when < ends_s for timer in scheduled[1:3]):  # noqa: SLF001
            return events
        due = [t for t in scheduled if t._when < ends_s and not t._cancelled]  # noqa: SLF001
        if len(due) < 2 and not (held and due):  # noqa: PLR2004
            return events
        loop = self._state.loop
        loop._process_events(events)  # noqa: SLF001
        rest = [t for t in scheduled if not (t._when < ends_s) or t._cancelled]  # noqa: SLF001
        scheduled[:] = rest
        if len(rest) > 1:
            heapq.heapify(scheduled)
        waiting = [_Due(timer, *self._made.get(id(timer), _UNKNOWN)[1:]) for timer in due]
        waiting.sort(key=_Due.order)
        is_busy = bool(held and loop._ready)  # noqa: SLF001
        while waiting:
            is_held = len(waiting) == len(due) and bool(held)  # none of them has come yet
            chosen = self._next(waiting, is_busy=is_busy, is_held=is_held)
            if chosen is None:
                self.held = [due.timer for due in waiting]
                break
            is_busy = self._state.drifts
            waiting.remove(chosen)
            chosen.timer._scheduled = False  # noqa: SLF001
            deque.append(loop._ready, chosen.timer)  # noqa: SLF001
        return []

    def restore(self) -> None:
        """Give the loop the timers back that come later than others that were due with them."""
        for timer in self.held:
            heapq.heappush(self._scheduled, timer)

    def _next(self, waiting: list[_Due], *, is_busy: bool, is_held: bool) -> _Due | None:
        """Choose among the timers that no other one must precede; None if all come later."""
        free = [due for due in waiting if not any(other.precedes(due) for other in waiting)]
        run = self._state.run
        if is_busy:
            chosen: _Due | None = run.pick_or_later(free, is_held=is_held)
        else:
            chosen = free[0] if len(free) == 1 else run.pick(free)
        return chosen


class _Due(Strand):
    """A timer that is due: a choice of the callback that runs next."""

    __slots__ = ("instant", "timer", "when")

    def __init__(self, timer: Any, number: int, instant: int) -> None:
        super().__init__(FIRST + number, "a timer", _TIE)
        self.timer = timer
        self.when: float = timer._when  # noqa: SLF001 - the attribute of CPython
        self.instant = instant  # at which the timer was made

    def order(self) -> tuple[int, int]:
        """Order timers by when they are due, and then as they were made."""
        return round(self.when / RESOLUTION_S), self.number

    def precedes(self, other: _Due) -> bool:
        """Whether this timer comes first on any clock."""
        if self is other:
            return False
        later_s = other.when - self.when
        if abs(later_s) >= RESOLUTION_S:
            return later_s > 0
        return self.instant == other.instant and self.number < other.number
