"""The verdict: what a history proves, what it does not, and what it would have needed.

Three values, never two. An anomaly is a proof; without one, a run that did not try what it
meant to try is *unknown*, and only the rest is *valid*. Knows no target and no clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from harness.core.history import Operation
from harness.core.promises import Promise, promise


class Validity(IntEnum):
    """The conclusion. Ordered from best to worst, so that `max` merges."""

    VALID = 0
    UNKNOWN = 1
    INVALID = 2

    @property
    def exit_code(self) -> int:
        """0 valid, 1 invalid, 2 unknown: what a command that reached this verdict exits with."""
        return {Validity.VALID: 0, Validity.INVALID: 1, Validity.UNKNOWN: 2}[self]

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Anomaly:
    """One proven violation of a promise, with the operations that prove it.

    Where the same evidence breaks the sentence of a further promise, `also` names it. `name` is
    the field's word for the kind of violation ("lost-write"), where there is one.
    `accepted` lists every result that the last operation of the evidence could have had under the
    promise, where the checker knows them: a stand-alone test asserts one of these.
    """

    promise: Promise
    message: str
    evidence: tuple[Operation, ...] = ()
    name: str = ""
    accepted: tuple[Any, ...] = ()
    also: tuple[Promise, ...] = ()

    @property
    def promises(self) -> frozenset[Promise]:
        """Every promise that the evidence breaks."""
        return frozenset((self.promise, *self.also))

    def to_json(self) -> dict[str, Any]:
        """Render as a JSON object; `from_json` reads it back."""
        return {
            "promise": self.promise.name,
            "also": [promise.name for promise in self.also],
            "name": self.name,
            "message": self.message,
            "evidence": [operation.to_json() for operation in self.evidence],
            "accepted": list(self.accepted),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Anomaly:
        """Read what `to_json` wrote. Raises UnknownPromiseError for a promise never made."""
        return cls(
            promise=promise(data["promise"]),
            message=data["message"],
            evidence=tuple(Operation.from_json(row) for row in data["evidence"]),
            name=data.get("name", ""),
            accepted=tuple(data.get("accepted", ())),
            also=tuple(promise(name) for name in data.get("also", ())),
        )


@dataclass(frozen=True, slots=True)
class Assumption:
    """What must have happened for a verdict to mean something: `name` at least `needed` times."""

    name: str
    observed: int
    needed: int = 1

    @property
    def is_met(self) -> bool:
        """Whether it happened often enough."""
        return self.observed >= self.needed

    def to_json(self) -> dict[str, Any]:
        """Render as a JSON object."""
        return {"name": self.name, "observed": self.observed, "needed": self.needed}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Assumption:
        """Read what `to_json` wrote."""
        return cls(data["name"], data["observed"], data["needed"])


@dataclass(frozen=True, slots=True)
class Verdict:
    """Anomalies found, assumptions made, and reasons why something could not be judged."""

    anomalies: tuple[Anomaly, ...] = ()
    assumptions: tuple[Assumption, ...] = ()
    unknowns: tuple[str, ...] = ()

    @property
    def validity(self) -> Validity:
        """Invalid if anything is proven, else unknown if anything is missing, else valid."""
        if self.anomalies:
            return Validity.INVALID
        if self.unknowns or self.unmet:
            return Validity.UNKNOWN
        return Validity.VALID

    @property
    def unmet(self) -> tuple[Assumption, ...]:
        """Assumptions that did not hold."""
        return tuple(assumption for assumption in self.assumptions if not assumption.is_met)

    @property
    def is_valid(self) -> bool:
        """Whether nothing is wrong and nothing is missing."""
        return self.validity is Validity.VALID

    def to_json(self) -> dict[str, Any]:
        """Render as a JSON object; `from_json` reads it back."""
        return {
            "validity": str(self.validity),
            "anomalies": [anomaly.to_json() for anomaly in self.anomalies],
            "assumptions": [assumption.to_json() for assumption in self.assumptions],
            "unknowns": list(self.unknowns),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Verdict:
        """Read what `to_json` wrote."""
        return cls(
            anomalies=tuple(Anomaly.from_json(row) for row in data["anomalies"]),
            assumptions=tuple(Assumption.from_json(row) for row in data["assumptions"]),
            unknowns=tuple(data["unknowns"]),
        )


VALID = Verdict()


def merge(verdicts: Iterable[Verdict]) -> Verdict:
    """Join verdicts into one: the worst validity wins, same-named assumptions add up."""
    anomalies: list[Anomaly] = []
    unknowns: list[str] = []
    assumptions: dict[str, Assumption] = {}
    for verdict in verdicts:
        anomalies += verdict.anomalies
        unknowns += verdict.unknowns
        for assumption in verdict.assumptions:
            seen = assumptions.get(assumption.name)
            observed = assumption.observed + (seen.observed if seen else 0)
            needed = max(assumption.needed, seen.needed if seen else 0)
            assumptions[assumption.name] = Assumption(assumption.name, observed, needed)
    return Verdict(tuple(anomalies), tuple(assumptions.values()), tuple(unknowns))
