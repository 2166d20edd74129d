"""Scenario of concurrent database calls: every history is linearizable.

The calls are drawn from those of the model scenario, a few for each thread. The history of every
schedule is searched for an order that the same model accepts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from random import Random

from harness.checkers.linearizability import linearizable
from harness.contract import promises
from harness.contract.models.state_db import StateDbModel
from harness.core.history import History
from harness.engine.context import Context
from harness.engine.scenario import Mode, Scenario
from harness.pytest_plugin import Judge
from harness.schedule import Call
from harness.workloads.threads import Interleaving, Program

SESSIONS = ("s1", "s2")
DRAWN = 200  # programs to choose from
SCHEDULES = 12  # of each chosen program


def drawn(number: int) -> Program:
    """Draw two or three threads of one or two calls each, by a number."""
    rng = Random(f"state-db-threads/{number}")
    texts = (f"alpha {number}" for number in count())
    threads = [
        tuple(_call(rng, texts) for _ in range(rng.randint(1, 2))) for _ in range(rng.randint(2, 3))
    ]
    first = tuple(Call("create", {"session": session, "source": "cli"}) for session in SESSIONS)
    last = tuple(
        Call(function, {"session": session})
        for session in SESSIONS
        for function in ("get", "messages", "counters")
    )
    return Program(f"drawn {number}", threads, promises.D3, first, last)


def _call(rng: Random, texts: Iterator[str]) -> Call:
    session = {"session": rng.choice(SESSIONS)}
    match rng.choice(("append", "append", "set_title", "clear", "delete", "get", "messages")):
        case "append":
            message = {"role": "user", "text": next(texts), "tool_calls": rng.randint(0, 1)}
            return Call("append", {**session, **message})
        case "set_title":
            return Call("set_title", {**session, "title": "plans"})
        case function:
            return Call(function, session)


def writes_met(history: History) -> bool:
    """Two writes of the same session overlapped."""
    writes = [op for op in history if op.function in ("append", "clear", "delete", "set_title")]
    return any(
        one.meets(other) and one.argument["session"] == other.argument["session"]
        for index, one in enumerate(writes)
        for other in writes[index + 1 :]
    )


ATOMIC = Interleaving(
    programs=tuple(drawn(number) for number in range(DRAWN)),
    check=linearizable(StateDbModel(), promises.D1),
    meetings={"two writes of a session met": writes_met},
    schedules=SCHEDULES,
)


def explore_some(context: Context) -> None:
    """Explore as many of the drawn programs as there are examples."""
    chosen = context.rng("programs").sample(ATOMIC.programs, min(context.examples, DRAWN))
    replace(ATOMIC, programs=chosen).explore(context)


STATE_DB_THREADS = Scenario(
    name="state-db-threads",
    mode=Mode.SCHEDULE,
    ability="state_db_threads",
    promises=(promises.D1, promises.D2, promises.D3),
    workload=explore_some,
    checker=ATOMIC.judge,
    expectations=tuple(ATOMIC.met(meeting) for meeting in ATOMIC.meetings),
    examples=10,
    replay=ATOMIC.replay,
)


def test_concurrent_calls_are_linearizable(judge: Judge) -> None:
    """Each call takes effect at one moment between its begin and its end, or not at all."""
    assert judge(STATE_DB_THREADS).is_valid
