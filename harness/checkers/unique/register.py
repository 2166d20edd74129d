"""A register to which no value is written twice: linearizability in O(n log n).

Every read names the write it saw. A write and its reads form a *cluster*, which an order of all
operations keeps together. One cluster must come before another if something of it was over before
something of the other began; the history is linearizable exactly if no two clusters must each come
first (Gibbons and Korach, "Testing shared memories", SIAM Journal on Computing 26, 1997).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Iterable, Iterator
from math import inf
from typing import Any

from harness.core.checker import Checker
from harness.core.history import History, Operation, Outcome
from harness.core.promises import Promise
from harness.core.verdict import Anomaly, Verdict


def unique_register(promise: Promise, start: Hashable = None) -> Checker:
    """Make the checker of `write(value)` and `read() -> value`, whose first value is `start`.

    Finds a *phantom* (a value that nobody wrote, or not yet), a *stale-read*, and a *lost-write*
    (an acknowledged value that nobody ever read, while an older one was read after it). Unknown if
    a value was written twice. What is neither a read nor a write is not looked at.
    """

    def check(history: History) -> Verdict:
        clusters: dict[Any, _Cluster] = {start: _Cluster()}
        twice = []
        for write in history:
            if write.function == "write" and write.outcome is not Outcome.FAIL:
                if write.argument in clusters:
                    twice.append(f"{write.argument!r} was written more than once")
                clusters[write.argument] = _Cluster(write)
        if twice:
            return Verdict(unknowns=tuple(twice))
        phantoms = tuple(_phantoms(history, clusters, promise))
        happened = [cluster for cluster in clusters.values() if cluster.happened]
        return Verdict((*phantoms, *_contradictions(happened, promise)))

    return check


class _Cluster:
    """A write and the reads that saw it. The first value was written before all time."""

    __slots__ = ("begin", "end", "first_over", "is_read", "last_begun", "write")

    def __init__(self, write: Operation | None = None) -> None:
        self.write = self.first_over = self.last_begun = write
        self.end = -inf if write is None else _end(write)
        self.begin = -inf if write is None else write.invoked_ns
        self.is_read = False

    def add(self, read: Operation) -> None:
        self.is_read = True
        if _end(read) < self.end:
            self.end, self.first_over = _end(read), read
        if read.invoked_ns > self.begin:
            self.begin, self.last_begun = read.invoked_ns, read

    @property
    def happened(self) -> bool:
        return self.is_read or self.write is None or self.write.outcome is Outcome.OK


def _end(operation: Operation) -> float:
    return inf if operation.completed_ns is None else operation.completed_ns


def _phantoms(
    history: History, clusters: dict[Any, _Cluster], promise: Promise
) -> Iterator[Anomaly]:
    """Give each read to its cluster, and tell of those that have none."""
    for read in history:
        if read.function != "read" or read.outcome is not Outcome.OK:
            continue
        cluster = clusters.get(read.result) if isinstance(read.result, Hashable) else None
        if cluster is None:
            yield Anomaly(promise, f"{read}, which nobody wrote", (read,), "phantom")
        elif cluster.write and read.precedes(cluster.write):
            message = f"{read} was over before {cluster.write} began"
            yield Anomaly(promise, message, (cluster.write, read), "phantom")
        else:
            cluster.add(read)


def _contradictions(clusters: Iterable[_Cluster], promise: Promise) -> Iterator[Anomaly]:
    """For each cluster that must come both before and after another, tell of one such pair.

    Of two, at least one is *forward*: something of it was over before something of it began.
    """
    furthest: list[_Cluster] = []  # by end: of the forward clusters so far, that which begins last
    ends: list[float] = []
    backward = []
    for cluster in sorted(clusters, key=lambda cluster: cluster.end):
        if cluster.end >= cluster.begin:
            backward.append(cluster)
            continue
        before = furthest[-1] if furthest else cluster
        if before is not cluster and cluster.end < before.begin:
            yield _stale(before, cluster, promise)
        ends.append(cluster.end)
        furthest.append(max(before, cluster, key=lambda cluster: cluster.begin))
    for cluster in backward:
        place = bisect_left(ends, cluster.begin)
        if place and cluster.end < furthest[place - 1].begin:
            yield _stale(furthest[place - 1], cluster, promise)


def _stale(one: _Cluster, other: _Cluster, promise: Promise) -> Anomaly:
    """Tell which of two clusters that contradict each other is the older one, seen too late."""
    older, newer = (one, other) if _is_older(one, other) else (other, one)
    stale, over = older.last_begun, newer.first_over
    assert stale is not None
    message = f"{stale} was asked after {over} was over"
    if older.first_over is not None:
        message += f", yet {older.first_over} was over before {newer.last_begun} began"
    told = (older.write, older.first_over, newer.write, newer.last_begun, over)
    others = {id(op): op for op in told if op is not None and op is not stale}
    evidence = (*sorted(others.values(), key=lambda op: op.invoked_ns), stale)
    return Anomaly(promise, message, evidence, "stale-read" if newer.is_read else "lost-write")


def _is_older(one: _Cluster, other: _Cluster) -> bool:
    if one.write is None or other.write is None:
        return one.write is None
    if one.write.precedes(other.write) or other.write.precedes(one.write):
        return one.write.precedes(other.write)
    return one.begin > other.begin  # both orders would do, so the last to be asked is to blame
