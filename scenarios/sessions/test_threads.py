"""The session store on trial by schedules: no stale copy wins, no cleanup unmarks a new run."""

from __future__ import annotations

from harness.contract.checkers.threads.session_writes import writes_are_stored
from harness.core.history import History, Outcome
from harness.core.promises import Promise
from harness.engine.scenario import Mode, Scenario
from harness.schedule import Call
from harness.workloads.threads import Interleaving, Program
from scenarios.conftest import Judge

S = {"session": "s"}
NEW = Call("new", S)
STALE = Call("leave_behind", {**S, "stream": "old"})
START = Call("start_run", {**S, "stream": "new"})
CLEANUP = Call("cleanup", S)
QUIET = (Call("messages", S), Call("active", S))


def say(text: str) -> Call:
    """Append a text."""
    return Call("append", {**S, "text": text})


def save(text: str) -> Call:
    """Save a copy with a text more."""
    return Call("save_copy", {**S, "text": text})


def program(name: str, first: tuple[Call, ...], *threads: tuple[Call, ...]) -> Program:
    """Threads that meet on one session, and two reads when all is quiet."""
    return Program(name, threads, Promise.S1, first, QUIET)


def copy_was_refused(history: History) -> bool:
    """A copy was stale by the time it was saved, and somebody was told."""
    return any(op.function == "save_copy" and op.outcome is Outcome.FAIL for op in history)


def cleanup_met_start(history: History) -> bool:
    """A cleanup was under way while a run registered."""
    starts = [op for op in history if op.function == "start_run"]
    return any(op.meets(s) for op in history if op.function == "cleanup" for s in starts)


MEETINGS = Interleaving(
    programs=(
        program("two copies", (NEW, say("t0")), (save("t1"),), (save("t2"),)),
        program("a copy and an append", (NEW, say("t0")), (save("t1"),), (say("t2"),)),
        program("a cleanup and a start", (NEW, STALE), (CLEANUP,), (START,)),
        program("a cleanup and an append", (NEW, STALE), (CLEANUP,), (say("t1"),)),
    ),
    check=writes_are_stored,
    meetings={
        "a stale copy was refused": copy_was_refused,
        "a cleanup met a start": cleanup_met_start,
    },
)

SESSIONS_THREADS = Scenario(
    name="sessions-threads",
    mode=Mode.SCHEDULE,
    ability="sessions_threads",
    promises=(Promise.S1, Promise.S2, Promise.S7, Promise.S9, Promise.S10),
    workload=MEETINGS.explore,
    checker=MEETINGS.judge,
    expectations=tuple(MEETINGS.met(meeting) for meeting in MEETINGS.meetings),
    examples=600,
    replay=MEETINGS.replay,
)


def test_threads_that_meet_lose_no_write_and_no_run(judge: Judge) -> None:
    """What was acknowledged is there, and a live run keeps its mark, whatever threads do."""
    assert judge(SESSIONS_THREADS).is_valid
