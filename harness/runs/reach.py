"""Reach: which blocks of the code on trial each scenario runs.

Each scenario is judged in a pytest process of its own, with a recorder in every process of the
target (`harness/worker/reach.py`). A block is reached if one of its lines ran.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.errors import UsageError
from harness.engine.scenario import Scenario
from harness.engine.suite import choose, suite_with_source
from harness.mutation.blocks import Block, blocks_of
from harness.report import folder
from harness.runs.gate import reason_to_skip
from harness.runs.pytest_run import Progress, Session, run_session
from harness.targets.registry import find_target
from harness.worker import reach as recorder


@dataclass(frozen=True)
class Reached:
    """Every block of the source, and the blocks that each scenario reached."""

    blocks: tuple[Block, ...]
    by_scenario: Mapping[str, frozenset[Block]]
    validity: Mapping[str, str]

    @property
    def reached(self) -> frozenset[Block]:
        """The blocks that any scenario reached."""
        return frozenset().union(*self.by_scenario.values())

    @property
    def missed(self) -> list[Block]:
        """The blocks that no scenario reached, in order."""
        return [block for block in self.blocks if block not in self.reached]

    def rooms(self) -> list[tuple[str, int, int]]:
        """For each folder of the source: its name, the blocks reached, and all of its blocks."""
        names = dict.fromkeys(_room(block) for block in self.blocks)
        reached = self.reached
        return [
            (
                name,
                sum(block in reached for block in self.blocks if _room(block) == name),
                sum(_room(block) == name for block in self.blocks),
            )
            for name in names
        ]

    def to_json(self) -> dict[str, Any]:
        """Render as a JSON object."""
        return {
            "blocks": len(self.blocks),
            "reached": len(self.reached),
            "rooms": [
                {"room": name, "reached": reached, "blocks": blocks}
                for name, reached, blocks in self.rooms()
            ],
            "missed": [str(block) for block in self.missed],
            "scenarios": {
                name: {"reached": len(blocks), "verdict": self.validity.get(name, "unknown")}
                for name, blocks in self.by_scenario.items()
            },
        }


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
        source = (self.source or suite_with_source().source or Path()).resolve()
        blocks = blocks_in(source)
        plan = {"target": self.target, "scenarios": [], "source": str(source)}
        run = folder.create(self.reports, "reach", self.seed, plan)
        found: dict[str, frozenset[Block]] = {}
        validity: dict[str, str] = {}

        def measure(scenario: Scenario) -> None:
            lines, validity[scenario.name] = self._measure(scenario, run, source)
            found[scenario.name] = frozenset(_hit(blocks, lines))
            progress(f"{scenario.name}: {len(found[scenario.name])} blocks")

        with ThreadPoolExecutor(self.workers) as pool:
            list(pool.map(measure, able))
        reached = Reached(blocks, dict(sorted(found.items())), validity)
        folder.write_json(run / folder.VERDICT, reached.to_json())
        folder.retain(self.reports, self.keep)
        return run, reached

    def _measure(
        self, scenario: Scenario, run: Path, source: Path
    ) -> tuple[set[tuple[str, int]], str]:
        """The lines that one scenario ran, and its verdict."""
        session_folder = run / f"run-{scenario.name}"
        lines = session_folder / "lines"
        lines.mkdir(parents=True)
        settings = {
            recorder.FOLDER: str(lines),
            recorder.SOURCE: str(_top(source)),
            recorder.CODE: str(recorder.__file__),
        }
        session = Session([scenario.name], self.target, self.seed, self.effort)
        results = run_session(session, session_folder, self.timeout_s, settings=settings)
        record = results.records.get(scenario.name)
        return read_lines(lines), str(record.verdict.validity) if record else "unknown"


def blocks_in(source: Path) -> tuple[Block, ...]:
    """The blocks of every module below a folder, or of one file. Raises UsageError for none."""
    files = [source] if source.is_file() else sorted(source.rglob("*.py"))
    top = _top(source)
    found = [
        block
        for file in files
        for block in blocks_of(file.relative_to(top).as_posix(), file.read_text(encoding="utf-8"))
    ]
    if not found:
        raise UsageError(f"{source}: expected Python modules with functions; found none")
    return tuple(found)


def _top(source: Path) -> Path:
    """The folder from which the names of files are counted."""
    return source.parent if source.is_file() else source


def read_lines(lines: Path) -> set[tuple[str, int]]:
    """Every file and line that the recorders of one run noted."""
    found = set()
    for path in lines.glob("*.lines"):
        for row in path.read_text(encoding="utf-8").split("\n"):
            name, _, number = row.rpartition(":")
            if number.isdecimal():
                found.add((name, int(number)))
    return found


def _hit(blocks: Iterable[Block], lines: set[tuple[str, int]]) -> list[Block]:
    return [
        block
        for block in blocks
        if any((block.file, line) in lines for line in range(block.first, block.last + 1))
    ]


def _room(block: Block) -> str:
    return block.file.partition("/")[0] if "/" in block.file else os.curdir
