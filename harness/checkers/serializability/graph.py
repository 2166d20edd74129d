"""Algorithms for cycles of a directed graph whose nodes also have intervals of time.

Nodes are numbers from 0. A node has an edge to every node whose interval begins after its own one
ends, besides its explicit edges. The interval of a node without times is unbounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from math import inf


def unsortable(
    sources: Sequence[int], targets: Sequence[int], begins: Sequence[float], ends: Sequence[float]
) -> list[int]:
    """The nodes on a path from a cycle to a cycle; none if a topological order exists.

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
    """The nodes in or behind a cycle (Kahn, "Topological sorting of large networks", 1962)."""
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
    """The edges that do not follow from the intervals, as a forward star.

    For each node its latest edge or -1; for each edge the previous one of the same node, and its
    target; for each node the number of its predecessors: its time, and its incoming edges. The
    lists are flat, because one container for each node would cost more garbage collection than
    the sort itself.
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


def time_edges(
    nodes: Iterable[int], begins: Sequence[float], ends: Sequence[float], free: int
) -> Iterator[tuple[int, int]]:
    """Edges that connect each of these nodes to all whose intervals begin after its own one ends.

    They pass through an auxiliary node for each time at which an interval begins after another has
    ended; the auxiliary nodes have the numbers from `free` on.
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


def strong_components(
    sources: Sequence[int], targets: Sequence[int], begins: Sequence[float], ends: Sequence[float]
) -> list[list[int]]:
    """The strongly connected components of more than one node."""
    suspects = unsortable(sources, targets, begins, ends)
    after: dict[int, list[int]] = {node: [] for node in suspects}
    for source, target in zip(sources, targets, strict=True) if suspects else ():
        if source in after and target in after and begins[target] <= ends[source]:
            after[source].append(target)
    for source, target in time_edges(suspects, begins, ends, len(begins)):
        after.setdefault(source, []).append(target)
        after.setdefault(target, [])
    found = components_of(after, after.__getitem__)
    return [sorted(node for node in component if node < len(begins)) for component in found]


def components_of(
    nodes: Iterable[int], after: Callable[[int], Iterable[int]]
) -> Iterator[list[int]]:
    """The strongly connected components of more than one node, by two searches.

    (Sharir, "A strong-connectivity algorithm and its applications", 1981.) `after` returns only
    nodes of `nodes`.
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
        component = [root]
        seen.add(root)
        for node in component:
            new = [other for other in dict.fromkeys(before.get(node, ())) if other not in seen]
            seen.update(new)
            component += new
        if len(component) > 1:
            yield component


def shortest_path(
    start: int, goal: int, after: Callable[[int], Iterable[int]], is_free: Callable[[int], bool]
) -> list[int] | None:
    """The nodes of a shortest path of at least one edge, both ends included, or None.

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
            path = [goal, came_from[goal]]
            while path[-1] != start:
                path.append(came_from[path[-1]])
            return path[::-1]
        layer = following
    return None
