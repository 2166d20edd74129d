"""Optional protocols of a model that make the search for linearizations smaller.

Neither changes a judgement of the model. A search uses each of them where a model has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from harness.core.history import Operation
from harness.core.model import Model


class Unseen:
    """Stands in a state for every value that no operation of the history sees; equals no answer."""

    def __repr__(self) -> str:
        return "unseen"


UNSEEN = Unseen()


@runtime_checkable
class Observing(Protocol):
    """A model that knows which operations only read."""

    def observes(self, operation: Operation) -> bool:
        """Whether the operation, in every state where it is legal, leaves that state as it is."""
        ...


@runtime_checkable
class Narrowing(Protocol):
    """A model that has a smaller equivalent for one history."""

    def narrowed(self, operations: Sequence[Operation]) -> Model[Any]:
        """A model that judges these operations alike, and merges states that they cannot separate.

        It is asked about no other operations, but possibly about fewer of them.
        """
        ...
