"""Checks that list-append transactions are serializable: that some serial order explains them.

A cycle of dependencies proves that no serial order exists. The module `transactions` describes the
shape of operations, and `dependencies` infers the edges. The names of anomalies are Adya's ("Weak
consistency: a generalized theory and optimistic implementations", MIT 1999).
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
from harness.checkers.serializability.graph import (
    components_of,
    shortest_path,
    strong_components,
    time_edges,
)
from harness.checkers.serializability.transactions import (
    Key,
    Log,
    contradictory,
    internal,
    read_log,
)
from harness.core.checker import Checker
from harness.core.contract import Promise
from harness.core.history import History, Operation, Outcome
from harness.core.verdict import Anomaly, Verdict


class Order(Enum):
    """What a serial order must respect besides the reads of the transactions."""

    NOTHING = "serializable"
    PROCESS = "strong session serializable"  # the order of each process
    REAL_TIME = "strict serializable"  # which transaction completed before another began


def serializable(promise: Promise, order: Order) -> Checker:
    """Make the checker of list-append transactions.

    Of reads it finds *G1a* (a value whose transaction failed), *phantom* and *duplicate* values, an
    *incompatible-order* (two lists, neither of which begins with the other), and *internal*
    contradictions within one transaction. Of cycles it finds *G0*, *G1c*, *G-single* and *G2-item*,
    by the kinds of their edges, with the word *process* or *realtime* if there is none without
    that order; but *G1b* where one transaction read a list between two appends of another one, and
    *lost-update* where all transactions appended to a list that all had read before. The evidence
    of each strongly connected set of transactions is the shortest known cycle of the worst kind.

    Unknown if a value was appended twice. Functions other than `txn` are ignored.
    """

    def check(history: History) -> Verdict:
        log = read_log(history)
        if log.repeated:
            return Verdict(unknowns=tuple(log.repeated))
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
    """Report each strongly connected set of transactions by its worst cycle."""
    if order is Order.PROCESS:
        put_in_process_order(found, log)
    begins, ends = [-inf] * found.nodes, [inf] * found.nodes
    if order is Order.REAL_TIME:
        _fill_times(log, begins, ends)
    components: dict[int, _Component] = {}
    for nodes in strong_components(found.sources, found.targets, begins, ends):
        component = _Component(len(log.transactions))
        for source, target in time_edges(nodes, begins, ends, found.nodes):
            component.add(source, target, Kind.REAL_TIME, None)
        components |= dict.fromkeys(nodes, component)
    for source, target, kind, key in found.among(components):
        if components[source] is components[target]:
            components[source].add(source, target, kind, key)
    for component in {id(component): component for component in components.values()}.values():
        yield _anomaly(log, component.worst(), promise)


def _fill_times(log: Log, begins: list[float], ends: list[float]) -> None:
    """Fill in the begin of each transaction, and the end of each one that happened."""
    count = len(log.transactions)
    begins[:count] = [float(op.invoked_ns) for op in log.transactions]
    ends[:count] = [
        float(end) if (end := op.completed_ns) is not None and op.outcome is Outcome.OK else inf
        for op in log.transactions
    ]


class _Edge(NamedTuple):
    target: int
    kind: Kind | None  # None for an edge out of an auxiliary node
    key: Key


class _Hop(NamedTuple):
    """A transaction of a cycle, and the edge to the next one."""

    number: int
    kind: Kind
    key: Key


@dataclass(slots=True)
class _Component:
    """A strongly connected component: transactions that all precede each other, and their edges."""

    count: int  # nodes from this number on are auxiliary
    edges: defaultdict[int, list[_Edge]] = field(default_factory=lambda: defaultdict(list))

    def add(self, source: int, target: int, kind: Kind, key: Key) -> None:
        """Add an edge."""
        self.edges[source].append(_Edge(target, kind if source < self.count else None, key))

    def worst(self) -> list[_Hop]:
        """The strongest cycle: without an order, with few *rw* edges, with few transactions."""
        for order in ((), (Kind.PROCESS, Kind.REAL_TIME)):
            sure = (Kind.WW, Kind.WR, *order)
            path = (
                self._cycle((Kind.WW, *order))
                or self._cycle(sure)
                or self._cycle_with_one_rw(sure)
                or self._cycle((*sure, Kind.RW))
            )
            if path:
                return self._hops(path, {*sure, Kind.RW})
        raise AssertionError("a strongly connected component has a cycle")

    def _cycle(self, kinds: tuple[Kind, ...]) -> list[int] | None:
        after = self._after(kinds)
        starts = [
            node for part in components_of(self.edges, after) for node in part if node < self.count
        ]
        paths = (self._path(node, node, after) for node in starts[: self._effort])
        return min(filter(None, paths), key=self._length, default=None)

    def _cycle_with_one_rw(self, kinds: tuple[Kind, ...]) -> list[int] | None:
        after = self._after(kinds)
        rw = [
            (node, edge.target)
            for node in sorted(self.edges)
            for edge in self.edges[node]
            if edge.kind is Kind.RW
        ]
        paths = ((node, self._path(to, node, after)) for node, to in rw[: self._effort])
        return min(([node, *path] for node, path in paths if path), key=self._length, default=None)

    def _after(self, kinds: tuple[Kind, ...]) -> Callable[[int], list[int]]:
        """The successors of a node by edges of these kinds."""
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
        """The number of paths to search for: each search may visit all edges."""
        return max(1, 200_000 // sum(map(len, self.edges.values())))

    def _path(
        self, start: int, goal: int, after: Callable[[int], Iterable[int]]
    ) -> list[int] | None:
        return shortest_path(start, goal, after, lambda node: node >= self.count)

    def _length(self, path: list[int]) -> int:
        return sum(node < self.count for node in path)

    def _hops(self, path: list[int], kinds: set[Kind]) -> list[_Hop]:
        """The edges along the path, the strongest for each step."""
        hops = []
        for source, target in pairwise(path):
            edges = [edge for edge in self.edges[source] if edge.target == target]
            reasons = [(edge.kind, edge.key) for edge in edges if edge.kind in kinds]
            if reasons:
                kind, key = min(reasons, key=lambda reason: _STRENGTH.index(reason[0]))
                hops.append(_Hop(source, kind, key))
        first = hops.index(min(hops))
        return hops[first:] + hops[:first]


_STRENGTH = list(Kind)
_REASONS = {
    Kind.WW: "{first} appended to {key!r} before {second}",
    Kind.WR: "{second} read an append of {first} to {key!r}",
    Kind.PROCESS: "{first} completed before its process began {second}",
    Kind.REAL_TIME: "{first} completed before {second} began",
    Kind.RW: "{first} did not read an append of {second} to {key!r}",
}


def _anomaly(log: Log, hops: list[_Hop], promise: Promise) -> Anomaly:
    """Report a cycle: T1 is the first transaction of the evidence."""
    names = [f"T{number}" for number in range(1, len(hops) + 1)]
    reasons = [
        _REASONS[hop.kind].format(first=first, second=second, key=hop.key)
        for hop, first, second in zip(hops, names, [*names[1:], names[0]], strict=True)
    ]
    evidence = tuple(log.transactions[hop.number] for hop in hops)
    name = _name(hops, evidence)
    return Anomaly(
        promise,
        f"the transactions {', '.join(names)} precede each other ({name})",
        evidence,
        name,
        expected="a serial order of the transactions",
        observed=f"{', '.join(reasons[:-1])}, but {reasons[-1]}",
    )


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
    """Whether all transactions read the same list, and then appended to it."""
    seen = []
    for transaction in transactions:
        about = [micro for micro in transaction.result or () if micro[1] == key]
        if not about or about[0][0] != "r" or about[-1][0] != "append":
            return False
        seen.append(about[0][2] or [])
    return all(first == seen[0] for first in seen)


def _is_intermediate(key: Key, transactions: Sequence[Operation]) -> bool:
    """Whether a transaction read a list that ends with an append before another one's last."""
    for writer, reader in permutations(transactions, 2):
        micros = writer.argument["operations"]
        added = [value for what, on, value in micros if (what, on) == ("append", key)]
        lists = (value for what, on, value in reader.result or () if (what, on) == ("r", key))
        if any(seen and seen[-1] in added[:-1] for seen in lists):
            return True
    return False
