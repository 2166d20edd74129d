"""The database on trial by schedules: whatever threads ask at once, one order explains it.

The calls are drawn from those that the sequential machine asks, a few for each thread, and the
history of every schedule is searched for an order that the very same model explains.
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
SCHEDULES = 12  # of each that is chosen


def drawn(number: int) -> Program:
    """Two or three threads of one or two calls each; the same for the same number."""
    rng = Random(f"state-db-threads/{number}")
    texts = (f"alpha {number}" for number in count())
    threads = [
        tuple(_call(rng, texts) for _ in range(rng.randint(1, 2))) for _ in range(rng.randint(2, 3))
    ]
    first = tuple(Call("create", {"session": session, "source": "cli"}) for session in SESSIONS)
    last = tuple(
        Call(look, {"session": session})
        for session in SESSIONS
        for look in ("get", "messages", "counters")
    )
    return Program(f"drawn {number}", threads, promises.D3, first, last)


def _call(rng: Random, texts: Iterator[str]) -> Call:
    session = {"session": rng.choice(SESSIONS)}
    match rng.choice(("append", "append", "set_title", "clear", "delete", "get", "messages")):
        case "append":
            said = {"role": "user", "text": next(texts), "tool_calls": rng.randint(0, 1)}
            return Call("append", {**session, **said})
        case "set_title":
            return Call("set_title", {**session, "title": "plans"})
        case function:
            return Call(function, session)


def writes_met(history: History) -> bool:
    """Two writes of the same session overlapped."""
    writes = [op for op in history if op.function in ("append", "clear", "delete", "set_title")]
    return any(
        one.meets(two) and one.argument["session"] == two.argument["session"]
        for index, one in enumerate(writes)
        for two in writes[index + 1 :]
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


def test_one_order_explains_what_threads_saw(judge: Judge) -> None:
    """Each call happens at one moment between its question and its answer, or not at all."""
    assert judge(STATE_DB_THREADS).is_valid
