"""Scenario of concurrent rebuilds of the model catalog while providers hang."""

from __future__ import annotations

from itertools import combinations

from harness.contract import promises
from harness.contract.checkers.threads.catalog_answers import explained_catalogs
from harness.contract.checkers.threads.catalog_budget import rebuilds_within_budget
from harness.contract.checkers.threads.plain_answers import with_plain_answers
from harness.core.history import History
from harness.core.verdict import Verdict
from harness.pytest_plugin import Judge
from harness.schedule import Call, LockRules
from harness.targets.threads.model_catalog import BUDGET_S
from harness.workloads.threads import Interleaving, Program

REBUILT = Call("rebuilt")
SHOWN = Call("shown")
CHANGE = Call("change_config")
HANG_S = 3_600.0
LATER = Call("wait", {"seconds": BUDGET_S / 2})
OVER = Call("wait", {"seconds": 4 * HANG_S})  # by then every query of the providers has ended


def program(name: str, takes_s: float, *threads: tuple[Call, ...], ending: str = "ok") -> Program:
    """Concurrent rebuilds while the providers take `takes_s`, until those have ended so."""
    first = (Call("hang", {"seconds": takes_s, "ending": ending}),)
    return Program(name, threads, promises.M2, first, (OVER, SHOWN), held=(promises.M2,))


def rebuilds_met(history: History) -> bool:
    """Two rebuilds overlapped."""
    rebuilds = history.of("rebuilt")
    return any(one.meets(other) for one, other in combinations(rebuilds, 2))


def budget_ran_out(history: History) -> bool:
    """A rebuild returned the known catalog, because the providers took too long."""
    return any(op.function == "rebuilt" and op.result["waited_s"] > 0 for op in history.happened)


explain_catalogs = explained_catalogs(BUDGET_S)
keep_budget = rebuilds_within_budget(BUDGET_S)


def budgets_and_answers(history: History) -> Verdict:
    """Judge how long each call waited, and then what it returned."""
    verdict = keep_budget(history)
    return explain_catalogs(history) if verdict.is_valid else verdict


# Calls that nothing may refuse, and calls that return nothing.
ACCEPTED = ("change_config", "fetch", "hang", "rebuilt", "shown", "wait")
SILENT = ("change_config", "fetch", "hang", "wait")

MEETINGS = Interleaving(
    programs=(
        program("two rebuilds while providers hang", HANG_S, (REBUILT,), (REBUILT, SHOWN)),
        program("a later rebuild", HANG_S, (REBUILT,), (LATER, REBUILT), (SHOWN,)),
        program("providers that are quick", 1.0, (REBUILT,), (REBUILT,), (SHOWN,)),
        program("another config meanwhile", HANG_S, (REBUILT,), (CHANGE, REBUILT)),
        program("another config and a quick answer", 1.0, (REBUILT,), (CHANGE, REBUILT, SHOWN)),
        program("an answer at the budget's end", BUDGET_S, (REBUILT,), (REBUILT, REBUILT)),
        program("a failure", 1.0, (REBUILT, REBUILT), (REBUILT,), ending="failed"),
        program("an empty answer", 1.0, (REBUILT, SHOWN), (REBUILT, REBUILT), ending="empty"),
    ),
    check=with_plain_answers(budgets_and_answers, promises.M1, accepted=ACCEPTED, silent=SILENT),
    rules=LockRules(free_during=(("providers", "*"),)),
    meetings={
        "two rebuilds overlapped": rebuilds_met,
        "the budget ran out": budget_ran_out,
    },
)

CATALOG_THREADS = MEETINGS.scenario(
    "catalog-threads",
    ability="catalog_threads",
    promises=(promises.M1, promises.M2, promises.M3),
    examples=400,
)


def test_hanging_providers_delay_no_catalog(judge: Judge) -> None:
    """One query serves all callers, and no caller waits longer than the budget."""
    assert judge(CATALOG_THREADS).is_valid
