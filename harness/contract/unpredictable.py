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
    Unpredictable("listen", "-", "a port; the operating system chooses it"),
    Unpredictable("unscheduled", "-", "the load of the machine decides it", "state-db-*"),
    Unpredictable("log_bytes", "-", "when readers end decides when the log restarts"),
    Unpredictable("transaction", "held_ns", "the speed of the machine decides it"),
    Unpredictable("transaction", "statements*", "each target has statements of its own"),
    Unpredictable("transaction", "-", "each target has statements of its own"),
    Unpredictable("stall", "kept_bytes", "a buffer's content; it is bounded"),
    Unpredictable("gauges", "*_bytes_kept", "a buffer's content; it is bounded"),
    Unpredictable("sample", "containers/*_bytes*", "a buffer's content; its trend is judged"),
    Unpredictable("sample", "files/*", "ids and times of any length; its trend is judged"),
    Unpredictable("sample", "process/*_bytes", "the allocator decides it; its trend is judged"),
    Unpredictable("sample", "process/blocks", "the interpreter decides it; its trend is judged"),
    Unpredictable("sample", "process/cpu_s", "the speed of the machine decides it"),
    Unpredictable("sample", "process/fds", "read handles open as reads meet; its trend is judged"),
    Unpredictable("sample", "process/threads", "a thread ends after its effects", "soak-*"),
    Unpredictable("second", "*", "the load generator measures itself; no answer of a target"),
    Unpredictable("generate", "*", "the load generator measures itself; its bounds are judged"),
    Unpredictable("cost", "*", "the operating system measures the process"),
    Unpredictable("read", "silence_ms", "a time; it is bounded", "load-*"),
    Unpredictable("read", "comments", "how long a stream is silent decides it", "load-*"),
    Unpredictable("stall", "stalled_s", "a time; it is bounded", "load-*"),
    Unpredictable("leave_stalled", "stalled", "a kernel's buffers decide it"),
    Unpredictable("hold", "full_ns[*]", "a time; it lies within the call"),
    Unpredictable("idle", "wakeups", "those of a thread that ends are lost; it is bounded"),
    Unpredictable("idle", "rss_bytes", "the allocator decides it"),
    Unpredictable("idle", "fds", "read handles open as reads meet; it is bounded"),
    Unpredictable("idle", "threads", "a worker ends when it was idle for a while"),
    Unpredictable("struck", "changes", "shared syncs decide it; it is bounded", "turns-struck"),
    Unpredictable("heard", "woken", "a signal for nothing is harmless", "channels-threads"),
    Unpredictable("keep_silent", "silences_s[*]", "a time; it is bounded"),
    Unpredictable("ask_badly", "error", "free words; they are not empty", "server-hostile-input"),
    Unpredictable("send_*", "error", "free words; they are not empty", "server-hostile-input"),
    Unpredictable("*", "*body.error", "free words; they are not empty", "server-every-state"),
)
