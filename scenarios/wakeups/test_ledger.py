"""Scenario of the durable map in which a host keeps its processes and turns, large and struck."""

from __future__ import annotations

import itertools
from random import Random
from typing import Any

from harness.checkers.conformance import conforms
from harness.contract import promises
from harness.contract.models.durable_map import HISTORY_ROWS_MAX, DurableMapModel
from harness.core.history import History, Operation, Outcome
from harness.engine.context import Context
from harness.engine.scenario import Expectation, Mode, Scenario
from harness.pytest_plugin import Judge

MANY = HISTORY_ROWS_MAX + 50  # values
ROWS = (
    "not JSON",
    "[]",
    "null",
    '{"key": "k0"}',
    '{"value": {"at": 7}}',
    '{"key": [], "value": 1}',
)
STRIKES = (
    *("kill", "kill torn", "full", "broken once", "broken twice", "short write"),
    *("power", "power torn"),
)
BATCH = 40  # values of one change
CALLS_MAX = 40
HALF = 0.5
Values = dict[str, int | None]


def walk_and_strike(context: Context) -> None:
    """Few and many values, changed until the file was replaced twice; then every disk fault."""
    rng = context.rng("values")
    for values in (1, 3, MANY):
        walk(context, rng, values)
    # The change replaces the file, or it has room for more rows.
    for strike, (values, spare) in itertools.product(STRIKES, ((2, 0), (2, 9), (MANY, 0))):
        for at in range(1, CALLS_MAX):
            fault = {"strike": strike, "at": at, "image": rng.randrange(4)}
            if not strike_once(context, rng, fault, values=values, spare=spare):
                break


def walk(context: Context, rng: Random, values: int) -> None:
    """Change each value often, drop some and set them again."""
    with context.episode() as episode:
        ask = episode.client.ask
        ask("prime", {"values": values, "spare": 2})
        for number in range(2 * HISTORY_ROWS_MAX // BATCH + 4):
            keys = [f"k{rng.randrange(values)}", *(f"x{at}" for at in range(BATCH))]
            ask("change", {"values": dict.fromkeys(keys, None if number % 2 else number)})
            ask("look", {})
        for key in ("k0", "new", f"k{values - 1}", "absent"):
            ask("change", {"values": {key: None if key != "new" else 1}})
            ask("look", {})
        ask("restart", {})
        ask("look", {})
        ask("change", {"values": {"k0": 5, "new": None}})
        for line in ROWS:
            ask("spoil", {"line": line})
        ask("change", {"values": {"k0": 6}})
        ask("look", {})
        ask("restart", {})
        ask("look", {})


def strike_once(
    context: Context, rng: Random, fault: dict[str, Any], *, values: int, spare: int
) -> bool:
    """Strike one change; returns whether the fault hit."""
    changes: tuple[Values, ...] = ({"k0": 7}, {"k1": None}, {"k0": 7, "new": 8, "k1": None})
    with context.episode() as episode:
        ask = episode.client.ask
        ask("prime", {"values": values, "spare": spare})
        argument = {"values": rng.choice(changes)}
        operation = ask("striking", {"function": "change", "argument": argument, **fault})
        if (
            fault["strike"] != "broken twice"
        ):  # which may leave a row that only the next change removes
            ask("look", {})
            if rng.random() < HALF:
                ask("restart", {})
        ask("change", {"values": {"later": 9}})
        ask("look", {})
        ask("restart", {})
        ask("look", {})
    return was_hit(operation)


def was_hit(operation: Operation) -> bool:
    """Whether a fault hit the call."""
    return operation.outcome is not Outcome.OK or bool(operation.result["struck"])


def _ended(outcome: Outcome) -> Any:
    return lambda history: sum(op.outcome is outcome for op in history.of("striking"))


def _large(history: History) -> int:
    return sum(op.result["length"] > HISTORY_ROWS_MAX for op in history.happened.of("look"))


LEDGER = Scenario(
    name="ledger-walked-and-struck",
    mode=Mode.CRASH,
    ability="durable_map",
    promises=(promises.W1, promises.W3, promises.W4, promises.W9, promises.W12, promises.S13),
    workload=walk_and_strike,
    checker=conforms(DurableMapModel()),
    expectations=(
        Expectation("a change was refused", _ended(Outcome.FAIL), 4),
        Expectation("the host was killed", _ended(Outcome.INFO), 4),
        Expectation("there were many values", _large, 3),
    ),
    examples=1,
)


def test_durable_map_keeps_what_it_acknowledged(judge: Judge) -> None:
    """A map with few or many values, at each disk fault of a change, and for the next host."""
    assert judge(LEDGER).is_valid
