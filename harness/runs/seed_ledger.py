"""Keeps failing seeds as JSON lines, so that the next gate asks them first.

One line is one scenario that broke a promise with one seed: scenario, seed, effort, target, the ids
of its findings, and when that was seen last. A line stays when the promise is mended, since that
seed asks what once went wrong; the oldest lines make room for new ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.core.errors import UsageError
from harness.report import folder
from harness.report.findings import identity
from harness.report.judgement import Record

ENTRIES_MAX = 200
SEEDS_MAX = 8  # of an earlier run, asked by one gate


@dataclass(frozen=True, slots=True)
class Entry:
    """A scenario that broke a promise; `seen_s` is in seconds of the epoch."""

    scenario: str
    seed: int
    effort: float
    target: str
    findings: tuple[str, ...]
    seen_s: float

    @property
    def key(self) -> tuple[str, int, float, str]:
        """What asks the same again."""
        return self.scenario, self.seed, self.effort, kind_of(self.target)

    def to_json(self) -> dict[str, Any]:
        """Render as a JSON object."""
        return {
            "scenario": self.scenario,
            "seed": self.seed,
            "effort": self.effort,
            "target": self.target,
            "findings": list(self.findings),
            "seen_s": self.seen_s,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Entry:
        """Read what `to_json` wrote."""
        return cls(
            str(data["scenario"]),
            int(data["seed"]),
            float(data["effort"]),
            str(data["target"]),
            tuple(map(str, data["findings"])),
            float(data["seen_s"]),
        )


def kind_of(target: str) -> str:
    """The kind of a target without its folder, version or bug: hermes-webui for hermes-webui@."""
    for sign in ("@", "+", "=="):
        target = target.partition(sign)[0]
    return target


def read_ledger(file: Path) -> list[Entry]:
    """The entries of a ledger, none where there is no file.

    Raises UsageError, with the line, for one that is damaged.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: {error}") from error
    entries = []
    for number, line in enumerate(lines, start=1):
        try:
            entries.append(Entry.from_json(json.loads(line)))
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{file}:{number}: expected a line of a ledger: {error!r}") from error
    return entries


def to_ask(
    entries: Iterable[Entry], target: str, scenarios: Iterable[str], own: tuple[int, float]
) -> dict[tuple[int, float], list[str]]:
    """The scenarios to ask first, by seed and effort, those that failed last at first.

    Only those of the chosen scenarios and of this kind of target, and not with the seed and effort
    of the gate itself, which it asks anyway.
    """
    chosen = set(scenarios)
    asked: dict[tuple[int, float], list[str]] = {}
    for entry in sorted(entries, key=lambda entry: -entry.seen_s):
        how = (entry.seed, entry.effort)
        if entry.scenario in chosen and kind_of(entry.target) == kind_of(target) and how != own:
            asked.setdefault(how, []).append(entry.scenario)
    return dict(list(asked.items())[:SEEDS_MAX])


def with_proofs(record: Record | None, further: Record) -> Record:
    """A record with the anomalies of a further one of its scenario that it lacks."""
    if record is None:
        return further
    known = {anomaly.signature for anomaly in record.verdict.anomalies}
    added = [
        (anomaly, line)
        for anomaly, line in zip(further.verdict.anomalies, further.reproduce, strict=False)
        if anomaly.signature not in known
    ]
    anomalies = (*record.verdict.anomalies, *(anomaly for anomaly, _ in added))
    return replace(
        record,
        verdict=replace(record.verdict, anomalies=anomalies),
        reproduce=(*record.reproduce, *(line for _, line in added)),
        operations=record.operations + further.operations,
        episodes=record.episodes + further.episodes,
    )


def remember(
    file: Path, target: str, asked: Sequence[tuple[int, float, Record]], now_s: float
) -> None:
    """Add the scenarios that broke a promise with this seed and effort, and write the ledger."""
    entries = {entry.key: entry for entry in read_ledger(file)}
    for seed, effort, record in asked:
        if record.verdict.anomalies:
            ids = sorted({identity(anomaly) for anomaly in record.verdict.anomalies})
            new = Entry(record.scenario, seed, effort, target, tuple(ids), round(now_s, 3))
            entries[new.key] = new
    kept = sorted(entries.values(), key=lambda entry: (-entry.seen_s, entry.key))[:ENTRIES_MAX]
    file.parent.mkdir(parents=True, exist_ok=True)
    folder.write_text(file, "".join(json.dumps(entry.to_json()) + "\n" for entry in kept))
