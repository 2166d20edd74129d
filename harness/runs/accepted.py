"""Accepted findings: anomalies of a target that are known, and do not make its gate red.

A TOML file has one table `[[finding]]` for each: the `target` (a shell pattern of its name), the
`promise`, the `signature` of the anomaly, and the `reason` for which it is accepted; `since` and
`until` are dates (YYYY-MM-DD), and both are optional. Behind `until` a finding is red again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from harness.core.errors import UsageError
from harness.core.toml_files import read_tables
from harness.core.verdict import Anomaly
from harness.report.judgement import Record

FIELDS = ("target", "promise", "signature", "reason")
DATES = ("since", "until")
PROPOSED = "proposed: state why it is accepted, or mend it"


@dataclass(frozen=True, slots=True)
class Accepted:
    """One accepted finding."""

    target: str
    promise: str
    signature: str
    reason: str
    since: date | None = None
    until: date | None = None

    def applies(self, target: str, today: date) -> bool:
        """Whether it is accepted for that target today."""
        is_begun = self.since is None or self.since <= today
        is_over = self.until is not None and today > self.until
        return fnmatchcase(target, self.target) and is_begun and not is_over

    def is_of(self, anomaly: Anomaly) -> bool:
        """Whether it is this anomaly."""
        return anomaly.signature == self.signature and anomaly.promise.id == self.promise


@dataclass(frozen=True, slots=True)
class Sorted:
    """The findings of a gate: known ones, new ones, and accepted ones that are gone.

    A finding is gone if every scenario that puts its promise on trial on this target came to a
    whole verdict, and none shows it. `unseen` are signatures of the other accepted ones that were
    not seen, with the scenarios that did not.
    """

    known: Sequence[Accepted] = ()
    new: Sequence[Anomaly] = ()
    mended: Sequence[Accepted] = field(default_factory=tuple)
    unseen: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Render as a JSON object."""
        return {
            "known": [
                {"signature": known.signature, "reason": known.reason} for known in self.known
            ],
            "new": [anomaly.signature for anomaly in self.new],
            "mended": [mended.signature for mended in self.mended],
            "unseen": {name: list(scenarios) for name, scenarios in self.unseen.items()},
        }


def read_accepted(path: Path) -> list[Accepted]:
    """Read a file of accepted findings. Raises UsageError with the entry and what it lacks."""
    tables = read_tables(path, f"--accept {path}", "finding")
    return [_accepted(where, entry) for where, entry in tables]


def _accepted(where: str, entry: Mapping[str, Any]) -> Accepted:
    texts: dict[str, Any] = {name: entry.get(name) for name in FIELDS}
    for name, text in texts.items():
        if not isinstance(text, str) or not text:
            raise UsageError(f"{where}: {name} = {text!r}; expected a text")
    if unknown := set(entry) - {*FIELDS, *DATES}:
        raise UsageError(
            f"{where}: unknown key {min(unknown)!r}; known: {', '.join(FIELDS + DATES)}"
        )
    since, until = (_date(where, name, entry.get(name)) for name in DATES)
    return Accepted(**texts, since=since, until=until)


def _date(where: str, name: str, value: Any) -> date | None:
    if value is None or (isinstance(value, date) and type(value) is date):
        return value
    try:
        return date.fromisoformat(value)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{where}: {name} = {value!r}; expected a date (YYYY-MM-DD)") from error


def sort(
    records: Iterable[Record],
    accepted: Iterable[Accepted],
    target: str,
    today: date,
    trials: Mapping[str, Iterable[str]],
) -> Sorted:
    """Tell known findings from new ones, and name those that are gone.

    `trials` has, for each promise, the scenarios that put it on trial on this target, whether they
    were asked or not.
    """
    every = list(records)
    valid = [finding for finding in accepted if finding.applies(target, today)]
    anomalies = [anomaly for record in every for anomaly in record.verdict.anomalies]
    known = [finding for finding in valid if any(map(finding.is_of, anomalies))]
    new = [anomaly for anomaly in anomalies if not any(f.is_of(anomaly) for f in valid)]
    whole = {r.scenario for r in every if not r.verdict.unknowns + r.verdict.unmet}
    absent = [finding for finding in valid if finding not in known]
    lacking = {f.promise: set(trials.get(f.promise, ())) - whole for f in absent}
    mended = [f for f in absent if trials.get(f.promise) and not lacking[f.promise]]
    unseen = {f.signature: sorted(lacking[f.promise]) for f in absent if f not in mended}
    return Sorted(known, _one_each(new), mended, unseen)


def _one_each(anomalies: Iterable[Anomaly]) -> list[Anomaly]:
    return list({anomaly.signature: anomaly for anomaly in anomalies}.values())


def proposed(
    records: Iterable[Record], accepted: Sequence[Accepted], target: str, today: date
) -> str:
    """A file that accepts every finding of these records, with the reasons that are known."""
    reasons = {(finding.promise, finding.signature): finding for finding in accepted}
    lines = ["# Accepted findings, read by `harness gate --accept`.", ""]
    found = _one_each(a for record in records for a in record.verdict.anomalies)
    for anomaly in sorted(found, key=lambda anomaly: anomaly.signature):
        known = reasons.get((anomaly.promise.id, anomaly.signature))
        since = known.since if known is not None and known.since else today
        fields = {
            "target": known.target if known is not None else _pattern(target),
            "promise": anomaly.promise.id,
            "signature": anomaly.signature,
            "reason": known.reason if known is not None else PROPOSED,
        }
        lines += ["[[finding]]", *(f"{key} = {json.dumps(value)}" for key, value in fields.items())]
        lines += [f"since = {since.isoformat()}"]
        lines += [f"until = {known.until.isoformat()}"] if known and known.until else []
        lines += [""]
    return "\n".join(lines)


def _pattern(target: str) -> str:
    """The target's name, for any folder of it."""
    kind, at, _ = target.partition("@")
    return f"{kind}@*" if at else target
