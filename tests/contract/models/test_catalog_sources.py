"""Tests that the model of catalog sources accepts right answers, and names wrong ones' promises."""

from __future__ import annotations

from typing import Any

import pytest

from harness.checkers.conformance import Fold
from harness.contract import promises
from harness.contract.models.catalog_sources import MINIMAL, TTL_S, CatalogSourcesModel, catalog
from harness.core.contract import Promise
from harness.core.history import Operation, Outcome

Story = list[Operation]


def op(function: str, result: Any = None, **argument: Any) -> Operation:
    """A call, and its result."""
    return Operation(0, function, argument, Outcome.OK, 0, 0, result)


def answer(function: str, number: int = 0, asked: int = 0) -> Operation:
    """A catalog by the number of its request; 0 is the minimal one."""
    right = catalog("live", f"model-{number}", "other") if number else MINIMAL
    return op(function, {"catalog": right, "asked": asked})


MADE = answer("rebuilt", 1, 1)
FAILS = op("provide", how="raises")
RESTART, SPOIL = op("restart"), op("spoil")
DAY = op("wait", seconds=TTL_S)
TOKEN = op("write", file="auth", text='{"access_token": "new"}')
GARBAGE = op("write", file="auth", text="{")

RIGHT: list[Story] = [
    [answer("shown"), MADE, answer("shown", 1), RESTART, answer("shown", 1), SPOIL],
    [MADE, op("wait", seconds=TTL_S - 1), answer("shown", 1), op("wait", seconds=1)],
    [MADE, DAY, answer("shown"), answer("rebuilt", 2, 1)],
    [op("write", file="auth", text="{}"), MADE, TOKEN, answer("rebuilt", 1)],
    [GARBAGE, MADE, op("touch", file="auth"), answer("shown")],
    [FAILS, answer("rebuilt", 0, 1), op("gauges", {"catalogs_kept": 0, "catalog_flights": 0})],
    [MADE, op("obstruct", file="cache"), answer("shown", 1), RESTART, answer("shown")],
]
WRONG: list[tuple[Promise, Story]] = [
    (promises.M1, [answer("shown", 0, 1)]),
    (promises.M1, [op("shown", {"catalog": {}, "asked": 0})]),
    (promises.M1, [Operation(0, "rebuilt", {}, Outcome.FAIL, 0, 0, error="OSError: full")]),
    (promises.M3, [MADE, DAY, answer("shown", 1)]),
    (promises.M3, [MADE, op("wait", seconds=TTL_S - 1), answer("shown")]),
    (promises.M3, [op("write", file="auth", text="{}"), MADE, TOKEN, answer("rebuilt", 2, 1)]),
    (promises.M3, [MADE, op("write", file="config", text="x"), answer("rebuilt", 1)]),
    (promises.H4, [MADE, op("gauges", {"catalogs_kept": 0, "catalog_flights": 0})]),
]


@pytest.mark.parametrize("story", RIGHT)
def test_right_answer_is_accepted(story: Story) -> None:
    fold = Fold(CatalogSourcesModel())
    for operation in story:
        assert fold.step(operation) is None


@pytest.mark.parametrize(("promise", "story"), WRONG)
def test_wrong_answer_names_its_promise(promise: Promise, story: Story) -> None:
    fold = Fold(CatalogSourcesModel())
    *_, last = [fold.step(operation) for operation in story]
    assert last is not None
    assert last.promise is promise
