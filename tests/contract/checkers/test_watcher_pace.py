"""The pace of a watcher: each change within two polls, silence while looks fail, rest while not."""

from __future__ import annotations

from typing import Any

import pytest

from harness.contract import promises
from harness.contract.checkers.threads.watcher_pace import announced_within
from harness.core.contract import Promise
from tests.contract.checkers.test_threads import one_by_one

POLL_S = 5.0
Call = tuple[str, dict[str, Any], Any]
WRITE: Call = ("write", {}, None)
HEAL: Call = ("heal", {}, None)


def announced(waited_s: float | None) -> Call:
    return "announced", {}, waited_s


def off(how: str) -> Call:
    return "break_off", {"how": how}, None


def wait(seconds: float, announcements: int, projections: int) -> Call:
    found = {"announcements": announcements, "projections": projections}
    return "wait", {"seconds": seconds}, found


@pytest.mark.parametrize(
    ("calls", "broken"),
    [
        ((WRITE, announced(0.0), WRITE, announced(2 * POLL_S)), []),
        ((WRITE, announced(2 * POLL_S + 0.001)), [promises.G1]),
        ((WRITE, announced(None)), [promises.G1]),
        ((off("raises"), WRITE, wait(60.0, 0, 13), HEAL, announced(POLL_S)), []),
        ((off("raises"), WRITE, wait(60.0, 0, 13), HEAL, announced(4 * POLL_S)), [promises.G1]),
        ((off("none"), WRITE, wait(60.0, 0, 14)), [promises.G2]),
        ((off("none"), wait(60.0, 0, 1)), [promises.G2]),
        ((off("missing"), WRITE, wait(60.0, 1, 0)), [promises.G3]),
        ((off("damaged"), WRITE, wait(60.0, 0, 1)), [promises.G2]),
        ((WRITE, announced(0.0), wait(60.0, 0, 0)), []),
        ((WRITE, announced(0.0), wait(60.0, 0, 1)), [promises.G2]),
        ((WRITE, announced(0.0), wait(60.0, 1, 0)), [promises.G2]),
        ((WRITE, wait(60.0, 1, 1), announced(POLL_S)), []),
    ],
)
def test_pace_of_a_watcher_is_judged(calls: tuple[Call, ...], broken: list[Promise]) -> None:
    """Late or missing lists (G1), work without a cause (G2), lists of failed looks (G3)."""
    verdict = announced_within(POLL_S)(one_by_one(*calls))

    assert [anomaly.promise for anomaly in verdict.anomalies] == broken
