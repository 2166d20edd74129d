"""Scenario of turns of every kind, through each way that a turn can go."""

from __future__ import annotations

from harness.checkers.conformance import conforms
from harness.contract import promises
from harness.contract.models.turn_ways import TURN_FACTS
from harness.core.history import History
from harness.engine.context import Context
from harness.engine.scenario import Expectation, Mode, Scenario
from harness.pytest_plugin import Judge

FACTS = 40


def go(context: Context) -> None:
    """Let turns go each way, and look at all of them after it.

    Some facts are named by what only the timing of a turn shows, so no part of the walk repeats it:
    the note says that, and a proof stays whole.
    """
    for _ in range(context.examples):
        with context.episode(is_timed=True) as episode:
            ask = episode.client.ask
            for way in ask("ways", {}).result or ():
                for name in ask("way", {"name": way}).result or ():
                    ask("fact", {"name": name})


def _seen(history: History) -> int:
    return len(history.happened.of("fact"))


TURN_WAYS = Scenario(
    name="server-every-turn",
    mode=Mode.HTTP,
    ability="turns",
    promises=(
        *(promises.T3, promises.T4, promises.T5, promises.T7, promises.T8, promises.T9),
        *(promises.C1, promises.C2, promises.C3, promises.C4, promises.C5, promises.C6),
        *(promises.C7, promises.S2, promises.S13, promises.S14, promises.S15),
        *(promises.H2, promises.H4, promises.H6, promises.D13, promises.S9),
        *(promises.S11, promises.C11),
        *(promises.W1, promises.W2, promises.W5, promises.A1),
    ),
    workload=go,
    checker=conforms(TURN_FACTS),
    expectations=(Expectation("a turn was looked at", _seen, FACTS),),
    examples=1,
)


def test_every_turn_shows_and_keeps_its_steps(judge: Judge) -> None:
    """Turns that think, call, ask, fail, are cancelled or killed, by an agent or a gateway."""
    assert judge(TURN_WAYS).is_valid
