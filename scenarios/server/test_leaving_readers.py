"""Scenario of readers that leave in every way at every moment, and of the server after them."""

from __future__ import annotations

from collections import Counter
from itertools import product

from harness.checkers.conformance import Fold, conforms
from harness.contract import promises
from harness.contract.models.leaving_readers import LeavingReadersModel
from harness.core.history import History
from harness.engine.context import Context
from harness.engine.scenario import Expectation, Mode, Scenario
from harness.pytest_plugin import Judge

ENDPOINTS = ("run", "events", "notices", "gateway", "list")
WAYS = ("close", "reset", "half")
MOMENTS = ("prepared", "sent", "head", "shown", "piped")
READERS = 3
ANOMALIES_MAX = 2  # of one way to leave; the other ways are asked all the same


def leave_in_every_way(context: Context) -> None:
    """Walk through all combinations, in a random order; then let the last reader leave."""
    rng = context.rng("leaving")
    for _ in range(context.examples):
        with context.episode() as episode:
            fold = Fold(LeavingReadersModel())
            fold.step(episode.client.ask("begin", {}))
            cases = [*product(ENDPOINTS, WAYS, MOMENTS)]
            rng.shuffle(cases)
            left_behind: Counter[str] = Counter()
            for endpoint, way, moment in cases:
                if left_behind[way] >= ANOMALIES_MAX or left_behind[f"{way} {endpoint}"]:
                    continue
                argument = {"endpoint": endpoint, "way": way, "moment": moment, "readers": READERS}
                if fold.step(episode.client.ask("leave", argument)):
                    left_behind.update((way, f"{way} {endpoint}"))
            episode.client.ask("rest", {})
            episode.client.ask("idle", {})


def leave_stalled(context: Context) -> None:
    """Take nothing from a run that shows much, and leave in each way."""
    for _ in range(context.examples):
        with context.episode() as episode:
            episode.client.ask("begin", {})
            for way in WAYS:
                episode.client.ask("leave_stalled", {"way": way, "readers": READERS})
            episode.client.ask("rest", {})


def _left(way: str) -> Expectation:
    def count(history: History) -> int:
        return sum(op.argument["way"] == way for op in history.happened.of("leave"))

    return Expectation(f"readers left: {way}", count, len(ENDPOINTS) * len(MOMENTS))


LEAVING_READERS = Scenario(
    name="server-readers-leave",
    mode=Mode.HTTP,
    ability="leaving",
    promises=(promises.C11, promises.H8, promises.H5),
    workload=leave_in_every_way,
    checker=conforms(LeavingReadersModel()),
    expectations=(
        *map(_left, WAYS),
        Expectation("every client left", lambda history: len(history.happened.of("rest"))),
        Expectation("the idle server was watched", lambda h: len(h.happened.of("idle"))),
    ),
    examples=1,
)


def _stalled(history: History) -> int:
    return sum(op.result["stalled"] for op in history.happened.of("leave_stalled"))


STALLED_READERS = Scenario(
    name="server-stalled-readers-leave",
    mode=Mode.HTTP,
    ability="stalled",
    promises=(promises.C8, promises.C11, promises.H4, promises.H8),
    workload=leave_stalled,
    checker=conforms(LeavingReadersModel()),
    expectations=(Expectation("a reader that took nothing left", _stalled, len(WAYS) * READERS),),
    examples=1,
)


def test_stalled_readers_that_leave_are_released(judge: Judge) -> None:
    """A reader that takes nothing is released as any other one, before it is dropped."""
    assert judge(STALLED_READERS).is_valid


def test_readers_that_leave_are_released(judge: Judge) -> None:
    """Every gauge, thread and file is back at its first value after readers have left."""
    assert judge(LEAVING_READERS).is_valid
