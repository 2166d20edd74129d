"""Scenario of readers that stall, are too many, or idle, while other calls are served."""

from __future__ import annotations

from harness.checkers.conformance import conforms
from harness.contract import promises
from harness.contract.models.backpressure import SILENCE_S, BackpressureModel
from harness.core.history import History
from harness.engine.context import Context
from harness.engine.scenario import Expectation, Mode, Scenario
from harness.pytest_plugin import Judge

TOKENS = 8000  # ten times what the kernel buffers for a reader that reads nothing


def stall_and_fill(context: Context) -> None:
    """Run each situation once, for each example."""
    rng = context.rng("streams")
    for _ in range(context.examples):
        with context.episode() as episode:
            episode.client.ask("stall", {"readers": rng.randint(2, 4), "tokens": TOKENS})
            episode.client.ask("fill", {"streams": rng.randint(3, 12)})
            episode.client.ask("leave", {})
            episode.client.ask("keep_silent", {})
            episode.client.ask("stop", {})


def _dropped(history: History) -> int:
    return sum(op.result["dropped"][0] for op in history.happened.of("stall"))


def _resumed(history: History) -> int:
    return sum(op.result["goes_on"] is not None for op in history.happened.of("stall"))


def _beside(history: History) -> int:
    return sum("beside" in op.result for op in history.happened.of("stall"))


def _refused(history: History) -> int:
    return sum(len(op.result["refused"]) for op in history.happened.of("fill"))


def _in_time(history: History) -> int:
    silences = [op.result["silences_s"] for op in history.happened.of("keep_silent")]
    return sum(max(silence) <= SILENCE_S for silence in silences)


READERS = Scenario(
    name="server-and-its-readers",
    mode=Mode.HTTP,
    ability="streams",
    promises=(
        *(promises.C3, promises.C6, promises.C8, promises.C9, promises.C10),
        *(promises.H4, promises.H6, promises.H3, promises.S13),
    ),
    workload=stall_and_fill,
    checker=conforms(BackpressureModel()),
    expectations=(
        Expectation("a stalled reader was dropped", _dropped),
        Expectation("a reader that had stalled read on", _resumed),
        Expectation("another server was started on the folder", _beside),
        Expectation("a stream above the limit was refused", _refused),
        Expectation("a silence was broken in time", _in_time),
    ),
    examples=1,
)


def test_readers_do_not_delay_each_other(judge: Judge) -> None:
    """Stalled readers, too many readers, disconnected and idle ones."""
    assert judge(READERS).is_valid
