"""What a model may add, so that a search for linearizations has less to do.

Neither changes what the model says, and both are optional: a search asks whether they are there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from harness.core.history import Operation
from harness.core.model import Model


class Unseen:
    """Stands in a state for whatever no operation of the history ever sees. No answer equals it."""

    def __repr__(self) -> str:
        return "unseen"


UNSEEN = Unseen()


@runtime_checkable
class Observing(Protocol):
    """A model that knows which operations only look."""

    def observes(self, operation: Operation) -> bool:
        """Whether the operation, in every state where it is legal, leaves that state as it is."""
        ...


@runtime_checkable
class Narrowing(Protocol):
    """A model that has a smaller self for one history."""

    def narrowed(self, operations: Sequence[Operation]) -> Model[Any]:
        """The same judgement of these operations, where states that they cannot tell apart are one.

        No other operations will come, but some of these may be left out.
        """
        ...
