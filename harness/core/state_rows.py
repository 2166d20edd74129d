"""Renders two states of a model as a few rows: what changes, and what the operation speaks of.

A model's state may hold hundreds of values. Parts that the operation does not change, and whose
name it does not mention, are one row each; of too many rows the last are left out.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any

from harness.core.text import shortened

ROWS_MAX = 24
VALUE_CHARS_MAX = 160
PART_CHARS = 60  # a part whose text is no longer is not taken apart
PARTS_MAX = 2_000  # of a state that are looked at
DEPTH_MAX = 6
ABSENT = "(absent)"
_KEYS = ("name", "id")  # by which the items of a tuple are found again
_WORD = re.compile(r"[\w-]+")


@dataclass(frozen=True, slots=True)
class StateRow:
    """One part of a state, before an operation and after it; `after` is None where unknown."""

    path: str
    before: str
    after: str | None = None

    @property
    def is_changed(self) -> bool:
        """Whether the operation changes it."""
        return self.after is not None and self.after != self.before

    def __str__(self) -> str:
        return f"{self.path}: {self.before}" + (f" -> {self.after}" if self.is_changed else "")

    def to_json(self) -> dict[str, str | None]:
        """Render as a JSON object; `from_json` reads it back."""
        return {"path": self.path, "before": self.before, "after": self.after}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> StateRow:
        """Read what `to_json` wrote."""
        return cls(data["path"], data["before"], data.get("after"))


def state_rows(before: Any, after: Any, argument: Any) -> tuple[StateRow, ...]:
    """Rows of a state before an operation with this argument, and after its expected answer.

    `after` is None where that answer, or what it leaves, is unknown. Changed parts come first, then
    those that the argument names; what is empty before and after has no row.
    """
    words = set(_WORD.findall(str(argument)))
    other = before if after is None else after
    ranked = []
    for number, (path, is_named, old, new) in enumerate(_parts("", before, other, words)):
        if number == PARTS_MAX:
            break
        is_changed = old != new
        if is_changed or not _is_empty(old):
            texts = [shortened(_text(value), VALUE_CHARS_MAX) for value in (old, new)]
            row = StateRow(path or "state", texts[0], None if after is None else texts[1])
            ranked.append((not is_changed, not is_named, number, row))
    return tuple(row for *_, row in sorted(ranked, key=lambda rank: rank[:3]))[:ROWS_MAX]


def _parts(
    path: str, before: Any, after: Any, words: Collection[str], *, is_named: bool = False
) -> Iterator[tuple[str, bool, Any, Any]]:
    """The parts of two states: path, whether the argument names it, and both values."""
    is_same, depth = before == after, path.count(".") + path.count("[")
    old, new = _inside(before), _inside(after)
    is_aside = is_same and (("[" in path and not is_named) or len(_text(before)) <= PART_CHARS)
    if old is None or new is None or depth >= DEPTH_MAX or is_aside:
        yield path, is_named, before, after
        return
    for key in dict.fromkeys([*old, *new]):
        dot = "." if path and not key.startswith("[") else ""
        values = old.get(key, _GONE), new.get(key, _GONE)
        named = is_named or key.strip("[]") in words
        yield from _parts(f"{path}{dot}{key}", *values, words, is_named=named)


class _Gone:
    """Stands for a part that a state lacks."""

    def __repr__(self) -> str:
        return ABSENT


_GONE = _Gone()


def _inside(value: Any) -> dict[str, Any] | None:
    """What a value holds, by field or key; None if it is no container, or is empty."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Mapping):
        return {f"[{key}]": item for key, item in value.items()} or None
    if hasattr(value, "_fields"):
        return dict(zip(value._fields, value, strict=True))
    return _items(value) if isinstance(value, list | tuple) and value else None


def _items(value: Sequence[Any]) -> dict[str, Any]:
    """The items of a sequence by the keys or names that they have, or else by number."""
    keyed = all(isinstance(item, tuple) and len(item) == 2 for item in value)  # noqa: PLR2004
    if keyed and all(isinstance(item[0], str) for item in value):
        return {f"[{key}]": item for key, item in value}
    for name in _KEYS:
        keys = [getattr(item, name, None) for item in value]
        if all(isinstance(key, str) for key in keys) and len({*keys}) == len(keys):
            return {f"[{key}]": item for key, item in zip(keys, value, strict=True)}
    return {f"[{number}]": item for number, item in enumerate(value)}


def _text(value: Any) -> str:
    """The value in short: fields of a dataclass that have their defaults are left out."""
    if is_dataclass(value) and not isinstance(value, type):
        shown = (
            f"{field.name}={_text(getattr(value, field.name))}"
            for field in fields(value)
            if field.default is MISSING or getattr(value, field.name) != field.default
        )
        return f"{type(value).__name__}({', '.join(shown)})"
    if isinstance(value, set | frozenset):
        return f"{{{', '.join(sorted(map(_text, value)))}}}"
    if isinstance(value, tuple | list) and not hasattr(value, "_fields"):
        inner = ", ".join(map(_text, value))
        return f"({inner})" if isinstance(value, tuple) else f"[{inner}]"
    return repr(value)


def _is_empty(value: Any) -> bool:
    return (
        value is None or value is _GONE or value is False or value in ("", (), [], {}, frozenset())
    )
