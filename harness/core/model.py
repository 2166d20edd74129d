"""What a sequential specification is: states, and the steps that lead from one to the next.

A model answers one question: in this state, may this operation have had this outcome, and what
may hold afterwards? One function, so that a random machine, a stored history and a search for
linearizations are all judged by the very same sentence. Pure: no target, no clock.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from harness.core.history import Operation
from harness.core.promises import Promise

State = TypeVar("State", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why no state can follow: the promise that the operation broke, and how.

    `accepted` lists the results that the promise would have allowed, where they can be listed;
    `also` names further promises that the very same outcome breaks.
    """

    promise: Promise
    message: str
    accepted: tuple[Any, ...] = ()
    also: tuple[Promise, ...] = ()


class Model(Protocol[State]):
    """A sequential specification. States are immutable and hashable."""

    name: str

    def initial(self) -> State:
        """The state of a fresh target."""
        ...

    def step(self, state: State, operation: Operation) -> tuple[State, ...] | Refusal:
        """States that may hold after the operation (several where nobody knows), or a refusal.

        An *info* operation may have happened or not: its step returns both states.
        """
        ...
