"""Baselines: measured figures in the repository, with how they were measured.

Each file says the commit, the seed and the machine, so that a later figure can be compared. An
answer score falls behind its baseline only if chance does not explain the difference.
"""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.core.share import wilson
from harness.report import folder
from harness.report.origin import commit_of
from harness.runs.audit import Score

Z_BEHIND = 2.58  # 99 %: a continuous integration compares some sixty scenarios at once
ANSWERS, REACH, MUTANTS, BUGS = "answers.json", "reach.json", "mutants.json", "known_bugs.json"


def record(file: Path, seed: int, figures: Mapping[str, Any]) -> None:
    """Write figures into a file, with the commit, the seed and the machine."""
    file.parent.mkdir(parents=True, exist_ok=True)
    commit = commit_of(Path(__file__).parent)
    document = {"commit": commit, "seed": seed, "machine": _machine(), **figures}
    folder.write_json(file, document)


def behind(scores: Sequence[Score], file: Path) -> list[str]:
    """A sentence for each scenario whose answer score is behind the one in the file.

    Both are samples, so that chance is the bound of a difference of proportions: Newcombe's hybrid
    of two Wilson intervals (Statistics in Medicine 17, 1998, method 10).

    Raises UsageError where the file cannot be read.
    """
    recorded = {row["scenario"]: row for row in folder.read_json(file)["scenarios"]}
    found = []
    for score in scores:
        before = recorded.get(score.scenario)
        if before is None or not score.changed or not before["changed"]:
            continue
        _, high = wilson(score.noticed, score.changed, Z_BEHIND)
        low, _ = wilson(before["noticed"], before["changed"], Z_BEHIND)
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
