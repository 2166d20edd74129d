"""The model catalog on trial by schedules: providers that hang hold nobody up."""

from __future__ import annotations

from itertools import combinations

from harness.contract.checkers.threads.catalog_budget import rebuilds_keep_within
from harness.core.history import History
from harness.core.promises import Promise
from harness.engine.scenario import Mode, Scenario
from harness.schedule import Call, LockRules
from harness.targets.threads.model_catalog import BUDGET_S
from harness.workloads.threads import Interleaving, Program
from scenarios.conftest import Judge

REBUILT = Call("rebuilt")
SHOWN = Call("shown")
CHANGE = Call("change_config")
HANG_S = 3_600.0
LATER = Call("wait", {"seconds": BUDGET_S / 2})
OVER = Call("wait", {"seconds": 4 * HANG_S})  # by then nobody asks the providers any more


def program(name: str, takes_s: float, *threads: tuple[Call, ...]) -> Program:
    """Threads that ask while the providers take so long, until those have answered."""
    first = (Call("hang", {"seconds": takes_s}),)
    return Program(name, threads, Promise.M2, first, (OVER, SHOWN), held=(Promise.M2,))


def rebuilds_met(history: History) -> bool:
    """Two asked for a rebuild at once."""
    asked = [op for op in history if op.function == "rebuilt"]
    return any(one.meets(two) for one, two in combinations(asked, 2))


def budget_ran_out(history: History) -> bool:
    """Somebody was given what was known, because the providers took too long."""
    return any(op.function == "rebuilt" and op.result["waited_s"] > 0 for op in history.happened)


MEETINGS = Interleaving(
    programs=(
        program("two rebuilds while providers hang", HANG_S, (REBUILT,), (REBUILT, SHOWN)),
        program("one comes later", HANG_S, (REBUILT,), (LATER, REBUILT), (SHOWN,)),
        program("providers that are quick", 1.0, (REBUILT,), (REBUILT,), (SHOWN,)),
        program("another config meanwhile", HANG_S, (REBUILT,), (CHANGE, REBUILT)),
    ),
    check=rebuilds_keep_within(BUDGET_S),
    rules=LockRules(free_during=(("providers", "*"),)),
    meetings={
        "two asked for a rebuild at once": rebuilds_met,
        "the budget ran out": budget_ran_out,
    },
)

CATALOG_THREADS = Scenario(
    name="catalog-threads",
    mode=Mode.SCHEDULE,
    ability="catalog_threads",
    promises=(Promise.M1, Promise.M2),
    workload=MEETINGS.explore,
    checker=MEETINGS.judge,
    expectations=tuple(MEETINGS.met(meeting) for meeting in MEETINGS.meetings),
    examples=400,
    replay=MEETINGS.replay,
)


def test_providers_that_hang_hold_nobody_up(judge: Judge) -> None:
    """Whoever asks at once, they are asked once, and nobody waits for longer than the budget."""
    assert judge(CATALOG_THREADS).is_valid
