"""Scenario of concurrent calls on one session: no stale copy wins, no cleanup unmarks a new run."""

from __future__ import annotations

import itertools

from harness.contract import promises
from harness.contract.checkers.threads.plain_answers import with_plain_answers
from harness.contract.checkers.threads.session_writes import check_session_writes
from harness.core.history import History, Outcome
from harness.pytest_plugin import Judge
from harness.schedule import Call
from harness.workloads.threads import Interleaving, Program

S = {"session": "s"}
NEW = Call("new", S)
REOPEN = Call("reopen")
STALE = Call("leave_behind", {**S, "stream": "old"})
START = Call("start_run", {**S, "stream": "new"})
CLEANUP = Call("cleanup", S)
CLEAR, DELETE, LISTED = Call("clear", S), Call("delete", S), Call("listed")
MESSAGES = Call("messages", S)
GONE = (MESSAGES, LISTED)
COUNT_UP, COUNTED = Call("count_up"), Call("counted")
QUIET = (MESSAGES, Call("active", S), LISTED)
OTHER = {"session": "other"}
COPIED_NEW, COPIES = Call("copied_new"), Call("copies")
COPIED_APPEND = Call("copied_append", {"text": "t1"})
PLANS, NOTES = (Call("copied_rename", {"title": title}) for title in ("plans", "notes"))
COPIED_DELETE = Call("copied_delete")
SILENT = (
    *("append", "cleanup", "clear", "count_up", "delete", "leave_behind", "new", "save_copy"),
    "reopen",
    *("copied_append", "copied_delete", "copied_new", "copied_rename"),
    *("start_run",),
)


def append(text: str) -> Call:
    """Append a text."""
    return Call("append", {**S, "text": text})


def save(text: str) -> Call:
    """Save a copy with one more text."""
    return Call("save_copy", {**S, "text": text})


def program(name: str, first: tuple[Call, ...], *threads: tuple[Call, ...]) -> Program:
    """Concurrent threads on one session, and reads when all is quiet."""
    is_deleted = any(DELETE in thread for thread in threads)
    return Program(name, threads, promises.S1, first, GONE if is_deleted else QUIET)


def copied(name: str, *threads: tuple[Call, ...]) -> Program:
    """Concurrent changes of a session that a server also has in its database."""
    return Program(name, threads, promises.S14, (COPIED_NEW, COPIED_APPEND), (COPIES,))


def copied_changes_met(history: History) -> bool:
    """Two changes of the session that is in the database overlapped."""
    changes = [op for op in history if op.function.startswith("copied_")]
    return any(one.meets(other) for one, other in itertools.combinations(changes, 2))


def copy_was_refused(history: History) -> bool:
    """A copy was stale when it was saved, and the save was refused."""
    return any(op.function == "save_copy" and op.outcome is Outcome.FAIL for op in history)


def cleanup_met_start(history: History) -> bool:
    """A cleanup overlapped the registration of a run."""
    starts = history.of("start_run")
    return any(op.meets(start) for op in history.of("cleanup") for start in starts)


def first_read_met_write(history: History) -> bool:
    """The first read of a host, which has nothing in memory, overlapped a write."""
    reads = history.of("messages") if history.of("reopen") else ()
    return any(op.meets(read) for op in history.of("append") for read in reads)


def lists_met(history: History) -> bool:
    """A list was asked for while another one was made."""
    lists = [*history.of("listed"), *history.of("counted")]
    return any(one.meets(other) for one, other in itertools.combinations(lists, 2))


MEETINGS = Interleaving(
    programs=(
        program("two copies", (NEW, append("t0")), (save("t1"),), (save("t2"),)),
        program("a copy and an append", (NEW, append("t0")), (save("t1"),), (append("t2"),)),
        program("a cleanup and a start", (NEW, STALE), (CLEANUP,), (START,)),
        program("a cleanup and an append", (NEW, STALE), (CLEANUP,), (append("t1"),)),
        program("a list as a save ends", (NEW,), (LISTED,), (append("t1"), LISTED)),
        Program(
            "a change as a list is made",
            ((COUNTED,), (COUNT_UP, COUNTED)),
            promises.S15,
            last=(COUNTED,),
        ),
        Program(
            "two sessions of one index",
            ((append("t1"),), (Call("append", {**OTHER, "text": "t2"}),)),
            promises.S11,
            (NEW, Call("new", OTHER)),
            (Call("listed_elsewhere"), LISTED),
        ),
        program("a first read and an append", (NEW, REOPEN), (MESSAGES,), (append("t1"), MESSAGES)),
        program("a clear and an append", (NEW, append("t0")), (CLEAR, MESSAGES), (append("t1"),)),
        program("a delete and a copy", (NEW, append("t0")), (DELETE, LISTED), (save("t1"),)),
        program("a delete and an append", (NEW,), (DELETE, MESSAGES), (append("t1"), MESSAGES)),
        Program(
            "another session and a start",
            ((Call("messages", OTHER),), (START,)),
            promises.A6,
            (Call("new", OTHER), NEW),
            (Call("held"), MESSAGES, Call("active", S)),  # a read would bring it back
        ),
        copied("two changes that are copied", (PLANS,), (NOTES,)),
        copied("a delete beside a copy", (COPIED_DELETE,), (PLANS,)),
    ),
    check=with_plain_answers(check_session_writes, promises.S10, accepted=(), silent=SILENT),
    meetings={
        "a stale copy was refused": copy_was_refused,
        "a cleanup met a start": cleanup_met_start,
        "a list was asked for during another": lists_met,
        "a change met another one that is copied": copied_changes_met,
        "a write met the first read": first_read_met_write,
    },
    needs={"a change met another one that is copied": ("copied_new",)},
)

SESSIONS_THREADS = MEETINGS.scenario(
    "sessions-threads",
    ability="sessions_threads",
    promises=(
        *(promises.S1, promises.S2, promises.S6, promises.S7, promises.S9, promises.S10),
        *(promises.S11, promises.S14, promises.S15, promises.A6),
    ),
    examples=600,
)


def test_concurrent_calls_lose_no_write_and_no_run(judge: Judge) -> None:
    """Acknowledged writes are stored, and a live run keeps its mark, under every schedule."""
    assert judge(SESSIONS_THREADS).is_valid
