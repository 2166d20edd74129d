"""Scenarios of many processes that write one database at once, without faults.

Writers are processes that work by themselves; their logs are merged into one history. No checker
judges times, save for a stated patience that is far longer than any sound wait.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise

from harness.checkers.conformance import conforms
from harness.contract import promises
from harness.contract.checkers.state_db.answers import check_answers
from harness.contract.checkers.state_db.append_transactions import check_append_transactions
from harness.contract.checkers.state_db.database_content import check_database_content
from harness.contract.checkers.state_db.fairness import no_early_refusals, no_starvation
from harness.contract.checkers.state_db.lock_discipline import check_lock_discipline, transactions
from harness.contract.checkers.state_db.wal_size import wal_stays_below
from harness.contract.models.state_db import StateDbModel
from harness.contract.workloads.database_writers import (
    ABILITY,
    Round,
    Step,
    WriterPool,
    writer_pool,
)
from harness.core.history import History, Outcome
from harness.core.verdict import Verdict
from harness.engine.context import Context
from harness.engine.scenario import Expectation, Mode, Scenario
from harness.pytest_plugin import Judge
from harness.targets.registry import find_target

from .writers import (
    LOG_BYTES_MAX,
    PATIENCE_S,
    PROMPT,
    Rounds,
    all_of,
    answered,
    append,
    appends,
    create,
    no_refused_reads,
    overlapping,
    read_back,
    run_again,
)

# Many writers at once -----------------------------------------------------------------------------

SHAPES = ((8, 1, 200), (4, 3, 120), (16, 1, 110))  # processes, threads, messages of each thread


def write_at_once(context: Context) -> None:
    """Let many processes write as fast as they can, each thread into a session of its own.

    They begin together once each has written: an open needs a processor, and no lock.
    """
    for number in range(context.examples):
        processes, threads, messages = SHAPES[number % len(SHAPES)]
        sessions = [f"s{index}" for index in range(processes * threads)]
        with writer_pool(context) as pool:
            pool.ask()  # creates the file
            writers = []
            for index in range(processes):
                own = sessions[index * threads : (index + 1) * threads]
                ready = [Round([*create(*own), ("await", {"name": "all"})])]
                writers.append(
                    pool.fork(*([*ready, *appends(session, session, messages)] for session in own))
                )
            for writer in writers:
                pool.wait_for(writer, "create", threads * threads)
            pool.release("all")
            pool.wait_for_all()
            read_back(pool, sessions)


STATE_DB_CROWD_WAITS = Scenario(
    name="state-db-crowd-waits",
    mode=Mode.CONTENTION,
    ability=ABILITY,
    promises=(promises.D1, promises.D2, promises.D3, promises.D4),
    workload=write_at_once,
    replay=run_again(write_at_once),
    checker=all_of(
        no_refused_reads,
        no_early_refusals(PATIENCE_S),
        no_starvation,
        check_database_content,
        check_answers,
    ),
    expectations=(Expectation("writes of two processes overlapped", overlapping, 100),),
    examples=3,
)


def test_concurrent_writers_are_neither_refused_nor_starved(judge: Judge) -> None:
    """Each write gets the lock in its turn, and no process overtakes another repeatedly."""
    assert judge(STATE_DB_CROWD_WAITS).is_valid


# Behind a long holder -----------------------------------------------------------------------------

STROKES_PER_S = 40
HOLD_S = 0.6  # far more than fifteen attempts, one every few milliseconds
HOLD_S_MAX = 20.0


def wait_for_a_holder(context: Context) -> None:
    """Start writers while one large transaction, not the target's, holds the lock for long."""
    strokes = round(min(context.examples * HOLD_S, HOLD_S_MAX) * STROKES_PER_S)
    hold = {"strokes": strokes, "pause_s": 1 / STROKES_PER_S}
    for threads in (1, 3):
        sessions = [f"s{index}" for index in range(3 * threads)]
        with writer_pool(context) as pool:
            pool.ask(*create(*sessions))
            for index in range(3):
                own = sessions[index * threads : (index + 1) * threads]
                waiting = [Round([("await", {"name": "held"})])]
                pool.fork(*([*waiting, *appends(session, session, 2)] for session in own))
            pool.wait_for(pool.fork([Round([("hold", hold)])]), "held")
            pool.release("held")
            pool.wait_for_all()
            read_back(pool, sessions)


def _waited_for_holder(history: History) -> int:
    """Count the writes that began while the lock was held, and ended after its release."""
    holds = history.happened.of("hold")
    helds = history.happened.of("held")
    return sum(
        (held.completed_ns or 0) < op.invoked_ns < (hold.completed_ns or 0) < (op.completed_ns or 0)
        for hold, held in zip(holds, helds, strict=True)
        for op in answered(history)
    )


STATE_DB_CROWD_HOLDER = Scenario(
    name="state-db-crowd-holder",
    mode=Mode.CONTENTION,
    ability=ABILITY,
    promises=(promises.D2, promises.D3),
    workload=wait_for_a_holder,
    checker=all_of(
        no_refused_reads, no_early_refusals(PATIENCE_S), check_database_content, check_answers
    ),
    replay=run_again(wait_for_a_holder),
    expectations=(Expectation("a write waited for the release", _waited_for_holder, 3),),
    examples=1,
)


def test_writers_wait_for_a_slow_holder(judge: Judge) -> None:
    """Patience is counted in seconds, not in attempts: a slow holder fails no other write."""
    assert judge(STATE_DB_CROWD_HOLDER).is_valid


# How locks are used -------------------------------------------------------------------------------

S1 = {"session": "s1"}
EVERY_WRITE: tuple[Step, ...] = (
    ("create", {**S1, "source": "cli"}),
    ("append", {**S1, "role": "user", "text": "alpha"}),
    ("append", {**S1, "role": "assistant", "text": "beta", "tool_calls": 2}),
    ("replace", {**S1, "messages": [["user", "alpha"], ["user", "gamma"]]}),
    ("set_title", {**S1, "title": "plans"}),
    ("set_system_prompt", {**S1, "text": "be brief"}),
    ("add_tokens", {**S1, "input": 1, "output": 2}),
    ("set_tokens", {**S1, "input": 3, "output": 4}),
    ("end", {**S1, "reason": "done"}),
    ("reopen", {**S1}),
    ("clear", {**S1}),
    ("delete", {**S1}),
    ("prune", {"days": 1}),
)
EVERY_READ: tuple[Step, ...] = (
    ("get", S1),
    ("list", {}),
    ("messages", S1),
    ("search", {"word": "alpha"}),
)


def trace_locks(context: Context) -> None:
    """Trace how every write, every read, and a dropped handle use the file's locks.

    One process follows another, so that a model predicts every answer.
    """
    reads_and_writes = [step for write in EVERY_WRITE for step in (write, *EVERY_READ)]
    for _ in range(context.examples):
        with writer_pool(context) as pool:
            pool.ask(*create("s1"), append("s1", "alpha"))
            for steps in (
                EVERY_READ,
                [*EVERY_READ, ("drop", {}), ("open", {})],
                EVERY_WRITE,
                reads_and_writes,
            ):
                pool.fork([Round(steps, 3)], traced=True)
                pool.wait_for_all()


_MODELLED = frozenset(function for function, _ in (*EVERY_WRITE, *EVERY_READ))


def _conforms_in_sequence(history: History) -> Verdict:
    """Judge the calls of the ability by its model: here they follow one another."""
    calls = tuple(op for op in history if op.function in _MODELLED)
    return conforms(StateDbModel())(replace(history, operations=calls))


def _traced(history: History) -> int:
    return sum(1 for _ in transactions(history))


def _dropped(history: History) -> int:
    return len(history.happened.of("drop"))


STATE_DB_CROWD_LOCKS = Scenario(
    name="state-db-crowd-locks",
    mode=Mode.CONTENTION,
    ability=ABILITY,
    promises=(promises.D7, promises.D8, promises.D11),
    workload=trace_locks,
    checker=all_of(check_lock_discipline, _conforms_in_sequence, check_answers),
    replay=run_again(trace_locks),
    expectations=(
        Expectation("a transaction that wrote was traced", _traced, len(EVERY_WRITE)),
        Expectation("a handle was dropped", _dropped),
    ),
    examples=1,
)


def test_locks_are_taken_at_begin_or_never(judge: Judge) -> None:
    """A write takes the lock when it begins; a read, an open and a close take none."""
    assert judge(STATE_DB_CROWD_LOCKS).is_valid


# The write-ahead log ------------------------------------------------------------------------------

PIN_S = 0.01
PROMPTS = 125  # of each writer beside short readers: more than the log may hold
OUTGROWN = LOG_BYTES_MAX // len(PROMPT) + 20  # prompts that make the log too long
SHORT = OUTGROWN  # prompts behind that: they would outgrow it again, if copies came later now
CUT = 20  # prompts behind a long reader: enough to copy the log, and to start it over


def outgrow_the_log(context: Context) -> None:
    """Write far more than the log may hold, while readers begin and end."""
    for _ in range(context.examples):
        with writer_pool(context) as pool:
            pool.ask(*create("s0", "s1"))
            with pool.starting_together():
                for session in ("s0", "s1"):
                    prompt = ("set_system_prompt", {"session": session, "text": PROMPT})
                    message = append(session, f"alpha {session} {{n}}")
                    pool.fork([Round([prompt, message, ("log_bytes", {})], PROMPTS)])
                pool.fork([Round([("pin", {"pause_s": PIN_S})], 20, PIN_S)])
            pool.wait_for_all()
            pool.ask(*create("s2"))
            _grow_behind_a_reader(pool)
            read_back(pool, ("s0", "s1", "s2"))


def _grow_behind_a_reader(pool: WriterPool) -> None:
    """Let the log grow beyond its limit while one reader stays; then it is cut, and stays short.

    The reader keeps its connection, so that no last close removes the log.
    """
    prompt = ("set_system_prompt", {"session": "s2", "text": PROMPT})
    reader = pool.fork([Round([("pin_until", {"grown": "grown", "over": "over"})])])
    pool.wait_for(reader, "pinned")
    writer = pool.fork(
        [
            Round([prompt], OUTGROWN),
            Round([("await", {"name": "grown"})]),
            Round([prompt], CUT),
            Round([prompt, ("log_bytes", {})], SHORT),
        ]
    )
    pool.wait_for(writer, "set_system_prompt", OUTGROWN)
    pool.release("grown")
    pool.wait_for_exit(writer)
    pool.release("over")
    pool.wait_for_all()


def _written(history: History) -> int:
    """Count how often the writes could have filled the log."""
    prompts = answered(history, ("set_system_prompt",))
    return sum(len(op.argument["text"]) for op in prompts) // LOG_BYTES_MAX


def _snapshots_kept(history: History) -> int:
    return sum(op.result[0] == op.result[1] for op in answered(history, ("pin",)))


STATE_DB_CROWD_LOG = Scenario(
    name="state-db-crowd-log",
    mode=Mode.CONTENTION,
    ability=ABILITY,
    promises=(promises.D3, promises.D6),
    workload=outgrow_the_log,
    checker=all_of(
        wal_stays_below(LOG_BYTES_MAX),
        no_refused_reads,
        no_early_refusals(PATIENCE_S),
        check_database_content,
        check_answers,
    ),
    replay=run_again(outgrow_the_log),
    expectations=(
        Expectation("more was written than the log may hold", _written),
        Expectation("a reader kept its snapshot", _snapshots_kept),
    ),
    examples=1,
)


def test_log_stays_bounded_beside_readers(judge: Judge) -> None:
    """The log restarts in time, at any amount of writes."""
    assert judge(STATE_DB_CROWD_LOG).is_valid


# Many kinds of processes --------------------------------------------------------------------------

OTHER_TARGET = find_target("sqlite@jitter-15")


def _gateway(name: str) -> Sequence[Rounds]:
    """Two threads that write and read, in sessions that other processes write too."""
    return [_dialogue(f"{name}.{index}", ("s0", "s1", "s2"), 8) for index in range(2)]


def _dialogue(name: str, sessions: Iterable[str], times: int, think_s: float = 0.0) -> Rounds:
    steps = [
        step
        for session in sessions
        for step in (
            append(session, f"alpha {name} {session} {{n}}"),
            ("messages", {"session": session}),
        )
    ]
    return [Round(steps, times, think_s)]


def mix_processes(context: Context) -> None:
    """Run gateways, slow clients, another target, and processes that open, write and end.

    The file is missing when they start, unless the other target might create it.
    """
    sessions = ("s0", "s1", "s2")
    for number in range(context.examples):
        has_other = number % 2 == 1
        with writer_pool(context) as pool:
            if has_other:
                pool.ask(*create(*sessions))
            with pool.starting_together():
                for name in ("g0", "g1"):
                    threads = _gateway(name)
                    pool.fork(*([Round(create(*sessions)), *rounds] for rounds in threads))
                for name in ("c0", "c1"):
                    begin = Round(create(*sessions))
                    pool.fork([begin, *_dialogue(name, sessions[:1], 10, think_s=0.003)])
            for index in range(8):
                steps = [*create("s1"), append("s1", f"alpha o{index}")]
                pool.fork([Round([*steps, ("messages", {"session": "s1"})])])
                if index == 4 and has_other:
                    pool.fork(appends("s2", "other", 20), other=OTHER_TARGET)
            pool.wait_for_all()
            read_back(pool, sessions)


def _openings(history: History) -> int:
    """Count the opens that overlap another one."""
    opened = history.of("open")
    return sum(not (one.precedes(other) or other.precedes(one)) for one, other in pairwise(opened))


def _reads_beside_writes(history: History) -> int:
    return sum(
        op.function == "messages" and op.outcome is Outcome.OK and bool(op.result) for op in history
    )


STATE_DB_CROWD_HOUSE = Scenario(
    name="state-db-crowd-house",
    mode=Mode.CONTENTION,
    ability=ABILITY,
    promises=(promises.D1, promises.D2, promises.D3, promises.D8),
    workload=mix_processes,
    checker=all_of(
        no_refused_reads,
        no_early_refusals(PATIENCE_S),
        check_database_content,
        check_append_transactions,
        check_answers,
    ),
    replay=run_again(mix_processes),
    expectations=(
        Expectation("two processes opened the file at once", _openings, 2),
        Expectation("a list was read beside its writers", _reads_beside_writes, 50),
    ),
    examples=4,
)


def test_mixed_processes_observe_one_order(judge: Judge) -> None:
    """All processes observe one order of writes, from the creation of the file on."""
    assert judge(STATE_DB_CROWD_HOUSE).is_valid
