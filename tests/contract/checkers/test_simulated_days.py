"""Tests of the checker of simulated days: hours that break a promise, and clocks that disagree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from harness.checkers.growth import Controls, GrowsWithin
from harness.contract import promises
from harness.contract.checkers.server.simulated_days import (
    Bound,
    InstallDaysChecker,
    check_install_days,
    elapsed,
    of_process,
)
from harness.core.contract import Promise
from harness.core.history import History, Operation, Outcome
from harness.core.verdict import Validity

HOUR_S = 3600.0
TALK = {"act": "gateway_talk", "session": "g1", "count": 6}
OPEN = {"act": "open_tab", "tab": "t1", "session": "w1"}
CLOSE = {"act": "close_tab", "tab": "t1"}
DELETE = {"act": "delete", "session": "w1"}
SEEN: Mapping[str, Any] = {
    "projections": 0,
    "fetches": 0,
    "rotations": 4,
    "ended": [],
    "woken": [],
    "channels": 0,
    "announced": None,
    "shown": None,
}


def _hours(*hours: tuple[list[dict[str, Any]], Mapping[str, Any]]) -> History:
    """A history of hours: the acts of each, and the fields of its result that are not empty."""
    return History(
        tuple(
            Operation(
                0,
                "live",
                {"seconds": HOUR_S, "acts": acts},
                Outcome.OK,
                number * 10,
                number * 10 + 5,
                {**SEEN, **seen},
            )
            for number, (acts, seen) in enumerate(hours)
        )
    )


def _samples(process: int, *readings: float) -> tuple[Operation, ...]:
    return tuple(
        Operation(
            process,
            "sample",
            {"operations": number * 100},
            Outcome.OK,
            number * 10,
            number * 10 + 5,
            {"files/x": reading, "process/y": 1.0},
        )
        for number, reading in enumerate(readings)
    )


def _judge(*bounds: Bound) -> InstallDaysChecker:
    return InstallDaysChecker(GrowsWithin((), 0, Controls("operations", "cached", 1.0)), bounds)


def test_sound_days_are_valid() -> None:
    """A wakeup may come an hour late; none is due for a deleted session."""
    fields = {"announced": {"g1": 6}, "shown": {"g1": 6}, "projections": 1}
    history = _hours(
        ([TALK, OPEN], {**fields, "projections": 2, "channels": 1, "fetches": 1}),
        ([TALK], {**fields, "channels": 1, "ended": [["p1", "w1"], ["p2", "w2"]], "woken": ["p2"]}),
        ([], {"channels": 1, "woken": ["p1"], "ended": [["p3", "w1"], ["p4", None]]}),
        ([DELETE, CLOSE], {}),
    )

    assert check_install_days(history).is_valid


@pytest.mark.parametrize(
    ("promise", "history"),
    [
        (promises.W1, _hours(([], {"woken": ["p1"]}), ([], {"woken": ["p1"]}))),
        (promises.W1, _hours(([], {"ended": [["p1", "w1"]]}), ([], {}))),
        (promises.G2, _hours(([], {"projections": 2}))),
        (promises.G2, _hours(([], {}), ([TALK], {"projections": 2, "announced": 1, "shown": 1}))),
        (promises.G1, _hours(([TALK], {"announced": {"g1": 6}, "shown": {"g1": 12}}))),
        (promises.G1, _hours(([TALK], {}))),
        (promises.C9, _hours(([OPEN, CLOSE], {"channels": 1}))),
        (promises.C9, _hours(([OPEN], {"channels": 0}))),
        (promises.C9, _hours(([OPEN], {"channels": 1}), ([DELETE], {"channels": 1}))),
        (promises.M3, _hours(([], {"fetches": 2}))),
        (promises.M3, _hours(*[([], {"fetches": 1})] * 3)),
    ],
)
def test_wrong_hours_break_their_promise(promise: Promise, history: History) -> None:
    """The evidence is the hours in which it was broken."""
    verdict = check_install_days(history)

    assert verdict.validity is Validity.INVALID
    assert verdict.anomalies[0].promise is promise
    assert verdict.anomalies[0].evidence


def test_providers_may_be_queried_once_a_day() -> None:
    """A catalog older than a day is fetched again."""
    day: list[tuple[list[dict[str, Any]], Mapping[str, Any]]] = [
        ([], {"fetches": int(hour == 0)}) for hour in range(24)
    ]

    assert check_install_days(_hours(*day, *day)).is_valid


@pytest.mark.parametrize(
    ("real", "lapsed", "agrees"),
    [
        ((0, 100, 200), (0, 100, 200), True),
        ((0, 100, 200), (50, 150, 252), True),  # another start, and one hundredth more
        ((0, 100, 200), (0, 150, 300), False),
        ((0, 100, 200), (0, 0, 0), False),
        ((5, 5, 5), (5, 5, 9), True),  # within what is small in itself
    ],
)
def test_clocks_agree_by_slopes_within_bounds(
    real: tuple[float, ...], lapsed: tuple[float, ...], *, agrees: bool
) -> None:
    """Elsewhere the verdict is unknown, and names the gauge."""
    history = History((*_samples(1, *real), *_samples(2, *lapsed)))
    verdict = _judge(Bound("files/*", 0.02, 0.1))(history)

    assert verdict.is_valid is agrees
    assert agrees or (verdict.validity is Validity.UNKNOWN and "files/x" in verdict.unknowns[0])


def test_clock_without_samples_is_not_trusted() -> None:
    """A control without samples cannot be compared."""
    verdict = _judge(Bound("*", 1e9))(History(_samples(1, 0, 1)))

    assert verdict.validity is Validity.UNKNOWN


def test_process_of_history_selects_its_operations() -> None:
    """Operations of other processes are left out."""
    history = History((*_samples(1, 0, 1), *_samples(2, 0, 1, 2)))

    assert len(of_process(history, 1)) == 2


def test_unanswered_hour_makes_verdict_unknown() -> None:
    """A wakeup in an hour without a reply is not lost."""
    lost = _hours(([], {"ended": [["p1", "w1"]]}), ([], {}))
    refused = Operation(0, "live", {}, Outcome.FAIL, 7, 8, error="SlowError: a turn did not end")
    history = History((*lost, refused, *_samples(1, 0, 1), *_samples(2, 0, 1)))
    verdict = _judge(Bound("*", 1e9))(history)

    assert check_install_days(lost).validity is Validity.INVALID
    assert verdict.validity is Validity.UNKNOWN
    assert "SlowError" in verdict.unknowns[0]


def test_elapsed_returns_the_reported_times() -> None:
    """By both clocks, where an operation reports them."""
    fields = {"virtual_s": 86_400.0, "real_s": 1.0, "jumps": 17_280}
    history = History((Operation(0, "elapsed", {}, Outcome.OK, 0, 1, fields),))

    assert elapsed(history) == fields
    assert elapsed(History(())) == {}
