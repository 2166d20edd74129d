"""Baselines: measured figures in the repository, with how they were measured.

Each file says the commit, the seed and the machine, so that a later figure can be compared. An
answer score falls behind its baseline only if chance does not explain the difference.
"""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

from harness.core.errors import UsageError
from harness.core.share import wilson
from harness.report import folder
from harness.report.origin import commit_of
from harness.runs.audit import Score

CHANCE = 0.01  # that a comparison of all scenarios accuses any of them wrongly
ANSWERS, REACH, MUTANTS, BUGS = "answers.json", "reach.json", "mutants.json", "known_bugs.json"


def record(file: Path, seed: int, figures: Mapping[str, Any]) -> None:
    """Write figures into a file, with the commit, the seed and the machine."""
    file.parent.mkdir(parents=True, exist_ok=True)
    commit = commit_of(Path(__file__).parent)
    document = {"commit": commit, "seed": seed, "machine": _machine(), **figures}
    folder.write_json(file, document)


def record_proof(
    file: Path, seed: int, conditions: Mapping[str, Any], results: Iterable[Mapping[str, Any]]
) -> None:
    """Put results of known bugs into a file, beside its results of other bugs.

    Earlier results stay only if they were measured on the same seed and under the same conditions;
    so several partial runs make one whole record.
    """
    rows = {row["bug"]: row for row in (*_proofs(file, seed, conditions), *results)}
    figures = {"bugs": len(rows), "detected": sum(row["detected"] for row in rows.values())}
    results_of = [rows[name] for name in sorted(rows)]
    record(file, seed, {**conditions, **figures, "results": results_of})


def proven(file: Path, seed: int, conditions: Mapping[str, Any]) -> set[str]:
    """The bugs that a file names as detected, on this seed and under these conditions."""
    return {row["bug"] for row in _proofs(file, seed, conditions) if row["detected"]}


def detecting_scenarios(file: Path) -> dict[str, list[str]]:
    """By bug the scenarios that detected it when the file was recorded.

    Raises UsageError where the file cannot be read.
    """
    results = folder.read_json(file).get("results")
    if not isinstance(results, list):
        raise UsageError(f"{file}: expected a file that `prove --record` wrote; it has no results")
    return {row["bug"]: row.get("detected_in", []) for row in results}


def _proofs(file: Path, seed: int, conditions: Mapping[str, Any]) -> list[dict[str, Any]]:
    if not file.exists():
        return []
    document: dict[str, Any] = folder.read_json(file)
    wanted = {"seed": seed, **conditions}
    is_same = all(document.get(name) == value for name, value in wanted.items())
    return [*document["results"]] if is_same else []


def behind(scores: Sequence[Score], file: Path) -> list[str]:
    """A sentence for each scenario whose answer score is behind the one in the file.

    Both are samples, so that chance is the bound of a difference of proportions: Newcombe's hybrid
    of two Wilson intervals (Statistics in Medicine 17, 1998, method 10). Each comparison has its
    share of the chance of a false alarm (Bonferroni), so more scenarios do not mean more of them.

    Raises UsageError where the file cannot be read.
    """
    recorded = {row["scenario"]: row for row in folder.read_json(file)["scenarios"]}
    compared = [
        (score, before)
        for score in scores
        if (before := recorded.get(score.scenario)) and score.changed and before["changed"]
    ]
    z = NormalDist().inv_cdf(1 - CHANCE / 2 / max(1, len(compared)))
    found = []
    for score, before in compared:
        _, high = wilson(score.noticed, score.changed, z)
        low, _ = wilson(before["noticed"], before["changed"], z)
        chance = math.hypot(high - score.share, before["share"] - low)
        if before["share"] - score.share > chance:
            found.append(
                f"{score.scenario}: {score.noticed} of {score.changed} changes noticed"
                f" ({score.share:.1%}); expected {before['share']:.1%}, as in {file}"
            )
    return found


def _machine() -> dict[str, Any]:
    return {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "system": platform.system(),
    }
