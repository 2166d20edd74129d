"""Aging: a target lives for days, in seconds; what came of it, and whether to believe that.

The life, its control and the verdict are the scenario's; told here is what it took, and how the
control moved by both clocks.
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
HEAD = ("reading", "an operation, really", "lapsed", "")


@dataclass(frozen=True, slots=True)
class Aged:
    """What days came to. `took` are seconds, of the life, of ours and of the processor."""

    run: Path
    record: Record
    took: Mapping[str, float]
    comparisons: Sequence[Comparison]

    @property
    def ratio(self) -> float:
        """Seconds that passed in the life, to each one of ours; 0 where nobody lived."""
        return self.took["virtual_s"] / self.took["real_s"] if self.took else 0.0

    def text(self) -> str:
        """What a person wants to know first."""
        if not self.took:
            return self.record.summary()
        days = f"{self.took['virtual_s'] / 86_400:.1f} days in {self.took['real_s']:.1f} s"
        busy = f"{self.took['processor_s']:.1f} s of them of a processor"
        return f"{days}, {busy}, {self.ratio:,.0f} : 1\n{self.record.summary()}"

    def rows(self) -> list[tuple[str, ...]]:
        """Every reading of the control that moved."""
        return [
            (one.reading, f"{one.real:+.3g}", f"{one.lapsed:+.3g}", "" if one.agrees else "apart")
            for one in self.comparisons
            if one.real or one.lapsed
        ]

    def to_json(self) -> dict[str, Any]:
        """Render as one JSON document."""
        return {
            "run": str(self.run),
            **{name: round(value, 3) for name, value in self.took.items()},
            "ratio": round(self.ratio, 1),
            "control": [
                {"reading": one.reading, "real": one.real, "lapsed": one.lapsed}
                for one in self.comparisons
            ],
            **self.record.to_json(),
        }


def live(target_name: str, seed: int, days: int, reports: Path) -> Aged:
    """Live so many days, and write everything down.

    Raises UsageError where the target cannot, and TargetUnavailableError where it is not there.
    """
    target = find_target(target_name)
    scenario = choose([SCENARIO])[SCENARIO]
    if scenario.ability not in target.abilities:
        raise UsageError(f"{target.name} has no ability {scenario.ability!r}")
    target.prepare()
    plan = {"target": target.name, "days": days, "scenarios": [SCENARIO], "skipped": []}
    run = folder.create(reports, "days", seed, plan)
    began = time.monotonic()
    judged = runner.run(scenario, target, seed, days / scenario.examples, run / SCENARIO)
    record = judgement.store(judged, target, seed, time.monotonic() - began, run / SCENARIO)
    aged = _looked_at(run, record, scenario)
    folder.write_json(run / folder.VERDICT, aged.to_json())
    return aged


def _looked_at(run: Path, record: Record, scenario: Scenario) -> Aged:
    """Read from the journal what it took, and how the control moved."""
    assert isinstance(scenario.checker, InstallDaysChecker)
    (lived,) = history.read(run / SCENARIO / runner.HISTORY)
    return Aged(run, record, elapsed(lived), scenario.checker.comparisons(lived))
