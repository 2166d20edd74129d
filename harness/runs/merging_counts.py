"""Puts shares of a mutation score, or of an audit, together as if they had been one.

Shares are disjoint by construction, so counts are added. A share that is missing is named, and one
that comes twice is refused, since it would count twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from harness.core.errors import UsageError
from harness.core.partition import WHOLE
from harness.report import folder, page
from harness.runs.mutation_score import MutationScore
from harness.runs.mutation_session import RESULTS, Status

MUTATE = "mutate"
_SAME_MUTANTS = ("seed", "source", "effort", "deep_effort", "files")
_SAME_AUDIT = ("seed", "per_field")


@dataclass(frozen=True, slots=True)
class Counted:
    """The document of one share, where it is from, and which share it is."""

    path: Path
    document: Mapping[str, Any]

    @property
    def share(self) -> tuple[int, int]:
        """The number of the share, and how many there are."""
        number, shares = self.document.get("share", WHOLE)
        return int(number), int(shares)


def is_mutation(run: Path) -> bool:
    """Whether this is the folder of a mutation score."""
    plan = run / folder.PLAN
    return plan.is_file() and folder.read_json(plan).get("what") == MUTATE


def merge_mutants(runs: Sequence[Path], reports: Path, keep: int) -> tuple[dict[str, Any], Path]:
    """Write a run folder with the mutants of all shares; `missing` are shares without a run.

    Raises UsageError for runs of other sources, seeds or efforts, and for a share that comes twice.
    """
    parts = [Counted(run, folder.read_json(run / folder.VERDICT)) for run in runs]
    for part in parts:
        if "mutants" not in part.document:
            raise UsageError(f"{part.path}: expected a finished run of `harness mutate`")
    missing = _missing(parts, _SAME_MUTANTS)
    mutants = [row for part in parts for row in part.document["mutants"]]
    counts = Counter(Status(row["status"]) for row in mutants)
    asked = [row["seconds"] for row in mutants if Status(row["status"]) in RESULTS]
    first = parts[0].document
    document = {
        **{name: first[name] for name in (*_SAME_MUTANTS, "all") if name in first},
        "score": MutationScore(counts, median(asked) if asked else 0.0).to_json(),
        "mutants": mutants,
        "missing": missing,
    }
    plan = {"target": "mutants", "parts": [part.path.resolve().name for part in parts]}
    run = folder.create(reports, "merge", int(first["seed"]), plan)
    folder.write_json(run / folder.VERDICT, document)
    page.retain(reports, keep)
    return document, run


def merge_audits(files: Sequence[Path]) -> dict[str, Any]:
    """The scores of all shares in files that `harness audit --record` wrote.

    Raises UsageError for files of other seeds or depths, and for a share that comes twice.
    """
    parts = [Counted(file, folder.read_json(file)) for file in files]
    for part in parts:
        if "per_field" not in part.document:
            raise UsageError(f"{part.path}: expected a file of `harness audit --record`")
    missing = _missing(parts, _SAME_AUDIT)
    rows = [row for part in parts for row in part.document["scenarios"]]
    first = parts[0].document
    return {
        **{name: first[name] for name in ("commit", "machine", *_SAME_AUDIT) if name in first},
        "changed": sum(row["changed"] for row in rows),
        "noticed": sum(row["noticed"] for row in rows),
        "scenarios": sorted(rows, key=lambda row: str(row["scenario"])),
        "missing": missing,
    }


def _missing(parts: Sequence[Counted], same: Sequence[str]) -> list[str]:
    """The shares that no part is. Raises UsageError where the parts cannot be of one whole."""
    first = parts[0]
    seen: dict[int, Path] = {}
    for part in parts:
        for what in same:
            if part.document.get(what) != first.document.get(what):
                raise UsageError(
                    f"{part.path}: {what} {part.document.get(what)!r}; expected"
                    f" {first.document.get(what)!r}, as in {first.path}"
                )
        number, shares = part.share
        if shares != first.share[1]:
            raise UsageError(
                f"{part.path}: a share of {shares}; expected one of {first.share[1]}, as in"
                f" {first.path}"
            )
        if number in seen:
            raise UsageError(f"{seen[number]} and {part.path}: both are share {number}/{shares}")
        seen[number] = part.path
    shares = first.share[1]
    return [f"{number}/{shares}" for number in range(1, shares + 1) if number not in seen]
