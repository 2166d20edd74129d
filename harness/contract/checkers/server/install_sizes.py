"""Predicts the sizes of a simulated install at the end of each hour, and what each hour returns.

An hour ends quiet: its turns are over, and only processes may still run. So the containers are
explained by the acts, and by the processes that ended. The order of wakeups among the acts is not
known, so a cache has a range where sessions were deleted from it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.contract import promises
from harness.contract.agent_script import Script
from harness.contract.checkers.server.container_sizes import (
    FINISHED_MAX,
    NOTICES_MAX,
    SAMPLE,
    TURNS_MAX,
    wrong_size,
    wrong_sizes,
)
from harness.core.contract import Promise
from harness.core.history import Operation
from harness.core.verdict import Anomaly

HOUR_S = 3600.0
DAY_S = 86_400.0
THREADS = "process/threads"
TALK_GAP_S = 15.0  # changes further apart than some polls are projected one by one


@dataclass
class Install:
    """What the acts and the reports of an install's hours leave in it."""

    agents_max: int
    sessions_max: int
    sessions: set[str] = field(default_factory=set)
    indexed: set[str] = field(default_factory=set)  # those that a process belongs to
    readers: dict[str, str] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)  # since the last deletion: by a turn
    touched: set[str] = field(default_factory=set)  # since the last deletion: in any way
    ended: dict[str, Operation] = field(default_factory=dict)
    turns: int = 0
    started: int = 0
    settled: int = 0  # processes that ended while the install came to rest, which no hour reports

    def settle(self) -> None:
        """Take note that every process has ended, and that its session was woken."""
        left = self.started - len(self.ended) - self.settled
        self.settled += left
        self.turns += left

    def take(self, act: Mapping[str, Any]) -> None:
        """Take note of one act."""
        session = act.get("session", "")
        match act["act"]:
            case "new":
                self.sessions.add(session)
                self.touched.add(session)
            case "chat":
                self.turns += 1
                self.used.add(session)
                self.touched.add(session)
                if processes := Script.parse(act["text"]).processes:
                    self.started += len(processes)
                    self.indexed.add(session)
            case "clear":
                self.touched.add(session)
            case "open_tab":
                self.touched.add(session)
                self.readers[act["tab"]] = session
            case "close_tab":
                self.readers.pop(act["tab"], None)
            case "delete":
                self.sessions.discard(session)
                self.indexed.discard(session)
                self.used.clear()
                self.touched.clear()
                self.readers = {tab: of for tab, of in self.readers.items() if of != session}

    def sizes(self, sample: Operation) -> Mapping[str, Collection[int]]:
        """The right sizes of the containers that are not empty."""
        running = self.started - len(self.ended) - self.settled
        agents = sample.result.get("containers/agents_cached", 0)
        watched = set(self.readers.values())
        least = min(self.agents_max, len(self.used))
        held = min(self.sessions_max, len(self.touched))
        return {
            "agents_cached": range(least, self.agents_max + 1),
            "agents_kept": (agents,),
            "lifecycle_entries": (agents,),
            "sessions_held": range(held, self.sessions_max + 1),
            "session_index_rows": (len(self.sessions),),
            "wakeup_index": (len(self.indexed),),
            "channels": (len(watched),),
            "channel_subscribers": (1 + len(self.readers),),
            "channel_frames_kept": range(1, 2 + NOTICES_MAX * len(watched)),
            "turn_journal": (min(TURNS_MAX, self.turns),),
            "processes_running": (running,),
            "process_ledger": (running,),
            "processes_finished": (min(FINISHED_MAX, len(self.ended) + self.settled),),
            "watcher_subscribers": (1,),
            "catalogs_kept": (0, 1),
        }


def hour_anomalies(life: Sequence[Operation]) -> Iterator[Anomaly]:
    """Every container, process and count of an install's operations that its acts do not explain.

    An hour whose processes do not fit comes before the sample that follows it.
    """
    move_in = next((operation for operation in life if operation.function == "move_in"), None)
    if move_in is None:
        return
    install = _moved_in(move_in)
    hours: list[Operation] = []
    steady: Operation | None = None
    for operation in life:
        if operation.function == "live":
            hours.append(operation)
            for act in operation.argument["acts"]:
                install.take(act)
            yield from _processes(install, operation)
            yield from _counts(hours, move_in.argument["rotation_s"])
        elif operation.function == SAMPLE:
            for row in wrong_sizes(operation, install.sizes(operation)):
                yield wrong_size(operation, *row, hours[-1:])
            if hours:
                steady = steady or operation
                yield from _unsteady(operation, steady, install.settled)
        elif operation.function in ("move_in", "settle") and operation.result is not None:
            yield _wrong_hour(operation, promises.H4, "nothing returned", operation.answer)
        elif operation.function == "settle":
            install.settle()


def _moved_in(move_in: Operation) -> Install:
    argument = move_in.argument
    install = Install(argument["agents_max"], argument["sessions_max"])
    for name, source, _ in argument["sessions"]:
        if source == "webui":
            install.sessions.add(name)
            install.touched.add(name)
    return install


def _processes(install: Install, hour: Operation) -> Iterator[Anomaly]:
    """The ends and wakeups of one hour: each process ends once, and wakes after its end."""
    for process, owner in hour.result["ended"]:
        if process in install.ended:
            yield _wrong_hour(hour, promises.W1, "one end of each process", f"{process} again")
        elif owner is not None and owner not in install.sessions:
            yield _wrong_hour(hour, promises.W6, "an owner that has started it", f"{owner}")
        install.ended[process] = hour
    if len(install.ended) > install.started:
        wanted = f"at most {install.started} ends"
        yield _wrong_hour(hour, promises.W1, wanted, f"{len(install.ended)} ends")
    for process in hour.result["woken"]:
        install.turns += 1
        if process not in install.ended:
            yield _wrong_hour(hour, promises.W1, "a wakeup of an ended process", f"{process}")


def _counts(hours: Sequence[Operation], rotation_s: float) -> Iterator[Anomaly]:
    """Renewals, fetches and projections up to an hour: not fewer than their causes."""
    hour = hours[-1]
    elapsed_s = sum(hour.argument["seconds"] for hour in hours)
    rotations = sum(hour.result["rotations"] for hour in hours)
    due = elapsed_s / rotation_s
    # A renewal at the end of the hour itself belongs to this hour or to the next one.
    right = {int(due), int(due - 0.001)}
    if rotations not in right:
        yield _wrong_hour(hour, promises.M3, f"{sorted(right)} renewals", f"{rotations}")
    fetches = sum(hour.result["fetches"] for hour in hours)
    least = 1 + int((elapsed_s - HOUR_S) / DAY_S) if elapsed_s > rotation_s else 0
    if fetches < least:
        wanted = f"at least {least} fetches in {elapsed_s / HOUR_S:g} hours"
        yield _wrong_hour(hour, promises.M3, wanted, f"{fetches}")
    talks = sorted(
        {
            act["at"]
            for act in hour.argument["acts"]
            if act["act"] in ("gateway_talk", "gateway_drop")
        }
    )
    apart = 0
    before_s = -TALK_GAP_S
    for at_s in talks:
        apart += at_s - before_s >= TALK_GAP_S
        before_s = at_s
    if hour.argument["seconds"] >= HOUR_S and hour.result["projections"] < apart:
        wanted = f"at least {apart} projections, one for each change"
        yield _wrong_hour(hour, promises.G1, wanted, f"{hour.result['projections']}")


def _unsteady(sample: Operation, first: Operation, settled: int) -> Iterator[Anomaly]:
    """Threads that the first hour did not need, and no running process explains.

    The thread of a process that has just settled may be about to end.
    """
    running = "containers/processes_running"
    wanted = first.result[THREADS] - first.result[running] + sample.result[running]
    if not wanted <= sample.result[THREADS] <= wanted + settled:
        yield wrong_size(sample, THREADS, f"{wanted:g}", promises.H4, ())


def _wrong_hour(hour: Operation, promise: Promise, expected: str, observed: str) -> Anomaly:
    return Anomaly(
        promise,
        f"{hour.function}() returned what its acts do not explain: {observed}",
        (hour,),
        "unexplained-hour",
        also=(promises.W1, promises.H4),
        expected=expected,
        observed=observed,
    )
