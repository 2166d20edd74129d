"""Scenario of syncs that fail once: what was acknowledged survives a power loss."""

from __future__ import annotations

from harness.contract import promises
from harness.contract.checkers.state_db.answers import check_answers
from harness.contract.checkers.state_db.database_content import check_database_content
from harness.contract.checkers.state_db.power_loss import (
    check_power_loss,
    followers,
    with_doubts,
)
from harness.contract.workloads.database_writers import Syncs, writer_pool
from harness.core.history import History, Outcome
from harness.core.verdict import Verdict, merge
from harness.engine.context import Context
from harness.engine.scenario import Expectation, Mode, Scenario
from harness.pytest_plugin import Judge

from .writers import all_of, appends, create, no_refused_reads, read_back, run_again

PROCESSES, THREADS, MESSAGES = 3, 2, 10
SLOW_S = 0.004  # as a disk without a cache takes; processes share its syncs
FAILS_FROM, FAILS_TO = 2, 6  # which sync of the first process fails


def fail_a_sync(context: Context) -> None:
    """Let processes write, each with threads, on a slow or quick disk, and fail one sync."""
    rng = context.rng("syncs")
    sessions = [f"s{index}" for index in range(PROCESSES * THREADS)]
    for number in range(context.examples):
        delay_s = 0.0 if number % 3 == 2 else SLOW_S
        fails_at = rng.randrange(FAILS_FROM, FAILS_TO)
        with writer_pool(context) as pool:
            pool.ask(*create(*sessions))
            with pool.starting_together():
                for index in range(PROCESSES):
                    own = sessions[index * THREADS : (index + 1) * THREADS]
                    syncs = Syncs(delay_s, fails_at if index == 0 else None)
                    with pool.observing(syncs):
                        pool.fork(*(appends(session, session, MESSAGES) for session in own))
            pool.wait_for_all()
            pool.ask(*[step for round_ in appends("s0", "later", 1) for step in round_.steps])
            read_back(pool, sessions)


def _judge(history: History) -> Verdict:
    """Judge what is stored, where a failed sync leaves a write in doubt."""
    checkers = (check_database_content, no_refused_reads, check_answers)
    return merge(check(with_doubts(history)) for check in checkers)


def _failed(history: History) -> int:
    return sum(not op.result for op in history.happened.of("synced"))


def _reported(history: History) -> int:
    return sum(op.outcome is Outcome.FAIL for op in history.of("append"))


STATE_DB_POWER_LOSS = Scenario(
    name="state-db-power-loss",
    mode=Mode.CRASH,
    ability="state_db_syncs",
    promises=(promises.D1, promises.D2, promises.D10, promises.D12),
    workload=fail_a_sync,
    checker=all_of(check_power_loss, _judge),
    replay=run_again(fail_a_sync),
    expectations=(
        Expectation("a sync failed", _failed, 3),
        Expectation("a failed sync was reported", _reported, 3),
        Expectation("another process's sync covered a write", followers, 3),
    ),
    examples=14,
)


def test_acknowledged_writes_were_synced(judge: Judge) -> None:
    """Each acknowledged write was synced after its commit; a failed sync is reported."""
    assert judge(STATE_DB_POWER_LOSS).is_valid
