"""Who came before whom among transactions: what they saw tells it, and the order they were run in.

A list tells in which order it was appended to. So of two transactions one came first because it
appended just before the other (*ww*), because the other saw what it appended (*wr*), or because it
did not see yet what the other appended (*rw*); and a value that no read saw came after all that one
saw (Kingsbury and Alvaro, "Elle: inferring isolation anomalies from experimental observations",
VLDB 2020).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import compress
from operator import not_

from harness.checkers.serializability.transactions import Key, Log, Value
from harness.core.history import Outcome


class Kind(StrEnum):
    """Why one transaction came before another, the surest reason first."""

    WW = "ww"
    WR = "wr"
    PROCESS = "process"
    REAL_TIME = "realtime"
    RW = "rw"


@dataclass(slots=True)
class Dependencies:
    """Who came before whom, by number; numbers above the transactions' are nodes in between.

    Edges that share a reason follow each other, up to its mark.
    """

    nodes: int
    sources: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    reasons: list[tuple[Kind, Key]] = field(default_factory=list)

    def add(self, kind: Kind, key: Key, sources: Iterable[int], targets: Iterable[int]) -> None:
        """Put each source before its target."""
        self.sources += sources
        self.targets += targets
        self.marks.append(len(self.sources))
        self.reasons.append((kind, key))

    def among(self, nodes: Container[int]) -> Iterator[tuple[int, int, Kind, Key]]:
        """The edges between two different ones of these nodes, and their reasons."""
        for edge, (source, target) in enumerate(zip(self.sources, self.targets, strict=True)):
            if source in nodes and target in nodes and source != target:
                yield source, target, *self.reasons[bisect_right(self.marks, edge)]


def dependencies(log: Log, longest: Mapping[Key, list[Value]]) -> Dependencies:
    """Infer who came before whom from the keys of which this is the longest list that was read."""
    found = Dependencies(len(log.transactions))
    for key, values in longest.items():
        writers, readers = log.writers[key], log.readers[key]
        chain = [writers[value] for value in values]
        end = len(chain)
        lengths = list(map(len, log.reads[key]))
        missed = [length < end for length in lengths]
        found.add(Kind.WW, key, chain[:-1], chain[1:])
        found.add(
            Kind.WR,
            key,
            [chain[length - 1] for length in lengths if length],
            compress(readers, lengths),
        )
        found.add(
            Kind.RW,
            key,
            compress(readers, missed),
            [chain[length] for length in lengths if length < end],
        )
        if len(writers) > end:
            seen = set(values)
            late = dict.fromkeys(who for value, who in writers.items() if value not in seen)
            full = dict.fromkeys(compress(readers, map(not_, missed)))
            _append_unseen(found, key, chain[-1:], list(full), late)
    return found


def _append_unseen(
    found: Dependencies, key: Key, last: list[int], full: list[int], late: Collection[int]
) -> None:
    """Put who appended what nobody saw after the last that was seen, and after who saw all that.

    They meet in a node in between, for there may be many on either side. Who is on both sides goes
    around it; two of those came before each other already. Whoever perhaps never happened came
    before nobody, so does no harm here.
    """
    between = found.nodes
    found.nodes += 1
    found.add(Kind.RW, key, [between for _ in late], late)
    for kind, before in ((Kind.WW, last), (Kind.RW, full)):
        outside = [who for who in before if who not in late]
        inside = [who for who in before if who in late]
        around = [(who, to) for who in inside[:2] for to in late]
        found.add(kind, key, outside, [between for _ in outside])
        found.add(kind, key, [who for who, _ in around], [to for _, to in around])


def put_in_process_order(found: Dependencies, log: Log) -> None:
    """Put each transaction before the next of its process, unless it may have happened later."""
    latest: dict[int, int] = {}
    pairs = []
    for number, transaction in enumerate(log.transactions):
        if transaction.process in latest:
            pairs.append((latest[transaction.process], number))
        if transaction.outcome is Outcome.OK:
            latest[transaction.process] = number
    found.add(Kind.PROCESS, None, [one for one, _ in pairs], [other for _, other in pairs])
