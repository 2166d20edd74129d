"""Scenario of hosts that are killed: the next host delivers the pending wakeups."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from harness.contract import promises
from harness.contract.checkers.threads.wakeup_routing import check_wakeup_restarts
from harness.core.history import History, Outcome
from harness.engine.context import Context
from harness.engine.scenario import Expectation, Mode, Scenario
from harness.pytest_plugin import Judge

S, T = {"session": "s"}, {"session": "t"}
Step = tuple[str, dict[str, Any]]

# Three processes ended while no host ran, one with an unknown exit code. One session is busy.
BEFORE: tuple[Step, ...] = (
    ("leave", {**S, "process": "proc_1", "exit_code": 0}),
    ("leave", {**S, "process": "proc_2"}),
    ("leave", {**T, "process": "proc_3", "exit_code": 3}),
    ("restart", {}),
    ("begin_run", S),
)
DEFERRED: tuple[Step, ...] = (*BEFORE, ("drain", {}))
# The next change of this ledger replaces its file.
LARGE: tuple[Step, ...] = (*BEFORE[:3], ("grow_ledger", {"rows": 400}))
# The steps before, and the step into which a fault is injected.
EVERY: tuple[tuple[tuple[Step, ...], Step], ...] = (
    (BEFORE[:3], ("restart", {})),
    (BEFORE, ("drain", {})),
    (DEFERRED, ("end_run", S)),
    (DEFERRED, ("restart", {})),
    (LARGE, ("restart", {})),
)
AFTER: tuple[Step, ...] = (("restart", {}), ("settle", {}))
CALLS_MAX = 60


def fail_every_change(context: Context) -> None:
    """Inject each fault at every change that a host makes, and start another host."""
    for (before, faulty), fault in itertools.product(EVERY, faults(context.examples)):
        for at in range(1, CALLS_MAX):
            if not _was_hit(context, before, faulty, {**fault, "at": at}):
                break


def faults(images: int) -> Iterator[dict[str, Any]]:
    """Every kind of disk fault; of each power loss a number of disk images."""
    for strike in ("kill", "kill torn", "full once", "broken once", "read once"):
        yield {"strike": strike}
    for strike, image in itertools.product(("power", "power torn"), range(images)):
        yield {"strike": strike, "image": image}


def _was_hit(
    context: Context, before: tuple[Step, ...], faulty: Step, fault: dict[str, Any]
) -> bool:
    """Run one episode; returns whether the step makes that many changes."""
    function, argument = faulty
    with context.episode() as episode:
        for step in before:
            episode.client.ask(*step)
        given = {"function": function, "argument": argument, **fault}
        operation = episode.client.ask("struck", given)
        for step in AFTER:
            episode.client.ask(*step)
    return operation.outcome is not Outcome.OK or operation.result["struck"] > 0


def _died(history: History) -> int:
    return sum(op.function == "struck" and op.outcome is Outcome.INFO for op in history)


def _returned(history: History) -> int:
    """Count the wakeups after a host died."""
    died = any(op.outcome is Outcome.INFO for op in history)
    settled = history.happened.of("settle")
    return sum(len(had) for op in settled for had in op.result["woken"].values()) if died else 0


def _unread(history: History) -> int:
    """Count the reads that failed."""
    return sum(
        op.argument["strike"] == "read once"
        and (op.outcome is not Outcome.OK or op.result["struck"] > 0)
        for op in history.of("struck")
    )


WAKEUPS_RESTARTS = Scenario(
    name="wakeups-restarts",
    mode=Mode.CRASH,
    ability="wakeups_restarts",
    promises=(promises.W1, promises.W3, promises.W4, promises.W6, promises.W9, promises.W12),
    workload=fail_every_change,
    checker=check_wakeup_restarts,
    expectations=(
        Expectation("a host was killed", _died),
        Expectation("a wakeup was delivered after a kill", _returned),
        Expectation("a read of the process registry failed", _unread, 4),
    ),
    examples=3,
)


def test_killed_host_leaves_wakeups_to_the_next(judge: Judge) -> None:
    """A kill, a power loss or a failing disk, at every change of a host."""
    assert judge(WAKEUPS_RESTARTS).is_valid
