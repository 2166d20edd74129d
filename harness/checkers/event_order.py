"""Checks the events of one reader as they come: order, gaps, duplicates, resumption, foreign ones.

For any stream whose events are numbered. It keeps the position only, and goes on after a finding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from harness.core.sse import Frame


def last_number(frame: Frame) -> int | None:
    """The number at the end of an event's id, such as 7 in `7` or `run-3:7`; None without one."""
    digits = (frame.id or b"").rpartition(b":")[2]
    return int(digits) if digits.isdigit() else None


def any_event(_frame: Frame) -> bool:
    """Whether an event belongs to this reader: any does."""
    return True


@dataclass
class EventOrder:
    """The position of a reader, which lasts over its connections.

    `number` gives the number of an event, None for one that has none; `is_mine` whether it belongs
    to this reader. With `gapless` numbers follow one another by one, else they only increase.
    """

    number: Callable[[Frame], int | None] = last_number
    is_mine: Callable[[Frame], bool] = any_event
    gapless: bool = True
    last: int | None = None
    last_id: str = ""
    events: int = 0
    _is_resumed: bool = field(default=False, repr=False)

    def resume(self) -> None:
        """Begin another connection, which continues after the last event."""
        self._is_resumed = self.last is not None

    def take(self, frame: Frame) -> list[str]:
        """Check the next event; returns what is wrong with it, each with its kind first."""
        if frame.is_comment:
            return []
        self.events += 1
        shown = (frame.id or b"").decode(errors="replace")
        wrong = []
        if not self.is_mine(frame):
            wrong.append(f"foreign: event {shown!r} belongs to another reader: {frame.data[:80]!r}")
        number = self.number(frame)
        if number is None:
            return wrong
        resumed = self._is_resumed
        self._is_resumed = False
        if self.last is not None:
            wrong += self._compared(number, self.last, resumed=resumed)
        if self.last is None or number > self.last:
            self.last, self.last_id = number, shown
        return wrong

    def _compared(self, number: int, last: int, *, resumed: bool) -> list[str]:
        after = f"after {last}, resumed" if resumed else f"after {last}"
        if number > last + 1 and self.gapless:
            return [
                f"{'resume' if resumed else 'gap'}: event {number} {after}, expected {last + 1}"
            ]
        if number == last:
            return [f"{'resume' if resumed else 'duplicate'}: event {number} {after}"]
        if number < last:
            return [f"{'resume' if resumed else 'order'}: event {number} {after}"]
        return []
