"""Checks that each operation of one client, in order, conforms to a sequential model.

The fold keeps every state that may hold (a lost reply leaves two), so it is exact: it refuses an
operation only when no state explains it. The same fold judges a live test and a stored history.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Generic, Protocol, runtime_checkable

from harness.core.checker import Checker
from harness.core.history import History, Operation, Outcome
from harness.core.model import Model, Refusal, State
from harness.core.state_rows import StateRow, state_rows
from harness.core.verdict import Anomaly, Verdict


@runtime_checkable
class Adopting(Protocol[State]):
    """A model that says where it goes on after an operation that it refused."""

    def adopt(self, state: State, operation: Operation) -> tuple[State, ...]:
        """The states that hold if the observed answer is taken for the truth; none if unknown.

        Every later refusal must be a violation of its own, and no consequence of this one.
        """
        ...


@runtime_checkable
class Narrow(Protocol):
    """A model whose refusals depend on few of the operations before."""

    def evidence(self, past: Sequence[Operation]) -> tuple[Operation, ...]:
        """Of all operations so far those that explain why the last one was refused, and that."""
        ...


@runtime_checkable
class Silent(Protocol):
    """A model whose state explains no refusal: it is only what is still to be asked, say."""

    shows_state: bool


@dataclass
class Fold(Generic[State]):
    """A model's possible states after the operations so far.

    After a refused operation the fold goes on from what was observed, if the model has a method
    `adopt` (see `Adopting`), so that one broken promise hides no other. Without it the fold
    `is_lost`: what follows may only be a consequence, and is not judged.
    """

    model: Model[State]
    anomalies: int = field(init=False, default=0)
    is_lost: bool = field(init=False, default=False)
    states: dict[State, None] = field(init=False)
    past: list[Operation] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.states = {self.model.initial(): None}

    def step(self, operation: Operation) -> Anomaly | None:
        """Apply one more operation; returns an anomaly if no state explains it, else None."""
        self.past.append(operation)
        if self.is_lost:
            return None
        after: dict[State, None] = {}
        refusals: list[Refusal] = []
        for state in self.states:
            step = self.model.step(state, operation)
            if isinstance(step, Refusal):
                refusals.append(step)
            else:
                after.update(dict.fromkeys(step))
        if after:
            self.states = after
            return None
        # In the first state every unknown operation happened, in order of invocation.
        first = refusals[0]
        known = known_at(self.model, next(iter(self.states)), operation, first)
        self._adopt(operation)
        self.anomalies += 1
        accepted = [result for refusal in refusals for result in refusal.accepted]
        return Anomaly(
            first.promise,
            first.message,
            evidence=self._evidence(),
            name=f"not-{self.model.name}",
            accepted=tuple(accepted),
            also=first.also,
            expected=_expected(refusals),
            observed=first.observed or operation.answer,
            behind=self.anomalies - 1,
            state=known,
        )

    def _evidence(self) -> tuple[Operation, ...]:
        """What proves that the last operation was refused."""
        if isinstance(self.model, Narrow):
            return self.model.evidence(self.past)
        return tuple(self.past)

    def _adopt(self, operation: Operation) -> None:
        """Go on from the states that explain a refused operation, if the model knows them."""
        if not isinstance(self.model, Adopting):
            self.is_lost = True
            return
        adopted = [after for state in self.states for after in self.model.adopt(state, operation)]
        self.states = dict.fromkeys(adopted)
        self.is_lost = not adopted


def known_at(
    model: Model[State], state: State, operation: Operation, refusal: Refusal
) -> tuple[StateRow, ...]:
    """What the model knows at a refused operation: its state before, and after what it expected."""
    if isinstance(model, Silent) and not model.shows_state:
        return ()
    after = refusal.after
    if after is None and refusal.accepted:
        answered = replace(operation, outcome=Outcome.OK, result=refusal.accepted[0], error="")
        with suppress(TypeError, LookupError, ValueError, AttributeError):  # of another operation
            step = model.step(state, answered)
            after = step[0] if not isinstance(step, Refusal) and step else None
    return state_rows(state, after, operation.argument)


def _expected(refusals: Sequence[Refusal]) -> str:
    """What any of the possible states would have allowed."""
    texts = [refusal.expected or " or ".join(map(repr, refusal.accepted)) for refusal in refusals]
    return " or ".join(dict.fromkeys(filter(None, texts)))


def conforms(model: Model[State]) -> Checker:
    """Make the checker that reports the operations of a history that leave the model.

    Of each signature it reports the first. Where the client itself ended before a reply, such as
    in a killed run, the rest is unknown.
    """

    def check(history: History) -> Verdict:
        fold = Fold(model)
        found: dict[str, Anomaly] = {}
        for operation in history:
            if operation.is_unanswered:
                return Verdict(tuple(found.values()), unknowns=(f"cut short: {operation}",))
            if anomaly := fold.step(operation):
                found.setdefault(anomaly.signature, anomaly)
            if fold.is_lost:
                break
        return Verdict(anomalies=tuple(found.values()))

    return check
