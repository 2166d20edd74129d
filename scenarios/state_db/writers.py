"""What the scenarios of writer processes share: steps, checks, and measures of their histories."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from harness.contract.checkers.state_db.fairness import no_hangs
from harness.contract.checkers.state_db.lock_discipline import refused_reads
from harness.contract.checkers.state_db.wait_times import WRITES
from harness.contract.workloads.database_writers import Round, Step, WriterPool
from harness.core.checker import Checker
from harness.core.history import History, Operation
from harness.core.verdict import Verdict, merge
from harness.engine.context import Context, Workload

PATIENCE_S = 30.0  # how long a write waits for the lock; far longer than any sound wait
ATTEMPTS = 10  # to reproduce a race
LOG_BYTES_MAX = 16 << 20
PROMPT = "never say {n} never " * 3450  # 64 KiB, different each time

Rounds = list[Round]


def append(session: str, text: str) -> Step:
    """An append of a user's message."""
    return "append", {"session": session, "role": "user", "text": text}


def create(*sessions: str) -> list[Step]:
    """The creation of sessions."""
    return [("create", {"session": session, "source": "cli"}) for session in sessions]


def appends(session: str, name: str, times: int, think_s: float = 0.0) -> Rounds:
    """The rounds that append a number of unique messages."""
    return [Round([append(session, f"alpha {name} {{n}}")], times, think_s)]


def read_back(pool: WriterPool, sessions: Iterable[str]) -> None:
    """Read everything in a new process, when all is quiet."""
    reads = [("messages", {"session": session}) for session in sessions]
    pool.ask(("inspect", {}), ("list", {}), *reads, ("search", {"word": "alpha"}))


def all_of(*checkers: Checker) -> Checker:
    """Join these checkers, and that no process hangs."""

    def check(history: History) -> Verdict:
        return merge(checker(history) for checker in (no_hangs, *checkers))

    return check


def run_again(workload: Workload) -> Callable[[Context, History], None]:
    """Make a replay of a race, which has no script: it runs the workload several times."""

    def again(context: Context, history: History) -> None:  # noqa: ARG001  it cannot be followed
        workload(replace(context, examples=ATTEMPTS))

    return again


def answered(history: History, functions: Iterable[str] = WRITES) -> list[Operation]:
    """The operations of these functions with a result."""
    return [op for op in history.happened if op.function in functions]


def overlapping(history: History) -> int:
    """Count the writes that overlap one of another process."""
    writes = [op for op in answered(history) if op.completed_ns is not None]
    latest: Operation | None = None
    count = 0
    for op in writes:
        if latest and latest.process != op.process and not latest.precedes(op):
            count += 1
        if latest is None or (op.completed_ns or 0) > (latest.completed_ns or 0):
            latest = op
    return count


def no_refused_reads(history: History) -> Verdict:
    """Judge that no open, read or close was refused."""
    return Verdict(tuple(refused_reads(history)))
