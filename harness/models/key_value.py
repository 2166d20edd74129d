"""A key-value store of texts, each empty at first.

Each argument is a mapping with a `key`, and a `value` where there is one:

- `get(key)` answers the text;
- `put(key, value)` replaces it, `append(key, value)` adds to its end; either may answer anything.

Pure: no target, no clock.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from harness.core.history import Operation, Outcome
from harness.core.model import Refusal
from harness.core.promises import Promise
from harness.models.narrowing import UNSEEN, Unseen

Held = str | Unseen  # unseen is a text that nobody ever sees, nor any continuation of it


def key(operation: Operation) -> str:
    """The key that the operation is about: keys are independent of each other."""
    return str(operation.argument["key"])


@dataclass
class Text:
    """What a store that keeps `promise` may answer about one key.

    With `seen`, in order, all texts that none of these begins with count as one.
    """

    promise: Promise
    seen: Sequence[str] | None = None
    name: str = "text"

    def initial(self) -> Held:
        """The fresh text: empty."""
        return self._held("")

    def step(self, state: Held, operation: Operation) -> tuple[Held, ...] | Refusal:
        """The texts that may be held after the operation, or why it cannot be."""
        match operation.function:
            case "get":
                if operation.outcome is not Outcome.OK or operation.result == state:
                    return (state,)
                message = f"the store held {state!r}, so it cannot have said anything else"
                return Refusal(self.promise, message, accepted=(state,))
            case "put":
                after = self._held(operation.argument["value"])
            case "append" if isinstance(state, Unseen):
                after = state
            case "append":
                after = self._held(state + operation.argument["value"])
            case unknown:
                raise ValueError(f"a key-value store knows no {unknown!r}")
        if operation.outcome is Outcome.OK:
            return (after,)
        return (state, after) if operation.outcome is Outcome.INFO else (state,)

    def _held(self, text: str) -> Held:
        if self.seen is None:
            return text
        place = bisect_left(self.seen, text)
        return text if place < len(self.seen) and self.seen[place].startswith(text) else UNSEEN

    def observes(self, operation: Operation) -> bool:
        """Whether it is a get."""
        return operation.function == "get"

    def narrowed(self, operations: Sequence[Operation]) -> Text:
        """The text of a history in which only some texts are ever seen."""
        answers = (operation.result for operation in operations if operation.function == "get")
        return Text(self.promise, sorted({text for text in answers if isinstance(text, str)}))


@dataclass
class KeyValue:
    """What a key-value store that keeps `promise` may answer: for each key one text."""

    promise: Promise
    name: str = "key-value"

    def initial(self) -> tuple[tuple[str, Held], ...]:
        """The fresh store. Its states are the texts that are not empty, in order of keys."""
        return ()

    def step(
        self, state: tuple[tuple[str, Held], ...], operation: Operation
    ) -> tuple[tuple[tuple[str, Held], ...], ...] | Refusal:
        """The stores that may be after the operation, or why it cannot be."""
        texts = dict(state)
        step = Text(self.promise).step(texts.pop(key(operation), ""), operation)
        if isinstance(step, Refusal):
            return step
        stores = ({**texts, key(operation): after} for after in step)
        return tuple(
            tuple(sorted((name, text) for name, text in store.items() if text != ""))
            for store in stores
        )

    def observes(self, operation: Operation) -> bool:
        """Whether it is a get."""
        return operation.function == "get"

    def narrowed(self, operations: Sequence[Operation]) -> Text | Texts:
        """The one text, or the store, of a history in which only some texts are ever seen."""
        about: dict[str, list[Operation]] = {}
        for operation in operations:
            about.setdefault(key(operation), []).append(operation)
        text = Text(self.promise)
        if len(about) == 1:
            return text.narrowed(operations)
        return Texts({name: text.narrowed(operations) for name, operations in about.items()})


@dataclass
class Texts:
    """A key-value store with no other keys than these. Its states are their texts, in order."""

    texts: dict[str, Text]
    name: str = "key-value"

    def __post_init__(self) -> None:
        self._places = {name: place for place, name in enumerate(self.texts)}

    def initial(self) -> tuple[Held, ...]:
        """The fresh store: every text is fresh."""
        return tuple(text.initial() for text in self.texts.values())

    def step(
        self, state: tuple[Held, ...], operation: Operation
    ) -> tuple[tuple[Held, ...], ...] | Refusal:
        """The stores that may be after the operation, or why it cannot be."""
        place = self._places[key(operation)]
        step = self.texts[key(operation)].step(state[place], operation)
        if isinstance(step, Refusal):
            return step
        return tuple([(*state[:place], after, *state[place + 1 :]) for after in step])

    def observes(self, operation: Operation) -> bool:
        """Whether it is a get."""
        return operation.function == "get"
