"""Scenarios of the run journal: rows are in order without gaps, under threads and disk faults."""

from __future__ import annotations

import itertools
from itertools import combinations

from harness.contract import promises
from harness.contract.checkers.threads.journal_order import check_journal_order
from harness.core.history import History, Outcome
from harness.engine.context import Context
from harness.engine.scenario import Expectation, Mode, Scenario
from harness.pytest_plugin import Judge
from harness.schedule import Call
from harness.workloads.threads import Interleaving, Program

FINISH = Call("finish")
ROWS = Call("rows")

# Concurrent threads -----------------------------------------------------------------------------


def emits(*texts: str) -> tuple[Call, ...]:
    """The rows that one thread emits."""
    return tuple(Call("emit", {"text": text}) for text in texts)


def program(name: str, *threads: tuple[Call, ...]) -> Program:
    """Threads of one run, whose rows are read when it is over."""
    return Program(name, threads, promises.T5, last=(FINISH, ROWS))


def emits_met(history: History) -> bool:
    """Two threads emitted at once."""
    emitted = history.of("emit")
    return any(one.meets(other) for one, other in combinations(emitted, 2))


def end_met_emit(history: History) -> bool:
    """The end of the run overlapped an emit."""
    emitted = history.of("emit")
    ends = history.of("finish")
    return any(one.meets(end) for one in emitted for end in ends)


MEETINGS = Interleaving(
    programs=(
        program("two threads emit", emits("a1", "a2"), emits("b1", "b2")),
        program("an end meanwhile", emits("a1"), emits("b1"), (FINISH,)),
    ),
    check=check_journal_order,
    meetings={"two emits met": emits_met, "an end met an emit": end_met_emit},
)

JOURNAL_THREADS = MEETINGS.scenario(
    "journal-threads",
    ability="journal_threads",
    promises=(promises.T5, promises.C1),
    examples=400,
)

# A disk that fails --------------------------------------------------------------------------------

CALLS_MAX = 20
STRIKES = (
    *("kill", "kill torn", "full", "full once", "broken once", "broken twice", "short write"),
)


def fail_each_row(context: Context) -> None:
    """Inject a disk fault at each change of each row of a run."""
    for fault, row in itertools.product(STRIKES, range(context.examples)):
        for at in range(1, CALLS_MAX):
            if not _was_hit(context, fault, row, at):
                break


def _was_hit(context: Context, fault: str, row: int, at: int) -> bool:
    """Run once with a fault in one row; returns whether the row makes that many changes."""
    was_hit = False
    with context.episode() as episode:
        for number in range(context.examples + 1):
            text = f"t{number}"
            if number != row:
                episode.client.ask("emit", {"text": text})
                continue
            operation = episode.client.ask("emit_struck", {"text": text, "strike": fault, "at": at})
            was_hit = operation.outcome is not Outcome.OK or operation.result["struck"]
            if operation.outcome is Outcome.INFO:
                break  # the process of the run is dead
        episode.client.ask("rows", {})
    return was_hit


def _refused(history: History) -> int:
    return sum(op.function == "emit_struck" and op.outcome is Outcome.FAIL for op in history)


def _died(history: History) -> int:
    return sum(op.function == "emit_struck" and op.outcome is Outcome.INFO for op in history)


JOURNAL_STRUCK = Scenario(
    name="journal-struck",
    mode=Mode.CRASH,
    ability="journal",
    promises=(promises.T5,),
    workload=fail_each_row,
    checker=check_journal_order,
    expectations=(
        Expectation("an append was refused", _refused),
        Expectation("the process of the run was killed", _died),
    ),
    examples=4,
)


def test_concurrent_emits_are_journalled_in_order(judge: Judge) -> None:
    """Threads emit at once, and one ends the run meanwhile."""
    assert judge(JOURNAL_THREADS).is_valid


def test_failed_append_takes_no_number(judge: Judge) -> None:
    """A full, failing or dying disk, at each change of each row."""
    assert judge(JOURNAL_STRUCK).is_valid
