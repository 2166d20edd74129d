"""The verdict on a history: valid, unknown or invalid, with anomalies and unmet assumptions.

A verdict has three values, never two. An anomaly is a proof, so the verdict is *invalid*; without
one, a run that did not reach the situations it was made for is *unknown*; any other is *valid*.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from harness.core.contract import Promise
from harness.core.history import Operation


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

    `message` names the operation and what is wrong with it, in one sentence; `expected` says what
    the promise allows there, and `observed` what the target did. `name` is the field's word for
    the kind of violation ("lost-write"), where there is one. Where the same evidence breaks the
    sentence of a further promise, `also` names it. `accepted` lists every result that the last
    operation of the evidence could have had under the promise, where the checker knows them: a
    stand-alone test asserts one of these.
    """

    promise: Promise
    message: str
    evidence: tuple[Operation, ...] = ()
    name: str = ""
    accepted: tuple[Any, ...] = ()
    also: tuple[Promise, ...] = ()
    expected: str = ""
    observed: str = ""

    @property
    def promises(self) -> frozenset[Promise]:
        """Every promise that the evidence breaks."""
        return frozenset((self.promise, *self.also))

    def to_json(self) -> dict[str, Any]:
        """Render as a JSON object; `from_json` reads it back."""
        return {
            "promise": self.promise.id,
            "sentence": self.promise.sentence,
            "family": self.promise.family,
            "also": [promise.id for promise in self.also],
            "name": self.name,
            "message": self.message,
            "expected": self.expected,
            "observed": self.observed,
            "evidence": [operation.to_json() for operation in self.evidence],
            "accepted": list(self.accepted),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Anomaly:
        """Read what `to_json` wrote."""
        return cls(
            promise=Promise(data["promise"], data.get("sentence", ""), data.get("family", "")),
            message=data["message"],
            evidence=tuple(Operation.from_json(row) for row in data["evidence"]),
            name=data.get("name", ""),
            accepted=tuple(data.get("accepted", ())),
            also=tuple(Promise(id_) for id_ in data.get("also", ())),
            expected=data.get("expected", ""),
            observed=data.get("observed", ""),
        )


@dataclass(frozen=True, slots=True)
class Assumption:
    """A situation that a run must reach at least `needed` times for its verdict to be valid."""

    name: str
    observed: int
    needed: int = 1

    @property
    def is_met(self) -> bool:
        """Whether the run reached it often enough."""
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
    """Anomalies, assumptions, and the reasons why a part of the history could not be judged."""

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
        """Whether there is no anomaly, no unmet assumption and no other gap."""
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
