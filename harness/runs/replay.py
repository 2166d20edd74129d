"""Replays a stored failure: the same operations on a fresh target, judged by the same checker."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.core import history
from harness.core.errors import UsageError
from harness.core.extras import harness_version, require_extras
from harness.core.history import History, Journal, Operation, Outcome
from harness.core.suggestions import unknown
from harness.core.verdict import Anomaly, Verdict, merge
from harness.engine.context import Context
from harness.engine.scenario import Scenario
from harness.engine.suite import chosen_folders, find_scenarios, use_folders
from harness.report import folder
from harness.targets.registry import find_target

OLD = "0.1.0 or earlier"  # what stored a failure that names no version


class NotReplayableError(UsageError):
    """The failure was stored by another version of the harness, and this one cannot replay it."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A stored failure: its scenario, target and seed, the anomaly, and the episode's notes.

    Its `file` is None where it was read from a document.
    """

    scenario: Scenario
    target: str
    seed: int
    anomaly: Anomaly
    notes: Mapping[str, Any]
    version: str
    file: Path | None = None

    @property
    def where(self) -> str:
        """How a message about it begins: with its file."""
        return "" if self.file is None else f"{self.file}: "

    @property
    def history(self) -> History:
        """The operations that prove the anomaly, with the notes of their episode."""
        return History(self.anomaly.evidence, notes=self.notes)


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """The operations of a replay, and the verdict on them."""

    history: History
    verdict: Verdict

    def to_json(self) -> dict[str, Any]:
        """Render as one JSON document."""
        operations = [operation.to_json() for operation in self.history]
        return {**self.verdict.to_json(), "operations": operations}


def read_failure(path: Path) -> Failure:
    """Read a failure file, or the one in a scenario's folder.

    Raises UsageError for a file that is missing or damaged, and NotReplayableError for a failure
    that another version stored and this one cannot replay.
    """
    file = path / folder.FAILURE if path.is_dir() else path
    document = folder.read_json(file)
    try:
        return replace(failure_of(document), file=file)
    except NotReplayableError as error:
        raise NotReplayableError(f"{file}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"{file}: damaged: {error!r}") from error


def failure_of(document: Mapping[str, Any]) -> Failure:
    """The failure that a document describes.

    Raises NotReplayableError for a scenario or a field that this version does not know, and
    LookupError, TypeError or ValueError for a damaged document.
    """
    if document.get("suites") and not chosen_folders():
        use_folders(map(Path, document["suites"]))
    name, stored_by = str(document["scenario"]), str(document.get("version", OLD))
    scenarios = find_scenarios()
    if name not in scenarios:
        raise _not_replayable(stored_by, unknown("scenario", name, scenarios))
    try:
        anomaly = Anomaly.from_json(document["anomaly"])
        target, seed, notes = str(document["target"]), int(document["seed"]), document["notes"]
    except (KeyError, TypeError, ValueError) as error:
        if stored_by == harness_version():
            raise
        missing = f"field {error} is missing" if isinstance(error, KeyError) else str(error)
        raise _not_replayable(stored_by, missing) from error
    return Failure(scenarios[name], target, seed, anomaly, notes, stored_by)


def run(failure: Failure, target_name: str) -> ReplayResult:
    """Ask the failure's operations again, one after another, and judge the answers.

    Raises UsageError where the target lacks the ability, and NotReplayableError where the target or
    the scenario does not know the operations, because another version stored them; where the stored
    operations cannot be asked, either names the file.
    """
    scenario = failure.scenario
    require_extras(f"scenario {scenario.name!r}", *scenario.extras)
    target = find_target(target_name)
    if scenario.ability not in target.abilities:
        raise UsageError(f"target {target.name!r} has no ability {scenario.ability!r}")
    target.prepare()
    with tempfile.TemporaryDirectory(prefix="harness-replay-") as scratch:
        path = Path(scratch) / "history.jsonl"
        with Journal(path, time.monotonic_ns) as journal:
            context = Context(target, scenario.ability, f"{failure.seed}/replay", 1, journal)
            try:
                scenario.replay(context, failure.history)
                episodes = history.read(path)
                verdict = merge(scenario.checker(episode) for episode in episodes)
            except (UsageError, LookupError, TypeError, ValueError) as error:
                if failure.version != harness_version():
                    reason = f"{type(error).__name__}: {error}"
                    raise _not_replayable(failure.version, reason, failure.where) from error
                if isinstance(error, UsageError):
                    raise UsageError(f"{failure.where}{error}") from error
                raise
    unknown_arguments = next(_with_unknown_arguments(episodes), None)
    if failure.version != harness_version() and unknown_arguments is not None:
        reason = f"{unknown_arguments.function}: {unknown_arguments.error}"
        raise _not_replayable(failure.version, reason, failure.where)
    return ReplayResult(episodes[-1], verdict)


def _with_unknown_arguments(episodes: Iterable[History]) -> Iterator[Operation]:
    """The operations that were refused because the function has no such arguments today."""
    for episode in episodes:
        for operation in episode:
            is_refused = operation.outcome is Outcome.FAIL and "argument" in operation.error
            if is_refused and operation.error.startswith("TypeError: "):
                yield operation


def _not_replayable(stored_by: str, reason: str, where: str = "") -> NotReplayableError:
    return NotReplayableError(
        f"{where}cannot be replayed by version {harness_version()}: {reason}. The failure was "
        f"stored by version {stored_by}; replay it with that version, or run the scenario again "
        "with its seed"
    )
