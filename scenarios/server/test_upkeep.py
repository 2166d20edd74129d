"""Scenario of a server that sessions come to and leave: what it keeps, holds up, and costs."""

from __future__ import annotations

from harness.checkers.conformance import conforms
from harness.contract import promises
from harness.contract.models.upkeep import UpkeepModel
from harness.core.history import History
from harness.engine.context import Context
from harness.engine.scenario import Expectation, Mode, Scenario
from harness.pytest_plugin import Judge

ROUNDS = 6
SESSIONS = 4  # in each round
IDLE_S = 0.8


def keep_up(context: Context) -> None:
    """Walk through every container, request, part and start, as far as the target names them."""
    for _ in range(context.examples):
        with context.episode() as episode:
            ask = episode.client.ask
            argument = {"rounds": ROUNDS, "sessions": SESSIONS}
            for name in ask("churn", argument).result or ():
                ask("grew", {"name": name})
            for change in ask("changes", {}).result or ():
                ask("kept", {"change": change})
            for call in ask("lock", {}).result or ():
                ask("answered", {"call": call})
            for part in ask("parts", {}).result or ():
                ask("idle_without", {"part": part, "seconds": IDLE_S})
            for starter in ask("starters", {}).result or ():
                ask("started_at_once", {"starter": starter})


def _count(name: str, function: str, needed: int) -> Expectation:
    return Expectation(name, lambda history: len(history.happened.of(function)), needed)


def _answers(history: History) -> int:
    return sum(op.result is True for op in history.happened.of("answered"))


UPKEEP = Scenario(
    name="server-upkeep",
    mode=Mode.HTTP,
    ability="upkeep",
    promises=(
        *(promises.H4, promises.H5, promises.H6, promises.H8),
        *(promises.S2, promises.S3, promises.S14, promises.S15),
        *(promises.W9, promises.A1, promises.L9, promises.T3, promises.T6),
        *(promises.C9, promises.C11, promises.D8),
    ),
    workload=keep_up,
    checker=conforms(UpkeepModel()),
    expectations=(
        _count("a size was compared over time", "grew", 3),
        _count("a session that was not in memory was changed", "kept", 1),
        _count("a request met a held lock", "answered", 10),
        Expectation("a request was answered beside a held lock", _answers),
        _count("an idle server was measured", "idle_without", 1),
    ),
    examples=1,
)


def test_server_keeps_and_costs_nothing_afterwards(judge: Judge) -> None:
    """Sessions come and go, a lock is held, a part is missing, and threads are started twice."""
    assert judge(UPKEEP).is_valid
