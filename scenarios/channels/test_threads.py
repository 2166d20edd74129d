"""Channels on trial by schedules: they stay while somebody reads them, and no longer."""

from __future__ import annotations

from itertools import chain, product

from harness.contract.checkers.threads.channel_lifetime import channels_outlive_their_readers
from harness.core.history import History
from harness.core.promises import Promise
from harness.engine.scenario import Mode, Scenario
from harness.schedule import Call
from harness.workloads.threads import Interleaving, Program
from scenarios.conftest import Judge

S = {"session": "s"}
GRACE_S = 60.0
TTL_S = 4 * 3600.0


def subscribe(reader: str) -> Call:
    """A reader comes."""
    return Call("subscribe", {**S, "reader": reader})


def leave(reader: str) -> Call:
    """A reader goes."""
    return Call("leave", {"reader": reader})


def notify(number: int) -> Call:
    """A notice for whoever is there."""
    return Call("notify", {**S, "number": number})


COLLECT = Call("collect")
SIZES = Call("sizes")
BEGIN_RUN = Call("begin_run", {**S, "stream": "r"})
GRACE = Call("wait", {"seconds": GRACE_S})
TTL = Call("wait", {"seconds": TTL_S})

# A channel that may be collected, and one that may be as soon as its reader leaves.
ABANDONED = (subscribe("r0"), leave("r0"), GRACE)
IDLE = (subscribe("r0"), TTL)


def program(name: str, first: tuple[Call, ...], *threads: tuple[Call, ...]) -> Program:
    """Threads that meet, a last notice to whoever came, and an empty house."""
    calls = chain.from_iterable(threads)
    come = [call.argument["reader"] for call in calls if call.function == "subscribe"]
    heard = (Call("heard", {"reader": reader}) for reader in come)
    gone = (leave(reader) for reader in come)
    last = (notify(9), *heard, SIZES, *gone, GRACE, COLLECT, SIZES)
    return Program(name, threads, Promise.C9, first, last)


def reader_met_reaper(history: History) -> bool:
    """Somebody subscribed while the reaper collected."""
    calls = ([op for op in history if op.function == name] for name in ("subscribe", "collect"))
    return any(one.meets(other) for one, other in product(*calls))


def channel_was_collected(history: History) -> bool:
    """The reaper found something, before the end."""
    reaped = [op.result for op in history.happened if op.function == "collect"]
    return any(reaped[:-1])


MEETINGS = Interleaving(
    programs=(
        program("a reader", ABANDONED, (COLLECT,), (subscribe("r1"), notify(1))),
        program("two readers", ABANDONED, (COLLECT,), (subscribe("r1"),), (subscribe("r2"),)),
        program("a run", ABANDONED, (COLLECT,), (subscribe("r1"),), (BEGIN_RUN,)),
        program("one for another", IDLE, (leave("r0"),), (COLLECT,), (subscribe("r1"), notify(1))),
    ),
    check=channels_outlive_their_readers,
    meetings={
        "a reader met the reaper": reader_met_reaper,
        "a channel was collected": channel_was_collected,
    },
)

CHANNELS_THREADS = Scenario(
    name="channels-threads",
    mode=Mode.SCHEDULE,
    ability="channels_threads",
    promises=(Promise.C2, Promise.C3, Promise.C7, Promise.C9),
    workload=MEETINGS.explore,
    checker=MEETINGS.judge,
    expectations=tuple(MEETINGS.met(meeting) for meeting in MEETINGS.meetings),
    examples=3_000,
    replay=MEETINGS.replay,
)


def test_no_reader_loses_its_channel_to_the_reaper(judge: Judge) -> None:
    """Whoever comes, goes, and is told something while channels are collected."""
    assert judge(CHANNELS_THREADS).is_valid
