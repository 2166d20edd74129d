"""Scenario of access control: beyond loopback the server requires the password."""

from __future__ import annotations

import itertools

from harness.checkers.conformance import Fold, conforms
from harness.contract import promises
from harness.contract.models.access_control import AccessControlModel
from harness.core.history import History
from harness.engine.context import Context
from harness.engine.scenario import Expectation, Mode, Scenario
from harness.pytest_plugin import Judge

PASSWORD = "open sesame"  # noqa: S105  of this scenario only
CREDENTIALS = (  # the right ones first: after many wrong ones a server may delay a client
    *(("", ""), ("Bearer", PASSWORD), ("Basic", PASSWORD)),
    *(("Bearer", ""), ("Bearer", "open"), ("Bearer", PASSWORD[::-1])),
    *(("Basic", ""), ("Basic", f"{PASSWORD}r"), ("Basic", "open"), ("Unencoded", "open!")),
)


def try_every_credential(context: Context) -> None:
    """Try every credential on each address, with and without a password; stop at an anomaly."""
    for is_loopback, password in itertools.product((True, False), ("", PASSWORD)):
        fold = Fold(AccessControlModel())
        with context.episode() as episode:
            argument = {"is_loopback": is_loopback, "password": password}
            if fold.step(episode.client.ask("open", argument)):
                return
            for scheme, word in CREDENTIALS:
                if fold.step(episode.client.ask("knock", {"scheme": scheme, "word": word})):
                    return


def _opened(history: History) -> int:
    """Count the servers that serve, or whose address this machine lacks."""
    opens = history.happened.of("open")
    may_open = (op for op in opens if op.argument["is_loopback"] or op.argument["password"])
    return sum(op.result["serves"] or not op.result["is_available"] for op in may_open)


def _unauthorised(history: History) -> int:
    knocks = history.happened.of("knock")
    return sum(401 in op.result for op in knocks)


ACCESS_CONTROL = Scenario(
    name="server-doors",
    mode=Mode.HTTP,
    ability="doors",
    promises=(promises.H1,),
    workload=try_every_credential,
    checker=conforms(AccessControlModel()),
    expectations=(
        Expectation("a server booted, where its address exists", _opened, needed=3),
        Expectation("a client without the password was refused", _unauthorised),
    ),
    examples=1,
)


def test_password_is_required_beyond_loopback(judge: Judge) -> None:
    """On loopback too, once there is one."""
    assert judge(ACCESS_CONTROL).is_valid
