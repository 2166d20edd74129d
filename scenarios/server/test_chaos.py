"""Scenarios of many clients of one server that is killed, stopped, and refused its disk.

An episode has two phases. First users send, cancel, remove, start processes and watch,
concurrently, while faults are injected. Then the server is healed and at rest, and everything is
read back, before and after one more kill. Acknowledged messages are stored once; removed ones stay
removed; each process woke its session once.
"""

from __future__ import annotations

from harness.contract import promises
from harness.contract.checkers.server.end_to_end import check_end_to_end
from harness.engine.scenario import Expectation, Mode, Scenario
from harness.pytest_plugin import Judge

from . import chaos_episodes as episodes
from .chaos_episodes import one_episode_each, one_long_episode, retried

KILLED = Scenario(
    name="chaos-killed-under-traffic",
    mode=Mode.HTTP,
    ability="server",
    promises=(
        *(promises.S2, promises.S6, promises.S7, promises.S11, promises.S13),
        *(promises.T1, promises.T3, promises.T4, promises.T7),
        *(promises.C1, promises.C2, promises.C3, promises.C4, promises.C5, promises.C6),
        *(promises.C7, promises.W4, promises.W7, promises.W11, promises.W12, promises.W13),
        promises.H3,
    ),
    workload=one_episode_each(episodes.kill_under_traffic),
    replay=retried(episodes.kill_under_traffic),
    checker=check_end_to_end,
    expectations=(
        Expectation("a turn was begun", episodes.accepted_sends, 20),
        Expectation("a second turn was refused", episodes.refused_sends),
        Expectation("a reply was lost", episodes.lost_replies, episodes.DEATHS),
        Expectation("the server was killed", episodes.count_of("kill"), episodes.DEATHS),
        Expectation("the server was stopped", episodes.faults_with("pause")),
        Expectation("its index was damaged", episodes.faults_with("_index.json")),
        Expectation("a run was cancelled", episodes.cancelled_runs),
        Expectation("a reader resumed with a cursor", episodes.resumed_reads),
        Expectation("a turn was interrupted", episodes.marked_turns("interrupted")),
        Expectation("a process woke its session", episodes.wakeups, 4),
        Expectation("a session was deleted", episodes.count_of("delete")),
    ),
    examples=2,
)

EVICTED = Scenario(
    name="chaos-evicted",
    mode=Mode.HTTP,
    ability="server",
    promises=(promises.A1, promises.A2, promises.A6, promises.T1, promises.T7, promises.W3),
    workload=one_episode_each(episodes.evict, **episodes.CAPS),
    replay=retried(episodes.evict, **episodes.CAPS),
    checker=check_end_to_end,
    expectations=(
        Expectation("a turn was begun", episodes.accepted_sends, 10),
        Expectation("a run was cancelled", episodes.cancelled_runs),
        Expectation("a process woke its session", episodes.wakeups),
    ),
    examples=1,
)

REFUSED_DISK = Scenario(
    name="chaos-disk-refuses",
    mode=Mode.HTTP,
    ability="server",
    promises=(promises.W5, promises.T3),
    workload=one_episode_each(episodes.refuse_writes),
    replay=retried(episodes.refuse_writes),
    checker=check_end_to_end,
    expectations=(
        Expectation("the disk refused writes", episodes.faults_with("writes no file"), 2),
        Expectation("a reply was lost", episodes.lost_replies),
        Expectation("a process woke its session", episodes.wakeups, 6),
    ),
    examples=1,
)

WAKEUPS = Scenario(
    name="chaos-woken-in-many-sessions",
    mode=Mode.HTTP,
    ability="server",
    promises=(promises.W1, promises.W3, promises.W4, promises.W6, promises.W10, promises.W12),
    workload=one_long_episode(episodes.wake_many),
    replay=retried(episodes.wake_many),
    checker=check_end_to_end,
    expectations=(
        Expectation("a process woke its session", episodes.wakeups, 100),
        Expectation("a wakeup was delivered again", episodes.redelivered_wakeups),
        Expectation("the server was killed", episodes.count_of("kill"), 2),
    ),
    examples=1,
)


def test_server_killed_under_traffic_keeps_messages(judge: Judge) -> None:
    """Acknowledged messages are stored once, and removed ones stay removed."""
    assert judge(KILLED).is_valid


def test_server_with_small_caps_closes_idle_agents_only(judge: Judge) -> None:
    """Agents and sessions are evicted while others run, and never those that run."""
    assert judge(EVICTED).is_valid


def test_server_with_refusing_disk_keeps_wakeups(judge: Judge) -> None:
    """A wakeup that cannot start is retried, and a turn that cannot be saved is kept."""
    assert judge(REFUSED_DISK).is_valid


def test_sessions_wake_once_for_each_process(judge: Judge) -> None:
    """Each completion wakes its own session once, through kills and repeated deliveries."""
    assert judge(WAKEUPS).is_valid
