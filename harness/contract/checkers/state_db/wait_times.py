"""Measures how long writers waited for their turn, and how often one overtook another.

Times depend on the machine, so no checker judges them. Order does not: a write is *overtaken* by a
write that began after it and ended before it. Fairness is judged by that.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from harness.core.history import History, Operation, Outcome

WRITES = frozenset(
    {
        *("create", "append", "replace", "clear", "set_title", "set_system_prompt", "add_tokens"),
        *("set_tokens", "end", "reopen", "delete", "prune"),
    }
)
LONG = 4  # a wait longer than this many medians counts as long


@dataclass(frozen=True, slots=True)
class Overtaking:
    """A write, and the writes by which one other writer overtook it."""

    write: Operation
    by: tuple[Operation, ...]

    @property
    def times(self) -> int:
        """The number of overtaking writes."""
        return len(self.by)


@dataclass(frozen=True, slots=True)
class Waits:
    """The waits of one history's writers. Times in milliseconds, of writes that were answered.

    `jain` is Jain's index of the writes that each finished while all were active (1 is equal
    shares, 1/N is one for all; Jain, Chiu and Hawe, DEC-TR-301, 1984), None if they never all were.
    `overtaken_max` is how often one write was overtaken by one other writer. `gap_ms_max` is the
    longest time in which a writer finished nothing. `convoy` is the ratio of overlaps between long
    waits to those of independent waits: 1 is independent, N/(N-1)/p is all at once.
    """

    writes: int
    refused: int
    per_s: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    gap_ms_max: float
    overtaken_max: int
    jain: float | None
    convoy: float


def writes_of(history: History, functions: Iterable[str] = WRITES) -> dict[int, list[Operation]]:
    """The answered writes by writer, in order."""
    wanted = frozenset(functions)
    by_writer: defaultdict[int, list[Operation]] = defaultdict(list)
    for operation in history:
        if operation.function in wanted and operation.completed_ns is not None:
            by_writer[operation.process].append(operation)
    return dict(by_writer)


def measure(by_writer: dict[int, list[Operation]]) -> Waits:
    """Compute the figures. Raises ValueError where there is no write."""
    every = [write for writes in by_writer.values() for write in writes]
    if not every:
        raise ValueError("no answered write in the history: cannot measure waits")
    waits_ms = sorted(_wait_ns(write) / 1e6 for write in every)
    span_ns = max(map(_end_ns, every)) - min(write.invoked_ns for write in every)
    return Waits(
        writes=len(every),
        refused=sum(write.outcome is Outcome.FAIL for write in every),
        per_s=len(every) / (span_ns / 1e9) if span_ns else 0.0,
        p50_ms=_quantile(waits_ms, 0.5),
        p99_ms=_quantile(waits_ms, 0.99),
        p999_ms=_quantile(waits_ms, 0.999),
        max_ms=waits_ms[-1],
        gap_ms_max=max(_gaps_ns(by_writer.values()), default=0) / 1e6,
        overtaken_max=max((found.times for found in overtakings(by_writer)), default=0),
        jain=_jain(by_writer),
        convoy=_convoy(by_writer, _quantile(waits_ms, 0.5) * 1e6 * LONG),
    )


def unscheduled(history: History) -> frozenset[tuple[int, int]]:
    """The calls that waited for a processor at least half of their time, by process and begin.

    Instrumented processes record of long calls how long they were runnable and did not run. Such a
    call was in no queue while it was overtaken, so no queue could have put it first.
    """
    notes: defaultdict[int, list[Operation]] = defaultdict(list)
    for op in history.happened:
        if op.function == "unscheduled":
            notes[op.process].append(op)
    return frozenset(
        (op.process, op.invoked_ns)
        for op in history
        for note in notes[op.process]
        if op.function != "unscheduled"
        and note.invoked_ns <= op.invoked_ns
        and op.completed_ns is not None
        and op.completed_ns <= _end_ns(note)
        and 2 * note.result >= _wait_ns(op)
    )


def overtakings(
    by_writer: dict[int, list[Operation]], excused: Container[tuple[int, int]] = ()
) -> Iterator[Overtaking]:
    """Find for each writer its write that one other writer overtook most often.

    A refused write overtakes none. Calls that are `excused`, by process and begin, are left out.
    """
    succeeded = {writer: list(filter(_succeeded, writes)) for writer, writes in by_writer.items()}
    times = {
        writer: ([write.invoked_ns for write in writes], [_end_ns(write) for write in writes])
        for writer, writes in succeeded.items()
    }
    for writer, writes in by_writer.items():
        most: tuple[int, Operation, int, int] | None = None
        for write in writes:
            if (writer, write.invoked_ns) in excused:
                continue
            for other, (begins, ends) in times.items():
                first = bisect_right(begins, write.invoked_ns)
                last = bisect_left(ends, _end_ns(write))
                if other != writer and last - first > (most[0] if most else 0):
                    most = last - first, write, other, first
        if most:
            count, write, other, first = most
            yield Overtaking(write, tuple(succeeded[other][first : first + count]))


def _succeeded(write: Operation) -> bool:
    return write.outcome is Outcome.OK


def _end_ns(write: Operation) -> int:
    assert write.completed_ns is not None
    return write.completed_ns


def _wait_ns(write: Operation) -> int:
    return _end_ns(write) - write.invoked_ns


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def _gaps_ns(writers: Iterable[list[Operation]]) -> Iterator[int]:
    for writes in writers:
        yield _wait_ns(writes[0])
        for one, other in pairwise(writes):
            yield _end_ns(other) - _end_ns(one)


def _jain(by_writer: dict[int, list[Operation]]) -> float | None:
    begin = max(writes[0].invoked_ns for writes in by_writer.values())
    end = min(_end_ns(writes[-1]) for writes in by_writer.values())
    counts = [
        sum(_succeeded(write) and begin <= _end_ns(write) <= end for write in writes)
        for writes in by_writer.values()
    ]
    squares = sum(count * count for count in counts)
    return sum(counts) ** 2 / (len(counts) * squares) if squares else None


def _convoy(by_writer: dict[int, list[Operation]], long_ns: float) -> float:
    """The share of pairs in long waits at the same time, over that of independent waits."""
    changes = sorted(
        change
        for writes in by_writer.values()
        for write in writes
        if _wait_ns(write) > long_ns
        for change in ((write.invoked_ns, 1), (_end_ns(write), -1))
    )
    every = [write for writes in by_writer.values() for write in writes]
    span_ns = max(map(_end_ns, every)) - min(write.invoked_ns for write in every)
    waiting, alone_ns, pairs_ns = 0, 0, 0
    for (at_ns, change), (after_ns, _) in pairwise([*changes, (0, 0)] if changes else []):
        waiting += change
        lasted_ns = after_ns - at_ns if waiting else 0
        alone_ns += waiting * lasted_ns
        pairs_ns += waiting * (waiting - 1) * lasted_ns
    count = len(by_writer)
    if not alone_ns or count == 1:
        return 0.0
    share = alone_ns / span_ns / count
    return pairs_ns / span_ns / (count * (count - 1) * share * share)
