"""Cycles are found as by following every way there is."""

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
    """Every pair of nodes of which one leads to the other, by edges or in time."""
    found = {(one, other) for one, other in edges if one != other}
    found |= {
        (one, other) for one, other in product(NODES, NODES) if spans[one][1] < spans[other][0]
    }
    for between, one, other in product(NODES, NODES, NODES):
        if {(one, between), (between, other)} <= found:
            found.add((one, other))
    return found


def columns(rows: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [one for one, _ in rows], [other for _, other in rows]


@given(EDGES, SPANS)
def test_what_is_not_placed_is_on_a_way_from_a_cycle_to_a_cycle(edges: Edges, spans: Spans) -> None:
    leads = reachable(edges, spans)
    cyclic = {node for node in NODES if (node, node) in leads}

    found = unsortable([one for one, _ in edges], [other for _, other in edges], *columns(spans))

    assert set(found) == {
        node
        for node in NODES
        if any(node == cycle or (cycle, node) in leads for cycle in cyclic)
        and any(node == cycle or (node, cycle) in leads for cycle in cyclic)
    }


@given(EDGES, SPANS)
def test_a_knot_is_all_that_lead_to_each_other(edges: Edges, spans: Spans) -> None:
    leads = reachable(edges, spans)

    found = strong_components(
        [one for one, _ in edges], [other for _, other in edges], *columns(spans)
    )

    assert {frozenset(knot) for knot in found} == {
        frozenset(other for other in NODES if {(node, other), (other, node)} <= leads)
        for node in NODES
        if (node, node) in leads
    }


@given(SPANS)
@settings(max_examples=500)
def test_the_nodes_in_between_lead_to_what_is_later_and_nowhere_else(spans: Spans) -> None:
    begins, ends = columns(spans)
    after: dict[int, list[int]] = {}
    for source, target in time_edges(NODES, begins, ends, len(NODES)):
        after.setdefault(source, []).append(target)

    for one, other in product(NODES, NODES):
        way = shortest_path(one, other, lambda node: after.get(node, []), lambda _: False)
        assert (way is not None) == (ends[one] < begins[other])


@given(EDGES, st.sets(st.sampled_from(NODES)))
def test_the_shortest_way_is_as_long_as_the_best_of_all_ways(edges: Edges, free: set[int]) -> None:
    """Edges out of free nodes add nothing to its length."""
    cost = {edge: int(edge[0] not in free) for edge in edges}
    best = dict(cost)
    for between, one, other in product(NODES, NODES, NODES):
        if (one, between) in best and (between, other) in best:
            long = best[one, between] + best[between, other]
            best[one, other] = min(long, best.get((one, other), long))

    def after(node: int) -> list[int]:
        return [other for one, other in edges if one == node]

    for start, goal in product(NODES, NODES):
        way = shortest_path(start, goal, after, free.__contains__)
        steps = list(pairwise(way or []))
        assert set(steps) <= set(edges)
        assert (way is None) == ((start, goal) not in best)
        assert way is None or (way[0], way[-1]) == (start, goal)
        assert way is None or sum(cost[step] for step in steps) == best[start, goal]
