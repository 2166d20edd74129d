"""The gate: all scenarios against one target, within a budget, and one conclusion.

Inside every gate a *canary* runs for each mode: a known bug that must be caught. If one survives,
the judge cannot be trusted today, and the run says *untrustworthy*, never *valid*.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.core.errors import HarnessError, UsageError
from harness.core.verdict import Validity, Verdict, merge
from harness.engine import runner
from harness.engine.scenario import Mode, Scenario
from harness.engine.suite import choose, chosen_folders
from harness.engine.target import Target
from harness.mutation.known_bugs import KnownBug, canaries, find_bugs, plant
from harness.report import folder, judgement, junit, summary
from harness.report.judgement import Record
from harness.runs.pytest_run import Progress, Results, Session, run_session
from harness.targets.registry import find_target

EFFORT_SECONDS = 120.0  # a budget of this many seconds is effort 1
CANARY_EFFORT = 0.25
CANARY_PATIENCE_S = 60.0  # whatever the budget: a canary that had no time to be caught says nothing


@dataclass(frozen=True)
class Conclusion:
    """What a gate came to."""

    target: str
    seed: int
    run: Path
    seconds: float
    records: Sequence[Record]
    skipped: Sequence[str] = ()
    unfinished: Sequence[str] = ()
    broken: dict[str, str] = field(default_factory=dict)
    canaries: dict[str, bool] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        """All verdicts in one; a scenario that did not finish is a reason to know nothing."""
        late = tuple(f"{name}: not finished within the budget" for name in self.unfinished)
        nothing = () if self.records else ("no scenario came to a verdict",)
        return merge(
            [*(record.verdict for record in self.records), Verdict(unknowns=late + nothing)]
        )

    @property
    def is_trustworthy(self) -> bool:
        """Whether the judge itself works: nothing of it broke, and every canary was caught."""
        return not self.broken and all(self.canaries.values())

    @property
    def word(self) -> str:
        """The conclusion in one word. A proof of a broken promise stands by itself."""
        validity = self.verdict.validity
        if validity is not Validity.INVALID and not self.is_trustworthy:
            return "untrustworthy"
        return str(validity)

    @property
    def exit_code(self) -> int:
        """0 valid, 1 invalid, 2 unknown, 255 untrustworthy."""
        if self.word == "untrustworthy":
            return HarnessError.exit_code
        return self.verdict.validity.exit_code

    def to_json(self) -> dict[str, Any]:
        """Render as one JSON document."""
        return {
            "conclusion": self.word,
            "exit_code": self.exit_code,
            "target": self.target,
            "seed": self.seed,
            "run": str(self.run),
            "seconds": round(self.seconds, 1),
            "scenarios": [record.to_json() for record in self.records],
            "skipped": list(self.skipped),
            "unfinished": list(self.unfinished),
            "broken": self.broken,
            "canaries": {
                name: "caught" if ok else "SURVIVED" for name, ok in self.canaries.items()
            },
        }


@dataclass(frozen=True)
class Gate:
    """What is asked of a gate."""

    target: str
    seed: int
    budget_s: float
    reports: Path
    workers: int
    scenarios: tuple[str, ...] = ()
    keep: int = 20
    promises: tuple[str, ...] = ()
    modes: tuple[str, ...] = ()

    def run(self, progress: Progress) -> Conclusion:
        """Run the scenarios and the canaries, and write everything down."""
        began = time.monotonic()
        target = find_target(self.target)
        target.prepare()
        chosen = choose(self.scenarios, self.promises, self.modes)
        if not chosen:
            raise UsageError("no scenario fits --scenario, --promise and --mode together")
        able = {name: one for name, one in chosen.items() if one.ability in target.abilities}
        effort = self.budget_s / EFFORT_SECONDS
        plan = {"target": target.name, "effort": effort, "scenarios": list(able)}
        plan["suites"] = list(map(str, chosen_folders()))
        plan["skipped"] = [name for name in chosen if name not in able]
        run = folder.create(self.reports, "gate", self.seed, plan)
        session = Session(list(able), target.name, self.seed, effort, self.workers)
        results = run_session(session, run, self.budget_s, progress) if able else Results()
        self._salvage(results, able, target, run)
        canaries = self._release_canaries(able.values(), results, progress)
        conclusion = conclude(run, results, canaries, time.monotonic() - began)
        store(conclusion)
        folder.retain(self.reports, self.keep)
        return conclusion

    def _salvage(
        self, results: Results, scenarios: Mapping[str, Scenario], target: Target, run: Path
    ) -> None:
        """A proof that was found before the budget ended stands, however long it still is."""
        for name in [name for name in results.unfinished if (run / name / runner.HISTORY).exists()]:
            judged = runner.judge(scenarios[name], run / name)
            if judged.verdict.anomalies:
                record = judgement.store(judged, target, self.seed, self.budget_s, run / name)
                results.records[name] = record
                results.unfinished.remove(name)

    def _release_canaries(
        self, scenarios: Iterable[Scenario], results: Results, progress: Progress
    ) -> dict[str, bool]:
        """Which were caught. One that could not be released at all is our own failure."""
        modes = {scenario.mode for scenario in scenarios}
        names = [name for mode, name in canaries().items() if mode in modes]

        def release(name: str) -> bool | None:
            try:
                return is_caught(find_bugs([name])[name], self.seed, CANARY_PATIENCE_S)
            except HarnessError as error:
                results.broken[f"canary {name}"] = str(error)
                return None
            finally:
                progress(f"canary {name}")

        with ThreadPoolExecutor(self.workers) as pool:
            fates = zip(names, pool.map(release, names), strict=True)
            return {name: caught for name, caught in fates if caught is not None}


def is_caught(bug: KnownBug, seed: int, budget_s: float) -> bool:
    """Whether the scenarios that try the bug's promise, in its mode, judge it invalid by it.

    Raises HarnessError where it could not be planted, or the session broke.
    """
    names = trials_of(bug)
    with tempfile.TemporaryDirectory(prefix="harness-canary-") as place:
        planted = plant(bug, Path(place) / "planted")
        run = Path(place) / "run"
        run.mkdir()
        session = Session(names, bug.target_in(planted), seed, CANARY_EFFORT)
        results = run_session(session, run, budget_s)
    if results.broken:
        raise HarnessError("; ".join(results.broken.values()))
    return any(
        bug.promise in anomaly.promises
        for record in results.records.values()
        for anomaly in record.verdict.anomalies
    )


def trials_of(bug: KnownBug) -> list[str]:
    """Names of the scenarios in which the bug should show."""
    return [
        scenario.name
        for scenario in choose(()).values()
        if scenario.mode is Mode(bug.mode) and bug.promise in scenario.promises
    ]


def conclude(run: Path, results: Results, canaries: dict[str, bool], seconds: float) -> Conclusion:
    """Put together what a run's folder says of itself and what its session found."""
    plan = folder.read_json(run / folder.PLAN)
    return Conclusion(
        plan["target"],
        plan["seed"],
        run,
        seconds,
        list(results.records.values()),
        plan["skipped"],
        results.unfinished,
        results.broken,
        canaries,
    )


def store(conclusion: Conclusion) -> None:
    """Write the run's verdict, summary and JUnit file."""
    run = conclusion.run
    folder.write_json(run / folder.VERDICT, conclusion.to_json())
    folder.write_text(run / "summary.md", summary.markdown(conclusion.to_json()))
    folder.write_text(run / "junit.xml", junit.render(conclusion.to_json()))
