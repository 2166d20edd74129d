"""Scenario of concurrent database calls: every history is linearizable.

The calls of some programs are drawn from those of the model scenario, a few for each thread. In the
others a thread's patience ends as the lock is freed, a write of a batch is refused, a commit or a
sync fails, or a handle is closed beside its callers. The history of every schedule is searched for
an order that the same model accepts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from random import Random
from typing import Any

from harness.contract import promises
from harness.contract.checkers.threads.database_calls import check_database_calls
from harness.contract.checkers.threads.plain_answers import with_plain_answers
from harness.core.history import History, Outcome
from harness.engine.context import Context
from harness.engine.scenario import Mode, Scenario
from harness.pytest_plugin import Judge
from harness.schedule import Call
from harness.workloads.threads import Interleaving, Program

SESSIONS = ("s1", "s2")
DRAWN = 200  # programs to choose from
SCHEDULES = 8  # of each chosen program
HARD_SCHEDULES = 16  # of each program in which something is in the way
TURN_SCHEDULES = (6, 2)  # of the programs of turns; in one of four each line is a point
LOG_SCHEDULES = 200  # of the program of logs in which a sync fails
LATE_SCHEDULES = 4  # of the program of a late leader, whose times decide
QUIET_SCHEDULES = 20  # of each program of logs in which none does
EARLY_ENDS = 2  # of syncs, in a schedule of logs: another thread could still act


def drawn(number: int) -> Program:
    """Draw two or three threads of one or two calls each, by a number."""
    rng = Random(f"state-db-threads/{number}")
    texts = (f"alpha {number}" for number in count())
    threads = [
        tuple(_call(rng, texts) for _ in range(rng.randint(1, 2))) for _ in range(rng.randint(2, 3))
    ]
    first = tuple(Call("create", {"session": session, "source": "cli"}) for session in SESSIONS)
    last = tuple(
        Call(function, {"session": session})
        for session in SESSIONS
        for function in ("get", "messages", "counters")
    )
    return Program(f"drawn {number}", threads, promises.D3, first, last)


def _call(rng: Random, texts: Iterator[str]) -> Call:
    session = {"session": rng.choice(SESSIONS)}
    match rng.choice(("append", "append", "set_title", "clear", "delete", "get", "messages")):
        case "append":
            message = {"role": "user", "text": next(texts), "tool_calls": rng.randint(0, 1)}
            return Call("append", {**session, **message})
        case "set_title":
            return Call("set_title", {**session, "title": "plans"})
        case function:
            return Call(function, session)


# Programs in which something is in the way -------------------------------------------------------

S1 = {"session": "s1"}
S2 = {"session": "s2"}
CREATE = Call("create", {**S1, "source": "cli"})
CREATE_2 = Call("create", {**S2, "source": "cli"})
CHILD = {"session": "s3", "source": "cli", "about": {"parent_session_id": "s2"}}
TAKE = Call("take_lock")
READS = tuple(Call(function, S1) for function in ("get", "messages", "counters"))
SHORT_S = 0.005  # a patience that ends while the lock is polled
BETWEEN_S = 0.0055  # a patience that ends between two polls, where only callers try the lock
GRACE_S = 0.02  # a turn that stays where it is for twice that long is passed by
BEHIND_S = 0.005  # how much later the second writer begins
PASSED_S = 0.025  # when the lock is freed; a writer that passes the others by has tried it then
HELD_S = 3.0  # how long a lock is held that stays for longer than a short patience
SLOW_S = 0.004  # of a sync, as on a disk without a cache
SYNCS_S = (SLOW_S, 3 * SLOW_S, SLOW_S)  # a long one, so that a later one can end before it


def append(text: str, handle: int = 0, session: str = "s1") -> Call:
    """Append a unique text over a handle."""
    return Call(
        "append", {"session": session, "role": "user", "text": f"alpha {text}", "handle": handle}
    )


def arrange(**how: Any) -> Call:
    """Open handles anew."""
    return Call("arrange", how)


def free(after_s: float) -> Call:
    """Free the lock that another program holds."""
    return Call("free_lock", {"after_s": after_s})


def fail(*statements: str) -> Call:
    """Fail statements that begin like these, once each."""
    return Call("fail", {"statements": list(statements)})


def hard(
    name: str, first: tuple[Call, ...], *threads: tuple[Call, ...], last: tuple[Call, ...] = READS
) -> Program:
    """A program on one session."""
    return Program(name, threads, promises.D3, first, last)


UNKNOWN = append("nowhere", session="s9")
SHORT = arrange(patience_s=SHORT_S)
TWO = arrange(handles=2)
HARD = (
    hard(
        "patience ends as the lock is freed",
        (SHORT, CREATE, TAKE),
        (append("a"),),
        (append("b"),),
        (UNKNOWN, append("c")),
        (free(SHORT_S),),
    ),
    hard(
        "a lock that stays",
        (SHORT, CREATE, TAKE),
        (append("a"),),
        (append("b"),),
        last=(free(0.0), *READS, append("c"), *READS),
    ),
    hard(
        "the lock is taken between two tries",
        (SHORT, CREATE, Call("take_lock", {"behind": "ROLLBACK"})),
        (append("a"),),
        (UNKNOWN, append("b")),
        (free(HELD_S),),
    ),
    hard(
        "writes and commits of a batch fail",
        (CREATE, TAKE, fail("COMMIT", "COMMIT", "ROLLBACK")),
        (append("a"), append("b")),
        (UNKNOWN, append("c")),
        (free(0.001),),
    ),
    hard(
        "a handle is closed",
        (TWO, CREATE),
        (append("a", 1),),
        (Call("messages", {**S1, "handle": 1}),),
        (Call("close_handle", {"handle": 1}),),
        last=(Call("left_open"), *READS),
    ),
    hard(
        "a handle is closed beside syncs",
        (arrange(handles=2, sync_s=SLOW_S), CREATE),
        (append("a", 1),),
        (Call("wait", {"seconds": SLOW_S / 4}), append("b", 1)),
        (Call("wait", {"seconds": SLOW_S / 2}), Call("close_handle", {"handle": 1})),
        last=(Call("left_open"), *READS),
    ),
    hard(
        "a title that two sessions want",
        (CREATE, CREATE_2),
        (Call("set_title", {**S1, "title": "plans"}),),
        (Call("set_title", {**S2, "title": "plans"}), READS[0]),
        last=(READS[0], Call("get", S2)),
    ),
    hard(
        "a parent that goes",
        (CREATE, CREATE_2),
        (Call("create", CHILD),),
        (Call("delete", S2),),
        last=(Call("get", S2), Call("columns", {"session": "s3"})),
    ),
    hard(
        "a slow sync fails",
        (arrange(sync_s=SLOW_S, failing_syncs=[4]), CREATE),
        (append("a"), append("b")),
        (append("c"), append("d")),
    ),
    hard(
        "a sync of two handles fails",
        (arrange(handles=2, sync_s=SLOW_S, failing_syncs=[2]), CREATE),
        (append("a"), append("b")),
        (append("c", 1), append("d", 1)),
    ),
)


# A patience ends while the write is in a batch that has begun. A process that is stopped before its
# turn goes on, while the lock is taken: a handle that passed it by waits for its own turn again,
# and nothing tries the lock but the one whose turn it is.
TURNS = (
    hard(
        "patience ends as a batch is written",
        (
            *(arrange(patience_s=BETWEEN_S), CREATE, Call("take_lock", {"until_s": BETWEEN_S})),
            Call("stall", {"statement": "INSERT INTO messages", "seconds": SHORT_S}),
        ),
        (append("a"),),
        (append("b"),),
    ),
    hard(
        "a stopped process goes on",
        (
            *(arrange(handles=2, grace_s=GRACE_S), CREATE),
            *(Call("take_ticket"), append("first"), Call("free_ticket")),
            Call("take_lock", {"yields": True}),
        ),
        (append("a", 1),),
        (Call("wait", {"seconds": BEHIND_S}), append("b")),
        (free(PASSED_S),),
    ),
)


# Programs of logs that share their syncs ---------------------------------------------------------


def commit(text: str, handle: int) -> Call:
    """Commit a unique text to a log."""
    return Call("commit", {"text": f"alpha {text}", "handle": handle})


def logs(
    name: str, failing: tuple[int, ...], *threads: tuple[Call, ...], late: tuple[float, ...] = ()
) -> Program:
    """Some logs that share slow syncs; after a failed sync each commits once more."""
    calls = [call for calls in threads for call in calls if "handle" in call.argument]
    count = 1 + max(call.argument["handle"] for call in calls)
    how = {"logs": count, "syncs_s": list(SYNCS_S), "failing_syncs": list(failing)}
    how |= {"late": list(late)} if late else {}
    closed = {call.argument["handle"] for call in calls if call.function == "close_log"}
    is_open = [number for number in range(count) if number not in closed]
    last = [commit(f"last {number}", number) for number in is_open] if failing else []
    first = (Call("arrange_logs", how),)
    return Program(name, threads, promises.D12, first, (*last, Call("left_open")))


SYNCS = (
    logs(
        "a sync fails among three logs",
        (1,),
        (commit("a", 0),),
        (commit("b", 1), commit("c", 1)),
        (commit("d", 2),),
    ),
    logs(
        "three logs share syncs",
        (),
        (commit("a", 0),),
        (commit("b", 1), commit("c", 1)),
        (commit("d", 2),),
    ),
    logs(
        "a log closes beside syncs",
        (),
        (commit("a", 0), commit("b", 0)),
        (commit("c", 0),),
        (Call("close_log", {"handle": 0}), commit("d", 1)),
    ),
)


# A process is stopped before it locks the round that it is to lead. Meanwhile another one leads it,
# and a third one begins the next. So the late one must not lead: it would say that the third's
# round has not begun, and a commit beside that would be taken for covered by it.
LATE = logs(
    "a leader that comes late",
    (),
    (commit("a", 1),),
    (Call("wait", {"seconds": SLOW_S / 40}), commit("b", 0)),
    (Call("wait", {"seconds": SLOW_S * 1.05}), commit("c", 2)),
    (Call("wait", {"seconds": SLOW_S * 1.75}), commit("d", 2)),
    late=(1, SLOW_S * 1.5),
)


def writes_met(history: History) -> bool:
    """Two writes of the same session overlapped."""
    writes = [op for op in history if op.function in ("append", "clear", "delete", "set_title")]
    return any(
        one.meets(other) and one.argument["session"] == other.argument["session"]
        for index, one in enumerate(writes)
        for other in writes[index + 1 :]
    )


def refused(text: str) -> Callable[[History], bool]:
    """Make the predicate of a refused append whose error contains this text."""

    def has_refused(history: History) -> bool:
        return any(op.outcome is Outcome.FAIL and text in op.error for op in history.of("append"))

    return has_refused


def sync_was_shared(history: History) -> bool:
    """There were fewer syncs than texts committed."""
    began_ns = min((op.invoked_ns for op in history.of("append")), default=0)
    syncs = [sync for sync in history.of("synced") if sync.invoked_ns > began_ns]
    return len(syncs) < sum(len(commit.argument["texts"]) for commit in history.of("committed"))


MODULES = tuple(
    f"reference_impl.state_db.{name}"
    for name in ("write_queue", "group_commit", "wal", "read_pool", "ticket_lock", "state_db")
)
EVENTS = ("committed", "synced", "took", "wait")  # nothing may refuse them
SILENT = (  # return nothing
    *("arrange", "arrange_logs", "close_handle", "close_log", "commit", "fail", "free_lock"),
    *("take_ticket", "free_ticket", "stall"),
    *EVENTS,
)
ATOMIC = Interleaving(
    programs=(*HARD, *TURNS, *SYNCS, LATE, *(drawn(number) for number in range(DRAWN))),
    check=with_plain_answers(check_database_calls, promises.D8, accepted=EVENTS, silent=SILENT),
    meetings={
        "two writes of a session met": writes_met,
        "a patience ended": refused("Patience"),
        "a handle was closed": refused("closed"),
        "a sync failed": refused("NotSynced"),
        "a sync covered two appends": sync_was_shared,
    },
    schedules=SCHEDULES,
    modules=MODULES,
)


def explore_some(context: Context) -> None:
    """Explore the hard programs, and as many of the drawn ones as there are examples."""
    drawn_ones = ATOMIC.programs[-DRAWN:]
    chosen = context.rng("programs").sample(drawn_ones, min(context.examples, DRAWN))
    replace(ATOMIC, programs=HARD, schedules=HARD_SCHEDULES).explore(context)
    for program, schedules in zip(TURNS, TURN_SCHEDULES, strict=True):
        replace(ATOMIC, programs=(program,), schedules=schedules).explore(context)
    logs_alone = replace(ATOMIC, modules=(), timers=EARLY_ENDS)
    replace(logs_alone, programs=SYNCS[:1], schedules=LOG_SCHEDULES).explore(context)
    replace(logs_alone, programs=SYNCS[1:], schedules=QUIET_SCHEDULES).explore(context)
    replace(logs_alone, programs=(LATE,), schedules=LATE_SCHEDULES, timers=0).explore(context)
    replace(ATOMIC, programs=chosen, modules=()).explore(context)


STATE_DB_THREADS = Scenario(
    name="state-db-threads",
    mode=Mode.SCHEDULE,
    ability="state_db_threads",
    promises=(
        *(promises.D1, promises.D2, promises.D3, promises.D4, promises.D5),
        *(promises.D8, promises.D9, promises.D10, promises.D12),
    ),
    workload=explore_some,
    checker=ATOMIC.judge,
    expectations=tuple(ATOMIC.met(meeting) for meeting in ATOMIC.meetings),
    examples=2,
    replay=ATOMIC.replay,
)


def test_concurrent_calls_are_linearizable(judge: Judge) -> None:
    """Each call takes effect at one moment between its begin and its end, or not at all."""
    assert judge(STATE_DB_THREADS).is_valid
