"""The verdict on a history: valid, unknown or invalid, with anomalies and unmet expectations.

A verdict has three values, never two. An anomaly is a proof, so the verdict is *invalid*; without
one, a run that did not reach the situations it was made for is *unknown*; any other is *valid*.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from harness.core.contract import Promise
from harness.core.history import Operation
from harness.core.state_rows import StateRow


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


KIND_CHARS = 80  # of a message without its values, which a signature keeps
_INNERMOST = re.compile(r"""'[^'\\n]*'|"[^"\\n]*"|\([^()]*\)|\[[^][]*\]|\{[^{}]*\}""")
_VALUE = re.compile(r"0x[0-9a-f]+|[0-9a-f]{8,}|-?\d+(\.\d+)?")


def _without_values(message: str) -> str:
    """A message without quoted texts, brackets, numbers and addresses: they vary between runs."""
    before = None
    while before != message:
        before, message = message, _INNERMOST.sub("", message)
    return " ".join(_VALUE.sub("", message).split())


@dataclass(frozen=True, slots=True)
class Anomaly:
    """One proven violation of a promise, with the operations that prove it.

    `message` names the operation and what is wrong with it, in one sentence; `expected` says what
    the promise allows there, and `observed` what the target did. `name` is the field's word for
    the kind of violation ("lost-write"), where there is one. Where the same evidence breaks the
    sentence of a further promise, `also` names it. `accepted` lists every result that the last
    operation of the evidence could have had under the promise, where the checker knows them: a
    stand-alone test asserts one of these. `behind` counts the anomalies of the same episode before
    this one, which the checker met and went on from. Where a model judged, `state` says what it
    knew: before the last operation, and after the answer that it expected.
    """

    promise: Promise
    message: str
    evidence: tuple[Operation, ...] = ()
    name: str = ""
    accepted: tuple[Any, ...] = ()
    also: tuple[Promise, ...] = ()
    expected: str = ""
    observed: str = ""
    behind: int = 0
    state: tuple[StateRow, ...] = ()

    @property
    def signature(self) -> str:
        """What recognises the same finding again: promise, function and kind, without values."""
        function = self.evidence[-1].function if self.evidence else "-"
        return f"{self.promise.id} {function}: {_without_values(self.message)[:KIND_CHARS]}".strip()

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
            "also": [{"id": also.id, "sentence": also.sentence} for also in self.also],
            "name": self.name,
            "message": self.message,
            "expected": self.expected,
            "observed": self.observed,
            "behind": self.behind,
            "signature": self.signature,
            "evidence": [operation.to_json() for operation in self.evidence],
            "accepted": list(self.accepted),
            **({"state": [row.to_json() for row in self.state]} if self.state else {}),
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
            also=tuple(map(_also, data.get("also", ()))),
            expected=data.get("expected", ""),
            observed=data.get("observed", ""),
            behind=data.get("behind", 0),
            state=tuple(map(StateRow.from_json, data.get("state", ()))),
        )


@dataclass(frozen=True, slots=True)
class ExpectationCount:
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
    def from_json(cls, data: Mapping[str, Any]) -> ExpectationCount:
        """Read what `to_json` wrote."""
        return cls(data["name"], data["observed"], data["needed"])


@dataclass(frozen=True, slots=True)
class Verdict:
    """Anomalies, expectations, and the reasons why a part of the history could not be judged."""

    anomalies: tuple[Anomaly, ...] = ()
    expectations: tuple[ExpectationCount, ...] = ()
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
    def unmet(self) -> tuple[ExpectationCount, ...]:
        """Expectations that the run did not reach."""
        return tuple(expectation for expectation in self.expectations if not expectation.is_met)

    @property
    def is_valid(self) -> bool:
        """Whether there is no anomaly, no unmet expectation and no other gap."""
        return self.validity is Validity.VALID

    def to_json(self) -> dict[str, Any]:
        """Render as a JSON object; `from_json` reads it back."""
        return {
            "validity": str(self.validity),
            "anomalies": [anomaly.to_json() for anomaly in self.anomalies],
            "expectations": [expectation.to_json() for expectation in self.expectations],
            "unknowns": list(self.unknowns),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Verdict:
        """Read what `to_json` wrote."""
        return cls(
            anomalies=tuple(Anomaly.from_json(row) for row in data["anomalies"]),
            expectations=tuple(map(ExpectationCount.from_json, _expectations_of(data))),
            unknowns=tuple(data["unknowns"]),
        )


def _also(row: Mapping[str, str] | str) -> Promise:
    """A further promise of a stored anomaly; version 0.1.0 stored its ID alone."""
    return Promise(row) if isinstance(row, str) else Promise(row["id"], row["sentence"])


def _expectations_of(data: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    """The rows of a stored verdict; version 0.1.0 stored them as "assumptions"."""
    rows: Iterable[Mapping[str, Any]] = data.get("expectations", data.get("assumptions", ()))
    return rows


VALID = Verdict()


def merge(verdicts: Iterable[Verdict]) -> Verdict:
    """Join verdicts into one: the worst validity wins, same-named expectations add up."""
    anomalies: list[Anomaly] = []
    unknowns: list[str] = []
    expectations: dict[str, ExpectationCount] = {}
    for verdict in verdicts:
        anomalies += verdict.anomalies
        unknowns += verdict.unknowns
        for expectation in verdict.expectations:
            seen = expectations.get(expectation.name)
            observed = expectation.observed + (seen.observed if seen else 0)
            needed = max(expectation.needed, seen.needed if seen else 0)
            expectations[expectation.name] = ExpectationCount(expectation.name, observed, needed)
    return Verdict(tuple(anomalies), tuple(expectations.values()), tuple(unknowns))
