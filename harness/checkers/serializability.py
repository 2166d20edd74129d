"""Serializability of list-append transactions: is there an order in which they ran one by one?

Whoever came before itself did not run one by one. Operations have the form that `transactions`
tells, and `dependencies` infers who came before whom. The names of what goes wrong are Adya's
("Weak consistency: a generalized theory and optimistic implementations", MIT 1999).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise
from typing import NamedTuple

from harness.checkers.checker import Checker
from harness.checkers.cycles import knots, shortest_way, unplaced
from harness.checkers.dependencies import (
    Dependencies,
    Kind,
    dependencies,
    in_process_order,
    in_real_time,
    over,
)
from harness.checkers.transactions import (
    Key,
    Log,
    contradictory,
    intermediate,
    internal,
    read_log,
)
from harness.history import History, Operation
from harness.promises import Promise
from harness.verdict import Anomaly, Verdict


class Order(Enum):
    """What an order of the transactions must respect, besides what they saw."""

    NOTHING = "serializable"
    PROCESS = "strong session serializable"  # each process's own order
    REAL_TIME = "strict serializable"  # who was over before another began


def serializable(promise: Promise, order: Order) -> Checker:
    """Make the checker of list-append transactions.

    Of reads it finds *G1a* (a value whose transaction failed), *G1b* (a list that was seen before
    its writer was done with it), *phantom* and *duplicate* values, an *incompatible-order* (two
    lists, neither of which begins with the other), and *internal* contradictions to the same
    transaction's own doing. Of cycles it finds *G0*, *G1c*, *G-single* and *G2-item*, by what they
    are made of, with the word *process* or *realtime* if there is none without that order; and
    *lost-update*, of those that appended to what all had read. Of each set of transactions that
    came before each other, the evidence is the shortest cycle that was found of the worst kind.

    Unknown if a value was appended twice. Operations that are no `txn` are not looked at.
    """

    def check(history: History) -> Verdict:
        log = read_log(history)
        if log.twice:
            return Verdict(unknowns=tuple(log.twice))
        wrong = list(internal(log, promise))
        longest = {}
        for key, lists in log.reads.items():
            if found := list(contradictory(log, key, promise)):
                wrong += found
            else:
                longest[key] = max(lists, key=len)
        wrong += intermediate(log, longest, promise)
        wrong += _cycles(log, dependencies(log, longest), order, promise)
        return Verdict(tuple(wrong))

    return check


def _cycles(log: Log, found: Dependencies, order: Order, promise: Promise) -> Iterator[Anomaly]:
    """Tell of each set of transactions that came before each other, by its worst cycle."""
    if order is Order.PROCESS:
        found.edges[Kind.PROCESS] = in_process_order(log)
    timed = log.transactions if order is Order.REAL_TIME else []
    suspects = unplaced(
        found.nodes,
        [source for edges in found.edges.values() for source in edges.sources],
        [target for edges in found.edges.values() for target in edges.targets],
        [transaction.invoked_ns for transaction in timed],
        [over(transaction) for transaction in timed],
    )
    if not suspects:
        return
    web = _Web(len(log.transactions))
    for kind, edges in found.edges.items():
        for source, target, key in edges.among(set(suspects)):
            web.add(source, target, kind, key)
    if timed:
        transactions = [number for number in suspects if number < web.count]
        for source, target in in_real_time(log, transactions, found.nodes):
            web.add(source, target, Kind.REAL_TIME, None)
    nodes = list(web.edges)
    for knot in knots(nodes, web.after(set(nodes), Kind)):
        yield _anomaly(log, web.worst(knot), promise)


class _Edge(NamedTuple):
    target: int
    kind: Kind | None  # None out of a node in between: the way only goes on
    key: Key


class _Hop(NamedTuple):
    """A transaction, and why it came before the next."""

    number: int
    kind: Kind
    key: Key


@dataclass(slots=True)
class _Web:
    """The transactions that may be in a cycle, and all that leads from one to another."""

    count: int  # nodes from here on are in between
    edges: defaultdict[int, list[_Edge]] = field(default_factory=lambda: defaultdict(list))

    def add(self, source: int, target: int, kind: Kind, key: Key) -> None:
        """Note that the source came before the target."""
        self.edges[source].append(_Edge(target, kind if source < self.count else None, key))

    def after(self, nodes: set[int], kinds: Iterable[Kind]) -> Callable[[int], list[int]]:
        """Where edges of these kinds lead to, among these nodes."""
        allowed = {None, *kinds}
        return lambda node: [
            target for target, kind, _ in self.edges[node] if kind in allowed and target in nodes
        ]

    def worst(self, knot: list[int]) -> list[_Hop]:
        """The cycle that needs least to be wrong: no order if it can, few *rw*, few nodes."""
        for order in ((), (Kind.PROCESS, Kind.REAL_TIME)):
            sure = (Kind.WW, Kind.WR, *order)
            way = (
                self._round(knot, (Kind.WW, *order))
                or self._round(knot, sure)
                or self._round_by_one_rw(knot, sure)
                or self._round(knot, (*sure, Kind.RW))
            )
            if way:
                return self._hops(way, {*sure, Kind.RW})
        raise AssertionError("where all come before each other, there is a cycle")

    def _round(self, knot: list[int], kinds: tuple[Kind, ...]) -> list[int] | None:
        after = self.after(set(knot), kinds)
        tied = [node for part in knots(knot, after) for node in part if node < self.count]
        ways = (self._way(node, node, after) for node in tied[: self._effort(knot)])
        return min(filter(None, ways), key=self._length, default=None)

    def _round_by_one_rw(self, knot: list[int], kinds: tuple[Kind, ...]) -> list[int] | None:
        inside = set(knot)
        after = self.after(inside, kinds)
        rw = [
            (node, edge.target)
            for node in knot
            for edge in self.edges[node]
            if edge.kind is Kind.RW and edge.target in inside
        ]
        ways = ((node, self._way(to, node, after)) for node, to in rw[: self._effort(knot)])
        return min(([node, *way] for node, way in ways if way), key=self._length, default=None)

    def _effort(self, knot: list[int]) -> int:
        """How many ways to look for: each costs up to all edges of the knot."""
        return max(1, 200_000 // sum(len(self.edges[node]) for node in knot))

    def _way(
        self, start: int, goal: int, after: Callable[[int], Iterable[int]]
    ) -> list[int] | None:
        return shortest_way(start, goal, after, lambda node: node >= self.count)

    def _length(self, way: list[int]) -> int:
        return sum(node < self.count for node in way)

    def _hops(self, way: list[int], kinds: set[Kind]) -> list[_Hop]:
        """The reasons along the way, the surest for each step."""
        hops = []
        for source, target in pairwise(way):
            reasons = [edge for edge in self.edges[source] if edge.target == target]
            told = [(edge.kind, edge.key) for edge in reasons if edge.kind in kinds]
            if told:
                kind, key = min(told, key=lambda reason: _SURENESS.index(reason[0]))
                hops.append(_Hop(source, kind, key))
        first = hops.index(min(hops))
        return hops[first:] + hops[:first]


_SURENESS = list(Kind)
_REASONS = {
    Kind.WW: "{one} appended to {key!r} before {other} did",
    Kind.WR: "{other} saw what {one} appended to {key!r}",
    Kind.PROCESS: "{one} was over before its process began {other}",
    Kind.REAL_TIME: "{one} was over before {other} began",
    Kind.RW: "{one} did not see what {other} appended to {key!r}",
}


def _anomaly(log: Log, hops: list[_Hop], promise: Promise) -> Anomaly:
    """Tell of a cycle: T1 is the first transaction of the evidence."""
    names = [f"T{place}" for place in range(1, len(hops) + 1)]
    reasons = [
        _REASONS[hop.kind].format(one=one, other=other, key=hop.key)
        for hop, one, other in zip(hops, names, [*names[1:], names[0]], strict=True)
    ]
    message = f"{', '.join(reasons[:-1])}, and yet {reasons[-1]}"
    evidence = tuple(log.transactions[hop.number] for hop in hops)
    name = "lost-update" if _is_lost_update(hops, evidence) else _name([hop.kind for hop in hops])
    return Anomaly(promise, message, evidence, name)


def _name(kinds: list[Kind]) -> str:
    rw = kinds.count(Kind.RW)
    name = ("G1c" if Kind.WR in kinds else "G0", "G-single", "G2-item")[min(rw, 2)]
    order = next((f"-{kind}" for kind in (Kind.PROCESS, Kind.REAL_TIME) if kind in kinds), "")
    return name + order


def _is_lost_update(hops: list[_Hop], transactions: tuple[Operation, ...]) -> bool:
    """Whether all of them read the same list, and then appended to it."""
    (key, *other_keys) = {hop.key for hop in hops}
    if other_keys or Kind.RW not in {hop.kind for hop in hops}:
        return False
    seen = []
    for transaction in transactions:
        about = [micro for micro in transaction.result or () if micro[1] == key]
        if not about or about[0][0] != "r" or about[-1][0] != "append":
            return False
        seen.append(about[0][2] or [])
    return all(first == seen[0] for first in seen)
