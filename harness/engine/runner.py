"""The conductor: one scenario, one target, one seed; a folder full of evidence comes out.

Asks first, judges after: the verdict is drawn from the journal on disk, the way `judge` draws it
again months later.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from harness.core import history
from harness.core.contract import Promise
from harness.core.history import History, Journal
from harness.core.verdict import Anomaly, Assumption, Verdict, merge
from harness.engine.context import Context
from harness.engine.scenario import Scenario
from harness.engine.target import Target

HISTORY = "history.jsonl"


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a run came to: its verdict, and how much was asked to reach it.

    `found_in` are the episodes in which the anomalies were found, one for each.
    """

    scenario: Scenario
    verdict: Verdict
    episodes: int
    operations: int
    digest: str
    found_in: tuple[History, ...] = ()


def run(  # noqa: PLR0913  a run is scenario x target x seed, what it may cost, and a place
    scenario: Scenario, target: Target, seed: int, effort: float, folder: Path, *, rounds: int = 1
) -> Judgement:
    """Put the target on trial, and judge what the journal in `folder` says.

    Where nothing is broken, and not all was met that a verdict needs, chance may have been against
    it: then the same journal goes on with other questions, for at most so many `rounds` in all.
    """
    folder.mkdir(parents=True, exist_ok=True)
    examples = max(1, round(scenario.examples * effort))
    with Journal(folder / HISTORY, time.monotonic_ns) as journal:
        for number in range(rounds):
            name = f"{seed}/{scenario.name}" + (f"/{number}" if number else "")
            scenario.workload(Context(target, scenario.ability, name, examples, journal))
            judged = judge(scenario, folder)
            if judged.verdict.anomalies or not judged.verdict.unmet:
                break
    return judged


def judge(scenario: Scenario, folder: Path) -> Judgement:
    """Judge a stored run. Raises HistoryDamagedError where it cannot be read."""
    histories = history.read(folder / HISTORY)
    verdicts = [scenario.checker(episode) for episode in histories]
    found = _shortest(
        (anomaly, episode)
        for verdict, episode in zip(verdicts, histories, strict=True)
        for anomaly in verdict.anomalies
    )
    verdict = Verdict(
        anomalies=tuple(anomaly for anomaly, _ in found),
        assumptions=_assumptions(scenario, histories),
        unknowns=merge(verdicts).unknowns,
    )
    return Judgement(
        scenario,
        verdict,
        sum(episode.notes.get("schedules", 1) for episode in histories),
        sum(episode.notes.get("operations", len(episode)) for episode in histories),
        history.digest(histories),
        tuple(episode for _, episode in found),
    )


def _shortest(found: Iterable[tuple[Anomaly, History]]) -> list[tuple[Anomaly, History]]:
    """For each broken promise the anomaly with the least evidence, the shortest of all first.

    The others are the same bug on its way there; but another promise may be another bug.
    """
    shortest: dict[Promise, tuple[Anomaly, History]] = {}
    for anomaly, episode in sorted(found, key=lambda pair: len(pair[0].evidence)):
        shortest.setdefault(anomaly.promise, (anomaly, episode))
    return list(shortest.values())


def _assumptions(scenario: Scenario, histories: tuple[History, ...]) -> tuple[Assumption, ...]:
    return tuple(
        Assumption(met.name, sum(met.count(episode) for episode in histories), met.needed)
        for met in scenario.expectations
    )
