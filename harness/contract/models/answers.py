"""Predicted answers: JSON values in which a leaf may be a span of times, or a text of any words.

A model writes the whole answer that it expects; `difference` finds the first place at which the
observed one differs. What cannot be predicted exactly is a matcher, and so is judged all the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple


@dataclass(frozen=True, slots=True)
class Span:
    """A time, as the number of the call in which it lies: from the first to the last of these."""

    first: int
    last: int

    def accepts(self, value: Any) -> bool:
        """Whether the value is a number of this span."""
        is_number = isinstance(value, int) and not isinstance(value, bool)
        return is_number and self.first <= value <= self.last


@dataclass(frozen=True, slots=True)
class Text:
    """A text of any words, but not an empty one; with a pattern, one that it matches."""

    pattern: str = r"(?s).*\S.*"

    def accepts(self, value: Any) -> bool:
        """Whether the value is such a text."""
        return isinstance(value, str) and re.fullmatch(self.pattern, value) is not None


@dataclass(frozen=True, slots=True)
class AtLeast:
    """A number of at least this size."""

    least: float = 0

    def accepts(self, value: Any) -> bool:
        """Whether the value is such a number."""
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and value >= self.least


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of these values."""

    values: tuple[Any, ...]

    def accepts(self, value: Any) -> bool:
        """Whether the value is one of them."""
        return any(value == other and type(value) is type(other) for other in self.values)


TEXT = Text()
Matcher = Span | Text | AtLeast | OneOf


class Difference(NamedTuple):
    """A place at which an answer differs from the predicted one."""

    path: str
    expected: Any
    observed: Any


def difference(  # noqa: PLR0911 - one for each kind of value
    expected: Any, observed: Any, path: str = ""
) -> Difference | None:
    """The first place at which the observed answer differs; None for none."""
    if isinstance(expected, Matcher):
        return None if expected.accepts(observed) else Difference(path, expected, observed)
    if isinstance(expected, Mapping):
        if not isinstance(observed, Mapping):
            return Difference(path, expected, observed)
        if missing := sorted({*expected} ^ {*observed}):
            what = {name: observed.get(name) for name in missing if name in observed}
            return Difference(
                f"{path}.{missing[0]}", "present" if missing[0] in expected else "absent", what
            )
        found = (
            difference(value, observed[name], f"{path}.{name}") for name, value in expected.items()
        )
        return next(filter(None, found), None)
    if isinstance(expected, Sequence) and not isinstance(expected, str):
        if not isinstance(observed, Sequence) or isinstance(observed, str):
            return Difference(path, expected, observed)
        if len(expected) != len(observed):
            return Difference(f"{path}.length", len(expected), observed)
        pairs = enumerate(zip(expected, observed, strict=True))
        found = (difference(left, right, f"{path}[{at}]") for at, (left, right) in pairs)
        return next(filter(None, found), None)
    if expected == observed and isinstance(expected, bool) is isinstance(observed, bool):
        return None
    return Difference(path, expected, observed)
