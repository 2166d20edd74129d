"""Model of a key-value store of texts, each of which is empty at first.

Arguments are mappings of keyword arguments, as clients journal them:

- `get(key)` answers the text;
- `put(key, value)` replaces it, `append(key, value)` adds to its end; both may answer anything.

Pure: no target, no clock.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from harness.core.contract import Promise
from harness.core.history import Operation, Outcome
from harness.core.model import Refusal
from harness.models.narrowing import UNSEEN, Unseen

Value = str | Unseen  # unseen is a text of which no operation sees it or a continuation of it


def key(operation: Operation) -> str:
    """The key that the operation concerns: keys are independent of each other."""
    return str(operation.argument["key"])


@dataclass
class Text:
    """What a store that keeps `promise` may answer about one key.

    With `seen`, in order, all texts that are the beginning of none of these count as one.
    """

    promise: Promise
    seen: Sequence[str] | None = None
    name: str = "text"

    def initial(self) -> Value:
        """The fresh text: empty."""
        return self._known("")

    def step(self, state: Value, operation: Operation) -> tuple[Value, ...] | Refusal:
        """The texts that may follow the operation, or a refusal."""
        match operation.function:
            case "get":
                if operation.outcome is not Outcome.OK or operation.result == state:
                    return (state,)
                return Refusal(
                    self.promise,
                    f"{operation.call} answers another text than the store holds",
                    (state,),
                    expected=repr(state),
                    observed=repr(operation.result),
                )
            case "put":
                after = self._known(operation.argument["value"])
            case "append" if isinstance(state, Unseen):
                after = state
            case "append":
                after = self._known(state + operation.argument["value"])
            case unknown:
                raise ValueError(
                    f"{self.name} has no function {unknown!r}; it has get, put and append"
                )
        if operation.outcome is Outcome.OK:
            return (after,)
        return (state, after) if operation.outcome is Outcome.INFO else (state,)

    def _known(self, text: str) -> Value:
        if self.seen is None:
            return text
        at = bisect_left(self.seen, text)
        return text if at < len(self.seen) and self.seen[at].startswith(text) else UNSEEN

    def observes(self, operation: Operation) -> bool:
        """Whether it is a get."""
        return operation.function == "get"

    def narrowed(self, operations: Sequence[Operation]) -> Text:
        """The text of a history in which only some texts are ever read."""
        answers = (operation.result for operation in operations if operation.function == "get")
        return Text(self.promise, sorted({text for text in answers if isinstance(text, str)}))


@dataclass
class KeyValue:
    """What a key-value store that keeps `promise` may answer: one text for each key."""

    promise: Promise
    name: str = "key-value"

    def initial(self) -> tuple[tuple[str, Value], ...]:
        """The fresh store. A state holds the texts that are not empty, in order of keys."""
        return ()

    def step(
        self, state: tuple[tuple[str, Value], ...], operation: Operation
    ) -> tuple[tuple[tuple[str, Value], ...], ...] | Refusal:
        """The stores that may follow the operation, or a refusal."""
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
        """The one text, or the store, of a history in which only some texts are ever read."""
        by_key: dict[str, list[Operation]] = {}
        for operation in operations:
            by_key.setdefault(key(operation), []).append(operation)
        text = Text(self.promise)
        if len(by_key) == 1:
            return text.narrowed(operations)
        return Texts({name: text.narrowed(operations) for name, operations in by_key.items()})


@dataclass
class Texts:
    """A key-value store with only these keys. A state holds their texts, in order."""

    texts: dict[str, Text]
    name: str = "key-value"

    def __post_init__(self) -> None:
        self._positions = {name: position for position, name in enumerate(self.texts)}

    def initial(self) -> tuple[Value, ...]:
        """The fresh store: every text is fresh."""
        return tuple(text.initial() for text in self.texts.values())

    def step(
        self, state: tuple[Value, ...], operation: Operation
    ) -> tuple[tuple[Value, ...], ...] | Refusal:
        """The stores that may follow the operation, or a refusal."""
        position = self._positions[key(operation)]
        step = self.texts[key(operation)].step(state[position], operation)
        if isinstance(step, Refusal):
            return step
        return tuple([(*state[:position], after, *state[position + 1 :]) for after in step])

    def observes(self, operation: Operation) -> bool:
        """Whether it is a get."""
        return operation.function == "get"
