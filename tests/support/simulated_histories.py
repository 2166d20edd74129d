"""Random histories: of objects that are right by construction, and damaged ones.

Each call gets an instant of its interval at which the object really is called, so the history is
linearizable. Times are small whole numbers, so that many of them are equal.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from random import Random
from typing import Any

from harness.contract import promises
from harness.core.history import History, Operation, Outcome
from harness.core.model import Refusal

Call = tuple[str, Any]  # function, argument


@dataclass
class Machine:
    """An object that answers calls, and its own model. States are hashable."""

    name: str
    start: Hashable
    answer: Callable[[Any, str, Any], tuple[Any, Any]]  # state, call -> next state, result
    draw: Callable[[Random, int], Call]  # the call with that number

    def initial(self) -> Hashable:
        """The state of a fresh object."""
        return self.start

    def step(self, state: Hashable, operation: Operation) -> tuple[Hashable, ...] | Refusal:
        """Call the object, and compare its answer with that of the operation."""
        if operation.outcome is Outcome.FAIL:
            return (state,)
        after, result = self.answer(state, operation.function, operation.argument)
        if operation.outcome is Outcome.INFO:
            return (state, after)
        if operation.result != result:
            return Refusal(
                promises.S2,
                f"{operation.call} answers another value",
                accepted=(result,),
                expected=repr(result),
            )
        return (after,)


def _register(state: Any, function: str, argument: Any) -> tuple[Any, Any]:
    match function:
        case "read":
            return state, state
        case "write":
            return argument["value"], None
    return (argument["new"], True) if state == argument["expected"] else (state, False)


def _queue(state: Any, function: str, argument: Any) -> tuple[Any, Any]:
    if function == "enqueue":
        return (*state, argument["item"]), None
    return (state[1:], state[0]) if state else (state, None)


def _set(state: Any, function: str, argument: Any) -> tuple[Any, Any]:
    return (state | {argument["item"]}, None) if function == "add" else (state, sorted(state))


READ: Call = ("read", {})


def _draw_register(rng: Random, _: int) -> Call:
    write, expected, new = (rng.randrange(3) for _ in range(3))
    cas = {"expected": expected, "new": new}
    return rng.choice([READ, ("write", {"value": write}), ("cas", cas)])


def _draw_unique(rng: Random, number: int) -> Call:
    return rng.choice([READ, ("write", {"value": number})])


def _draw_queue(rng: Random, number: int) -> Call:
    return rng.choice([("enqueue", {"item": number}), ("dequeue", {})])


def _draw_set(rng: Random, number: int) -> Call:
    return rng.choice([("add", {"item": number}), READ])


CAS_REGISTER = Machine("cas register", None, _register, _draw_register)
UNIQUE_REGISTER = Machine("register", None, _register, _draw_unique)
QUEUE = Machine("queue", (), _queue, _draw_queue)
SET = Machine("set", frozenset(), _set, _draw_set)


def history_of(
    machine: Machine, rng: Random, *, operations: int, processes: int, doubt: float = 0.2
) -> History:
    """Let some processes call the machine; `doubt` is the share of calls without a good reply."""
    names = count(processes)
    clients = {process: (0, process) for process in range(processes)}  # when it is free; its name
    calls = []
    for number in range(operations):
        client = rng.randrange(processes)
        free_ns, name = clients[client]
        invoked_ns = free_ns + rng.randrange(3)
        effective_ns = invoked_ns + rng.randrange(4)
        completed_ns = effective_ns + rng.randrange(4)
        outcome = Outcome.OK
        if rng.random() < doubt:
            outcome = rng.choice([Outcome.INFO, Outcome.INFO, Outcome.FAIL])
        function, argument = machine.draw(rng, number)
        operation = Operation(name, function, argument, outcome, invoked_ns, completed_ns)
        calls.append((effective_ns + rng.random() / 2, number, operation))
        clients[client] = (completed_ns + 1, next(names) if outcome is Outcome.INFO else name)
    state = machine.initial()
    done = []
    for _, _, operation in sorted(calls):
        if operation.outcome is Outcome.FAIL:
            done.append(replace(operation, error="Refused"))
        elif operation.outcome is Outcome.INFO:
            if rng.random() < 0.5:
                state, _ = machine.answer(state, operation.function, operation.argument)
            done.append(replace(operation, completed_ns=None))
        else:
            state, result = machine.answer(state, operation.function, operation.argument)
            done.append(replace(operation, result=result))
    return in_order(done)


def in_order(operations: Sequence[Operation]) -> History:
    """A history of these, in order of invocation."""
    return History(tuple(sorted(operations, key=lambda operation: operation.invoked_ns)))


def damaged(history: History, rng: Random) -> History:
    """The same history with one change, which may keep it linearizable."""
    operations = list(history)
    number = rng.randrange(len(operations))
    chosen = operations[number]
    answers = [op.result for op in operations if op.result is not None]
    match rng.choice(["answer", "answer", "time", "drop", "fail"]):
        case "answer" if chosen.result is not None:
            same = [answer for answer in answers if type(answer) is type(chosen.result)]
            operations[number] = replace(chosen, result=rng.choice(same))
        case "time" if chosen.completed_ns is not None:
            shift = rng.randrange(-8, 9)
            begin, end = chosen.invoked_ns + shift, chosen.completed_ns + shift
            operations[number] = replace(chosen, invoked_ns=begin, completed_ns=end)
        case "drop":
            del operations[number]
        case "fail" if chosen.completed_ns is not None:
            operations[number] = replace(chosen, outcome=Outcome.FAIL, result=None)
    return in_order(operations)


def random_history(
    machine: Machine, seed: int, *, operations: int = 6, processes: int = 3
) -> History:
    """The history of a seed: most are damaged, once or more, and some lack many replies."""
    rng = Random(seed)
    doubt = rng.choice([0.1, 0.2, 0.6])
    history = history_of(machine, rng, operations=operations, processes=processes, doubt=doubt)
    for _ in range(rng.choice([0, 1, 2, 4])):
        if history:
            history = damaged(history, rng)
    return history
