"""Scenarios of sessions of many shapes, each seen through every route that shows it."""

from __future__ import annotations

from dataclasses import replace

from harness.checkers.conformance import conforms
from harness.contract import promises
from harness.contract.models.shapes import SHAPE_FACTS
from harness.core.history import History
from harness.engine.context import Context
from harness.engine.scenario import Expectation, Mode, Scenario
from harness.pytest_plugin import Judge

VIEWS = 150
STORED_VIEWS = 70


def see(context: Context) -> None:
    """Make every shape, change all of them, and delete them; look at all after each round."""
    for _ in range(context.examples):
        with context.episode() as episode:
            ask = episode.client.ask
            for kind in ask("rounds", {}).result or ():
                for name in ask("round", {"kind": kind}).result or ():
                    ask("fact", {"name": name})


def _seen(history: History) -> int:
    return len(history.happened.of("fact"))


SHAPES = Scenario(
    name="server-every-shape",
    mode=Mode.HTTP,
    ability="shapes",
    promises=(
        *(promises.S2, promises.S3, promises.S6, promises.S8, promises.S11, promises.S13),
        *(promises.S14, promises.S15, promises.T3, promises.C3, promises.C5, promises.H2),
    ),
    workload=see,
    checker=conforms(SHAPE_FACTS),
    expectations=(Expectation("a session was seen through a route", _seen, VIEWS),),
    examples=1,
)


STORED = replace(
    SHAPES,
    name="server-stored-by-others",
    ability="stored",
    expectations=(Expectation("a session was seen through a route", _seen, STORED_VIEWS),),
    promises=(
        *(known for known in SHAPES.promises if known not in (promises.C3, promises.C5)),
        *(promises.H6, promises.H7, promises.S7, promises.S16, promises.T9),
    ),
)


def test_every_route_shows_the_same_session(judge: Judge) -> None:
    """Sessions that were cut, undone, failed, cancelled, copied: after changes and restarts."""
    assert judge(SHAPES).is_valid


def test_disk_that_others_have_written_is_shown(judge: Judge) -> None:
    """Files, rows and journals that other versions, programs and kills have left behind."""
    assert judge(STORED).is_valid
