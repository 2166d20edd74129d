"""Lists the fields of answers that no model of the session server can predict, with reasons.

`harness audit` leaves these fields out, and counts them. They are judged all the same as far as
possible: a time lies between call and answer, a pid is that of a living process.
"""

from __future__ import annotations

from harness.core.contract import Unpredictable

UNPREDICTABLE = (
    Unpredictable("*", "pid", "the operating system chooses it"),
    Unpredictable("*", "*.pid", "the operating system chooses it"),
    Unpredictable("*", "port", "the operating system chooses it"),
    Unpredictable("*", "*.port", "the operating system chooses it"),
    Unpredictable("unscheduled", "-", "the load of the machine decides it", "state-db-*"),
    Unpredictable("log_bytes", "-", "when readers end decides when the log restarts"),
    Unpredictable("transaction", "held_ns", "the speed of the machine decides it"),
    Unpredictable("transaction", "statements*", "each target has statements of its own"),
    Unpredictable("transaction", "-", "each target has statements of its own"),
    Unpredictable("stall", "kept_bytes", "a buffer's content; it is bounded"),
    Unpredictable("keep_silent", "silences_s[*]", "a time; it is bounded"),
    Unpredictable("ask_badly", "error", "free words; they are not empty", "server-hostile-input"),
    Unpredictable("send_*", "error", "free words; they are not empty", "server-hostile-input"),
    Unpredictable("*", "*body.error", "free words; they are not empty", "server-every-state"),
)
