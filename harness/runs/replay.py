"""A failure asked again: the same questions to a fresh target, judged by the same checker."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core import history
from harness.core.errors import UsageError
from harness.core.history import History, Journal
from harness.core.verdict import Anomaly, Verdict, merge
from harness.engine.context import Context
from harness.engine.scenario import Scenario
from harness.engine.suite import choose, chosen_folders, use_folders
from harness.report import folder
from harness.targets.registry import find_target


@dataclass(frozen=True, slots=True)
class Failure:
    """What was found: on which target, by which scenario, and the operations that prove it."""

    scenario: Scenario
    target: str
    seed: int
    anomaly: Anomaly
    notes: Mapping[str, Any]

    @property
    def history(self) -> History:
        """The operations that prove it, with the notes of their episode."""
        return History(self.anomaly.evidence, notes=self.notes)


@dataclass(frozen=True, slots=True)
class Replayed:
    """What came of asking again."""

    history: History
    verdict: Verdict

    def to_json(self) -> dict[str, Any]:
        """Render as one JSON document."""
        operations = [operation.to_json() for operation in self.history]
        return {**self.verdict.to_json(), "operations": operations}


def read(failure: Path) -> Failure:
    """Read a failure, or the one in a scenario's folder. Raises UsageError where there is none."""
    path = failure / folder.FAILURE if failure.is_dir() else failure
    try:
        return failure_of(folder.read_json(path))
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path}: damaged: {error!r}") from error


def failure_of(told: Mapping[str, Any]) -> Failure:
    """The failure that was written so. Raises UsageError for a scenario that is no more."""
    if told.get("suites") and not chosen_folders():
        use_folders(map(Path, told["suites"]))
    (scenario,) = choose([told["scenario"]]).values()
    anomaly = Anomaly.from_json(told["anomaly"])
    return Failure(scenario, str(told["target"]), int(told["seed"]), anomaly, told["notes"])


def run(failure: Failure, target_name: str) -> Replayed:
    """Ask the failure's questions again, one after another."""
    scenario = failure.scenario
    target = find_target(target_name)
    target.prepare()
    with tempfile.TemporaryDirectory(prefix="harness-replay-") as place:
        path = Path(place) / "history.jsonl"
        with Journal(path, time.monotonic_ns) as journal:
            name = f"{failure.seed}/replay"
            scenario.replay(Context(target, scenario.ability, name, 1, journal), failure.history)
        episodes = history.read(path)
    verdict = merge(scenario.checker(episode) for episode in episodes)
    return Replayed(episodes[-1], verdict)
