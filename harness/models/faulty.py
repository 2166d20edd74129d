"""Any model of a database, with faults: what was hit is done as a whole, or not at all.

Operations are those of the inner model, and those of `harness.targets.sql_faults`: `faulty` asks
one while the Nth statement fails, `beside_a_writer` asks one while another connection has the
write lock, `probe` looks from outside. The model remembers the last fault, since what is wrong
after it is its doing: a write that raised and left a trace broke D2, one that left a transaction
open broke D9, and what a kill took along was D1's to keep.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic

from harness.history import Operation, Outcome, call
from harness.models.model import Model, Refusal, State
from harness.promises import Promise


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
    """A state of the inner model, and the last fault before it."""

    state: State
    fault: Fault | None = None


class FaultyModel(Generic[State]):
    """What may be answered under faults by something that follows the inner model."""

    def __init__(self, inner: Model[State]) -> None:
        self.name = f"{inner.name}-under-faults"
        self._inner = inner

    def initial(self) -> Shaken[State]:
        """The inner model's, unshaken."""
        return Shaken(self._inner.initial())

    def step(
        self, shaken: Shaken[State], operation: Operation
    ) -> tuple[Shaken[State], ...] | Refusal:
        """The states after the operation, or the promise it broke."""
        match operation.function:
            case "faulty":
                return self._faulty(shaken, operation)
            case "beside_a_writer":
                return self._beside_a_writer(shaken, operation)
            case "probe":
                return _probe(shaken, operation)
            case _:
                return self._plain(shaken, operation)

    def _plain(
        self, shaken: Shaken[State], operation: Operation
    ) -> tuple[Shaken[State], ...] | Refusal:
        step = self._inner.step(shaken.state, operation)
        if not isinstance(step, Refusal):
            return tuple(replace(shaken, state=state) for state in step)
        fault = shaken.fault
        if fault is None:
            return step
        message = f"after {fault}: {step.message}"
        return replace(step, promise=_blame(fault, operation, step), message=message)

    def _faulty(
        self, shaken: Shaken[State], operation: Operation
    ) -> tuple[Shaken[State], ...] | Refusal:
        asked = _unwrapped(operation)
        session = asked.argument.get("session")
        inside = call(asked.function, asked.argument)
        fault = Fault(operation.argument["fault"], inside, session)
        if operation.outcome is Outcome.OK:
            step = self._plain(shaken, asked)
            if isinstance(step, Refusal):
                return _wrapped(step, operation)
            completed = operation.result["completed"]
            return step if completed else tuple(replace(after, fault=fault) for after in step)
        if operation.outcome is Outcome.INFO:
            return self._lost(shaken, asked, fault)
        return self._raised(shaken, asked, fault)

    def _lost(
        self, shaken: Shaken[State], asked: Operation, fault: Fault
    ) -> tuple[Shaken[State], ...] | Refusal:
        if not fault.is_kill:
            broken = Promise.D10 if fault.is_full else Promise.D9
            return Refusal(broken, f"{fault}: the process was lost of it, or hung: {asked.error}")
        return self._shaken_by(fault, shaken, asked)

    def _raised(
        self, shaken: Shaken[State], asked: Operation, fault: Fault
    ) -> tuple[Shaken[State], ...] | Refusal:
        by_itself = self._inner.step(shaken.state, asked)
        if not isinstance(by_itself, Refusal):  # it would have failed without a fault
            return tuple(Shaken(state, fault) for state in by_itself)
        if fault.is_kill:  # nobody was killed, and yet it failed
            return self._plain(shaken, asked)
        if fault.is_full and "full" not in asked.error.lower():
            return Refusal(Promise.D10, f"{fault}: its error does not say so: {asked.error}")
        if fault.name == "late-interrupt":
            # It came between two statements: after the commit, or before it. Nobody can tell.
            return self._shaken_by(fault, shaken, replace(asked, outcome=Outcome.INFO))
        return (Shaken(shaken.state, fault),)

    def _shaken_by(
        self, fault: Fault, shaken: Shaken[State], asked: Operation
    ) -> tuple[Shaken[State], ...] | Refusal:
        step = self._inner.step(shaken.state, asked)
        if isinstance(step, Refusal):
            return step
        return tuple(Shaken(state, fault) for state in step)

    def _beside_a_writer(
        self, shaken: Shaken[State], operation: Operation
    ) -> tuple[Shaken[State], ...] | Refusal:
        asked = _unwrapped(operation)
        inside = call(asked.function, asked.argument)
        if operation.outcome is Outcome.OK and not operation.result["refused"]:
            step = self._plain(shaken, asked)
            return _wrapped(step, operation) if isinstance(step, Refusal) else step
        message = f"{inside} asked for the write lock while another had it: {operation}"
        return Refusal(Promise.D8, message)


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


def _blame(fault: Fault, operation: Operation, refusal: Refusal) -> Promise:
    """Whose promise it was that this operation would go well after the fault."""
    drifted = refusal.promise is Promise.D2
    touched = fault.session is None or operation.argument.get("session") in (None, fault.session)
    if operation.outcome is not Outcome.OK:
        return Promise.D1 if fault.is_kill else Promise.D9
    return Promise.D2 if drifted or touched else Promise.D1


def _probe(shaken: Shaken[State], operation: Operation) -> tuple[Shaken[State], ...] | Refusal:
    sound = {"locked": False, "integrity": "ok"}
    if operation.result == sound:
        return (shaken,)
    fault = shaken.fault
    where = "" if fault is None else f"after {fault}: "
    if operation.outcome is Outcome.OK and operation.result["locked"]:
        broken = Promise.D5 if fault and fault.is_kill else Promise.D9
        return Refusal(broken, f"{where}the write lock is held, and nobody writes", (sound,))
    broken = Promise.D1 if fault and fault.is_kill else Promise.D10
    return Refusal(broken, f"{where}the file is not sound: {operation}", (sound,))
