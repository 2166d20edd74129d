"""Who came before whom among transactions: what they saw tells it, and the order they were run in.

A list tells in which order it was appended to. So of two transactions one came first because it
appended just before the other (*ww*), because the other saw what it appended (*wr*), or because it
did not see yet what the other appended (*rw*); and a value that no read saw came after all that one
saw (Kingsbury and Alvaro, "Elle: inferring isolation anomalies from experimental observations",
VLDB 2020).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf

from harness.checkers.transactions import Key, Log, Value
from harness.history import Operation, Outcome


class Kind(StrEnum):
    """Why one transaction came before another, the surest reason first."""

    WW = "ww"
    WR = "wr"
    PROCESS = "process"
    REAL_TIME = "realtime"
    RW = "rw"


@dataclass(slots=True)
class Edges:
    """Pairs of numbers: those of each key in turn, up to its mark."""

    sources: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    keys: list[Key] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)

    def mark(self, key: Key) -> None:
        """Say that all since the last mark is about this key."""
        self.keys.append(key)
        self.marks.append(len(self.sources))

    def among(self, nodes: Container[int]) -> Iterator[tuple[int, int, Key]]:
        """The pairs of two different ones of these nodes, and what each is about."""
        for edge, (source, target) in enumerate(zip(self.sources, self.targets, strict=True)):
            if source in nodes and target in nodes and source != target:
                yield source, target, self.keys[bisect_right(self.marks, edge)]


@dataclass(slots=True)
class Dependencies:
    """Edges between transactions, by number; numbers above theirs are for nodes in between."""

    nodes: int
    edges: dict[Kind, Edges] = field(default_factory=lambda: {kind: Edges() for kind in Kind})


def dependencies(log: Log, longest: Mapping[Key, list[Value]]) -> Dependencies:
    """Infer who came before whom from the keys of which this is the longest list that was read."""
    found = Dependencies(len(log.transactions))
    ww, wr, rw = (found.edges[kind] for kind in (Kind.WW, Kind.WR, Kind.RW))
    happened = _happened(log, longest)
    for key, values in longest.items():
        writers, readers = log.writers[key], log.readers[key]
        chain = [writers[value] for value in values]
        end = len(chain)
        lengths = [len(seen) for seen in log.reads[key]]
        ww.sources += chain[:-1]
        ww.targets += chain[1:]
        wr.sources += [chain[length - 1] for length in lengths if length]
        wr.targets += [who for who, length in zip(readers, lengths, strict=True) if length]
        rw.sources += [who for who, length in zip(readers, lengths, strict=True) if length < end]
        rw.targets += [chain[length] for length in lengths if length < end]
        if len(writers) > end:
            seen = set(values)
            unseen = (who for value, who in writers.items() if value not in seen)
            late = dict.fromkeys(who for who in unseen if who in happened and who not in chain[-1:])
            full = [who for who, length in zip(readers, lengths, strict=True) if length == end]
            _append_unseen(found, chain, full, list(late))
        for edges in (ww, wr, rw):
            edges.mark(key)
    return found


def _happened(log: Log, longest: Mapping[Key, list[Value]]) -> set[int]:
    """Who surely did: was acknowledged, or appended something that was seen."""
    numbers = {number for number, op in enumerate(log.transactions) if op.outcome is Outcome.OK}
    if len(numbers) < len(log.transactions):
        for key, values in longest.items():
            numbers.update(log.writers[key][value] for value in values)
    return numbers


def _append_unseen(found: Dependencies, chain: list[int], full: list[int], late: list[int]) -> None:
    """Put those who appended what nobody saw after all that was seen, and after who saw all that.

    They meet in a node in between, for there may be many on either side. Who is on both sides goes
    around it; two of those came before each other already.
    """
    ww, rw = found.edges[Kind.WW], found.edges[Kind.RW]
    between = found.nodes
    found.nodes += 1
    ww.sources += chain[-1:]
    ww.targets += [between for _ in chain[-1:]]
    are_late = set(late)
    before = [who for who in full if who not in are_late]
    on_both_sides = [who for who in dict.fromkeys(full) if who in are_late]
    around = [(who, to) for who in on_both_sides[:2] for to in late]
    rw.sources += [*before, *(between for _ in late), *(who for who, _ in around)]
    rw.targets += [*(between for _ in before), *late, *(to for _, to in around)]


def in_process_order(log: Log) -> Edges:
    """Put each transaction before the next of its process, unless it may have happened later."""
    edges = Edges()
    latest: dict[int, int] = {}
    for number, transaction in enumerate(log.transactions):
        if transaction.process in latest:
            edges.sources.append(latest[transaction.process])
            edges.targets.append(number)
        if transaction.outcome is Outcome.OK:
            latest[transaction.process] = number
    edges.mark(None)
    return edges


def over(transaction: Operation) -> float:
    """When it was surely over."""
    if transaction.outcome is Outcome.INFO or transaction.completed_ns is None:
        return inf
    return transaction.completed_ns


def in_real_time(log: Log, numbers: Iterable[int], free: int) -> Iterator[tuple[int, int]]:
    """Put each of these transactions before all that began when it was over.

    By way of a node in between for each time at which one began after one was over; the numbers
    from `free` on are theirs.
    """
    times = []
    for number in numbers:
        transaction = log.transactions[number]
        times += [(transaction.invoked_ns, False, number), (over(transaction), True, number)]
    passed = ending = None
    for _, is_over, number in sorted(times):
        if is_over:
            if ending is None:
                ending, free = free, free + 1
                if passed is not None:
                    yield passed, ending
            yield number, ending
            continue
        if ending is not None:
            passed, ending = ending, None
        if passed is not None:
            yield passed, number
