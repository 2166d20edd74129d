"""Cycles of a directed graph: which nodes are near any, which are in them, and the shortest.

Nodes are numbers from 0. Besides its edges, a node may have a *span* of time, and then precedes
every node whose span begins after its own ends; such edges are too many to be written down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from math import inf


def unplaced(
    nodes: int,
    sources: Sequence[int],
    targets: Sequence[int],
    begins: Sequence[float] = (),
    ends: Sequence[float] = (),
) -> list[int]:
    """The nodes on a way from a cycle to a cycle; none, if the nodes can be put in order.

    The first nodes have spans, as many as there are begins and ends. An edge from a node to itself
    does not count.
    """
    behind = _unordered(nodes, sources, targets, begins, ends)
    if not behind:
        return []
    backwards = _unordered(nodes, targets, sources, [-end for end in ends], [-at for at in begins])
    before = set(backwards)
    return [node for node in behind if node in before]


def _unordered(
    nodes: int,
    sources: Sequence[int],
    targets: Sequence[int],
    begins: Sequence[float],
    ends: Sequence[float],
) -> list[int]:
    """The nodes in a cycle or behind one (Kahn, "Topological sorting of large networks", 1962)."""
    latest, earlier, waits_for = _star(nodes, sources, targets)
    for node in range(len(begins)):
        waits_for[node] += 1  # for its time to come
    ready = [node for node in range(len(begins), nodes) if not waits_for[node]]
    coming = sorted(range(len(begins)), key=begins.__getitem__, reverse=True)
    going = sorted(range(len(ends)), key=ends.__getitem__, reverse=True)
    while True:
        while going and waits_for[going[-1]] < 0:
            going.pop()
        now = ends[going[-1]] if going else inf
        while coming and begins[coming[-1]] <= now:
            waits_for[coming[-1]] -= 1
            if not waits_for[coming[-1]]:
                ready.append(coming[-1])
            coming.pop()
        if not ready:
            return [node for node in range(nodes) if waits_for[node] >= 0]
        while ready:
            node = ready.pop()
            waits_for[node] = -1
            edge = latest[node]
            while edge >= 0:
                target = targets[edge]
                waits_for[target] -= 1
                if not waits_for[target]:
                    ready.append(target)
                edge = earlier[edge]


def _star(
    nodes: int, sources: Sequence[int], targets: Sequence[int]
) -> tuple[list[int], list[int], list[int]]:
    """The graph as a forward star.

    Of each node its latest edge or -1; of each edge the one before it from the same node; of each
    node how many edges lead to it. In flat lists, for a container for each node would keep the
    garbage collector busier than the sort.
    """
    latest = [-1] * nodes
    earlier = []
    leading = [0] * nodes
    for edge, (source, target) in enumerate(zip(sources, targets, strict=True)):
        earlier.append(latest[source])
        if source != target:
            latest[source] = edge
            leading[target] += 1
    return latest, earlier, leading


def knots(nodes: Sequence[int], after: Callable[[int], Iterable[int]]) -> Iterator[list[int]]:
    """The sets of more than one node that all lead to each other.

    By two searches (Sharir, "A strong-connectivity algorithm", 1981). `after` stays inside `nodes`.
    """
    finished: list[int] = []
    seen: set[int] = set()
    for root in nodes:
        path = [] if root in seen else [(root, iter(after(root)))]
        seen.add(root)
        while path:
            node, rest = path[-1]
            found = next((other for other in rest if other not in seen), None)
            if found is None:
                finished.append(node)
                path.pop()
            else:
                seen.add(found)
                path.append((found, iter(after(found))))
    before: dict[int, list[int]] = {}
    for node in nodes:
        for other in after(node):
            before.setdefault(other, []).append(node)
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
