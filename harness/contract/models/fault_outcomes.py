"""Model of a database under faults: a call that a fault hit is done as a whole, or not at all.

Operations are those of the inner model, and those of `harness.worker.sql_faults`: `faulty` asks
one while the Nth statement fails, `beside_a_writer` asks one while another connection has the
write lock, `probe` inspects the file from another connection. The model remembers the last fault,
because a defect after it is its consequence: a write that raised and left a trace broke D2, one
that left a transaction open broke D9, and an acknowledged write that a kill removed broke D1.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic

from harness.checkers.conformance import Adopting
from harness.contract import promises
from harness.core.history import Operation, Outcome
from harness.core.model import Model, Refusal, State


@dataclass(frozen=True, slots=True)
class Fault:
    """The last fault: its name, the call that it hit, and the session of that call."""

    name: str
    call: str
    session: str | None

    @property
    def is_kill(self) -> bool:
        """Whether the fault killed the process, so that the call got no reply."""
        return self.name.endswith("kill")

    @property
    def is_full(self) -> bool:
        """Whether the fault was a full disk."""
        return self.name.startswith("full")

    def __str__(self) -> str:
        return f"{self.name} in {self.call}"


@dataclass(frozen=True, slots=True)
class Faulted(Generic[State]):
    """States of the inner model that may hold, and the last fault before them.

    After a kill there are states with the interrupted write and states without it. Once an answer
    has ruled some of them out, it `shows` which of them holds, and later answers must agree.
    """

    states: tuple[State, ...]
    fault: Fault | None = None
    shows: bool = False


class FaultOutcomesModel(Generic[State]):
    """What a component that follows the inner model may answer under faults."""

    def __init__(self, inner: Model[State]) -> None:
        self.name = f"{inner.name}-under-faults"
        self._inner = inner

    def initial(self) -> Faulted[State]:
        """The initial state of the inner model, before any fault."""
        return Faulted((self._inner.initial(),))

    def step(self, before: Faulted[State], operation: Operation) -> tuple[Faulted[State]] | Refusal:
        """The states that may hold after the operation, or the promise it broke."""
        match operation.function:
            case "faulty":
                after = self._faulty(before, operation)
            case "beside_a_writer":
                after = self._beside_a_writer(before, operation)
            case "probe":
                after = _probe(before, operation)
            case _:
                after = self._plain(before, operation)
        return after if isinstance(after, Refusal) else (after,)

    def adopt(self, before: Faulted[State], operation: Operation) -> tuple[Faulted[State], ...]:
        """Take the observed answer for the truth, as the inner model does, if it can."""
        if operation.function == "probe":
            return (before,)
        if not isinstance(self._inner, Adopting):
            return ()
        inner = _unwrapped(operation) if operation.function in _WRAPPERS else operation
        if inner.outcome is Outcome.INFO:
            return ()
        states = _all(self._inner.adopt(state, inner) for state in before.states)
        return (replace(before, states=states),) if states else ()

    def _plain(self, before: Faulted[State], operation: Operation) -> Faulted[State] | Refusal:
        steps = [self._inner.step(state, operation) for state in before.states]
        refusals = [step for step in steps if isinstance(step, Refusal)]
        if len(refusals) < len(steps):
            states = _all(step for step in steps if not isinstance(step, Refusal))
            return replace(before, states=states, shows=before.shows or bool(refusals))
        accepted = tuple(result for refusal in refusals for result in refusal.accepted)
        expected = " or ".join(
            dict.fromkeys(refusal.expected for refusal in refusals if refusal.expected)
        )
        observed = refusals[0].observed or operation.answer
        refusal = replace(refusals[0], accepted=accepted, expected=expected, observed=observed)
        return refusal if before.fault is None else _attributed(before, operation, refusal)

    def _faulty(self, before: Faulted[State], operation: Operation) -> Faulted[State] | Refusal:
        inner = _unwrapped(operation)
        fault = Fault(operation.argument["fault"], inner.call, inner.argument.get("session"))
        match operation.outcome:
            case Outcome.OK:
                return self._withstood(before, operation, fault)
            case Outcome.INFO:
                return self._lost(before, inner, fault)
            case Outcome.FAIL:
                return self._raised(before, inner, fault)

    def _withstood(
        self, before: Faulted[State], operation: Operation, fault: Fault
    ) -> Faulted[State] | Refusal:
        after = self._plain(before, _unwrapped(operation))
        if isinstance(after, Refusal):
            return _wrapped(after, operation)
        return after if operation.result["completed"] else Faulted(after.states, fault)

    def _lost(
        self, before: Faulted[State], inner: Operation, fault: Fault
    ) -> Faulted[State] | Refusal:
        if not fault.is_kill:
            return Refusal(
                promises.D10 if fault.is_full else promises.D9,
                f"{fault} ended the process, or the call never returned",
                expected="an error from the call, and a process that goes on",
                observed=inner.answer,
            )
        return self._in_doubt(before, inner, fault)

    def _raised(
        self, before: Faulted[State], inner: Operation, fault: Fault
    ) -> Faulted[State] | Refusal:
        if fault.name == "late-interrupt" and inner.error.startswith(KeyboardInterrupt.__name__):
            # The interrupt came between two statements, either before the commit or after it.
            return self._in_doubt(before, inner, fault)
        by_itself = self._plain(before, inner)
        if not isinstance(by_itself, Refusal):  # it may have failed without a fault
            return Faulted(before.states, fault)
        if fault.is_kill:  # the kill did not happen, and yet the call failed
            return by_itself
        if fault.is_full and "full" not in inner.error.lower():
            return Refusal(
                promises.D10,
                f"{fault}: the error does not say that the disk is full",
                expected="an error whose text contains 'full'",
                observed=inner.answer,
            )
        return Faulted(before.states, fault)

    def _in_doubt(
        self, before: Faulted[State], inner: Operation, fault: Fault
    ) -> Faulted[State] | Refusal:
        after = self._plain(before, replace(inner, outcome=Outcome.INFO))
        return after if isinstance(after, Refusal) else Faulted(after.states, fault)

    def _beside_a_writer(
        self, before: Faulted[State], operation: Operation
    ) -> Faulted[State] | Refusal:
        inner = _unwrapped(operation)
        is_answered = operation.outcome is Outcome.OK
        if is_answered and not operation.result["refused"]:
            after = self._plain(before, inner)
            return _wrapped(after, operation) if isinstance(after, Refusal) else after
        return Refusal(
            promises.D8,
            f"{inner.call} asked for the write lock while another connection had it",
            ({**operation.result, "refused": 0},) if is_answered else (),
            expected="an answer without a refused request for the write lock (refused = 0)",
        )


_WRAPPERS = ("faulty", "beside_a_writer")


def _all(steps: Iterable[tuple[State, ...]]) -> tuple[State, ...]:
    """Every state of every step, once."""
    return tuple(dict.fromkeys(itertools.chain.from_iterable(steps)))


def _unwrapped(operation: Operation) -> Operation:
    """The operation of the inner model."""
    argument: Mapping[str, Any] = operation.argument
    result = operation.result["result"] if operation.outcome is Outcome.OK else None
    return replace(
        operation, function=argument["function"], argument=argument["argument"], result=result
    )


def _wrapped(refusal: Refusal, operation: Operation) -> Refusal:
    """The refusal, with accepted results as the outer operation gives them."""
    accepted = tuple({**operation.result, "result": result} for result in refusal.accepted)
    return replace(refusal, accepted=accepted)


def _attributed(before: Faulted[State], operation: Operation, refusal: Refusal) -> Refusal:
    """The refusal, with the promise that rules the consequences of the last fault."""
    fault = before.fault
    assert fault is not None
    touched = fault.session is None or operation.argument.get("session") in (None, fault.session)
    broken, reason = refusal.promise, ""
    if operation.outcome is not Outcome.OK:
        broken = promises.D1 if fault.is_kill else promises.D9
    elif before.shows:
        broken, reason = promises.D2, "only a part of the write is there: "
    elif touched and not fault.is_kill:
        broken = promises.D2
    also = tuple({*refusal.also, refusal.promise} & {promises.D1} - {broken})
    message = f"after {fault}: {reason}{refusal.message}"
    return replace(refusal, promise=broken, message=message, also=also)


def _probe(before: Faulted[State], operation: Operation) -> Faulted[State] | Refusal:
    sound = {"locked": False, "integrity": "ok"}
    if operation.result == sound:
        return before
    fault = before.fault
    context = "" if fault is None else f"after {fault}: "
    if operation.outcome is Outcome.OK and operation.result["locked"]:
        return Refusal(
            promises.D5 if fault and fault.is_kill else promises.D9,
            f"{context}{operation.call} found the write lock held although no call writes",
            (sound,),
            expected="a free write lock (locked = False)",
        )
    return Refusal(
        promises.D1 if fault and fault.is_kill else promises.D10,
        f"{context}{operation.call} found a damaged file",
        (sound,),
        expected=f"{sound}",
    )
