"""Runs one scenario on one target with one seed, and judges the journal.

The verdict is always drawn from the journal on disk, so that a stored run can be judged again.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.core import history
from harness.core.extent import Extent, extent_of
from harness.core.history import History, Journal
from harness.core.verdict import Anomaly, ExpectationCount, Verdict, merge
from harness.engine.context import Context, ask_again
from harness.engine.minimizing import WalkMinimizer, is_walk
from harness.engine.scenario import Scenario
from harness.engine.target import Target

HISTORY = "history.jsonl"
MINIMIZING_S_MAX = 8.0  # for all walks of a scenario
WALKS_MAX = 3  # that are minimized: a bug breaks several promises, and needs few proofs


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict on a run, and how much was asked to reach it.

    `found_in` are the episodes in which the anomalies were found, one for each. `signatures`
    counts the episodes in which each kind of anomaly was seen, and `operations_behind` the
    operations that were asked after the first anomaly of their episode. `extent` says how
    different they were.
    """

    scenario: Scenario
    verdict: Verdict
    episodes: int
    operations: int
    digest: str
    found_in: tuple[History, ...] = ()
    signatures: Mapping[str, int] = field(default_factory=dict)
    operations_behind: int = 0
    extent: Extent = field(default_factory=Extent)


def run(  # noqa: PLR0913  a run is scenario x target x seed, its cost, and a folder
    scenario: Scenario,
    target: Target,
    seed: int,
    effort: float,
    folder: Path,
    *,
    rounds: int = 1,
    goes_on: bool = True,
    minimizes: bool = True,
) -> Judgement:
    """Put the target on trial, and judge the journal in `folder`.

    A run without an anomaly that misses an expectation goes on in the same journal with other
    questions, for at most `rounds` rounds in all. With `goes_on` the workload asks on after an
    anomaly, so that one broken promise hides no other; without, it ends with the first. With
    `minimizes` it makes failures small.
    """
    folder.mkdir(parents=True, exist_ok=True)
    examples = max(1, round(scenario.examples * effort))
    with Journal(folder / HISTORY, time.monotonic_ns) as journal:
        for number in range(rounds):
            name = f"{seed}/{scenario.name}" + (f"/{number}" if number else "")
            context = Context(target, scenario.ability, name, examples, journal, goes_on, minimizes)
            scenario.workload(context)
            judged = judge(scenario, folder)
            if judged.verdict.anomalies or not judged.verdict.unmet:
                break
        if minimizes and _minimize(scenario, context, judged):
            judged = judge(scenario, folder)
    return judged


def parts_with_histories(run: Path) -> list[Path]:
    """The folders in a run, such as the tries of a proof, that can be judged each on its own."""
    return sorted({path.parents[1] for path in run.glob(f"*/*/{HISTORY}")})


def where_histories_are(run: Path) -> str:
    """What to name instead of a run without histories: a part of it, if that has some."""
    parts = parts_with_histories(run)
    if not parts:
        return "Name a run folder, such as reports/runs/latest"
    return f"It has {len(parts)} parts with histories: name one of them, such as {parts[0]}"


def _minimize(scenario: Scenario, context: Context, judged: Judgement) -> bool:
    """Ask less of the first long walks that broke a promise; whether there were any."""
    if scenario.replay is not ask_again:
        return False
    found = zip(judged.verdict.anomalies, judged.found_in, strict=True)
    walks = [anomaly for anomaly, episode in found if is_walk(anomaly, episode)]
    ends_at = time.monotonic() + MINIMIZING_S_MAX
    minimizer = WalkMinimizer(context, scenario.checker, judged.signatures.keys(), ends_at)
    for anomaly in walks[:WALKS_MAX]:
        minimizer.minimize(anomaly)
    return bool(walks)


def judge(scenario: Scenario, folder: Path, *, is_whole: bool = True) -> Judgement:
    """Judge a stored run. Raises HistoryDamagedError where it cannot be read.

    If it is not whole, because the run was cut short, a call without a reply proves nothing: the
    harness itself may have ended before the reply.
    """
    histories = history.read(folder / HISTORY)
    verdicts = [scenario.checker(episode) for episode in histories]
    if not is_whole:
        verdicts = [_without_pending(verdict) for verdict in verdicts]
    found = _shortest(
        (anomaly, episode)
        for verdict, episode in zip(verdicts, histories, strict=True)
        for anomaly in verdict.anomalies
    )
    verdict = Verdict(
        anomalies=tuple(anomaly for anomaly, _ in found),
        expectations=_count_expectations(scenario, histories),
        unknowns=merge(verdicts).unknowns,
    )
    return Judgement(
        scenario,
        verdict,
        sum(episode.notes.get("schedules", 1) for episode in histories),
        sum(episode.notes.get("operations", len(episode)) for episode in histories),
        history.digest(histories),
        tuple(episode for _, episode in found),
        dict(Counter(a.signature for verdict in verdicts for a in verdict.anomalies)),
        sum(map(_operations_behind, verdicts, histories)),
        extent_of(histories),
    )


def _without_pending(verdict: Verdict) -> Verdict:
    """A verdict without the anomalies whose evidence has a call that was never answered."""
    proven = [a for a in verdict.anomalies if not any(op.is_unanswered for op in a.evidence)]
    return replace(verdict, anomalies=tuple(proven))


def _shortest(found: Iterable[tuple[Anomaly, History]]) -> list[tuple[Anomaly, History]]:
    """For each signature the anomaly with the least evidence, the shortest of all first.

    One promise may be broken in several ways, of which a known one hides no other. One that was
    found behind another anomaly comes after those that were not: its evidence
    contains that of the other.
    """
    shortest: dict[str, tuple[Anomaly, History]] = {}
    for anomaly, episode in sorted(found, key=_directness):
        shortest.setdefault(anomaly.signature, (anomaly, episode))
    return list(shortest.values())


def _directness(pair: tuple[Anomaly, History]) -> tuple[bool, int]:
    return pair[0].behind > 0, len(pair[0].evidence)


def _operations_behind(verdict: Verdict, episode: History) -> int:
    """The operations of an episode that were invoked after its first anomaly was complete."""
    if not verdict.anomalies:
        return 0
    first = min(verdict.anomalies, key=lambda anomaly: (anomaly.behind, len(anomaly.evidence)))
    if not first.evidence:
        return 0
    ends_ns = max(operation.invoked_ns for operation in first.evidence)
    return sum(operation.invoked_ns > ends_ns for operation in episode)


def _count_expectations(
    scenario: Scenario, histories: tuple[History, ...]
) -> tuple[ExpectationCount, ...]:
    return tuple(
        ExpectationCount(
            expectation.name, sum(map(expectation.count, histories)), expectation.needed
        )
        for expectation in scenario.expectations
    )
