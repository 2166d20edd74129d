"""Scenarios of many clients of one server that is terminated while they use it."""

from __future__ import annotations

from harness.contract import promises
from harness.contract.checkers.server.end_to_end import check_end_to_end
from harness.engine.scenario import Expectation, Mode, Scenario
from harness.pytest_plugin import Judge

from . import chaos_episodes as episodes

TERMINATED = Scenario(
    name="chaos-terminated",
    mode=Mode.CRASH,
    ability="server",
    promises=(promises.S13, promises.T3, promises.W4, promises.H3),
    workload=episodes.one_episode_each(episodes.terminate_under_traffic),
    replay=episodes.retried(episodes.terminate_under_traffic),
    checker=check_end_to_end,
    expectations=(
        Expectation("a turn was begun", episodes.accepted_sends, 10),
        Expectation("the server was terminated", episodes.count_of("terminate"), 2),
        Expectation(
            "it was terminated while a wakeup was deferred",
            episodes.ends_while_deferred("terminate"),
        ),
        Expectation(
            "it was killed while a wakeup was deferred", episodes.ends_while_deferred("kill")
        ),
    ),
    examples=2,
)


def test_server_terminated_under_traffic_exits_cleanly(judge: Judge) -> None:
    """It exits with 0 each time, and loses nothing."""
    assert judge(TERMINATED).is_valid
