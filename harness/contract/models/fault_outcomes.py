"""Any model of a database, with faults: what was hit is done as a whole, or not at all.

Operations are those of the inner model, and those of `harness.worker.sql_faults`: `faulty` asks
one while the Nth statement fails, `beside_a_writer` asks one while another connection has the
write lock, `probe` looks from outside. The model remembers the last fault, since what is wrong
after it is its doing: a write that raised and left a trace broke D2, one that left a transaction
open broke D9, and what a kill took along was D1's to keep.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic

from harness.core.history import Operation, Outcome, call
from harness.core.model import Model, Refusal, State
from harness.core.promises import Promise


@dataclass(frozen=True, slots=True)
class Fault:
    """What was last broken: the fault's name, the call it hit, and the session that is about."""

    name: str
    call: str
    session: str | None

    @property
    def is_kill(self) -> bool:
        """Whether the process is gone, so that nobody was told anything."""
        return self.name.endswith("kill")

    @property
    def is_full(self) -> bool:
        """Whether the disk was full."""
        return self.name.startswith("full")

    def __str__(self) -> str:
        return f"{self.name} in {self.call}"


@dataclass(frozen=True, slots=True)
class Shaken(Generic[State]):
    """States of the inner model that may hold, and the last fault before them.

    After a kill there are those in which the write happened and those in which it did not. Once
    an answer has ruled some of them out, it `shows` which, and has to stay so.
    """

    states: tuple[State, ...]
    fault: Fault | None = None
    shows: bool = False


class FaultyModel(Generic[State]):
    """What may be answered under faults by something that follows the inner model."""

    def __init__(self, inner: Model[State]) -> None:
        self.name = f"{inner.name}-under-faults"
        self._inner = inner

    def initial(self) -> Shaken[State]:
        """The inner model's, unshaken."""
        return Shaken((self._inner.initial(),))

    def step(self, shaken: Shaken[State], operation: Operation) -> tuple[Shaken[State]] | Refusal:
        """What may hold after the operation, or the promise it broke."""
        match operation.function:
            case "faulty":
                after = self._faulty(shaken, operation)
            case "beside_a_writer":
                after = self._beside_a_writer(shaken, operation)
            case "probe":
                after = _probe(shaken, operation)
            case _:
                after = self._plain(shaken, operation)
        return after if isinstance(after, Refusal) else (after,)

    def _plain(self, shaken: Shaken[State], operation: Operation) -> Shaken[State] | Refusal:
        steps = [self._inner.step(state, operation) for state in shaken.states]
        refusals = [step for step in steps if isinstance(step, Refusal)]
        if len(refusals) < len(steps):
            states = _all(step for step in steps if not isinstance(step, Refusal))
            return replace(shaken, states=states, shows=shaken.shows or bool(refusals))
        accepted = tuple(result for refusal in refusals for result in refusal.accepted)
        refusal = replace(refusals[0], accepted=accepted)
        return refusal if shaken.fault is None else _blamed(shaken, operation, refusal)

    def _faulty(self, shaken: Shaken[State], operation: Operation) -> Shaken[State] | Refusal:
        asked = _unwrapped(operation)
        session = asked.argument.get("session")
        inside = call(asked.function, asked.argument)
        fault = Fault(operation.argument["fault"], inside, session)
        match operation.outcome:
            case Outcome.OK:
                return self._withstood(shaken, operation, fault)
            case Outcome.INFO:
                return self._lost(shaken, asked, fault)
            case Outcome.FAIL:
                return self._raised(shaken, asked, fault)

    def _withstood(
        self, shaken: Shaken[State], operation: Operation, fault: Fault
    ) -> Shaken[State] | Refusal:
        after = self._plain(shaken, _unwrapped(operation))
        if isinstance(after, Refusal):
            return _wrapped(after, operation)
        return after if operation.result["completed"] else Shaken(after.states, fault)

    def _lost(
        self, shaken: Shaken[State], asked: Operation, fault: Fault
    ) -> Shaken[State] | Refusal:
        if not fault.is_kill:
            broken = Promise.D10 if fault.is_full else Promise.D9
            return Refusal(broken, f"{fault}: the process was lost of it, or hung: {asked.error}")
        return self._in_doubt(shaken, asked, fault)

    def _raised(
        self, shaken: Shaken[State], asked: Operation, fault: Fault
    ) -> Shaken[State] | Refusal:
        if fault.name == "late-interrupt" and asked.error.startswith(KeyboardInterrupt.__name__):
            # It came between two statements: after the commit, or before it. Nobody can tell.
            return self._in_doubt(shaken, asked, fault)
        by_itself = self._plain(shaken, asked)
        if not isinstance(by_itself, Refusal):  # it may have failed without a fault
            return Shaken(shaken.states, fault)
        if fault.is_kill:  # nobody was killed, and yet it failed
            return by_itself
        if fault.is_full and "full" not in asked.error.lower():
            return Refusal(Promise.D10, f"{fault}: its error does not say so: {asked.error}")
        return Shaken(shaken.states, fault)

    def _in_doubt(
        self, shaken: Shaken[State], asked: Operation, fault: Fault
    ) -> Shaken[State] | Refusal:
        after = self._plain(shaken, replace(asked, outcome=Outcome.INFO))
        return after if isinstance(after, Refusal) else Shaken(after.states, fault)

    def _beside_a_writer(
        self, shaken: Shaken[State], operation: Operation
    ) -> Shaken[State] | Refusal:
        asked = _unwrapped(operation)
        if operation.outcome is Outcome.OK and not operation.result["refused"]:
            after = self._plain(shaken, asked)
            return _wrapped(after, operation) if isinstance(after, Refusal) else after
        inside = call(asked.function, asked.argument)
        message = f"{inside} asked for the write lock while another had it: {operation}"
        answered = operation.outcome is Outcome.OK
        return Refusal(
            Promise.D8, message, ({**operation.result, "refused": 0},) if answered else ()
        )


def _all(steps: Iterable[tuple[State, ...]]) -> tuple[State, ...]:
    """Every state of every step, once."""
    return tuple(dict.fromkeys(itertools.chain.from_iterable(steps)))


def _unwrapped(operation: Operation) -> Operation:
    """The operation that was asked inside."""
    argument: Mapping[str, Any] = operation.argument
    result = operation.result["result"] if operation.outcome is Outcome.OK else None
    return replace(
        operation, function=argument["function"], argument=argument["argument"], result=result
    )


def _wrapped(refusal: Refusal, operation: Operation) -> Refusal:
    """The refusal, with accepted results as the outer operation gives them."""
    accepted = tuple({**operation.result, "result": result} for result in refusal.accepted)
    return replace(refusal, accepted=accepted)


def _blamed(shaken: Shaken[State], operation: Operation, refusal: Refusal) -> Refusal:
    """The refusal, with the promise whose it was that this would go well after the fault."""
    fault = shaken.fault
    assert fault is not None
    touched = fault.session is None or operation.argument.get("session") in (None, fault.session)
    broken, story = refusal.promise, ""
    if operation.outcome is not Outcome.OK:
        broken = Promise.D1 if fault.is_kill else Promise.D9
    elif shaken.shows:
        broken, story = Promise.D2, "part of the write is there, and part is not: "
    elif touched and not fault.is_kill:
        broken = Promise.D2
    also = tuple({*refusal.also, refusal.promise} & {Promise.D1} - {broken})
    return Refusal(broken, f"after {fault}: {story}{refusal.message}", refusal.accepted, also)


def _probe(shaken: Shaken[State], operation: Operation) -> Shaken[State] | Refusal:
    sound = {"locked": False, "integrity": "ok"}
    if operation.result == sound:
        return shaken
    fault = shaken.fault
    where = "" if fault is None else f"after {fault}: "
    if operation.outcome is Outcome.OK and operation.result["locked"]:
        broken = Promise.D5 if fault and fault.is_kill else Promise.D9
        return Refusal(broken, f"{where}the write lock is held, and nobody writes", (sound,))
    broken = Promise.D1 if fault and fault.is_kill else Promise.D10
    return Refusal(broken, f"{where}the file is not sound: {operation}", (sound,))
