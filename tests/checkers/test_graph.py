"""Tests of the graph algorithms against the closure of all paths."""

from __future__ import annotations

from itertools import pairwise, product
from math import inf

from hypothesis import given, settings
from hypothesis import strategies as st

from harness.checkers.serializability.graph import (
    shortest_path,
    strong_components,
    time_edges,
    unsortable,
)

NODES = range(6)
EDGES = st.lists(st.tuples(st.sampled_from(NODES), st.sampled_from(NODES)), max_size=9)
SPANS = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from([0, 1, 2, inf])) | st.none(),
    min_size=len(NODES),
    max_size=len(NODES),
).map(
    lambda spans: [(-inf, inf) if span is None else (span[0], span[0] + span[1]) for span in spans]
)
Edges = list[tuple[int, int]]
Spans = list[tuple[float, float]]


def reachable(edges: Edges, spans: Spans) -> set[tuple[int, int]]:
    """Every pair of nodes of which the first reaches the second, by edges or by time."""
    found = {(first, second) for first, second in edges if first != second}
    found |= {
        (first, second)
        for first, second in product(NODES, NODES)
        if spans[first][1] < spans[second][0]
    }
    for middle, first, second in product(NODES, NODES, NODES):
        if {(first, middle), (middle, second)} <= found:
            found.add((first, second))
    return found


def columns(rows: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [first for first, _ in rows], [second for _, second in rows]


@given(EDGES, SPANS)
def test_unsortable_nodes_lie_between_cycles(edges: Edges, spans: Spans) -> None:
    leads = reachable(edges, spans)
    cyclic = {node for node in NODES if (node, node) in leads}

    found = unsortable(
        [first for first, _ in edges], [second for _, second in edges], *columns(spans)
    )

    assert set(found) == {
        node
        for node in NODES
        if any(node == cycle or (cycle, node) in leads for cycle in cyclic)
        and any(node == cycle or (node, cycle) in leads for cycle in cyclic)
    }


@given(EDGES, SPANS)
def test_strong_components_equal_mutual_reachability(edges: Edges, spans: Spans) -> None:
    leads = reachable(edges, spans)

    found = strong_components(
        [first for first, _ in edges], [second for _, second in edges], *columns(spans)
    )

    assert {frozenset(component) for component in found} == {
        frozenset(other for other in NODES if {(node, other), (other, node)} <= leads)
        for node in NODES
        if (node, node) in leads
    }


@given(SPANS)
@settings(max_examples=500)
def test_time_edges_reach_exactly_the_later_nodes(spans: Spans) -> None:
    begins, ends = columns(spans)
    after: dict[int, list[int]] = {}
    for source, target in time_edges(NODES, begins, ends, len(NODES)):
        after.setdefault(source, []).append(target)

    for first, second in product(NODES, NODES):
        path = shortest_path(first, second, lambda node: after.get(node, []), lambda _: False)
        assert (path is not None) == (ends[first] < begins[second])


@given(EDGES, st.sets(st.sampled_from(NODES)))
def test_shortest_path_has_the_least_cost(edges: Edges, free: set[int]) -> None:
    """Edges out of free nodes add nothing to its length."""
    cost = {edge: int(edge[0] not in free) for edge in edges}
    best = dict(cost)
    for middle, first, second in product(NODES, NODES, NODES):
        if (first, middle) in best and (middle, second) in best:
            length = best[first, middle] + best[middle, second]
            best[first, second] = min(length, best.get((first, second), length))

    def after(node: int) -> list[int]:
        return [second for first, second in edges if first == node]

    for start, goal in product(NODES, NODES):
        path = shortest_path(start, goal, after, free.__contains__)
        steps = list(pairwise(path or []))
        assert set(steps) <= set(edges)
        assert (path is None) == ((start, goal) not in best)
        assert path is None or (path[0], path[-1]) == (start, goal)
        assert path is None or sum(cost[step] for step in steps) == best[start, goal]
