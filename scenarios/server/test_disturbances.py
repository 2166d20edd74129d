"""Scenario of a server whose turns, readers and requests meet something in their way."""

from __future__ import annotations

from harness.checkers.conformance import conforms
from harness.contract import promises
from harness.contract.models.disturbances import DisturbancesModel
from harness.core.history import History
from harness.engine.context import Context
from harness.engine.scenario import Expectation, Mode, Scenario
from harness.pytest_plugin import Judge

RACES = ("start", "start", "cancel")


def disturb(context: Context) -> None:
    """Walk through every situation once."""
    for _ in range(context.examples):
        with context.episode() as episode:
            ask = episode.client.ask
            for kind in RACES:
                ask("raced", {"kind": kind})
            for change in ask("changes", {}).result or ():
                ask("interfere", {"change": change})
            for opened in ask("readers", {}).result or ():
                ask("followed", {"opened": opened})
            for by in ask("parents", {}).result or ():
                ask("outlived", {"by": by})
            for name in ask("lock_database", {}).result or ():
                ask("beside_locked", {"name": name})
            for name in ask("commit", {}).result or ():
                ask("beside_committing", {"name": name})
            for kind in ask("noise", {}).result or ():
                ask("woken_beside", {"kind": kind})


def _count(name: str, function: str, needed: int = 1) -> Expectation:
    return Expectation(name, lambda history: len(history.happened.of(function)), needed)


def _during_a_turn(history: History) -> int:
    return sum(op.result["two"] == 1 for op in history.happened.of("interfere"))


DISTURBED = Scenario(
    name="server-disturbed",
    mode=Mode.HTTP,
    ability="disturbed",
    promises=(
        *(promises.T1, promises.T3, promises.T8, promises.S2, promises.S6, promises.S14),
        *(promises.A2, promises.A5, promises.L14, promises.H2, promises.H6, promises.D3),
        *(promises.C3, promises.C7, promises.W1, promises.W2, promises.W13),
    ),
    workload=disturb,
    checker=conforms(DisturbancesModel()),
    expectations=(
        _count("two requests came at once", "raced", len(RACES)),
        Expectation("a change came while a turn was under way", _during_a_turn),
        _count("a reader followed an idle session", "followed"),
        _count("a request met a locked database", "beside_locked"),
        _count("a request met a silent memory provider", "beside_committing"),
    ),
    examples=1,
)


def test_nothing_suffers_from_what_comes_in_between(judge: Judge) -> None:
    """Changes, races, locks, a silent provider, a reader and noise, each beside ordinary use."""
    assert judge(DISTURBED).is_valid
