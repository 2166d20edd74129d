"""Runs one load on one target: the scenario of many clients with a load of the caller's choice.

Checker and expectations are the scenario's; what is added is a report of latency, throughput and
cost.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from harness.contract.workloads.load import Load, load_workload
from harness.core import history
from harness.core.errors import UsageError
from harness.core.history import Operation
from harness.engine import runner
from harness.engine.suite import choose, find_suites
from harness.report import folder, judgement, page
from harness.report import load as report
from harness.report.origin import setting
from harness.runs.gate import Conclusion, conclude, store
from harness.runs.pytest_run import Results
from harness.targets.registry import find_target

SCENARIO = "load-many-clients"
PAGE = "load.html"
PAGES = {"report.html": "Verdict and findings"}


def locustfile() -> Path:
    """The file that defines the users. Raises UsageError where no suite has one."""
    suites = find_suites()
    for suite in suites:
        path = suite.folder / "load" / "locustfile.py"
        if path.is_file():
            return path
    folders = ", ".join(str(suite.folder) for suite in suites) or "no suite"
    raise UsageError(f"expected load/locustfile.py in a suite; looked in {folders}")


@dataclass(frozen=True)
class LoadRun:
    """The target, and the load on it."""

    target: str
    seed: int
    load: Load
    reports: Path
    keep: int = 20

    def run(self, on_operation: Callable[[Operation], object]) -> Conclusion:
        """Load the target, judge it, and write the run folder.

        `on_operation` is called with each operation as it comes. Raises UsageError for a target
        that cannot be loaded.
        """
        began = time.monotonic()
        target = find_target(self.target)
        target.prepare()
        scenario = choose([SCENARIO])[SCENARIO]
        if scenario.ability not in target.abilities:
            raise UsageError(f"target {target.name!r} has no ability {scenario.ability!r}")
        plan = {"target": target.name, "scenarios": [SCENARIO], "skipped": {}, **setting(target)}
        run = folder.create(self.reports, "load", self.seed, {**plan, "load": self.load.to_json()})
        workload = load_workload(self.load, locustfile(), on_operation)
        loaded = replace(scenario, workload=workload)
        judged = runner.run(loaded, target, self.seed, 1.0, run / SCENARIO)
        seconds = time.monotonic() - began
        record = judgement.store(judged, target, self.seed, seconds, run / SCENARIO)
        conclusion = conclude(run, Results({SCENARIO: record}), {}, seconds)
        store(conclusion)
        add_report(run, conclusion)
        page.retain(self.reports, self.keep)
        return conclusion


def account(run: Path) -> report.Account:
    """The figures of the load in a run folder, computed from its history."""
    return report.account(history.read(run / SCENARIO / runner.HISTORY)[0])


def add_report(run: Path, conclusion: Conclusion) -> None:
    """Add the figures to `summary.md`, and the page with charts."""
    figures = account(run)
    summary = (run / "summary.md").read_text(encoding="utf-8")
    folder.write_text(run / "summary.md", summary + report.markdown(figures))
    title = f"{conclusion.target} under load"
    folder.write_text(run / PAGE, report.page(figures, title, conclusion.word, PAGES))
