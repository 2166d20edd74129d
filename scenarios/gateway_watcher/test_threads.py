"""A watcher on trial by schedules: whoever reads when it stops is told, also who just comes."""

from __future__ import annotations

from itertools import product

from harness.contract.checkers.threads.stream_shutdown import readers_end_with_the_stop
from harness.core.history import History
from harness.core.promises import Promise
from harness.engine.scenario import Mode, Scenario
from harness.schedule import Call
from harness.workloads.threads import Interleaving, Program
from scenarios.conftest import Judge

START, STOP, READ, READERS = Call("start"), Call("stop"), Call("read"), Call("readers")


def program(name: str, first: tuple[Call, ...], *threads: tuple[Call, ...]) -> Program:
    """Threads that meet, and an empty house."""
    return Program(name, threads, Promise.G4, first, (READ, READERS))


def reader_met_stop(history: History) -> bool:
    """Somebody read while it was stopped."""
    calls = ([op for op in history if op.function == name] for name in ("read", "stop"))
    return any(one.meets(other) for one, other in product(*calls))


MEETINGS = Interleaving(
    programs=(
        program("a reader", (), (STOP,), (READ,)),
        program("two readers", (), (STOP,), (READ,), (READ,)),
        program("two stops", (), (STOP,), (STOP,), (READ,)),
        program("while it looks", (START,), (STOP,), (READ,)),
    ),
    check=readers_end_with_the_stop,
    meetings={"a reader met the stop": reader_met_stop},
)

WATCHER_THREADS = Scenario(
    name="watcher-threads",
    mode=Mode.SCHEDULE,
    ability="watcher_threads",
    promises=(Promise.G4,),
    workload=MEETINGS.explore,
    checker=MEETINGS.judge,
    expectations=tuple(MEETINGS.met(meeting) for meeting in MEETINGS.meetings),
    examples=1_200,
    replay=MEETINGS.replay,
)


def test_whoever_reads_is_told_when_it_stops(judge: Judge) -> None:
    """Readers come while a watcher is stopped, once or twice, at work or not."""
    assert judge(WATCHER_THREADS).is_valid
