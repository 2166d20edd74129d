"""Readers who take nothing, too many of them, or none for a while; and everybody else is served."""

from __future__ import annotations

from harness.checkers.conformance import conforms
from harness.contract.models.backpressure import SILENCE_S, StreamsModel
from harness.core.history import History
from harness.core.promises import Promise
from harness.engine.context import Stage
from harness.engine.scenario import Expectation, Mode, Scenario
from scenarios.conftest import Judge

TOKENS = 8000  # ten times what the kernel takes for a reader who takes nothing


def stall_and_fill(stage: Stage) -> None:
    """Each trial once, for each example."""
    rng = stage.rng("streams")
    for _ in range(stage.examples):
        with stage.episode() as episode:
            episode.client.ask("stall", {"readers": rng.randint(2, 4), "tokens": TOKENS})
            episode.client.ask("fill", {"streams": rng.randint(3, 12)})
            episode.client.ask("leave", {})
            episode.client.ask("keep_silent", {})
            episode.client.ask("stop", {})


def _dropped(history: History) -> int:
    return sum(op.result["dropped"] for op in history.happened if op.function == "stall")


def _refused(history: History) -> int:
    return sum(len(op.result["refused"]) for op in history.happened if op.function == "fill")


def _in_time(history: History) -> int:
    silences = [op.result["silences_s"] for op in history.happened if op.function == "keep_silent"]
    return sum(max(each) <= SILENCE_S for each in silences)


READ = Scenario(
    name="server-and-its-readers",
    mode=Mode.HTTP,
    ability="streams",
    promises=(
        *(Promise.C3, Promise.C6, Promise.C8, Promise.C9, Promise.C10, Promise.H4, Promise.H6),
        Promise.H3,
    ),
    workload=stall_and_fill,
    checker=conforms(StreamsModel()),
    expectations=(
        Expectation("a reader who took nothing was dropped", _dropped),
        Expectation("a stream too many was refused", _refused),
        Expectation("a silence was broken in time", _in_time),
    ),
    examples=1,
)


def test_no_reader_holds_up_another(judge: Judge) -> None:
    """Stalled, in the way, gone, or waiting in silence."""
    assert judge(READ).is_valid
