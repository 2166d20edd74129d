"""The database on trial by a crowd: nobody refused, nobody starved, nothing lost.

Members are processes that work by themselves on one file; what they noted is merged into one
history. Nothing is judged by how long it took, but for a stated patience that is far longer.
"""

from __future__ import annotations

import itertools
import random
import signal
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import pairwise

from harness.contract.checkers.state_db.append_transactions import appends_are_serializable
from harness.contract.checkers.state_db.database_content import all_is_kept
from harness.contract.checkers.state_db.disk_errors import broken_disks_are_told
from harness.contract.checkers.state_db.fairness import (
    KILL,
    nobody_hangs,
    nobody_refused,
    nobody_starves,
    the_dead_are_succeeded,
)
from harness.contract.checkers.state_db.lock_discipline import (
    locks_are_used_well,
    refused_reads,
    transactions,
)
from harness.contract.checkers.state_db.stalled_holder import the_hung_are_named
from harness.contract.checkers.state_db.wait_times import WRITES
from harness.contract.checkers.state_db.wal_size import log_stays_below
from harness.contract.workloads.database_writers import (
    ABILITY,
    Crowd,
    Doom,
    Member,
    Round,
    Step,
    crowd,
)
from harness.core.checker import Checker
from harness.core.history import History, Operation, Outcome
from harness.core.promises import Promise
from harness.core.verdict import Anomaly, Verdict, merge
from harness.engine.context import Stage, Workload
from harness.engine.scenario import Expectation, Mode, Scenario
from harness.faults.nemesis import (
    CorruptFile,
    Fault,
    FullDisk,
    MissingFile,
    Pause,
    ReadOnlyFile,
    ShortFiles,
    await_stopped,
    roaming,
    small_disk,
)
from harness.targets.registry import find_target
from scenarios.conftest import Judge

PATIENCE_S = 30.0  # what a writer may wait for its turn; stated in seconds, as it must be
AGAIN = 10  # races to see again what was seen once

Hand = list[Round]


def _append(session: str, text: str) -> Step:
    return "append", {"session": session, "role": "user", "text": text}


def _create(*sessions: str) -> list[Step]:
    return [("create", {"session": session, "source": "cli"}) for session in sessions]


def _writer(session: str, name: str, times: int, think_s: float = 0.0) -> Hand:
    """Append so many messages, each text once in its life."""
    return [Round([_append(session, f"alpha {name} {{n}}")], times, think_s)]


def _look_at_last(gone: Crowd, sessions: Iterable[str]) -> None:
    """Have a newcomer read everything when all is quiet."""
    reads = [("messages", {"session": session}) for session in sessions]
    gone.ask(("inspect", {}), ("list", {}), *reads, ("search", {"word": "alpha"}))


def _all(*checkers: Checker) -> Checker:
    """Whatever else is judged, everybody must come to his end."""

    def check(history: History) -> Verdict:
        return merge(checker(history) for checker in (nobody_hangs, *checkers))

    return check


def _race_again(workload: Workload) -> Callable[[Stage, History], None]:
    """A race has no script: run it often enough to see it go wrong again."""

    def again(stage: Stage, history: History) -> None:  # noqa: ARG001  it only says that it failed
        workload(replace(stage, examples=AGAIN))

    return again


def _answered(history: History, functions: Iterable[str] = WRITES) -> list[Operation]:
    return [op for op in history.happened if op.function in functions]


def _overlapping(history: History) -> int:
    """Writes that were under way while one of another process was."""
    writes = [op for op in _answered(history) if op.completed_ns is not None]
    latest: Operation | None = None
    count = 0
    for op in writes:
        if latest and latest.process != op.process and not latest.precedes(op):
            count += 1
        if latest is None or (op.completed_ns or 0) > (latest.completed_ns or 0):
            latest = op
    return count


# Many writers at once -----------------------------------------------------------------------------

CROWDS = ((8, 1, 200), (4, 3, 120), (16, 1, 110))  # members, hands of each, messages of each hand


def write_at_once(stage: Stage) -> None:
    """Have a crowd write as fast as it can, each hand into a session of its own.

    They begin together once each has written: to open a file takes a processor, not a turn.
    """
    for number in range(stage.examples):
        members, hands, messages = CROWDS[number % len(CROWDS)]
        sessions = [f"s{index}" for index in range(members * hands)]
        with crowd(stage) as gathered:
            gathered.ask()  # somebody makes the file
            crew = []
            for index in range(members):
                own = sessions[index * hands : (index + 1) * hands]
                ready = [Round([*_create(*own), ("await", {"name": "all"})])]
                crew.append(
                    gathered.fork(
                        *([*ready, *_writer(session, session, messages)] for session in own)
                    )
                )
            for member in crew:
                gathered.await_told(member, "create", hands * hands)
            gathered.call_out("all")
            gathered.bury_all()
            _look_at_last(gathered, sessions)


STATE_DB_CROWD_WAITS = Scenario(
    name="state-db-crowd-waits",
    mode=Mode.CONTENTION,
    ability=ABILITY,
    promises=(Promise.D1, Promise.D2, Promise.D3, Promise.D4),
    workload=write_at_once,
    replay=_race_again(write_at_once),
    checker=_all(nobody_refused(PATIENCE_S), nobody_starves, all_is_kept),
    expectations=(Expectation("writes of two processes met", _overlapping, 100),),
    examples=3,
)


def test_no_writer_is_refused_or_starved_in_a_crowd(judge: Judge) -> None:
    """Whoever writes beside many others comes to his turn, and is overtaken by nobody for long."""
    assert judge(STATE_DB_CROWD_WAITS).is_valid


# Behind a long holder -----------------------------------------------------------------------------

STROKES_PER_S = 40
HOLD_S = 0.6  # far more than fifteen attempts of whoever asks every few milliseconds
HOLD_S_MAX = 20.0


def wait_for_a_holder(stage: Stage) -> None:
    """Have writers come while one large transaction, not the target's, holds the lock for long."""
    strokes = round(min(stage.examples * HOLD_S, HOLD_S_MAX) * STROKES_PER_S)
    hold = {"strokes": strokes, "pause_s": 1 / STROKES_PER_S}
    for hands in (1, 3):
        sessions = [f"s{index}" for index in range(3 * hands)]
        with crowd(stage) as gathered:
            gathered.ask(*_create(*sessions))
            for member in range(3):
                own = sessions[member * hands : (member + 1) * hands]
                waiting = [Round([("await", {"name": "held"})])]
                gathered.fork(*([*waiting, *_writer(session, session, 2)] for session in own))
            gathered.await_told(gathered.fork([Round([("hold", hold)])]), "held")
            gathered.call_out("held")
            gathered.bury_all()
            _look_at_last(gathered, sessions)


def _waited_for_it(history: History) -> int:
    """Writes that began while the holder held, and ended when it did not."""
    holds = [op for op in history.happened if op.function == "hold"]
    helds = [op for op in history.happened if op.function == "held"]
    return sum(
        (held.completed_ns or 0) < op.invoked_ns < (hold.completed_ns or 0) < (op.completed_ns or 0)
        for hold, held in zip(holds, helds, strict=True)
        for op in _answered(history)
    )


STATE_DB_CROWD_HOLDER = Scenario(
    name="state-db-crowd-holder",
    mode=Mode.CONTENTION,
    ability=ABILITY,
    promises=(Promise.D2, Promise.D3),
    workload=wait_for_a_holder,
    checker=_all(nobody_refused(PATIENCE_S), all_is_kept),
    replay=_race_again(wait_for_a_holder),
    expectations=(Expectation("a write waited until the holder was done", _waited_for_it, 3),),
    examples=1,
)


def test_a_holder_that_makes_progress_is_waited_for(judge: Judge) -> None:
    """Patience is counted in seconds, not in attempts: a slow holder makes nobody fail."""
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


def watch_the_locks(stage: Stage) -> None:
    """Watch what every write, every read, and a handle that is dropped do to the file's locks."""
    for _ in range(stage.examples):
        with crowd(stage) as gathered:
            gathered.ask(*_create("s1"), _append("s1", "alpha"))
            gathered.fork([Round(EVERY_WRITE, 3)], watched=True)
            gathered.fork([Round(EVERY_READ, 3)], watched=True)
            gathered.fork([Round([*EVERY_READ, ("drop", {}), ("open", {})], 3)], watched=True)
            gathered.bury_all()


def _seen(history: History) -> int:
    return sum(1 for _ in transactions(history))


def _dropped(history: History) -> int:
    return sum(op.function == "drop" for op in history.happened)


STATE_DB_CROWD_LOCKS = Scenario(
    name="state-db-crowd-locks",
    mode=Mode.CONTENTION,
    ability=ABILITY,
    promises=(Promise.D7, Promise.D8, Promise.D11),
    workload=watch_the_locks,
    checker=_all(locks_are_used_well),
    replay=_race_again(watch_the_locks),
    expectations=(
        Expectation("a transaction was seen to write", _seen, len(EVERY_WRITE)),
        Expectation("a handle was dropped", _dropped),
    ),
    examples=1,
)


def test_locks_are_taken_at_once_or_not_at_all(judge: Judge) -> None:
    """A write takes the lock as it begins; a read, an opening and a closing take none."""
    assert judge(STATE_DB_CROWD_LOCKS).is_valid


# The log ------------------------------------------------------------------------------------------

LOG_BYTES_MAX = 16 << 20
PROMPT = "never say {n} never " * 3450  # 64 KiB, other ones each time
PIN_S = 0.01


def outgrow_the_log(stage: Stage) -> None:
    """Write far more than the log may hold, while readers come and go."""
    for _ in range(stage.examples):
        with crowd(stage) as gathered:
            gathered.ask(*_create("s0", "s1"))
            with gathered.gathered():
                for session in ("s0", "s1"):
                    prompt = ("set_system_prompt", {"session": session, "text": PROMPT})
                    gathered.fork([Round([prompt, ("log_bytes", {})], 200)])
                gathered.fork([Round([("pin", {"pause_s": PIN_S})], 20, PIN_S)])
            gathered.bury_all()
            gathered.ask(*_create("s2"), ("inspect", {}))


def _written(history: History) -> int:
    """How often the log could have been filled by what was written."""
    prompts = _answered(history, ("set_system_prompt",))
    return sum(len(op.argument["text"]) for op in prompts) // LOG_BYTES_MAX


def _snapshots_kept(history: History) -> int:
    return sum(op.result[0] == op.result[1] for op in _answered(history, ("pin",)))


STATE_DB_CROWD_LOG = Scenario(
    name="state-db-crowd-log",
    mode=Mode.CONTENTION,
    ability=ABILITY,
    promises=(Promise.D3, Promise.D6),
    workload=outgrow_the_log,
    checker=_all(log_stays_below(LOG_BYTES_MAX), nobody_refused(PATIENCE_S)),
    replay=_race_again(outgrow_the_log),
    expectations=(
        Expectation("more was written than the log may hold", _written),
        Expectation("a reader kept its snapshot", _snapshots_kept),
    ),
    examples=1,
)


def test_the_log_stays_bounded_while_readers_come_and_go(judge: Judge) -> None:
    """However much is written, the log is started over in time."""
    assert judge(STATE_DB_CROWD_LOG).is_valid


# A busy house -------------------------------------------------------------------------------------

STRANGER = find_target("sqlite@jitter-15")


def _gateway(name: str) -> Sequence[Hand]:
    """Two threads that write and look, in sessions that others write as well."""
    return [_dialogue(f"{name}.{index}", ("s0", "s1", "s2"), 8) for index in range(2)]


def _dialogue(name: str, sessions: Iterable[str], times: int, think_s: float = 0.0) -> Hand:
    steps = [
        step
        for session in sessions
        for step in (
            _append(session, f"alpha {name} {session} {{n}}"),
            ("messages", {"session": session}),
        )
    ]
    return [Round(steps, times, think_s)]


def keep_a_busy_house(stage: Stage) -> None:
    """Gateways, people who think, a stranger with a policy of its own, openers that come and go.

    The file is not there when they start, unless the stranger could be the one who makes it.
    """
    sessions = ("s0", "s1", "s2")
    for number in range(stage.examples):
        has_stranger = number % 2 == 1
        with crowd(stage) as gathered:
            if has_stranger:
                gathered.ask(*_create(*sessions))
            with gathered.gathered():
                for name in ("g0", "g1"):
                    hands = _gateway(name)
                    gathered.fork(*([Round(_create(*sessions)), *hand] for hand in hands))
                for name in ("c0", "c1"):
                    create = Round(_create(*sessions))
                    gathered.fork([create, *_dialogue(name, sessions[:1], 10, think_s=0.003)])
            for index in range(8):
                come_and_go = [*_create("s1"), _append("s1", f"alpha o{index}")]
                gathered.fork([Round([*come_and_go, ("messages", {"session": "s1"})])])
                if index == 4 and has_stranger:
                    gathered.fork(_writer("s2", "stranger", 20), stranger=STRANGER)
            gathered.bury_all()
            _look_at_last(gathered, sessions)


def _refuses_nobody(history: History) -> Verdict:
    return Verdict(tuple(refused_reads(history)))


def _openings(history: History) -> int:
    """Processes that opened the file while another was opening it."""
    opened = [op for op in history if op.function == "open"]
    return sum(not (one.precedes(other) or other.precedes(one)) for one, other in pairwise(opened))


def _reads_beside_writes(history: History) -> int:
    return sum(
        op.function == "messages" and op.outcome is Outcome.OK and bool(op.result) for op in history
    )


STATE_DB_CROWD_HOUSE = Scenario(
    name="state-db-crowd-house",
    mode=Mode.CONTENTION,
    ability=ABILITY,
    promises=(Promise.D1, Promise.D2, Promise.D3, Promise.D8),
    workload=keep_a_busy_house,
    checker=_all(
        _refuses_nobody, nobody_refused(PATIENCE_S), all_is_kept, appends_are_serializable
    ),
    replay=_race_again(keep_a_busy_house),
    expectations=(
        Expectation("two processes opened the file at once", _openings, 2),
        Expectation("a list was read beside its writers", _reads_beside_writes, 50),
    ),
    examples=4,
)


def test_a_busy_house_is_served_in_one_order_for_all(judge: Judge) -> None:
    """Whoever writes, reads, comes or goes sees one order, from the creation of the file on."""
    assert judge(STATE_DB_CROWD_HOUSE).is_valid


# Killed -------------------------------------------------------------------------------------------

WAVE = 10  # members that are forked together, each to die
WAVES_AN_EPISODE = 10
COPIES_AN_EPISODE = 5
STATEMENTS_MAX = 60  # of opening, creating and a dozen appends
SHARED = ("s0", "s1", "s2", "s3")


def _doom(rng: random.Random) -> Doom:
    """Between two statements, or somewhere in the middle of things: while it waits, or syncs."""
    after_s = rng.choice((0.0, rng.uniform(0.0001, 0.003)))
    return Doom(signal.SIGKILL, at=rng.randrange(1, STATEMENTS_MAX), after_s=after_s)


def kill_short_lives(stage: Stage) -> None:
    """Have many short-lived writers open the file and write, and each die somewhere on its way.

    One that nobody kills writes beside them. The first wave also creates the file.
    """
    rng = stage.rng("dooms")
    waves, names = stage.examples, itertools.count()
    for first in range(0, waves, WAVES_AN_EPISODE):
        with crowd(stage) as gathered:
            for _ in range(first, min(first + WAVES_AN_EPISODE, waves)):
                for _ in range(WAVE):
                    session = rng.choice(SHARED)
                    writes = _writer(session, f"k{next(names)}", 20)
                    gathered.fork([Round(_create(session)), *writes], doom=_doom(rng))
                session = rng.choice(SHARED)
                survivor = [Round(_create(session)), *_writer(session, f"k{next(names)}", 5)]
                gathered.fork(survivor)
                gathered.bury_all()
            _look_at_last(gathered, SHARED)


def _kills(history: History) -> int:
    return sum(fault.name.startswith(KILL) for fault in history.faults)


def _killed_in(function: str) -> Callable[[History], int]:
    def count(history: History) -> int:
        return sum(op.function == function and op.outcome is Outcome.INFO for op in history)

    return count


STATE_DB_CROWD_KILLED = Scenario(
    name="state-db-crowd-killed",
    mode=Mode.CRASH,
    ability=ABILITY,
    promises=(Promise.D1, Promise.D2, Promise.D5, Promise.D8),
    workload=kill_short_lives,
    checker=_all(all_is_kept, the_dead_are_succeeded, _refuses_nobody),
    replay=_race_again(kill_short_lives),
    expectations=(
        Expectation("a writer was killed", _kills, 50),
        Expectation("an append was killed on its way", _killed_in("append"), 10),
        Expectation("an opening was killed on its way", _killed_in("open")),
    ),
    examples=34,
)


def test_kills_of_short_lives_lose_nothing_acknowledged(judge: Judge) -> None:
    """Whoever dies, wherever he is, takes nothing with him that was acknowledged, nor a lock."""
    assert judge(STATE_DB_CROWD_KILLED).is_valid


def kill_while_the_log_is_copied(stage: Stage) -> None:
    """Let the log grow until it is copied into the database, and kill whoever does that."""
    rng = stage.rng("dooms")
    for _ in range(0, stage.examples, COPIES_AN_EPISODE):
        with crowd(stage) as gathered:
            gathered.ask(*_create("s0"), *[_append("s0", f"alpha first {n}") for n in range(5)])
            prompt = ("set_system_prompt", {"session": "s0", "text": PROMPT})
            for index in range(COPIES_AN_EPISODE):
                doom = Doom(
                    signal.SIGKILL,
                    match="PRAGMA wal_checkpoint",
                    after_s=rng.uniform(0.0002, 0.004),
                )
                steps = [_append("s0", f"alpha {index} {{n}}"), prompt]
                gathered.fork([Round(steps, 120)], doom=doom)
                gathered.bury_all()
            _look_at_last(gathered, ("s0",))


STATE_DB_CROWD_KILLED_COPYING = Scenario(
    name="state-db-crowd-killed-copying",
    mode=Mode.CRASH,
    ability=ABILITY,
    promises=(Promise.D1, Promise.D2, Promise.D5, Promise.D6),
    workload=kill_while_the_log_is_copied,
    checker=_all(all_is_kept, the_dead_are_succeeded, _refuses_nobody),
    replay=_race_again(kill_while_the_log_is_copied),
    expectations=(Expectation("one who copied the log was killed", _kills),),
    examples=5,
)


def test_kills_while_the_log_is_copied_lose_nothing(judge: Judge) -> None:
    """A copy that was cut short is begun again, from a log that still has it all."""
    assert judge(STATE_DB_CROWD_KILLED_COPYING).is_valid


# Hung ---------------------------------------------------------------------------------------------

SHORT_PATIENCE_S = 1.0  # for targets that can be told
OTHERS = ("s1", "s2")  # the sessions of those who write meanwhile


def stop_in_the_middle(stage: Stage) -> None:
    """Stop a holder inside its transaction until all others were answered, then let it go on.

    Then one that is about to begin its transaction: it holds no lock, so others must get by.
    """
    for _ in range(stage.examples):
        with crowd(stage) as gathered:
            gathered.ask(*_create("s0", *OTHERS))
            inside = Doom(signal.SIGSTOP, match="INSERT INTO messages")
            _stop(stage, gathered, inside, SHORT_PATIENCE_S, "inside")
            before = Doom(signal.SIGSTOP, match="BEGIN")
            _stop(stage, gathered, before, PATIENCE_S, "before")
            _look_at_last(gathered, ("s0", *OTHERS))


def _stop(stage: Stage, gathered: Crowd, doom: Doom, patience_s: float, name: str) -> None:
    stopped = gathered.fork(_writer("s0", f"{name} s0", 3), doom=doom)
    await_stopped(stopped.pid)
    with roaming(Pause(stopped.pid), stage.journal):
        others = [
            gathered.fork(_writer(session, f"{name} {session}", 1), patience_s=patience_s)
            for session in OTHERS
        ]
        for other in others:
            gathered.bury(other)
    gathered.bury(stopped)


def _goes_on(history: History) -> Verdict:
    """Nobody is refused but who wrote beside the one that stood still inside."""
    refused = (op for op in history if op.outcome is Outcome.FAIL and not _is_beside_it(op))
    return Verdict(
        tuple(
            Anomaly(Promise.D5, f"refused, though nobody held the lock for long: {op}", (op,))
            for op in refused
        )
    )


def _is_beside_it(op: Operation) -> bool:
    return any(f"inside {other}" in str(op.argument) for other in OTHERS)


def _refused_beside_it(history: History) -> int:
    return sum(op.function == "append" and op.outcome is Outcome.FAIL for op in history)


def _got_by(history: History) -> int:
    return sum("before s" in str(op.argument) and op.outcome is Outcome.OK for op in history)


STATE_DB_CROWD_HUNG = Scenario(
    name="state-db-crowd-hung",
    mode=Mode.CRASH,
    ability=ABILITY,
    promises=(Promise.D1, Promise.D2, Promise.D5),
    workload=stop_in_the_middle,
    checker=_all(the_hung_are_named, _goes_on, all_is_kept),
    replay=_race_again(stop_in_the_middle),
    expectations=(
        Expectation("a write was refused beside a holder that stood still", _refused_beside_it, 2),
        Expectation("a write got by one that stood still before its turn", _got_by, 2),
    ),
    examples=1,
)


def test_a_holder_that_stands_still_is_named_and_not_waited_for_long(judge: Judge) -> None:
    """Others are told who it is when their patience is over; one without the lock is got by."""
    assert judge(STATE_DB_CROWD_HUNG).is_valid


# Broken disks and files ---------------------------------------------------------------------------

DISK_BYTES = 6 << 20
PAGE_BYTES = 4096

Trouble = Callable[[Stage, Crowd], None]


def _work_on(session: str, name: str, times: int = 3) -> list[Step]:
    return [_append(session, f"alpha {name} {index}") for index in range(times)]


def _beside(fault: Fault, stage: Stage, gathered: Crowd, *steps: Step) -> bool:
    """Have a newcomer do this while the fault roams; whether it can be had here."""
    if not fault.available():
        return False
    with roaming(fault, stage.journal):
        gathered.ask(*steps)
    return True


def _in_between(stage: Stage, gathered: Crowd, make: Callable[[Member], Fault]) -> None:
    """Have one member work before, beside and after a fault, with the file open all the time."""
    read = ("messages", {"session": "s0"})
    beside = [read, *_work_on("s0", "beside"), _append("s0", "alpha " + "much " * 5_000), read]
    rounds = (
        [*_create("s0"), *_work_on("s0", "before"), ("get", {"session": "s0"})],
        [("await", {"name": "broken"}), *beside, ("list", {}), ("await", {"name": "healed"})],
        _work_on("s0", "after"),
    )
    member = gathered.fork([Round(steps) for steps in rounds])
    gathered.await_told(member, "get")
    fault = make(member)
    if fault.available():
        with roaming(fault, stage.journal):
            gathered.call_out("broken")
            gathered.await_told(member, "list")
    gathered.call_out("broken")
    gathered.call_out("healed")
    gathered.bury_all()
    _look_at_last(gathered, ("s0",))


def _fill_the_disk(stage: Stage, gathered: Crowd) -> None:
    """No byte is left."""
    with small_disk(gathered.folder, DISK_BYTES):
        _in_between(stage, gathered, lambda _: FullDisk(gathered.folder))


def _shorten_the_files(stage: Stage, gathered: Crowd) -> None:
    """Writing to the log fails in the midst of things, with an error that is no full disk."""

    def short(member: Member) -> Fault:
        return ShortFiles(member.pid, gathered.log_bytes() + PAGE_BYTES)

    _in_between(stage, gathered, short)


def _forbid_to_write(stage: Stage, gathered: Crowd) -> None:
    """The file can be read and not written."""
    gathered.ask(*_create("s0"), *_work_on("s0", "before"))
    read = ("messages", {"session": "s0"})
    _beside(ReadOnlyFile(gathered.database), stage, gathered, read, *_work_on("s0", "beside", 1))
    gathered.ask(*_work_on("s0", "after"))
    _look_at_last(gathered, ("s0",))


def _corrupt_pages(stage: Stage, gathered: Crowd) -> None:
    """One page after another is garbage, the first included; nothing is written meanwhile."""
    rng = stage.rng("pages")
    gathered.ask(*_create("s0"), *_work_on("s0", "before", 30))
    pages = gathered.database.stat().st_size // PAGE_BYTES
    for page in (0, *rng.sample(range(1, pages), 4)):
        garbage = CorruptFile(gathered.database, page * PAGE_BYTES, rng.randbytes(PAGE_BYTES))
        read = ("messages", {"session": "s0"})
        _beside(garbage, stage, gathered, read, ("search", {"word": "alpha"}))
    gathered.ask(*_work_on("s0", "after"))
    _look_at_last(gathered, ("s0",))


def _lose_the_shared_memory(stage: Stage, gathered: Crowd) -> None:
    """All die, and the file that SQLite keeps its index of the log in is gone: it is made again."""
    gathered.ask(*_create("s0"))
    doom = Doom(signal.SIGKILL, match="INSERT INTO messages", at=20)
    gathered.fork(_writer("s0", "before", 30), doom=doom)
    gathered.bury_all()
    shared = gathered.database.with_name("state.db-shm")
    if _beside(MissingFile(shared), stage, gathered, *_work_on("s0", "after")):
        _look_at_last(gathered, ("s0",))


def _grow_old(_: Stage, gathered: Crowd) -> None:
    """The schema says that it is of an earlier version, and many open it at once."""
    gathered.ask(*_create("s0"), *_work_on("s0", "before"))
    gathered.age()
    with gathered.gathered():
        for index in range(4):
            gathered.fork(_writer("s0", f"{index}", 3))
    gathered.bury_all()
    _look_at_last(gathered, ("s0",))


TROUBLES: tuple[Trouble, ...] = (
    _fill_the_disk,
    _shorten_the_files,
    _forbid_to_write,
    _corrupt_pages,
    _lose_the_shared_memory,
    _grow_old,
)


def make_trouble(stage: Stage) -> None:
    """One kind of trouble after another."""
    for number in range(stage.examples):
        with crowd(stage) as gathered:
            TROUBLES[number % len(TROUBLES)](stage, gathered)


def _roamed(history: History) -> int:
    return sum(fault.healed_ns is not None for fault in history.faults)


def _told_of_it(history: History) -> int:
    return sum(op.outcome is Outcome.FAIL for op in history)


STATE_DB_CROWD_TROUBLE = Scenario(
    name="state-db-crowd-trouble",
    mode=Mode.CRASH,
    ability=ABILITY,
    promises=(Promise.D1, Promise.D2, Promise.D8, Promise.D10),
    workload=make_trouble,
    checker=_all(broken_disks_are_told, all_is_kept),
    expectations=(
        Expectation("a fault of disk or file roamed, and was healed", _roamed, 3),
        Expectation("a fault was told of", _told_of_it, 2),
    ),
    replay=_race_again(make_trouble),
    examples=len(TROUBLES),
)


def test_a_broken_disk_or_file_is_told_and_survived(judge: Judge) -> None:
    """Clear errors while it is broken, nothing lost when it is healed."""
    assert judge(STATE_DB_CROWD_TROUBLE).is_valid
