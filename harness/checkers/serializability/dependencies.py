"""Dependencies between transactions, inferred from the lists that they read and from their order.

A list shows the order of its appends. So one transaction precedes another because it appended just
before the other (*ww*), because the other read its append (*wr*), or because it did not read an
append of the other (*rw*); and a value that no read saw comes after all values that a read saw
(Kingsbury and Alvaro, "Elle: inferring isolation anomalies from experimental observations",
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
    """Why one transaction precedes another, the strongest reason first."""

    WW = "ww"
    WR = "wr"
    PROCESS = "process"
    REAL_TIME = "realtime"
    RW = "rw"


@dataclass(slots=True)
class Dependencies:
    """Edges between transactions, by number; numbers above the transactions' are auxiliary nodes.

    Edges with the same reason follow each other, up to its mark.
    """

    nodes: int
    sources: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    reasons: list[tuple[Kind, Key]] = field(default_factory=list)

    def add(self, kind: Kind, key: Key, sources: Iterable[int], targets: Iterable[int]) -> None:
        """Add an edge from each source to its target."""
        self.sources += sources
        self.targets += targets
        self.marks.append(len(self.sources))
        self.reasons.append((kind, key))

    def among(self, nodes: Container[int]) -> Iterator[tuple[int, int, Kind, Key]]:
        """The edges between two different nodes of these, and their reasons."""
        for edge, (source, target) in enumerate(zip(self.sources, self.targets, strict=True)):
            if source in nodes and target in nodes and source != target:
                yield source, target, *self.reasons[bisect_right(self.marks, edge)]


def dependencies(log: Log, longest: Mapping[Key, list[Value]]) -> Dependencies:
    """Infer the dependencies from the longest list that was read of each key."""
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
            late = dict.fromkeys(number for value, number in writers.items() if value not in seen)
            full = dict.fromkeys(compress(readers, map(not_, missed)))
            _append_unseen(found, key, chain[-1:], list(full), late)
    return found


def _append_unseen(
    found: Dependencies, key: Key, last: list[int], full: list[int], late: Collection[int]
) -> None:
    """Order every append that no read observed after the last observed append of that list.

    It also comes after every transaction that read the whole list. The edges meet in an auxiliary
    node, because there may be many on either side. A transaction on both sides gets direct edges;
    two of those precede each other already. A transaction that may never have happened precedes no
    other one, so its edges are harmless here.
    """
    middle = found.nodes
    found.nodes += 1
    found.add(Kind.RW, key, [middle for _ in late], late)
    for kind, before in ((Kind.WW, last), (Kind.RW, full)):
        only_before = [number for number in before if number not in late]
        both = [number for number in before if number in late]
        direct = [(number, to) for number in both[:2] for to in late]
        found.add(kind, key, only_before, [middle for _ in only_before])
        found.add(kind, key, [number for number, _ in direct], [to for _, to in direct])


def put_in_process_order(found: Dependencies, log: Log) -> None:
    """Order each transaction before the next of its process, unless it may have happened later."""
    latest: dict[int, int] = {}
    pairs = []
    for number, transaction in enumerate(log.transactions):
        if transaction.process in latest:
            pairs.append((latest[transaction.process], number))
        if transaction.outcome is Outcome.OK:
            latest[transaction.process] = number
    found.add(Kind.PROCESS, None, [first for first, _ in pairs], [second for _, second in pairs])
