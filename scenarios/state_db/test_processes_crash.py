"""Scenarios of writer processes that are killed or stopped, and of broken disks and files."""

from __future__ import annotations

import itertools
import random
import signal
from collections.abc import Callable

from harness.contract import promises
from harness.contract.checkers.state_db.answers import check_answers
from harness.contract.checkers.state_db.database_content import check_database_content
from harness.contract.checkers.state_db.disk_errors import check_disk_errors
from harness.contract.checkers.state_db.fairness import (
    KILL,
    check_succession,
    check_writes_after_kills,
)
from harness.contract.checkers.state_db.lock_discipline import opened_behind
from harness.contract.checkers.state_db.stalled_holder import check_stalled_holders
from harness.contract.workloads.database_writers import (
    ABILITY,
    Round,
    SelfSignal,
    Step,
    Writer,
    WriterPool,
    writer_pool,
)
from harness.core.history import History, Operation, Outcome
from harness.core.verdict import Anomaly, Verdict
from harness.engine.context import Context
from harness.engine.scenario import Expectation, Mode, Scenario
from harness.faults.disk_faults import FullDisk, small_disk
from harness.faults.file_faults import CorruptFile, MissingFile, ReadOnlyFile
from harness.faults.nemesis import Fault, injecting
from harness.faults.process_faults import Pause, ShortFiles, wait_until_stopped
from harness.pytest_plugin import Judge

from .writers import (
    PATIENCE_S,
    PROMPT,
    all_of,
    answered,
    append,
    appends,
    create,
    no_refused_reads,
    read_back,
    run_again,
)

# Killed writers -----------------------------------------------------------------------------------

WAVE = 10  # writers that are forked together and killed
WAVES_AN_EPISODE = 10
COPIES_AN_EPISODE = 5
STATEMENTS_MAX = 60  # of opening, creating and a dozen appends
SHARED = ("s0", "s1", "s2", "s3")
CHILD_PROCESS = 1_000  # its number in the history
PARENT_INSERTS = 7  # of which an append makes up to three: it forks before, and writes after that


def _random_kill(rng: random.Random) -> SelfSignal:
    """A kill between two statements, or during one: while it waits for a lock, or syncs."""
    after_s = rng.choice((0.0, rng.uniform(0.0001, 0.003)))
    return SelfSignal(signal.SIGKILL, at=rng.randrange(1, STATEMENTS_MAX), after_s=after_s)


def kill_short_lives(context: Context) -> None:
    """Let many short-lived writers open the file and write, and kill each at a random statement.

    One writer in each wave is not killed. The first wave also creates the file.
    """
    rng = context.rng("kills")
    waves, names = context.examples, itertools.count()
    for first in range(0, waves, WAVES_AN_EPISODE):
        with writer_pool(context) as pool:
            for _ in range(first, min(first + WAVES_AN_EPISODE, waves)):
                for _ in range(WAVE):
                    session = rng.choice(SHARED)
                    writes = appends(session, f"k{next(names)}", 20)
                    pool.fork([Round(create(session)), *writes], signal_at=_random_kill(rng))
                session = rng.choice(SHARED)
                survivor = [Round(create(session)), *appends(session, f"k{next(names)}", 5)]
                pool.fork(survivor)
                pool.wait_for_all()
            read_back(pool, SHARED)


def _kills(history: History) -> int:
    return sum(fault.name.startswith(KILL) for fault in history.faults)


def _killed_in(function: str) -> Callable[[History], int]:
    def count(history: History) -> int:
        return sum(op.function == function and op.outcome is Outcome.INFO for op in history)

    return count


check_after_kills = all_of(
    check_database_content, check_writes_after_kills, no_refused_reads, check_answers
)
STATE_DB_CROWD_KILLED = Scenario(
    name="state-db-crowd-killed",
    mode=Mode.CRASH,
    ability=ABILITY,
    promises=(promises.D1, promises.D2, promises.D5, promises.D8),
    workload=kill_short_lives,
    checker=check_after_kills,
    replay=run_again(kill_short_lives),
    expectations=(
        Expectation("a writer was killed", _kills, 50),
        Expectation("a writer was killed during an append", _killed_in("append"), 10),
        Expectation("a writer was killed during an open", _killed_in("open")),
    ),
    examples=34,
)


def test_killed_writers_keep_acknowledged_appends(judge: Judge) -> None:
    """A kill at any statement loses no acknowledged append, and leaves no lock."""
    assert judge(STATE_DB_CROWD_KILLED).is_valid


def kill_while_the_log_is_copied(context: Context) -> None:
    """Let the log grow until it is copied into the database, and kill the writer that does it."""
    rng = context.rng("kills")
    for _ in range(0, context.examples, COPIES_AN_EPISODE):
        with writer_pool(context) as pool:
            pool.ask(*create("s0"), *[append("s0", f"alpha first {n}") for n in range(5)])
            prompt = ("set_system_prompt", {"session": "s0", "text": PROMPT})
            for index in range(COPIES_AN_EPISODE):
                self_signal = SelfSignal(
                    signal.SIGKILL,
                    match="PRAGMA wal_checkpoint",
                    after_s=rng.uniform(0.0002, 0.004),
                )
                steps = [append("s0", f"alpha {index} {{n}}"), prompt]
                pool.fork([Round(steps, 120)], signal_at=self_signal)
                pool.wait_for_all()
            read_back(pool, ("s0",))


STATE_DB_CROWD_KILLED_COPYING = Scenario(
    name="state-db-crowd-killed-copying",
    mode=Mode.CRASH,
    ability=ABILITY,
    promises=(promises.D1, promises.D2, promises.D5, promises.D6),
    workload=kill_while_the_log_is_copied,
    checker=check_after_kills,
    replay=run_again(kill_while_the_log_is_copied),
    expectations=(Expectation("a writer was killed during a checkpoint", _kills),),
    examples=5,
)


def test_kill_during_checkpoint_loses_nothing(judge: Judge) -> None:
    """An interrupted checkpoint begins again, from a log that is complete."""
    assert judge(STATE_DB_CROWD_KILLED_COPYING).is_valid


# Stopped holders ----------------------------------------------------------------------------------

SHORT_PATIENCE_S = 1.0  # for targets that accept one
HASTY_S = 0.3
WAITED_S = 0.3  # how long a lock is held while a writer comes to wait for it
FOREIGN_HOLD_S = 1.5  # how long a holder that is not the target's has the lock, stopped or not
OTHERS = ("s1", "s2")  # the sessions of the other writers


def stop_in_the_middle(context: Context) -> None:
    """Stop a holder inside its transaction until all others were answered, then resume it.

    Then stop a writer before its transaction: it holds no lock, so it delays no other writer.
    """
    for _ in range(context.examples):
        with writer_pool(context) as pool:
            pool.ask(*create("s0", *OTHERS))
            inside = SelfSignal(signal.SIGSTOP, match="INSERT INTO messages")
            _stop(context, pool, inside, SHORT_PATIENCE_S, "inside")
            before = SelfSignal(signal.SIGSTOP, match="BEGIN")
            _stop(context, pool, before, PATIENCE_S, "before")
            _stop_a_foreign_holder(context, pool)
            _stop_a_waiter(context, pool)
            read_back(pool, ("s0", *OTHERS))


def _stop(
    context: Context, pool: WriterPool, self_signal: SelfSignal, patience_s: float, name: str
) -> None:
    stopped = pool.fork(appends("s0", f"{name} s0", 3), signal_at=self_signal)
    wait_until_stopped(stopped.pid)
    with injecting(Pause(stopped.pid), context.journal):
        others = [
            pool.fork(appends(session, f"{name} {session}", 1), patience_s=patience_s)
            for session in OTHERS
        ]
        for other in others:
            pool.wait_for_exit(other)
    pool.wait_for_exit(stopped)


def _stop_a_foreign_holder(context: Context, pool: WriterPool) -> None:
    """Stop a holder that is not the target's, and so waits in no order of the target's.

    The first writer has the longer patience, so that it still waits as the second one is refused.
    """
    holder = pool.fork([Round([("hold", {"strokes": 1, "pause_s": FOREIGN_HOLD_S})])])
    pool.wait_for(holder, "held")
    with injecting(Pause(holder.pid), context.journal):
        others = []
        for session, patience_s in zip(OTHERS, (SHORT_PATIENCE_S, HASTY_S), strict=True):
            writes = appends(session, f"inside {session} foreign", 1)
            others.append(pool.fork(writes, patience_s=patience_s, traced=True))
            pool.wait_for(others[-1], "open")
        for other in others:
            pool.wait_for_exit(other)
    pool.wait_for_exit(holder)


def _stop_a_waiter(context: Context, pool: WriterPool) -> None:
    """Stop a writer that waits for its turn, so that its turn comes and it does not take it."""
    holder = pool.fork([Round([("hold", {"strokes": 1, "pause_s": WAITED_S})])])
    pool.wait_for(holder, "held")
    waiter = pool.fork(appends("s0", "waiting s0", 1))
    pool.wait_for(waiter, "open")
    with injecting(Pause(waiter.pid), context.journal):
        pool.wait_for_exit(holder)
        others = [
            pool.fork(appends(session, f"behind {session}", 1), patience_s=PATIENCE_S)
            for session in OTHERS
        ]
        for other in others:
            pool.wait_for_exit(other)
    pool.wait_for_exit(waiter)


def _others_continue(history: History) -> Verdict:
    """Judge that only writes beside the holder that was stopped inside are refused."""
    refused = (op for op in history if op.outcome is Outcome.FAIL and not _is_beside_holder(op))
    return Verdict(
        tuple(
            Anomaly(
                promises.D5,
                f"{op.call} was refused although no stopped process held the lock",
                (op,),
                "refused",
                expected="success: a process stopped before its transaction holds no lock",
                observed=op.answer,
            )
            for op in refused
        )
    )


def _is_beside_holder(op: Operation) -> bool:
    return any(f"inside {other}" in str(op.argument) for other in OTHERS)


def _refused_beside_holder(history: History) -> int:
    return sum(op.function == "append" and op.outcome is Outcome.FAIL for op in history)


def _not_delayed(history: History) -> int:
    return sum("before s" in str(op.argument) and op.outcome is Outcome.OK for op in history)


STATE_DB_CROWD_HUNG = Scenario(
    name="state-db-crowd-hung",
    mode=Mode.CRASH,
    ability=ABILITY,
    promises=(promises.D1, promises.D2, promises.D5, promises.D11),
    workload=stop_in_the_middle,
    checker=all_of(
        *(check_stalled_holders, opened_behind, _others_continue),
        *(check_database_content, check_answers),
    ),
    replay=run_again(stop_in_the_middle),
    expectations=(
        Expectation("a write was refused beside a stopped holder", _refused_beside_holder, 4),
        Expectation("a write succeeded beside a stopped writer", _not_delayed, 2),
    ),
    examples=1,
)


def test_stopped_holder_is_named_after_patience(judge: Judge) -> None:
    """Refusals name the holder; a stopped process without the lock delays no write."""
    assert judge(STATE_DB_CROWD_HUNG).is_valid


# Forked holders -----------------------------------------------------------------------------------

HEIRS = ("s1", "s2", "s3", "s4")  # the sessions of the writers behind a killed one


def kill_a_parent(context: Context) -> None:
    """Fork a child with an open handle, kill the parent inside a write, and let others write.

    The child has copies of what its parent had open, and lives on. At last it uses its handle.
    """
    for number in range(context.examples):
        with writer_pool(context) as pool:
            pool.ask(*create("s0", *HEIRS))
            reads = [("messages", {"session": "s0"}), ("get", {"session": "s0"})]
            child = {
                "process": CHILD_PROCESS,
                "name": f"child {number}",
                "steps": [append("s0", "alpha child"), *reads],
            }
            before = Round([append("s0", "alpha parent {n}")], 2)
            rounds = [before, Round([("fork", child)]), *appends("s0", "parent again", 3)]
            inside = SelfSignal(signal.SIGKILL, match="INSERT INTO messages", at=PARENT_INSERTS)
            pool.wait_for_exit(pool.fork(rounds, signal_at=inside))
            with pool.starting_together():
                for session in HEIRS:
                    pool.fork(appends(session, f"heir {session}", 3))
            pool.wait_for_all()
            pool.wait_for_child(f"child {number}")
            read_back(pool, ("s0", *HEIRS))


def _children(history: History) -> int:
    return sum(op.process == CHILD_PROCESS for op in answered(history))


STATE_DB_CROWD_FORKED = Scenario(
    name="state-db-crowd-forked",
    mode=Mode.CRASH,
    ability="state_db_syncs",
    promises=(promises.D1, promises.D2, promises.D5, promises.D8),
    workload=kill_a_parent,
    checker=all_of(
        check_succession,
        check_writes_after_kills,
        no_refused_reads,
        check_database_content,
        check_answers,
    ),
    replay=run_again(kill_a_parent),
    expectations=(
        Expectation("a parent was killed during an append", _killed_in("append")),
        Expectation("a child wrote over the handle that it inherited", _children),
    ),
    examples=1,
)


def test_killed_parent_is_succeeded_beside_its_child(judge: Judge) -> None:
    """A child with an inherited handle keeps none of its parent's locks, and can use it."""
    assert judge(STATE_DB_CROWD_FORKED).is_valid


# Broken disks and files ---------------------------------------------------------------------------

DISK_BYTES = 6 << 20
PAGE_BYTES = 4096
NO_PAGE_TYPE = b"\xff"  # with it SQLite always recognises a damaged page

DiskEpisode = Callable[[Context, WriterPool], None]


def _work_on(session: str, name: str, times: int = 3) -> list[Step]:
    return [append(session, f"alpha {name} {index}") for index in range(times)]


def _beside(fault: Fault, context: Context, pool: WriterPool, *steps: Step) -> bool:
    """Run steps in a new writer beside a fault; returns whether this system allows the fault."""
    if not fault.available():
        return False
    with injecting(fault, context.journal):
        pool.ask(*steps)
    return True


def _in_between(context: Context, pool: WriterPool, make: Callable[[Writer], Fault]) -> None:
    """Let one writer work before, beside and after a fault, with the file open all the time."""
    read = ("messages", {"session": "s0"})
    beside = [read, *_work_on("s0", "beside"), append("s0", "alpha " + "much " * 5_000), read]
    rounds = (
        [*create("s0"), *_work_on("s0", "before"), ("get", {"session": "s0"})],
        [("await", {"name": "broken"}), *beside, ("list", {}), ("await", {"name": "healed"})],
        _work_on("s0", "after"),
    )
    writer = pool.fork([Round(steps) for steps in rounds])
    pool.wait_for(writer, "get")
    fault = make(writer)
    if fault.available():
        with injecting(fault, context.journal):
            pool.release("broken")
            pool.wait_for(writer, "list")
    pool.release("broken")
    pool.release("healed")
    pool.wait_for_all()
    read_back(pool, ("s0",))


def _fill_the_disk(context: Context, pool: WriterPool) -> None:
    """Leave no free byte on the disk."""
    with small_disk(pool.folder, DISK_BYTES):
        _in_between(context, pool, lambda _: FullDisk(pool.folder))


def _shorten_the_files(context: Context, pool: WriterPool) -> None:
    """Refuse writes to the log, with an error other than that of a full disk."""

    def short(writer: Writer) -> Fault:
        return ShortFiles(writer.pid, pool.log_bytes() + PAGE_BYTES)

    _in_between(context, pool, short)


def _forbid_to_write(context: Context, pool: WriterPool) -> None:
    """Make the file read-only."""
    pool.ask(*create("s0"), *_work_on("s0", "before"))
    read = ("messages", {"session": "s0"})
    _beside(ReadOnlyFile(pool.database), context, pool, read, *_work_on("s0", "beside", 1))
    pool.ask(*_work_on("s0", "after"))
    read_back(pool, ("s0",))


def _corrupt_pages(context: Context, pool: WriterPool) -> None:
    """Overwrite one page after another, the first included, and only read meanwhile."""
    rng = context.rng("pages")
    pool.ask(*create("s0"), *_work_on("s0", "before", 30))
    pages = pool.database.stat().st_size // PAGE_BYTES
    for page in (0, *rng.sample(range(1, pages), 4)):
        content = NO_PAGE_TYPE + rng.randbytes(PAGE_BYTES - len(NO_PAGE_TYPE))
        garbage = CorruptFile(pool.database, page * PAGE_BYTES, content)
        read = ("messages", {"session": "s0"})
        _beside(garbage, context, pool, read, ("search", {"word": "alpha"}))
    pool.ask(*_work_on("s0", "after"))
    read_back(pool, ("s0",))


def _lose_the_shared_memory(context: Context, pool: WriterPool) -> None:
    """Kill all writers and remove the shared-memory file, which SQLite creates again."""
    pool.ask(*create("s0"))
    self_signal = SelfSignal(signal.SIGKILL, match="INSERT INTO messages", at=20)
    pool.fork(appends("s0", "before", 30), signal_at=self_signal)
    pool.wait_for_all()
    shared = pool.database.with_name("state.db-shm")
    if _beside(MissingFile(shared), context, pool, *_work_on("s0", "after")):
        read_back(pool, ("s0",))


def _grow_old(_: Context, pool: WriterPool) -> None:
    """Set an earlier schema version, and open the file in many processes at once."""
    pool.ask(*create("s0"), *_work_on("s0", "before"))
    pool.age()
    with pool.starting_together():
        for index in range(4):
            pool.fork(appends("s0", f"{index}", 3))
    pool.wait_for_all()
    read_back(pool, ("s0",))


EPISODES: tuple[DiskEpisode, ...] = (
    _fill_the_disk,
    _shorten_the_files,
    _forbid_to_write,
    _corrupt_pages,
    _lose_the_shared_memory,
    _grow_old,
)


def break_disk_or_file(context: Context) -> None:
    """Run one kind of fault after another."""
    for number in range(context.examples):
        with writer_pool(context) as pool:
            EPISODES[number % len(EPISODES)](context, pool)


def _healed(history: History) -> int:
    return sum(fault.healed_ns is not None for fault in history.faults)


def _reported(history: History) -> int:
    return sum(op.outcome is Outcome.FAIL for op in history)


STATE_DB_CROWD_TROUBLE = Scenario(
    name="state-db-crowd-trouble",
    mode=Mode.CRASH,
    ability=ABILITY,
    promises=(promises.D1, promises.D2, promises.D8, promises.D10),
    workload=break_disk_or_file,
    checker=all_of(check_disk_errors, check_database_content, check_answers),
    expectations=(
        Expectation("a fault of disk or file was injected and healed", _healed, 3),
        Expectation("an error of disk or file was returned", _reported, 2),
    ),
    replay=run_again(break_disk_or_file),
    examples=len(EPISODES),
)


def test_broken_disk_or_file_is_reported_and_survived(judge: Judge) -> None:
    """Errors are clear during the fault, and nothing is lost when it is healed."""
    assert judge(STATE_DB_CROWD_TROUBLE).is_valid
