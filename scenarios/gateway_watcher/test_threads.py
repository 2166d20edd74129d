"""Scenario of concurrent stops and readers of the watcher: every reader receives the end."""

from __future__ import annotations

from itertools import product

from harness.contract import promises
from harness.contract.checkers.threads.plain_answers import with_plain_answers
from harness.contract.checkers.threads.stream_shutdown import check_stream_shutdown
from harness.core.history import History
from harness.pytest_plugin import Judge
from harness.schedule import Call
from harness.workloads.threads import Interleaving, Program

START, STOP, READ, READERS = Call("start"), Call("stop"), Call("read"), Call("readers")


def program(name: str, first: tuple[Call, ...], *threads: tuple[Call, ...]) -> Program:
    """Concurrent threads, and a read of the remaining readers."""
    return Program(name, threads, promises.G4, first, (READ, READERS))


def reader_met_stop(history: History) -> bool:
    """A read overlapped a stop."""
    calls = ([op for op in history if op.function == name] for name in ("read", "stop"))
    return any(one.meets(other) for one, other in product(*calls))


# Calls that nothing may refuse, and calls that return nothing.
ACCEPTED = ("start", "stop", "read", "readers")
SILENT = ("start", "stop")

MEETINGS = Interleaving(
    programs=(
        program("a reader", (), (STOP,), (READ,)),
        program("two readers", (), (STOP,), (READ,), (READ,)),
        program("two stops", (), (STOP,), (STOP,), (READ,)),
        program("a running watcher", (START,), (STOP,), (READ,)),
    ),
    check=with_plain_answers(check_stream_shutdown, promises.G4, accepted=ACCEPTED, silent=SILENT),
    meetings={"a reader met the stop": reader_met_stop},
)

WATCHER_THREADS = MEETINGS.scenario(
    "watcher-threads",
    ability="watcher_threads",
    promises=(promises.G4,),
    examples=1_200,
)


def test_stop_notifies_every_reader(judge: Judge) -> None:
    """Readers subscribe while a watcher is stopped, once or twice, idle or at work."""
    assert judge(WATCHER_THREADS).is_valid
