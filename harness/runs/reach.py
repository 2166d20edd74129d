"""Reach: which blocks of the code on trial each scenario runs.

Each scenario is judged in a pytest process of its own, with a recorder in every process of the
target (`harness/worker/reach.py`). A block is reached if one of its lines ran.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from harness.engine.scenario import Scenario
from harness.engine.suite import choose
from harness.mutation.blocks import Block
from harness.report import folder, page
from harness.runs.gate import reason_to_skip
from harness.runs.pytest_run import Progress, Session, run_session
from harness.runs.reached import Reached, blocks_in, excuses_for, hit, source_of, top_of
from harness.targets.registry import find_target
from harness.worker import reach as recorder


@dataclass(frozen=True)
class Reach:
    """The target, the scenarios by name or glob, and the top folder of the code on trial."""

    target: str
    seed: int
    effort: float
    reports: Path
    workers: int
    scenarios: tuple[str, ...] = ()
    source: Path | None = None
    timeout_s: float = 300.0
    keep: int = 20

    def run(self, progress: Progress) -> tuple[Path, Reached]:
        """Judge each scenario under the recorder, and map the lines to blocks.

        Raises UsageError where the source holds no Python file.
        """
        chosen = choose(self.scenarios)
        target = find_target(self.target)
        able = [
            scenario for scenario in chosen.values() if reason_to_skip(scenario, target) is None
        ]
        source = source_of(target, self.source)
        blocks = blocks_in(source)
        plan = {"target": self.target, "scenarios": [], "source": str(source)}
        run = folder.create(self.reports, "reach", self.seed, plan)
        found: dict[str, frozenset[Block]] = {}
        validity: dict[str, str] = {}

        def measure(scenario: Scenario) -> None:
            lines, validity[scenario.name] = self._measure(scenario, run, source)
            found[scenario.name] = frozenset(hit(blocks, lines))
            progress(f"{scenario.name}: {len(found[scenario.name])} blocks")

        with ThreadPoolExecutor(self.workers) as pool:
            list(pool.map(measure, able))
        excuses = excuses_for(source, blocks)
        reached = Reached(blocks, dict(sorted(found.items())), validity, excuses)
        folder.write_json(run / folder.VERDICT, reached.to_json())
        page.retain(self.reports, self.keep)
        return run, reached

    def _measure(
        self, scenario: Scenario, run: Path, source: Path
    ) -> tuple[set[tuple[str, int]], str]:
        """The lines that one scenario ran, and its verdict."""
        session_folder = run / f"run-{scenario.name}"
        lines = session_folder / "lines"
        lines.mkdir(parents=True)
        settings = recorder.settings(lines, top_of(source))
        session = Session([scenario.name], self.target, self.seed, self.effort)
        results = run_session(session, session_folder, self.timeout_s, settings=settings)
        record = results.records.get(scenario.name)
        return recorder.lines_in(lines), str(record.verdict.validity) if record else "unknown"
