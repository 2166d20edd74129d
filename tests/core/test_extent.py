"""Tests of what a run bought: pairs of consecutive calls, and schedules."""

from __future__ import annotations

from harness.core.extent import Extent, extent_of, total
from harness.core.history import History, Operation, Outcome


def calls(*pairs: tuple[int, str], **notes: object) -> History:
    """A history of calls, each by a process."""
    operations = [
        Operation(process, function, {}, Outcome.OK, 2 * number, 2 * number + 1)
        for number, (process, function) in enumerate(pairs)
    ]
    return History(tuple(operations), notes=notes)


def test_pairs_are_of_one_process() -> None:
    """Calls of other processes in between do not count, and neither does a pair met again."""
    history = calls((0, "a"), (1, "b"), (0, "c"), (1, "b"), (0, "a"), (0, "c"))

    assert extent_of([history, history]) == Extent(functions=3, pairs=3)
    assert extent_of([history]).pairs_possible == 9


def test_pairs_do_not_span_episodes() -> None:
    assert extent_of([calls((0, "a")), calls((0, "b"))]).pairs == 0


def test_schedules_are_counted_with_their_bound() -> None:
    """An episode of a program says what its exploration bought."""
    history = calls(program="two starts", schedules=40, bought="0 in 40 schedules; exhausted")
    extent = extent_of([history, history])

    assert extent.schedules == 80
    assert extent.programs[0] == "two starts: 0 in 40 schedules; exhausted"
    assert Extent.from_json(extent.to_json()) == extent


def test_totals_add_up_scenarios() -> None:
    """Each scenario's functions are its own, so their pairs are not mixed."""
    extents = (Extent(3, 4, 10), Extent(2, 1, 0))
    assert total(extents) == {"schedules": 10, "pairs": 5, "pairs_possible": 13}
