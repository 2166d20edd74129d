"""What is known of a run that was interrupted, as lines for people."""

from __future__ import annotations

from pathlib import Path

from harness.core.errors import HarnessError
from harness.core.verdict import Validity
from harness.engine.runner import parts_with_histories
from harness.report import folder
from harness.report.judgement import headline
from harness.runs import bisect, mutation_session
from harness.runs.pytest_run import collect


def what_is_known(run: Path) -> list[str]:
    """How many scenarios finished, the findings so far, and how to judge or continue them."""
    for search in (run, run.parent.parent):  # a gate of a revision lies in the run of its search
        if (search / bisect.ANSWERS).exists():
            return [f"go on with its answers: the same command with --resume {search}"]
    lines = []
    try:
        names = folder.read_json(run / folder.PLAN).get("scenarios", [])
        records = collect(names, run, None).records
    except (HarnessError, LookupError, ValueError, TypeError):
        return [f"the run's folder: {run}"]
    if names:
        valid = sum(record.verdict.validity is Validity.VALID for record in records.values())
        lines.append(f"{len(records)} of {len(names)} scenarios finished, {valid} of them valid")
    for record in records.values():
        lines += [f"{record.scenario}: {headline(a)}" for a in record.verdict.anomalies]
    recorded = [run] if any((run / name).is_dir() for name in names) else parts_with_histories(run)
    if recorded:
        return [*lines, f"judge what was recorded: harness judge {recorded[0]}"]
    if (run / mutation_session.FILE).exists():
        return [f"go on with its session: harness mutate --session {run / mutation_session.FILE}"]
    return [*lines, f"the run's folder: {run}"]
