"""Scenario of turns on a disk that fails or crashes at every change, and of the next host."""

from __future__ import annotations

from typing import Any

from harness.contract import promises
from harness.contract.checkers.threads.struck_turns import check_struck_turns
from harness.core.history import History, Operation, Outcome
from harness.engine.context import Context
from harness.engine.scenario import Expectation, Mode, Scenario
from harness.pytest_plugin import Judge

NEVER = 10_000  # more changes than a turn makes
BEFORE: dict[str, Any] = {"run": "r0", "script": "talk"}
NEXT: dict[str, Any] = {"run": "r2", "script": "talk"}
TURNS: tuple[dict[str, Any], ...] = (
    {"run": "r1", "script": "talk"},
    {"run": "r1", "script": "fail"},
    {"run": "r1", "script": "cancel"},
    {"run": "r1", "script": "talk", "wakeup": True},
)
STRIKES = ("kill", "kill torn", "full", "full once", "broken once")


def strike_turns(context: Context) -> None:
    """Strike turns of every kind; each at a share of its changes, which differs by the seed."""
    share = max(1, context.examples // (len(TURNS) * len(STRIKES)))
    for number, turn in enumerate(TURNS):
        whole = _strike(context, turn, "kill", NEVER)
        changes = whole.result["changes"] if whole.outcome is Outcome.OK else share
        for strike in STRIKES:
            offset = context.rng(f"{number} {strike}").random()
            for part in range(share):
                _strike(context, turn, strike, 1 + int((part + offset) * changes / share))


def _strike(context: Context, turn: dict[str, Any], strike: str, at: int) -> Operation:
    """Run one episode; returns the struck turn."""
    with context.episode() as episode:
        ask = episode.client.ask
        ask("turn", BEFORE)
        operation = ask("struck", {**turn, "strike": strike, "at": at})
        if operation.outcome is Outcome.INFO:
            ask("look", {})
        if turn.get("wakeup"):
            ask("turn", turn)  # its delivery is tried again
        ask("turn", NEXT)
        ask("look", {})
        ask("restart", {})
        ask("look", {})
    return operation


def _outcomes(outcome: Outcome) -> Any:
    def count(history: History) -> int:
        return sum(op.function == "struck" and op.outcome is outcome for op in history)

    return count


def _ended_on_faults(history: History) -> int:
    """Count the runs that the disk refused something after their start."""
    return sum(op.outcome is Outcome.OK and op.result["struck"] for op in history.of("struck"))


TURNS_STRUCK = Scenario(
    name="turns-struck",
    mode=Mode.CRASH,
    ability="turns_struck",
    promises=(
        *(promises.T2, promises.T3, promises.T4, promises.T5, promises.S2, promises.S10),
        *(promises.S13, promises.S14, promises.W1, promises.W4),
    ),
    workload=strike_turns,
    checker=check_struck_turns,
    expectations=(
        Expectation("a host was killed", _outcomes(Outcome.INFO), 10),
        Expectation("a start was refused", _outcomes(Outcome.FAIL), 5),
        Expectation("a run met a failing disk", _ended_on_faults, 10),
    ),
    examples=100,
)


def test_turns_survive_a_disk_that_fails(judge: Judge) -> None:
    """A kill or an error at the changes of turns that reply, fail, are cancelled, or wake."""
    assert judge(TURNS_STRUCK).is_valid
