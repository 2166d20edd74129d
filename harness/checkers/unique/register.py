"""Checks in O(n log n) that a register into which no value is written twice is linearizable.

Every read names the write that it saw. A write and its reads form a *cluster*, which an order of
all operations keeps together. One cluster must come before another if an operation of it completed
before an operation of the other began; the history is linearizable exactly if no two clusters must
each come first (Gibbons and Korach, "Testing shared memories", SIAM Journal on Computing 26, 1997).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Iterable, Iterator
from math import inf
from typing import Any

from harness.core.checker import Checker
from harness.core.contract import Promise
from harness.core.history import History, Operation, Outcome
from harness.core.verdict import Anomaly, Verdict


def unique_register(promise: Promise, start: Hashable = None) -> Checker:
    """Make the checker of `write(value)` and `read() -> value`, whose first value is `start`.

    Finds a *phantom* (a value that was never written, or only later), a *stale-read*, and a
    *lost-write* (an acknowledged value that no read saw, while an older one was read after it).
    Unknown if a value was written twice. Other functions are ignored.
    """

    def check(history: History) -> Verdict:
        clusters: dict[Any, _Cluster] = {start: _Cluster()}
        repeated = []
        for write in history:
            if write.function == "write" and write.outcome is not Outcome.FAIL:
                value = write.argument["value"]
                if value in clusters:
                    repeated.append(f"{value!r} was written more than once")
                clusters[value] = _Cluster(write)
        if repeated:
            return Verdict(unknowns=tuple(repeated))
        phantoms = tuple(_phantoms(history, clusters, promise))
        happened = [cluster for cluster in clusters.values() if cluster.happened]
        return Verdict((*phantoms, *_contradictions(happened, promise)))

    return check


class _Cluster:
    """A write and the reads that saw it. The first value has no write: it precedes everything."""

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
    """Put each read into its cluster, and report the reads that have none."""
    for read in history:
        if read.function != "read" or read.outcome is not Outcome.OK:
            continue
        cluster = clusters.get(read.result) if isinstance(read.result, Hashable) else None
        if cluster is None:
            yield _phantom(read, (read,), "was never written", promise)
        elif cluster.write and read.precedes(cluster.write):
            yield _phantom(read, (cluster.write, read), "was written only later", promise)
        else:
            cluster.add(read)


def _phantom(
    read: Operation, evidence: tuple[Operation, ...], problem: str, promise: Promise
) -> Anomaly:
    return Anomaly(
        promise,
        f"{read.call} by process {read.process} returned {read.result!r}, which {problem}",
        evidence,
        "phantom",
        expected="a value whose write began before the read completed",
        observed=repr(read.result),
    )


def _contradictions(clusters: Iterable[_Cluster], promise: Promise) -> Iterator[Anomaly]:
    """For each cluster that must come both before and after another, report one such pair.

    Of two such clusters, at least one is *forward*: an operation of it completed before another
    operation of it began.
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
        position = bisect_left(ends, cluster.begin)
        if position and cluster.end < furthest[position - 1].begin:
            yield _stale(furthest[position - 1], cluster, promise)


def _stale(first: _Cluster, second: _Cluster, promise: Promise) -> Anomaly:
    """Report the older one of two clusters that contradict each other: it was seen too late."""
    older, newer = (first, second) if _is_older(first, second) else (second, first)
    stale, over = older.last_begun, newer.first_over
    assert stale is not None
    assert over is not None
    context = (older.write, older.first_over, newer.write, newer.last_begun, over)
    others = {id(op): op for op in context if op is not None and op is not stale}
    evidence = (*sorted(others.values(), key=lambda op: op.invoked_ns), stale)
    problem = "saw an older value" if stale.function == "read" else "did not replace an older value"
    return Anomaly(
        promise,
        f"{stale.call} by process {stale.process} {problem} after {over} had completed",
        evidence,
        "stale-read" if newer.is_read else "lost-write",
        expected=f"{_value(newer)!r} or a newer value",
        observed=f"{_value(older)!r}",
    )


def _value(cluster: _Cluster) -> Any:
    """The value of a cluster; the first value is known by a read of it, or else None."""
    if cluster.write is not None:
        return cluster.write.argument["value"]
    return None if cluster.last_begun is None else cluster.last_begun.result


def _is_older(first: _Cluster, second: _Cluster) -> bool:
    if first.write is None or second.write is None:
        return first.write is None
    if first.write.precedes(second.write) or second.write.precedes(first.write):
        return first.write.precedes(second.write)
    return first.begin > second.begin  # both orders are possible: the last operation is wrong
