"""Scenario of a process registry whose events are taken by threads as they come."""

from __future__ import annotations

from itertools import product

from harness.contract import promises
from harness.contract.checkers.threads.process_events import check_process_events
from harness.core.history import History
from harness.pytest_plugin import Judge
from harness.schedule import Call
from harness.workloads.threads import Interleaving, Program

P1, P2 = (Call("end", {"process": process}) for process in ("p1", "p2"))
LOOK = Call("look", {"process": "p1"})
DELIVER, REFUSED = Call("deliver"), Call("deliver", {"marks": False})
SETTLE = Call("settle")


def program(name: str, *threads: tuple[Call, ...], first: tuple[Call, ...] = ()) -> Program:
    """Threads that meet, and what is left afterwards."""
    return Program(name, threads, promises.W1, first, (SETTLE,))


def take_met_end(history: History) -> bool:
    """An event was taken by a call that overlapped the end of its process."""
    return any(
        deliver.meets(end) and deliver.result["process"] == end.argument["process"]
        for deliver, end in product(history.happened.of("deliver"), history.of("end"))
    )


def look_met_mark(history: History) -> bool:
    """A look overlapped the delivery of the same event."""
    return any(
        look.meets(deliver) and deliver.result["process"] == look.argument["process"]
        for look, deliver in product(history.of("look"), history.happened.of("deliver"))
    )


MEETINGS = Interleaving(
    programs=(
        program("an end as it is taken", (P1,), (DELIVER,), (DELIVER,)),
        program("two ends, two threads that take", (P1, P2), (DELIVER, DELIVER), (DELIVER,)),
        program("a look as the mark is refused", (REFUSED,), (LOOK, LOOK), first=(P1,)),
        program("a look as the event is marked", (P2, DELIVER), (LOOK, LOOK), first=(P1,)),
        program("looks as the event is taken", (DELIVER,), (LOOK,), (LOOK,), first=(P1,)),
    ),
    check=check_process_events,
    meetings={
        "an event was taken as its process ended": take_met_end,
        "a look met the mark of its event": look_met_mark,
    },
)

PROCESSES_THREADS = MEETINGS.scenario(
    "processes-threads",
    ability="processes_threads",
    promises=(promises.W1, promises.W3, promises.W5, promises.W9, promises.W12),
    examples=960,
)


def test_events_are_taken_once_by_threads(judge: Judge) -> None:
    """Ends, deliveries and looks meet."""
    assert judge(PROCESSES_THREADS).is_valid
