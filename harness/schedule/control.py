"""Control: which scheduler is in charge, and whether the thread that asks is one of its tasks.

Every replacement we put in place of a lock, a clock or a file operation asks here first, and
behaves as the original for any thread that is not under control. So replacements may stay in
place, and locks made before a run, or kept after it, work in both worlds.
"""

from __future__ import annotations

from _thread import get_ident
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.schedule.scheduler import Scheduler

in_charge: list[Scheduler] = []  # at most one; a list, because a module's name is slow to rebind


def scheduler() -> Scheduler | None:
    """The scheduler of the calling thread; None for a thread that is not under control."""
    if in_charge and in_charge[0].current.ident == get_ident():
        return in_charge[0]
    return None
