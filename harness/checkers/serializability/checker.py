"""Serializability of list-append transactions: is there an order in which they ran one by one?

Whoever came before itself did not run one by one. Operations have the form that `transactions`
tells, and `dependencies` infers who came before whom. The names of what goes wrong are Adya's
("Weak consistency: a generalized theory and optimistic implementations", MIT 1999).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise, permutations
from math import inf
from typing import NamedTuple

from harness.checkers.serializability.dependencies import (
    Dependencies,
    Kind,
    dependencies,
    put_in_process_order,
)
from harness.checkers.serializability.graph import in_time, knots, shortest_way, tied
from harness.checkers.serializability.transactions import (
    Key,
    Log,
    contradictory,
    internal,
    read_log,
)
from harness.core.checker import Checker
from harness.core.history import History, Operation, Outcome
from harness.core.promises import Promise
from harness.core.verdict import Anomaly, Verdict


class Order(Enum):
    """What an order of the transactions must respect, besides what they saw."""

    NOTHING = "serializable"
    PROCESS = "strong session serializable"  # each process's own order
    REAL_TIME = "strict serializable"  # who was over before another began


def serializable(promise: Promise, order: Order) -> Checker:
    """Make the checker of list-append transactions.

    Of reads it finds *G1a* (a value whose transaction failed), *phantom* and *duplicate* values, an
    *incompatible-order* (two lists, neither of which begins with the other), and *internal*
    contradictions to the same transaction's own doing. Of cycles it finds *G0*, *G1c*, *G-single*
    and *G2-item*, by what they are made of, with the word *process* or *realtime* if there is none
    without that order; but *G1b* where one saw a list before the other was done with it, and
    *lost-update* where all appended to what all had read. Of each set of transactions that came
    before each other, the evidence is the shortest cycle that was found of the worst kind.

    Unknown if a value was appended twice. Operations that are no `txn` are not looked at.
    """

    def check(history: History) -> Verdict:
        log = read_log(history)
        if log.twice:
            return Verdict(unknowns=tuple(log.twice))
        wrong: list[Anomaly] = []
        longest = {}
        for key, lists in log.reads.items():
            wrong += internal(log, key, promise)
            longest[key] = max(lists, key=len)
            if found := list(contradictory(log, key, longest[key], promise)):
                wrong += found
                del longest[key]
        wrong += _cycles(log, dependencies(log, longest), order, promise)
        return Verdict(tuple(wrong))

    return check


def _cycles(log: Log, found: Dependencies, order: Order, promise: Promise) -> Iterator[Anomaly]:
    """Tell of each set of transactions that came before each other, by its worst cycle."""
    if order is Order.PROCESS:
        put_in_process_order(found, log)
    begins, ends = [-inf] * found.nodes, [inf] * found.nodes
    if order is Order.REAL_TIME:
        _clock(log, begins, ends)
    webs: dict[int, _Web] = {}
    for knot in knots(found.sources, found.targets, begins, ends):
        web = _Web(len(log.transactions))
        for source, target in in_time(knot, begins, ends, found.nodes):
            web.add(source, target, Kind.REAL_TIME, None)
        webs |= dict.fromkeys(knot, web)
    for source, target, kind, key in found.among(webs):
        if webs[source] is webs[target]:
            webs[source].add(source, target, kind, key)
    for web in {id(web): web for web in webs.values()}.values():
        yield _anomaly(log, web.worst(), promise)


def _clock(log: Log, begins: list[float], ends: list[float]) -> None:
    """Fill in when transactions began, and when those were over that surely happened."""
    count = len(log.transactions)
    begins[:count] = [float(each.invoked_ns) for each in log.transactions]
    ends[:count] = [
        float(end) if (end := each.completed_ns) is not None and each.outcome is Outcome.OK else inf
        for each in log.transactions
    ]


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
    """Transactions that all came before each other, and why."""

    count: int  # nodes from here on are in between
    edges: defaultdict[int, list[_Edge]] = field(default_factory=lambda: defaultdict(list))

    def add(self, source: int, target: int, kind: Kind, key: Key) -> None:
        """Note that the source came before the target."""
        self.edges[source].append(_Edge(target, kind if source < self.count else None, key))

    def worst(self) -> list[_Hop]:
        """The cycle that needs least to be wrong: no order, few *rw*, few transactions."""
        for order in ((), (Kind.PROCESS, Kind.REAL_TIME)):
            sure = (Kind.WW, Kind.WR, *order)
            way = (
                self._round((Kind.WW, *order))
                or self._round(sure)
                or self._round_by_one_rw(sure)
                or self._round((*sure, Kind.RW))
            )
            if way:
                return self._hops(way, {*sure, Kind.RW})
        raise AssertionError("where all came before each other, there is a cycle")

    def _round(self, kinds: tuple[Kind, ...]) -> list[int] | None:
        after = self._after(kinds)
        starts = [node for part in tied(self.edges, after) for node in part if node < self.count]
        ways = (self._way(node, node, after) for node in starts[: self._effort])
        return min(filter(None, ways), key=self._length, default=None)

    def _round_by_one_rw(self, kinds: tuple[Kind, ...]) -> list[int] | None:
        after = self._after(kinds)
        rw = [
            (node, edge.target)
            for node in sorted(self.edges)
            for edge in self.edges[node]
            if edge.kind is Kind.RW
        ]
        ways = ((node, self._way(to, node, after)) for node, to in rw[: self._effort])
        return min(([node, *way] for node, way in ways if way), key=self._length, default=None)

    def _after(self, kinds: tuple[Kind, ...]) -> Callable[[int], list[int]]:
        """Where the edges of these kinds lead to."""
        allowed = {None, *kinds}
        edges = {
            node: [
                edge.target for edge in out if edge.kind in allowed and edge.target in self.edges
            ]
            for node, out in self.edges.items()
        }
        return edges.__getitem__

    @property
    def _effort(self) -> int:
        """How many ways to look for: each costs up to all edges."""
        return max(1, 200_000 // sum(map(len, self.edges.values())))

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
    return Anomaly(promise, message, evidence, _name(hops, evidence))


def _name(hops: list[_Hop], transactions: Sequence[Operation]) -> str:
    kinds = [hop.kind for hop in hops]
    rw = kinds.count(Kind.RW)
    if rw and len({hop.key for hop in hops}) == 1:
        if _is_lost_update(hops[0].key, transactions):
            return "lost-update"
        if _is_intermediate(hops[0].key, transactions):
            return "G1b"
    name = ("G1c" if Kind.WR in kinds else "G0", "G-single", "G2-item")[min(rw, 2)]
    order = next((f"-{kind}" for kind in (Kind.PROCESS, Kind.REAL_TIME) if kind in kinds), "")
    return name + order


def _is_lost_update(key: Key, transactions: Iterable[Operation]) -> bool:
    """Whether all of them read the same list, and then appended to it."""
    seen = []
    for transaction in transactions:
        about = [micro for micro in transaction.result or () if micro[1] == key]
        if not about or about[0][0] != "r" or about[-1][0] != "append":
            return False
        seen.append(about[0][2] or [])
    return all(first == seen[0] for first in seen)


def _is_intermediate(key: Key, transactions: Sequence[Operation]) -> bool:
    """Whether one of them read, as the end of the list, what another appended before its last."""
    for writer, reader in permutations(transactions, 2):
        added = [value for what, on, value in writer.argument if (what, on) == ("append", key)]
        lists = (value for what, on, value in reader.result or () if (what, on) == ("r", key))
        if any(seen and seen[-1] in added[:-1] for seen in lists):
            return True
    return False
