"""The orders in which an event loop may run what is ready."""

from __future__ import annotations

from enum import StrEnum


class LoopOrder(StrEnum):
    """The order of an event loop's callbacks.

    `FIFO` is asyncio's own queue, with computation that takes no time: a timer is due only when
    nothing is ready. `DRIFT` is the same queue, and time may pass to the next timer although
    something is ready, as often as `Budget.timers` says. `RELAXED` is `DRIFT`, and the next step
    of any ready task may come first, as if what it waited for had been real input: asyncio's queue
    cannot do that, so a finding that needs it is labelled.
    """

    FIFO = "fifo"
    DRIFT = "drift"
    RELAXED = "relaxed"
