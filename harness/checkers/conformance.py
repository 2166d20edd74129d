"""Conformance: each operation of one client, in order, against a sequential model.

The fold keeps every state that may hold (a lost reply leaves two), so it is exact: it refuses an
operation only when no state explains it. The same fold judges a live machine and a stored file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic

from harness.core.checker import Checker
from harness.core.history import History, Operation
from harness.core.model import Model, Refusal, State
from harness.core.verdict import VALID, Anomaly, Verdict


@dataclass
class Fold(Generic[State]):
    """A model's possible states after the operations so far."""

    model: Model[State]
    states: dict[State, None] = field(init=False)
    past: list[Operation] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.states = {self.model.initial(): None}

    def step(self, operation: Operation) -> Anomaly | None:
        """Take one more operation; an anomaly if no state explains it, else None."""
        self.past.append(operation)
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
        # The first state is the one in which everything unknown happened in the order asked.
        blamed = refusals[0]
        accepted = [result for refusal in refusals for result in refusal.accepted]
        return Anomaly(
            blamed.promise,
            blamed.message,
            evidence=tuple(self.past),
            name=f"not-{self.model.name}",
            accepted=tuple(accepted),
            also=blamed.also,
        )


def conforms(model: Model[State]) -> Checker:
    """Make the checker that says where a sequential history leaves the model.

    Where whoever asked was gone before the answer, a killed run say, the rest is unknown.
    """

    def check(history: History) -> Verdict:
        fold = Fold(model)
        for operation in history:
            if operation.is_unanswered:
                return Verdict(unknowns=(f"cut short: {operation}",))
            if anomaly := fold.step(operation):
                return Verdict(anomalies=(anomaly,))
        return VALID

    return check
