"""Stores a judgement in a scenario's folder, with the files that show each failure again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.core.extent import Extent
from harness.core.extras import DISTRIBUTION, harness_version
from harness.core.history import Operation
from harness.core.text import shortened
from harness.core.verdict import Anomaly, Verdict
from harness.engine.context import ask_again
from harness.engine.runner import Judgement
from harness.engine.suite import chosen_folders
from harness.engine.target import Target
from harness.processes.repro_source import needs_the_harness, skip_without_module
from harness.report import folder, standalone, timeline, trace_events

HEADLINE_CHARS_MAX = 160
STEPS_FIRST, STEPS_LAST = 5, 35
STATE_LINES_MAX, STATE_CHARS_MAX = 3, 100  # what a terminal shows of a model's state


@dataclass(frozen=True, slots=True)
class Record:
    """The stored result of one scenario.

    `reproduce` is a command line for each anomaly, `families` the title of each prefix of the
    promises' IDs, and `extent` what the run bought.
    """

    scenario: str
    mode: str
    promises: tuple[str, ...]
    verdict: Verdict
    episodes: int
    operations: int
    digest: str
    seconds: float
    reproduce: tuple[str, ...] = ()
    families: Mapping[str, str] = field(default_factory=dict)
    extent: Extent = field(default_factory=Extent)

    def to_json(self) -> dict[str, Any]:
        """Render as a JSON object; `from_json` reads it back."""
        return {
            "scenario": self.scenario,
            "mode": self.mode,
            "promises": list(self.promises),
            **self.verdict.to_json(),
            "episodes": self.episodes,
            "operations": self.operations,
            "digest": self.digest,
            "seconds": self.seconds,
            "reproduce": list(self.reproduce),
            "families": dict(self.families),
            "extent": self.extent.to_json(),
        }

    def summary(self) -> str:
        """The verdict as text: each anomaly with its evidence, and what is not met or unknown.

        Long values are cut in the middle; the failure file has them whole.
        """
        verdict = self.verdict
        lines = [f"{self.scenario}: {verdict.validity} · {self.operations} operations"]
        for number, anomaly in enumerate(verdict.anomalies):
            lines += anomaly_lines(anomaly)
            lines += step_lines(anomaly.evidence)
            lines += [f"  reproduce: {line}" for line in self.reproduce[number : number + 1]]
        lines += [f"  expectation not met: {met.name}" for met in verdict.unmet]
        lines += [f"  unknown: {reason}" for reason in verdict.unknowns]
        return "\n".join(lines)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Record:
        """Read what `to_json` wrote."""
        return cls(
            data["scenario"],
            data["mode"],
            tuple(data["promises"]),
            Verdict.from_json(data),
            data["episodes"],
            data["operations"],
            data["digest"],
            data["seconds"],
            tuple(data["reproduce"]),
            dict(data.get("families", {})),
            Extent.from_json(data.get("extent", {})),
        )


def anomaly_lines(anomaly: Anomaly) -> list[str]:
    """Render an anomaly without its evidence: the promises, the operation, expected, observed."""
    lines = [f"{anomaly.promise.id}: {anomaly.promise.sentence}"]
    lines += [f"  also {broken.id}: {broken.sentence}" for broken in anomaly.also]
    lines.append(f"  {shortened(anomaly.message)}")
    lines += [f"  expected: {shortened(anomaly.expected)}"] if anomaly.expected else []
    lines += [f"  observed: {shortened(anomaly.observed)}"] if anomaly.observed else []
    return lines + state_lines(anomaly)


def state_lines(anomaly: Anomaly) -> list[str]:
    """What a model knew, where that is short; the page and the failure file have it all."""
    lines = [f"  state: {row}" for row in anomaly.state]
    is_short = len(lines) <= STATE_LINES_MAX and all(len(line) <= STATE_CHARS_MAX for line in lines)
    return lines if is_short else []


def headline(anomaly: Anomaly) -> str:
    """The anomaly in one line: the promise, and what is wrong."""
    return f"{anomaly.promise.id}: {shortened(anomaly.message, HEADLINE_CHARS_MAX)}"


def step_lines(
    operations: Iterable[Operation], whole: str = "which the failure file has"
) -> list[str]:
    """The numbered steps of a proof; of very many the first and the last, and where all are."""
    lines = [
        f"  {step:3}. {shortened(str(operation))}"
        for step, operation in enumerate(operations, start=1)
    ]
    hidden = len(lines) - STEPS_FIRST - STEPS_LAST
    if hidden <= 0:
        return lines
    between = f"       ... {hidden:,} more steps, {whole}"
    return [*lines[:STEPS_FIRST], between, *lines[-STEPS_LAST:]]


def store(
    judgement: Judgement, target: Target, seed: int, seconds: float, scenario_folder: Path
) -> Record:
    """Write the verdict and, for each anomaly, the failure file and the stand-alone test."""
    for number, path in enumerate(failures(judgement.verdict, scenario_folder)):
        _store_failure(number, path, judgement, target, seed)
    stored = record(judgement, seconds, scenario_folder)
    folder.write_json(scenario_folder / folder.VERDICT, stored.to_json())
    return stored


def failures(verdict: Verdict, scenario_folder: Path) -> list[Path]:
    """The failure file of each anomaly; further ones of a promise have a number."""
    names, counts = [folder.FAILURE], Counter[str]()
    for anomaly in verdict.anomalies[1:]:
        counts[anomaly.promise.id] += 1
        number = f"-{count}" if (count := counts[anomaly.promise.id]) > 1 else ""
        names.append(f"failure-{anomaly.promise.id}{number}.json")
    return [scenario_folder / name for name in names[: len(verdict.anomalies)]]


def record(judgement: Judgement, seconds: float, scenario_folder: Path) -> Record:
    """The record of a judgement; it names the failure files that exist in the folder."""
    stored = (path for path in failures(judgement.verdict, scenario_folder) if path.exists())
    scenario = judgement.scenario
    return Record(
        scenario.name,
        str(scenario.mode),
        tuple(promise.id for promise in scenario.promises),
        judgement.verdict,
        judgement.episodes,
        judgement.operations,
        judgement.digest,
        round(seconds, 3),
        tuple(f"harness replay {path}" for path in stored),
        {promise.prefix: promise.family for promise in scenario.promises},
        judgement.extent,
    )


def _store_failure(
    number: int, failure: Path, judgement: Judgement, target: Target, seed: int
) -> None:
    scenario = judgement.scenario
    anomaly, episode = judgement.verdict.anomalies[number], judgement.found_in[number]
    document = {
        "version": harness_version(),
        "scenario": scenario.name,
        "suites": list(map(str, chosen_folders())),
        "ability": scenario.ability,
        "target": target.name,
        "seed": seed,
        "anomaly": anomaly.to_json(),
        "notes": dict(episode.notes),
    }
    folder.write_json(failure, document)
    if timeline.is_useful(episode, anomaly):
        page = timeline.render(episode, anomaly, f"harness replay {failure}")
        folder.write_text(_beside(failure, "timeline", "html"), page)
        folder.write_text(_beside(failure, "trace", "json"), trace_events.render(episode, anomaly))
    file = f"test_{scenario.name.replace('-', '_')}_{anomaly.promise.id.lower()}.py"
    if story := episode.notes.get("story"):
        folder.write_text(_beside(failure, "story", "txt"), story)
    adapter = target.standalone(scenario.ability)
    if scenario.replay is not ask_again or needs_the_harness(adapter):
        needed = skip_without_module("harness", f"{DISTRIBUTION}=={harness_version()}")
        text = standalone.render_replay(
            document,
            anomaly,
            file,
            needed=getattr(target, "standalone_needs", "") + needed,
            target_name=getattr(target, "standalone_name", repr(target.name)),
        )
    else:
        text = standalone.render(
            anomaly,
            adapter=adapter,
            target=target.name,
            scenario=scenario.name,
            seed=seed,
            file=file,
        )
    folder.write_text(failure.with_name(file), text)


def _beside(failure: Path, what: str, kind: str) -> Path:
    """The path of a further file of a failure: story-D2.txt belongs to failure-D2.json."""
    return failure.with_name(f"{failure.stem.replace('failure', what)}.{kind}")
