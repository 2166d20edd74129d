"""The rush: one target under one load, judged like anything else, with its numbers and pictures.

It is the scenario of many clients with another crowd: the same checker, the same expectations. What
it adds is a report of latency, throughput and cost.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from harness.contract.workloads.load import Load, under
from harness.core import history
from harness.core.errors import UsageError
from harness.core.history import Operation
from harness.engine import runner
from harness.engine.suite import choose, find_suites
from harness.report import folder, judgement
from harness.report import load as report
from harness.runs.gate import Conclusion, conclude, store
from harness.runs.pytest_run import Results
from harness.targets.registry import find_target

SCENARIO = "load-many-clients"
PAGE = "load.html"


def locustfile() -> Path:
    """The file that defines the users. Raises UsageError where no suite has one."""
    for suite in find_suites():
        path = suite.folder / "load" / "locustfile.py"
        if path.is_file():
            return path
    raise UsageError("no suite has a load/locustfile.py")


@dataclass(frozen=True)
class Rush:
    """What is asked of a load run."""

    target: str
    seed: int
    load: Load
    reports: Path
    keep: int = 20

    def run(self, heard: Callable[[Operation], object]) -> Conclusion:
        """Load the target, judge it, and write everything down."""
        began = time.monotonic()
        target = find_target(self.target)
        target.prepare()
        scenario = choose([SCENARIO])[SCENARIO]
        if scenario.ability not in target.abilities:
            raise UsageError(f"{target.name} has no ability {scenario.ability!r}")
        plan = {"target": target.name, "scenarios": [SCENARIO], "skipped": []}
        run = folder.create(self.reports, "load", self.seed, {**plan, "load": self.load.to_json()})
        loaded = replace(scenario, workload=under(self.load, locustfile(), heard))
        judged = runner.run(loaded, target, self.seed, 1.0, run / SCENARIO)
        seconds = time.monotonic() - began
        record = judgement.store(judged, target, self.seed, seconds, run / SCENARIO)
        conclusion = conclude(run, Results({SCENARIO: record}), {}, seconds)
        store(conclusion)
        draw(run, conclusion)
        folder.retain(self.reports, self.keep)
        return conclusion


def account(run: Path) -> report.Account:
    """What the history in a run's folder tells of its load."""
    return report.account(history.read(run / SCENARIO / runner.HISTORY)[0])


def draw(run: Path, conclusion: Conclusion) -> None:
    """Add numbers and pictures to a run's folder."""
    told = account(run)
    summary = (run / "summary.md").read_text(encoding="utf-8")
    folder.write_text(run / "summary.md", summary + report.markdown(told))
    title = f"{conclusion.target} under load"
    folder.write_text(run / PAGE, report.page(told, title, conclusion.word))
