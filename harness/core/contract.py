"""Promises and contracts: the sentences that a target must keep, as values that a user defines.

A promise is one sentence that must hold, named by its ID. A contract is a set of promises. Every
anomaly, scenario, known bug and report names promises; nothing in the engine knows which there are.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterator
from dataclasses import dataclass, field

from harness.core.errors import UnknownPromiseError


@dataclass(frozen=True, slots=True, order=True)
class Promise:
    """One sentence of a contract.

    `id` identifies it: two promises with the same ID are equal, so that a stored verdict can be
    compared with today's contract. `sentence` says what must hold, in one line. `family` is the
    title under which reports group it, such as "channels: the live view over SSE".
    """

    id: str
    sentence: str = field(default="", compare=False)
    family: str = field(default="", compare=False)

    @property
    def prefix(self) -> str:
        """The letters that lead the ID: promises of one family share them."""
        return prefix_of(self.id)

    def __str__(self) -> str:
        return self.id


def prefix_of(id_: str) -> str:
    """The letters that lead a promise's ID: "W" of "W12"."""
    return id_.rstrip("0123456789")


@dataclass(frozen=True, slots=True)
class Contract:
    """A named set of promises, in the order in which reports list them.

    Raises ValueError where two promises share an ID.
    """

    name: str
    promises: tuple[Promise, ...]

    def __post_init__(self) -> None:
        ids = [promise.id for promise in self.promises]
        doubled = sorted({id_ for id_ in ids if ids.count(id_) > 1})
        if doubled:
            raise ValueError(f"contract {self.name!r} has two promises {', '.join(doubled)}")

    def __iter__(self) -> Iterator[Promise]:
        return iter(self.promises)

    def __len__(self) -> int:
        return len(self.promises)

    def promise(self, id_: str) -> Promise:
        """Find a promise by its ID. Raises UnknownPromiseError, with the nearest IDs, otherwise."""
        for promise in self.promises:
            if promise.id == id_:
                return promise
        near = difflib.get_close_matches(id_, [promise.id for promise in self.promises])
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise UnknownPromiseError(f"contract {self.name!r} has no promise {id_!r}{hint}")

    def family(self, prefix: str) -> tuple[Promise, ...]:
        """The promises whose IDs begin with these letters."""
        return tuple(promise for promise in self.promises if promise.prefix == prefix)


@dataclass(frozen=True, slots=True)
class Unpredictable:
    """A field of an answer that no model can predict, with the reason.

    `function` and `field` are globs over the journalled function and over the leaf, written as
    `sessions[*].pid`; `scenario` is one over scenario names.
    """

    function: str
    field: str
    reason: str
    scenario: str = "*"

    def covers(self, scenario: str, function: str, leaf: str) -> bool:
        """Whether this declaration is about that leaf."""
        return (
            fnmatch.fnmatchcase(scenario, self.scenario)
            and fnmatch.fnmatchcase(function, self.function)
            and fnmatch.fnmatchcase(leaf.replace("[*]", "."), self.field.replace("[*]", "."))
        )
