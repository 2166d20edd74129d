"""The run journal on trial: rows in order and without gaps, whatever the disk does."""

from __future__ import annotations

import itertools
from itertools import combinations

from harness.contract.checkers.threads.journal_order import rows_are_in_order
from harness.core.history import History, Outcome
from harness.core.promises import Promise
from harness.engine.context import Stage
from harness.engine.scenario import Expectation, Mode, Scenario
from harness.schedule import Call
from harness.targets.components.run_journal import STRIKES
from harness.workloads.threads import Interleaving, Program
from scenarios.conftest import Judge

FINISH = Call("finish")
ROWS = Call("rows")

# Threads that meet --------------------------------------------------------------------------------


def emits(*texts: str) -> tuple[Call, ...]:
    """Rows that one thread emits."""
    return tuple(Call("emit", {"text": text}) for text in texts)


def program(name: str, *threads: tuple[Call, ...]) -> Program:
    """Threads of one run, whose rows are read when it is over."""
    return Program(name, threads, Promise.T5, last=(FINISH, ROWS))


def emits_met(history: History) -> bool:
    """Two threads emitted at once."""
    told = [op for op in history if op.function == "emit"]
    return any(one.meets(two) for one, two in combinations(told, 2))


def end_met_emit(history: History) -> bool:
    """The run came to its end while somebody emitted."""
    told = [op for op in history if op.function == "emit"]
    ends = [op for op in history if op.function == "finish"]
    return any(one.meets(end) for one in told for end in ends)


MEETINGS = Interleaving(
    programs=(
        program("two threads emit", emits("a1", "a2"), emits("b1", "b2")),
        program("an end meanwhile", emits("a1"), emits("b1"), (FINISH,)),
    ),
    check=rows_are_in_order,
    meetings={"two emits met": emits_met, "an end met an emit": end_met_emit},
)

JOURNAL_THREADS = Scenario(
    name="journal-threads",
    mode=Mode.SCHEDULE,
    ability="journal",
    promises=(Promise.T5, Promise.C1),
    workload=MEETINGS.explore,
    checker=MEETINGS.judge,
    expectations=tuple(MEETINGS.met(meeting) for meeting in MEETINGS.meetings),
    examples=400,
    replay=MEETINGS.replay,
)

# A disk that fails --------------------------------------------------------------------------------

CALLS_MAX = 20


def strike_each_row(stage: Stage) -> None:
    """Strike each of the rows of a run, at each of the changes that it makes."""
    for strike, struck in itertools.product(STRIKES, range(stage.examples)):
        for at in range(1, CALLS_MAX):
            if not _was_struck(stage, strike, struck, at):
                break


def _was_struck(stage: Stage, strike: str, struck: int, at: int) -> bool:
    """One run, of which that row is struck; whether the row makes so many changes."""
    was_struck = False
    with stage.episode() as episode:
        for number in range(stage.examples + 1):
            text = f"t{number}"
            if number != struck:
                episode.client.ask("emit", {"text": text})
                continue
            operation = episode.client.ask(
                "emit_struck", {"text": text, "strike": strike, "at": at}
            )
            was_struck = operation.outcome is not Outcome.OK or operation.result["struck"]
            if operation.outcome is Outcome.INFO:
                break  # whoever wrote the run is dead
        episode.client.ask("rows", {})
    return was_struck


def _refused(history: History) -> int:
    return sum(op.function == "emit_struck" and op.outcome is Outcome.FAIL for op in history)


def _died(history: History) -> int:
    return sum(op.function == "emit_struck" and op.outcome is Outcome.INFO for op in history)


JOURNAL_STRUCK = Scenario(
    name="journal-struck",
    mode=Mode.CRASH,
    ability="journal",
    promises=(Promise.T5,),
    workload=strike_each_row,
    checker=rows_are_in_order,
    expectations=(
        Expectation("an append was refused", _refused),
        Expectation("whoever wrote the run died of it", _died),
    ),
    examples=4,
)


def test_rows_of_threads_that_meet_are_in_order(judge: Judge) -> None:
    """Whoever emits at once, and whoever ends the run meanwhile."""
    assert judge(JOURNAL_THREADS).is_valid


def test_an_append_that_failed_takes_no_number(judge: Judge) -> None:
    """A full, failing or dying disk, at each change of each row."""
    assert judge(JOURNAL_STRUCK).is_valid
