"""Checks that a reader's events are judged by order, gaps, resumption and owner."""

from __future__ import annotations

import pytest

from harness.checkers.event_order import EventOrder
from harness.core.sse import COMMENT, Frame


def frame(id_: str, data: str = "mine") -> Frame:
    """An event with an id."""
    return Frame(id_.encode(), b"message", data.encode())


def kinds(order: EventOrder, *ids: str) -> list[str]:
    """The kinds of what is wrong with these events; `|` begins another connection."""
    found = []
    for id_ in ids:
        if id_ == "|":
            order.resume()
        else:
            found += [wrong.partition(":")[0] for wrong in order.take(frame(id_))]
    return found


@pytest.mark.parametrize(
    ("ids", "wrong"),
    [
        (("1", "2", "3"), []),
        (("run:7", "run:8", "|", "run:9"), []),
        (("1", "3"), ["gap"]),
        (("1", "2", "2", "3"), ["duplicate"]),
        (("1", "2", "1", "3"), ["order"]),
        (("1", "2", "|", "2", "3"), ["resume"]),
        (("1", "2", "|", "4", "5"), ["resume"]),
        (("1", "2", "|", "1", "2", "3"), ["resume", "duplicate"]),
        (("1", "start", "2"), []),
        (("|", "5", "6"), []),
    ],
)
def test_numbers_are_judged_by_their_order(ids: tuple[str, ...], wrong: list[str]) -> None:
    """Each kind of wrong sequence, and correct ones."""
    assert kinds(EventOrder(), *ids) == wrong


def test_gaps_are_allowed_where_numbers_only_increase() -> None:
    """Such as times, or numbers that several streams share."""
    assert kinds(EventOrder(gapless=False), "1", "5", "|", "9", "9") == ["duplicate"]


def test_foreign_event_is_named() -> None:
    """The reader says which events are its own."""
    order = EventOrder(is_mine=lambda event: event.data == b"mine")

    assert order.take(frame("1")) == []
    assert order.take(frame("2", "other's")) == [
        "foreign: event '2' belongs to another reader: b\"other's\""
    ]


def test_comments_are_no_events() -> None:
    """A heartbeat has no number."""
    order = EventOrder()

    assert order.take(COMMENT) == []
    assert (order.events, order.last) == (0, None)
