"""The interface of a model: a sequential specification made of states and steps.

A model answers one question: in this state, may this operation have this outcome, and which states
may follow? It is one function, so that a state machine test, a stored history and a search for
linearizations use the same specification. A model is pure: it knows no target and no clock.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from harness.core.contract import Promise
from harness.core.history import Operation

State = TypeVar("State", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why no state can follow: the promise that the operation broke, and how.

    `message` names the operation and what is wrong with it; `expected` says what the promise
    allows in this state, and `observed` what the operation did (the conformance checker fills it
    in from the operation where the model leaves it empty). `accepted` lists the results that the
    promise would have allowed, where they can be listed; `also` names further promises that the
    same outcome breaks. `after` is the state behind the expected answer, where the model knows it
    without a list of results.
    """

    promise: Promise
    message: str
    accepted: tuple[Any, ...] = ()
    also: tuple[Promise, ...] = ()
    expected: str = ""
    observed: str = ""
    after: Any = None


class Model(Protocol[State]):
    """A sequential specification. States are immutable and hashable."""

    name: str

    def initial(self) -> State:
        """The state of a fresh target."""
        ...

    def step(self, state: State, operation: Operation) -> tuple[State, ...] | Refusal:
        """The states that may hold after the operation, or a refusal.

        An *info* operation may have happened or not: its step returns both states.
        """
        ...
