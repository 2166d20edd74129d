"""Wakeups on trial by hosts that die: what was to be told is told by the next one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from harness.contract.checkers.threads.wakeup_routing import restarts_lose_nobody
from harness.core.history import History, Outcome
from harness.core.promises import Promise
from harness.engine.context import Stage
from harness.engine.scenario import Expectation, Mode, Scenario
from scenarios.conftest import Judge

S, T = {"session": "s"}, {"session": "t"}
Asked = tuple[str, dict[str, Any]]

# Three processes ended while nobody looked; of one nobody knows how. One session is busy.
BEFORE: tuple[Asked, ...] = (
    ("leave", {**S, "process": "proc_1", "exit_code": 0}),
    ("leave", {**S, "process": "proc_2"}),
    ("leave", {**T, "process": "proc_3", "exit_code": 3}),
    ("restart", {}),
    ("begin_run", S),
)
DEFERRED: tuple[Asked, ...] = (*BEFORE, ("drain", {}))
# What goes before, and what is then struck.
EVERY: tuple[tuple[tuple[Asked, ...], Asked], ...] = (
    (BEFORE[:3], ("restart", {})),
    (BEFORE, ("drain", {})),
    (DEFERRED, ("end_run", S)),
    (DEFERRED, ("restart", {})),
)
AFTER: tuple[Asked, ...] = (("restart", {}), ("settle", {}))
CALLS_MAX = 60


def strike_everywhere(stage: Stage) -> None:
    """Strike every change of what a host does with wakeups, and start another host."""
    for (before, struck), strike in itertools.product(EVERY, strikes(stage.examples)):
        for at in range(1, CALLS_MAX):
            if not _was_struck(stage, before, struck, {**strike, "at": at}):
                break


def strikes(images: int) -> Iterator[dict[str, Any]]:
    """Every kind of strike, and of power losses so many images."""
    for strike in ("kill", "kill torn", "full once", "broken once"):
        yield {"strike": strike}
    for strike, image in itertools.product(("power", "power torn"), range(images)):
        yield {"strike": strike, "image": image}


def _was_struck(
    stage: Stage, before: tuple[Asked, ...], struck: Asked, strike: dict[str, Any]
) -> bool:
    """One episode; whether what is struck makes so many changes."""
    function, argument = struck
    with stage.episode() as episode:
        for asked in before:
            episode.client.ask(*asked)
        told = {"function": function, "argument": argument, **strike}
        operation = episode.client.ask("struck", told)
        for asked in AFTER:
            episode.client.ask(*asked)
    return operation.outcome is not Outcome.OK or bool(operation.result["struck"])


def _died(history: History) -> int:
    return sum(op.function == "struck" and op.outcome is Outcome.INFO for op in history)


def _returned(history: History) -> int:
    """Wakeups of a host that died."""
    died = any(op.outcome is Outcome.INFO for op in history)
    settled = (op for op in history.happened if op.function == "settle")
    return sum(len(op.result["woken"]) for op in settled) if died else 0


WAKEUPS_RESTARTS = Scenario(
    name="wakeups-restarts",
    mode=Mode.CRASH,
    ability="wakeups_restarts",
    promises=(Promise.W1, Promise.W4, Promise.W6),
    workload=strike_everywhere,
    checker=restarts_lose_nobody,
    expectations=(
        Expectation("a host died", _died),
        Expectation("a wakeup came back", _returned),
    ),
    examples=3,
)


def test_what_was_to_be_told_is_told_by_the_next_host(judge: Judge) -> None:
    """A kill, a power loss or a failing disk, at every change of what a host does."""
    assert judge(WAKEUPS_RESTARTS).is_valid
