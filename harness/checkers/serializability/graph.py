"""Cycles of a directed graph: which nodes are near any, which are in them, and the shortest.

Nodes are numbers from 0. Each has a *span* of time, and precedes every node whose span begins after
its own ends, besides those that its edges lead to. A node without a time spans all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from math import inf


def unplaced(
    sources: Sequence[int], targets: Sequence[int], begins: Sequence[float], ends: Sequence[float]
) -> list[int]:
    """The nodes on a way from a cycle to a cycle; none, if the nodes can be put in order.

    An edge from a node to itself does not count.
    """
    behind = _unordered(sources, targets, begins, ends)
    if not behind:
        return []
    backwards = _unordered(targets, sources, [-end for end in ends], [-at for at in begins])
    before = set(backwards)
    return [node for node in behind if node in before]


def _unordered(
    sources: Sequence[int], targets: Sequence[int], begins: Sequence[float], ends: Sequence[float]
) -> list[int]:
    """The nodes in a cycle or behind one (Kahn, "Topological sorting of large networks", 1962)."""
    latest, earlier, leads_to, waits_for = _star(sources, targets, begins, ends)
    coming = sorted(range(len(begins)), key=begins.__getitem__, reverse=True)
    going = sorted(range(len(ends)), key=ends.__getitem__, reverse=True)
    ready: list[int] = []
    while True:
        while going and waits_for[going[-1]] < 0:
            going.pop()
        now = ends[going[-1]] if going else inf
        while coming and begins[coming[-1]] <= now:
            node = coming.pop()
            waits_for[node] -= 1
            if not waits_for[node]:
                ready.append(node)
        if not ready:
            return [node for node in range(len(begins)) if waits_for[node] >= 0]
        while ready:
            node = ready.pop()
            waits_for[node] = -1
            edge = latest[node]
            while edge >= 0:
                target = leads_to[edge]
                waits_for[target] -= 1
                if not waits_for[target]:
                    ready.append(target)
                edge = earlier[edge]


def _star(
    sources: Sequence[int], targets: Sequence[int], begins: Sequence[float], ends: Sequence[float]
) -> tuple[list[int], list[int], list[int], list[int]]:
    """The edges that do not follow from the spans anyway, as a forward star.

    Of each node its latest edge or -1; of each edge the one before it from the same node, and where
    it leads; of each node for how many it waits: its time, and the edges that lead to it. In flat
    lists, for a container for each node would keep the garbage collector busier than the sort.
    """
    latest = [-1] * len(begins)
    earlier: list[int] = []
    leads_to: list[int] = []
    waits_for = [1] * len(begins)
    for source, target in zip(sources, targets, strict=True):
        if begins[target] <= ends[source] and source != target:
            earlier.append(latest[source])
            latest[source] = len(leads_to)
            leads_to.append(target)
            waits_for[target] += 1
    return latest, earlier, leads_to, waits_for


def in_time(
    nodes: Iterable[int], begins: Sequence[float], ends: Sequence[float], free: int
) -> Iterator[tuple[int, int]]:
    """Edges that lead from each of these nodes to all whose spans begin after its own ends.

    By way of a node in between for each time at which one begins after one has ended; the numbers
    from `free` on are theirs.
    """
    times = [(begins[node], False, node) for node in nodes]
    times += [(ends[node], True, node) for node in nodes if ends[node] < inf]
    passed = ending = None
    for _, has_ended, node in sorted(times):
        if has_ended:
            if ending is None:
                ending, free = free, free + 1
                if passed is not None:
                    yield passed, ending
            yield node, ending
            continue
        if ending is not None:
            passed, ending = ending, None
        if passed is not None:
            yield passed, node


def knots(
    sources: Sequence[int], targets: Sequence[int], begins: Sequence[float], ends: Sequence[float]
) -> list[list[int]]:
    """The sets of more than one node that all lead to each other."""
    suspects = unplaced(sources, targets, begins, ends)
    after: dict[int, list[int]] = {node: [] for node in suspects}
    for source, target in zip(sources, targets, strict=True) if suspects else ():
        if source in after and target in after and begins[target] <= ends[source]:
            after[source].append(target)
    for source, target in in_time(suspects, begins, ends, len(begins)):
        after.setdefault(source, []).append(target)
        after.setdefault(target, [])
    found = tied(after, after.__getitem__)
    return [sorted(node for node in knot if node < len(begins)) for knot in found]


def tied(nodes: Iterable[int], after: Callable[[int], Iterable[int]]) -> Iterator[list[int]]:
    """The sets of more than one of these nodes that all lead to each other, by two searches.

    (Sharir, "A strong-connectivity algorithm and its applications", 1981.) `after` does not lead
    out of `nodes`.
    """
    finished: list[int] = []
    seen: set[int] = set()
    before: dict[int, list[int]] = {}
    for root in nodes:
        path = [] if root in seen else [(root, iter(after(root)))]
        seen.add(root)
        while path:
            node, rest = path[-1]
            for other in rest:
                before.setdefault(other, []).append(node)
                if other not in seen:
                    seen.add(other)
                    path.append((other, iter(after(other))))
                    break
            else:
                finished.append(node)
                path.pop()
    seen.clear()
    for root in reversed(finished):
        if root in seen:
            continue
        knot = [root]
        seen.add(root)
        for node in knot:
            new = [other for other in dict.fromkeys(before.get(node, ())) if other not in seen]
            seen.update(new)
            knot += new
        if len(knot) > 1:
            yield knot


def shortest_way(
    start: int, goal: int, after: Callable[[int], Iterable[int]], is_free: Callable[[int], bool]
) -> list[int] | None:
    """The nodes of a shortest way of at least one edge, both ends included, or None.

    Edges out of free nodes add nothing to its length.
    """
    came_from: dict[int, int] = {}
    layer = [start]
    while layer:
        following: list[int] = []
        for now_free, found in ((True, layer), (False, following)):
            for node in layer:
                for other in after(node) if is_free(node) is now_free else ():
                    if other not in came_from:
                        came_from[other] = node
                        found.append(other)
        if goal in came_from:
            way = [goal, came_from[goal]]
            while way[-1] != start:
                way.append(came_from[way[-1]])
            return way[::-1]
        layer = following
    return None
