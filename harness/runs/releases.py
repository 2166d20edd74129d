"""Sets stored runs of several targets side by side: which target keeps which promise.

A promise is *broken* in a run with an anomaly of it, *kept* where each scenario that states it came
to a whole verdict without one, *unknown* where one did not, and *not asked* where none was run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.core.errors import UsageError
from harness.report import folder
from harness.report.judgement import Record
from harness.runs.pytest_run import collect

BROKEN, KEPT, UNKNOWN, NOT_ASKED = "broken", "kept", "unknown", "-"


@dataclass(frozen=True)
class Release:
    """One target, and the records of all its runs."""

    target: str
    records: tuple[Record, ...]

    def state(self, promise: str) -> str:
        """What the runs say of a promise."""
        stating = [record for record in self.records if promise in record.promises]
        breaking = {
            broken.id
            for record in self.records
            for anomaly in record.verdict.anomalies
            for broken in anomaly.promises
        }
        if promise in breaking:
            return BROKEN
        if not stating:
            return NOT_ASKED
        is_whole = not any(r.verdict.unknowns or r.verdict.unmet for r in stating)
        return KEPT if is_whole else UNKNOWN

    def shows(self, signature: str) -> bool:
        """Whether a run has an anomaly of this signature."""
        return any(
            anomaly.signature == signature
            for record in self.records
            for anomaly in record.verdict.anomalies
        )


def read_releases(runs: Sequence[Path]) -> list[Release]:
    """Read run folders; runs of one target are one release, in the order of their first run.

    Raises UsageError for a folder without a gate's run.
    """
    found: dict[str, tuple[Record, ...]] = {}
    for run in runs:
        if not (run / folder.PLAN).exists():
            raise UsageError(f"{run}: expected a run folder with {folder.PLAN} in it; found none")
        plan = folder.read_json(run / folder.PLAN)
        target = str(plan.get("target", ""))
        if not target or plan.get("what") != "gate":
            raise UsageError(f"{run}: expected the run of a gate; got {plan.get('what')!r}")
        with folder.whole(run):
            found[target] = (*found.get(target, ()), *_records(run, plan.get("scenarios", [])))
    return [Release(target, records) for target, records in found.items()]


def _records(run: Path, scenarios: Sequence[str]) -> list[Record]:
    """The records of a run; of one that was killed, those that finished."""
    if (run / folder.VERDICT).exists():
        conclusion = folder.read_json(run / folder.VERDICT)
        return [Record.from_json(row) for row in conclusion["scenarios"]]
    return list(collect(scenarios, run, None).records.values())


def promise_rows(releases: Sequence[Release]) -> list[tuple[str, ...]]:
    """One row a promise: its ID, and its state in each release."""
    stated = {promise for release in releases for r in release.records for promise in r.promises}
    for release in releases:
        for record in release.records:
            for anomaly in record.verdict.anomalies:
                stated |= {broken.id for broken in anomaly.promises}
    return [
        (promise, *(release.state(promise) for release in releases))
        for promise in sorted(stated, key=_place)
    ]


def finding_rows(releases: Sequence[Release]) -> list[tuple[str, ...]]:
    """One row a finding: its signature, and whether each release shows it."""
    signatures = dict.fromkeys(
        anomaly.signature
        for release in releases
        for record in release.records
        for anomaly in record.verdict.anomalies
    )
    return [
        (signature, *("x" if release.shows(signature) else "" for release in releases))
        for signature in sorted(signatures, key=lambda text: (_place(text.split()[0]), text))
    ]


def names(targets: Iterable[str]) -> list[str]:
    """What tells the targets apart: versions where all are releases of one package."""
    every = list(targets)
    packages = {target.partition("==")[0] for target in every}
    if len(packages) == 1 and all("==" in target for target in every):
        return [target.partition("==")[2] for target in every]
    return every


def _place(promise: str) -> tuple[str, int]:
    number = promise[1:]
    return promise[:1], int(number) if number.isdigit() else 0
