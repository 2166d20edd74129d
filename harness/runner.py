"""The conductor: one scenario, one target, one seed; a folder full of evidence comes out.

Asks first, judges after: the verdict is drawn from the journal on disk, the way `judge` draws it
again months later.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import history
from harness.history import History, Journal
from harness.scenario import Scenario
from harness.stage import Stage
from harness.target import Target
from harness.verdict import Assumption, Verdict, merge

HISTORY = "history.jsonl"


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a run came to: its verdict, and how much was asked to reach it."""

    scenario: Scenario
    verdict: Verdict
    episodes: int
    operations: int
    digest: str
    notes: Mapping[str, Any] = field(default_factory=dict)  # of the episode that failed


def run(scenario: Scenario, target: Target, seed: int, effort: float, folder: Path) -> Judgement:
    """Put the target on trial, and judge what the journal in `folder` says."""
    folder.mkdir(parents=True, exist_ok=True)
    with Journal(folder / HISTORY, time.monotonic_ns) as journal:
        examples = max(1, round(scenario.examples * effort))
        name = f"{seed}/{scenario.name}"
        scenario.workload(Stage(target, scenario.ability, name, examples, journal))
    return judge(scenario, folder)


def judge(scenario: Scenario, folder: Path) -> Judgement:
    """Judge a stored run. Raises HistoryDamagedError where it cannot be read."""
    histories = history.read(folder / HISTORY)
    verdicts = [scenario.checker(episode) for episode in histories]
    failed = _shortest(verdicts)
    verdict = Verdict(
        anomalies=() if failed is None else verdicts[failed].anomalies[:1],
        assumptions=_assumptions(scenario, histories),
        unknowns=merge(verdicts).unknowns,
    )
    return Judgement(
        scenario,
        verdict,
        sum(episode.notes.get("schedules", 1) for episode in histories),
        sum(episode.notes.get("operations", len(episode)) for episode in histories),
        history.digest(histories),
        {} if failed is None else histories[failed].notes,
    )


def _shortest(verdicts: Sequence[Verdict]) -> int | None:
    """The failed episode with the least evidence: the others are the same bug on its way there."""
    evidence = {
        number: len(verdict.anomalies[0].evidence)
        for number, verdict in enumerate(verdicts)
        if verdict.anomalies
    }
    return min(evidence, key=lambda number: evidence[number], default=None)


def _assumptions(scenario: Scenario, histories: tuple[History, ...]) -> tuple[Assumption, ...]:
    return tuple(
        Assumption(met.name, sum(met.count(episode) for episode in histories), met.needed)
        for met in scenario.expectations
    )
