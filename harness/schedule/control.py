"""Says which scheduler is active, and whether the calling thread is one of its tasks.

Every replacement of a lock, a clock or a file operation asks this module first, and acts as the
original for a thread that is not under control. So replacements may stay installed, and locks made
before or used after a schedule work under control and outside.
"""

from __future__ import annotations

from _thread import get_ident
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.schedule.scheduler import Scheduler

in_charge: list[Scheduler] = []  # at most one; a list, because rebinding a global is slow


def scheduler() -> Scheduler | None:
    """Return the scheduler of the calling thread; None for a thread that is not under control."""
    if in_charge and in_charge[0].current.ident == get_ident():
        return in_charge[0]
    return None
