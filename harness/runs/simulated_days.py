"""Runs a target for simulated days, which take seconds, beside a control in real time.

The workload, its control and the verdict are the scenario's; added are the time that it took, and
the slopes of each reading by both clocks.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.contract.checkers.server.simulated_days import Comparison, InstallDaysChecker, elapsed
from harness.core import history
from harness.core.errors import UsageError
from harness.engine import runner
from harness.engine.scenario import Scenario
from harness.engine.suite import choose
from harness.report import folder, judgement
from harness.report.judgement import Record
from harness.targets.registry import find_target

SCENARIO = "days"
HEAD = ("reading", "an operation, real time", "simulated", "")


@dataclass(frozen=True, slots=True)
class SimulatedDays:
    """The result: `elapsed` holds `virtual_s`, `real_s` and `processor_s`; empty without a run."""

    run: Path
    record: Record
    elapsed: Mapping[str, float]
    comparisons: Sequence[Comparison]

    @property
    def ratio(self) -> float:
        """Virtual seconds for each real second; 0 where no time passed."""
        return self.elapsed["virtual_s"] / self.elapsed["real_s"] if self.elapsed else 0.0

    def text(self) -> str:
        """The elapsed time, and the summary of the scenario's record."""
        if not self.elapsed:
            return self.record.summary()
        days = f"{self.elapsed['virtual_s'] / 86_400:.1f} days in {self.elapsed['real_s']:.1f} s"
        busy = f"{self.elapsed['processor_s']:.1f} s of processor time"
        return f"{days}, {busy}, {self.ratio:,.0f} : 1\n{self.record.summary()}"

    def rows(self) -> list[tuple[str, ...]]:
        """The slopes of each reading of the control that moved."""
        return [
            (
                comparison.reading,
                f"{comparison.real:+.3g}",
                f"{comparison.lapsed:+.3g}",
                "" if comparison.agrees else "disagree",
            )
            for comparison in self.comparisons
            if comparison.real or comparison.lapsed
        ]

    def to_json(self) -> dict[str, Any]:
        """Render as one JSON document."""
        return {
            "run": str(self.run),
            **{name: round(value, 3) for name, value in self.elapsed.items()},
            "ratio": round(self.ratio, 1),
            "control": [
                {
                    "reading": comparison.reading,
                    "real": comparison.real,
                    "simulated": comparison.lapsed,
                }
                for comparison in self.comparisons
            ],
            **self.record.to_json(),
        }


def simulate(target_name: str, seed: int, days: int, reports: Path) -> SimulatedDays:
    """Run a target for this many days, and write the run folder.

    Raises UsageError for too few days and where the target lacks the ability, and
    TargetUnavailableError where it cannot be prepared.
    """
    target = find_target(target_name)
    scenario = choose([SCENARIO])[SCENARIO]
    if scenario.ability not in target.abilities:
        raise UsageError(f"target {target.name!r} has no ability {scenario.ability!r}")
    if days < scenario.examples:
        raise UsageError(
            f"--days {days}: expected at least {scenario.examples}: fewer samples show no trend"
        )
    target.prepare()
    plan = {"target": target.name, "days": days, "scenarios": [SCENARIO], "skipped": {}}
    run = folder.create(reports, "days", seed, plan)
    began = time.monotonic()
    judged = runner.run(scenario, target, seed, days / scenario.examples, run / SCENARIO)
    record = judgement.store(judged, target, seed, time.monotonic() - began, run / SCENARIO)
    result = _compared(run, record, scenario)
    folder.write_json(run / folder.VERDICT, result.to_json())
    return result


def _compared(run: Path, record: Record, scenario: Scenario) -> SimulatedDays:
    """Read the elapsed time and the control's slopes from the journal."""
    assert isinstance(scenario.checker, InstallDaysChecker)
    (episode,) = history.read(run / SCENARIO / runner.HISTORY)
    comparisons = scenario.checker.comparisons(episode)
    return SimulatedDays(run, record, elapsed(episode), comparisons)
