"""A server at its door: on loopback all are welcome, elsewhere only those who know the password."""

from __future__ import annotations

import itertools

from harness.checkers.conformance import Fold, conforms
from harness.contract.models.access_control import DoorsModel
from harness.core.history import History
from harness.core.promises import Promise
from harness.engine.context import Stage
from harness.engine.scenario import Expectation, Mode, Scenario
from scenarios.conftest import Judge

PASSWORD = "open sesame"  # noqa: S105  nobody else's
CREDENTIALS = (  # the right ones first: who has been wrong too often may have to wait
    *(("", ""), ("Bearer", PASSWORD), ("Basic", PASSWORD)),
    *(("Bearer", ""), ("Bearer", "open"), ("Bearer", PASSWORD[::-1])),
    *(("Basic", ""), ("Basic", f"{PASSWORD}r"), ("Basic", "open")),
)


def knock_everywhere(stage: Stage) -> None:
    """Open each door, and knock with every word; stop at a proof."""
    for is_loopback, password in itertools.product((True, False), ("", PASSWORD)):
        fold = Fold(DoorsModel())
        with stage.episode() as episode:
            asked = {"is_loopback": is_loopback, "password": password}
            if fold.step(episode.client.ask("open", asked)):
                return
            for scheme, word in CREDENTIALS:
                if fold.step(episode.client.ask("knock", {"scheme": scheme, "word": word})):
                    return


def _opened(history: History) -> int:
    """Doors that open to somebody, or cannot be had on this machine."""
    doors = (op for op in history.happened if op.function == "open")
    may_open = (op for op in doors if op.argument["is_loopback"] or op.argument["password"])
    return sum(op.result["serves"] or not op.result["can_be_had"] for op in may_open)


def _turned_away(history: History) -> int:
    knocks = (op for op in history.happened if op.function == "knock")
    return sum(401 in op.result for op in knocks)


DOORS = Scenario(
    name="server-doors",
    mode=Mode.HTTP,
    ability="doors",
    promises=(Promise.H1,),
    workload=knock_everywhere,
    checker=conforms(DoorsModel()),
    expectations=(
        Expectation("a server came up, if it could", _opened, needed=3),
        Expectation("somebody was turned away for want of the password", _turned_away),
    ),
    examples=1,
)


def test_nobody_comes_in_from_elsewhere_without_the_password(judge: Judge) -> None:
    """Nor at home, once there is one."""
    assert judge(DOORS).is_valid
