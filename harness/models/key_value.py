"""A key-value store of texts, each empty at first.

Each argument is a mapping with a `key`, and a `value` where there is one:

- `get(key)` answers the text;
- `put(key, value)` replaces it, `append(key, value)` adds to its end; either may answer anything.

Pure: no target, no clock.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from harness.history import Operation, Outcome
from harness.models.model import Refusal
from harness.models.narrowing import Unseen
from harness.promises import Promise

Held = str | Unseen  # unseen is a text that nobody ever sees, nor any continuation of it
State = tuple[tuple[str, Held], ...]  # the texts that are not as they were at first, by key


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
                message = f"{operation}, but the store held {state!r}"
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
        return (
            text if place < len(self.seen) and self.seen[place].startswith(text) else Unseen.UNSEEN
        )

    def observes(self, operation: Operation) -> bool:
        """Whether it is a get."""
        return operation.function == "get"

    def narrowed(self, operations: Sequence[Operation]) -> Text:
        """The text of a history in which only some texts are ever seen."""
        answers = (operation.result for operation in operations if operation.function == "get")
        return Text(self.promise, sorted({text for text in answers if isinstance(text, str)}))


@dataclass
class KeyValue:
    """What a key-value store that keeps `promise` may answer: for each key one text.

    `texts` has the texts that are not plain ones.
    """

    promise: Promise
    texts: dict[str, Text] = field(default_factory=dict)
    name: str = "key-value"

    def initial(self) -> State:
        """The fresh store: every text is fresh."""
        return ()

    def step(self, state: State, operation: Operation) -> tuple[State, ...] | Refusal:
        """The stores that may be after the operation, or why it cannot be."""
        name = key(operation)
        held = dict(state)
        text = self.texts.get(name) or Text(self.promise)
        fresh = text.initial()
        step = text.step(held.pop(name, fresh), operation)
        if isinstance(step, Refusal):
            return step
        others = tuple(held.items())
        return tuple(
            others if after == fresh else tuple(sorted((*others, (name, after)))) for after in step
        )

    def observes(self, operation: Operation) -> bool:
        """Whether it is a get."""
        return operation.function == "get"

    def narrowed(self, operations: Sequence[Operation]) -> KeyValue | Text:
        """The store, or the one text, of a history in which only some texts are ever seen."""
        about: defaultdict[str, list[Operation]] = defaultdict(list)
        for operation in operations:
            about[key(operation)].append(operation)
        text = Text(self.promise)
        texts = {name: text.narrowed(operations) for name, operations in about.items()}
        return texts.popitem()[1] if len(texts) == 1 else KeyValue(self.promise, texts)
