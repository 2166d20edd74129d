"""What a server reports of its sizes, compared with what its clients know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from harness.contract import promises
from harness.contract.checkers.server.client_calls import GRACE_NS, Calls
from harness.core.contract import Promise
from harness.core.history import Operation, Outcome
from harness.core.verdict import Anomaly

_ZERO = (
    *("runs", "streams", "runs_abandoned", "run_writers", "channel_runs", "channel_runs_offered"),
    *("channel_subscribers", "watcher_subscribers", "streams_taken", "calls"),
    *("connections_idle", "connections_leaving", "sse_streams", "sse_stalled", "sse_ready"),
    *("processes_running", "process_events_pending", "process_completion_queue", "process_ledger"),
    *("wakeup_events", "wakeup_ready", "wakeup_homeless"),
    *("wakeup_runs", "agents_aside", "agents_leaving", "agents_claimed"),
    *("catalog_flights", "catalogs_kept"),
)
_ZERO_WHEN_FRESH = (
    *("agents_kept", "agents_cached", "lifecycle_entries", "processes_finished"),
    *("channel_frames_kept", "channel_bytes_kept", "wakeup_timers", "wakeup_lines"),
)
SESSIONS_MAX, AGENTS_MAX, TURNS_MAX, FINISHED_MAX = 100, 25, 256, 64
NOTICES_MAX = 64
_Right = tuple[str, Sequence[int], Promise]  # a container, the sizes that it may have, and why


def wrong_containers(calls: Calls) -> Iterator[Anomaly]:
    """A container at rest that its sessions do not explain (H4, H8)."""
    earlier: Operation | None = None
    for report in calls.view.done("gauges"):
        for name, expected, promise in _wrong_sizes(calls, report, earlier):
            yield Anomaly(
                promise,
                f"gauges() at rest: {name} is not what the sessions explain",
                (report,),
                "size-at-rest",
                also=(promises.H8, promises.H4),
                expected=f"{name} = {expected}",
                observed=f"{name} = {report.result.get(name)}",
            )
        earlier = report


def _wrong_sizes(
    calls: Calls, report: Operation, earlier: Operation | None
) -> Iterator[tuple[str, str, Promise]]:
    """The containers with a wrong size: name, what it should be, and the promise that it breaks."""
    sizes: Mapping[str, int] = report.result
    known = _known_at(calls, report)
    is_fresh = earlier is not None and not known.is_used
    right: list[_Right] = [(name, (0,), _promise_of(name)) for name in _ZERO]
    right += [(name, (0,), _promise_of(name)) for name in _ZERO_WHEN_FRESH if is_fresh]
    right += _explained(known, sizes.get("agents_cached", 0))
    if is_fresh and earlier is not None and "turn_journal" in earlier.result:
        right.append(("turn_journal", (earlier.result["turn_journal"],), promises.T6))
    for name, sizes_allowed, promise in right:
        if name in sizes and sizes[name] not in sizes_allowed:
            yield name, _range_of(sizes_allowed), promise
    for name, size in sizes.items():
        if size < 0:
            yield name, "at least 0", promises.H4


@dataclass(frozen=True)
class _Known:
    """What the clients of one boot know when a report is made."""

    is_used: bool  # a session was opened, or a turn begun, since the boot
    present: int  # sessions that could be read
    listed: int
    watched: int  # sessions whose channel was asked for
    is_early: bool  # such a channel may be there still
    sessions_max: int
    agents_max: int


def _known_at(calls: Calls, report: Operation) -> _Known:
    view = calls.view
    boot = next((op for op in reversed(view.done("boot")) if op.precedes(report)), None)
    settings = boot.argument if boot is not None else {}
    since_ns = boot.invoked_ns if boot is not None else 0

    def lately(*functions: str) -> list[Operation]:
        return [op for op in view.all(*functions) if since_ns < op.invoked_ns < report.invoked_ns]

    answers = {op.argument["session"]: op for op in lately("read")}
    present = sum(op.outcome is Outcome.OK for op in answers.values())
    lists = [op for op in lately("sessions") if op.outcome is Outcome.OK]
    offers = [op for op in lately("offered") if op.outcome is Outcome.OK]
    return _Known(
        is_used=bool(lately("send", "new")),
        present=present,
        listed=len(lists[-1].result) if lists else present,
        watched=len({op.argument["session"] for op in offers}),
        is_early=not offers or (report.completed_ns or 0) - offers[0].invoked_ns < GRACE_NS,
        sessions_max=int(settings.get("HERMES_WEBUI_SESSIONS_MAX", SESSIONS_MAX)),
        agents_max=int(settings.get("HERMES_WEBUI_AGENT_CACHE_MAX", AGENTS_MAX)),
    )


def _explained(known: _Known, agents: int) -> list[_Right]:
    """The sizes of containers that sessions, their channels and agents explain."""
    held_min = min(known.sessions_max, known.present)
    held_max = min(known.sessions_max, known.listed)
    channels_min = known.watched if known.is_early else 0
    return [
        ("sessions_held", range(held_min, held_max + 1), promises.A6),
        ("session_index_rows", (known.listed,), promises.S11),
        ("sessions_listed", (known.listed,), promises.S11),
        ("channels", range(channels_min, known.watched + 1), promises.C9),
        ("agents_cached", range(min(known.agents_max, known.present) + 1), promises.A1),
        ("agents_kept", (agents,), promises.A1),
        ("lifecycle_entries", (agents,), promises.L9),
        ("processes_finished", range(FINISHED_MAX + 1), promises.W9),
        ("channel_frames_kept", range(NOTICES_MAX * known.watched + 2), promises.C8),
        ("turn_journal", range(TURNS_MAX + 1), promises.T6),
        # A retry that another path made needless passes at its time, and its queue with it.
        ("wakeup_timers", range(known.listed + 1), promises.W9),
        ("wakeup_lines", range(known.listed + 1), promises.W9),
        ("wakeup_index", range(known.listed + 1), promises.W9),  # sessions that started a process
    ]


def _promise_of(name: str) -> Promise:
    patterns = {
        "wakeup": promises.W9,
        "process": promises.W9,
        "run": promises.T3,
        "streams": promises.T3,
        "channel": promises.C8,
        "agents": promises.A1,
        "lifecycle": promises.L9,
        "sse": promises.C11,
    }
    return next((known for start, known in patterns.items() if name.startswith(start)), promises.H8)


def _range_of(right: Sequence[int]) -> str:
    values = sorted(right)
    return f"{values[0]}" if len(values) == 1 else f"{values[0]} to {values[-1]}"
